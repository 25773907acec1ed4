// The route panel: what was chosen, why, and what it was read from.

import { $, dot, el, points, sign, tint } from "./dom.js";

const FIRST_BARS = 12;
const LEAST_SCALE = 0.05; // so that gains near zero do not look large

/** Without the base among the candidates the router compares similarities, as the paper's does. */
const areGains = (route) => "base" in route.gains;

function bar([name, gain], route, scale) {
  const fill = tint(el("span", { class: "fill" }), name);
  fill.style.left = `${(100 * (Math.min(gain, 0) - scale.low)) / scale.span}%`;
  fill.style.width = `${(100 * Math.abs(gain)) / scale.span}%`;
  const zero = el("span", { class: "zero" });
  zero.style.left = `${(-100 * scale.low) / scale.span}%`;
  const chosen = name === route.expert;
  const value = areGains(route) ? points(gain) : gain.toFixed(3);
  return el(
    "li",
    {
      class: `bar ${gain < 0 ? "negative" : "positive"}${chosen ? " chosen" : ""}`,
      "data-candidate": name,
      "data-gain": gain,
      "aria-current": chosen ? "true" : null,
    },
    el("span", { class: "name", title: name }, name),
    el("span", { class: "track", "aria-hidden": "true" }, zero, fill),
    el("span", { class: "value" }, value),
  );
}

function showBars(route) {
  const ordered = Object.entries(route.gains).sort((a, b) => b[1] - a[1]);
  const values = ordered.map(([, gain]) => gain);
  const low = Math.min(0, ...values);
  const scale = { low, span: Math.max(LEAST_SCALE, ...values) - low };
  const first = ordered.filter(([name], place) => place < FIRST_BARS || name === route.expert);
  const show = (entries) => $("bars").replaceChildren(...entries.map((entry) => bar(entry, route, scale)));
  const button = $("show-all");
  const toggle = (all) => {
    show(all ? ordered : first);
    button.textContent = all ? "Show fewer" : `Show all ${ordered.length}`;
    button.setAttribute("aria-expanded", all);
    button.onclick = () => toggle(!all);
  };
  toggle(false);
  button.hidden = ordered.length === first.length;
  $("bars-title").textContent = areGains(route) ? "Predicted gain in nDCG@10 points" : "Similarity to the pilots";
}

function pilotItem(pilot) {
  const [best] = Object.entries(pilot.gains).sort((a, b) => b[1] - a[1]);
  const gain = best
    ? el("span", { class: "gain" }, dot(best[0]), `${best[0]} `, el("b", { class: sign(best[1]) }, points(best[1])))
    : el("span", { class: "gain" }, "training query");
  const facts = el(
    "p",
    { class: "soft small" },
    el("span", { class: "similarity", title: "Similarity to the query" }, pilot.similarity.toFixed(2)),
    el("span", {}, pilot.collection),
    gain,
  );
  return el("li", { "data-collection": pilot.collection }, el("p", { class: "example" }, pilot.example), facts);
}

/** Shows a route; ``pinned`` names what the results were pinned to, if anything. */
export function showRoute(route, pinned) {
  $("no-library").hidden = true;
  $("route-body").hidden = false;
  tint($("chosen-line"), route.expert);
  $("chosen").textContent = route.expert;
  $("adapter-weight").hidden = route.adapter_weight >= 1;
  $("adapter-weight").textContent = `adapter weight ${Math.round(100 * route.adapter_weight)}%`;
  $("pinned").hidden = !pinned;
  $("pinned").textContent = `The results are pinned to ${pinned}. The router would choose ${route.expert}.`;
  $("abstained").hidden = !route.abstained;
  $("abstained").textContent = `The router abstained and uses the fallback, ${route.expert}.`;
  $("reason").textContent = route.reason;
  $("words").textContent = `Words count ${+(100 * (1 - route.vector_weight)).toFixed(1)}% of the score: ${route.words_reason}.`;
  $("in-domain-score").textContent = route.in_domain_score.toFixed(2).replace("-", "−");
  showBars(route);
  $("pilots").replaceChildren(...route.pilots.map(pilotItem));
}

export function hideRoute() {
  $("route-body").hidden = true;
}

export function showNoLibrary() {
  $("no-library").hidden = false;
  hideRoute();
}
