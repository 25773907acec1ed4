// k6: queries arrive at a fixed rate, whether or not the server keeps up.
import { SharedArray } from "k6/data";
import exec from "k6/execution";
import http from "k6/http";
import { Counter, Trend } from "k6/metrics";

const bodies = new SharedArray("bodies", () => open(__ENV.BODIES).trim().split("\n"));
const accepted = new Trend("accepted", true);
const refused = new Trend("refused", true);
const failed = new Counter("failed");

export const options = {
  discardResponseBodies: true,
  summaryTrendStats: ["med", "p(95)", "p(99)", "max", "count"],
  scenarios: {
    load: {
      executor: "constant-arrival-rate",
      rate: Number(__ENV.RATE),
      timeUnit: "1s",
      duration: `${__ENV.SECONDS}s`,
      preAllocatedVUs: Number(__ENV.CLIENTS),
    },
  },
};

export default function () {
  const body = bodies[exec.scenario.iterationInTest % bodies.length];
  const answer = http.post(__ENV.URL, body, { headers: { "Content-Type": "application/json" } });
  if (answer.status === 200) accepted.add(answer.timings.duration);
  else if (answer.status === 429) refused.add(answer.timings.duration);
  else failed.add(1);
}

export const handleSummary = (data) => ({ [__ENV.OUT]: JSON.stringify(data.metrics) });
