// The table of experts, and what the page says of the model as a whole.

import { $, count, dot, el, points, sign } from "./dom.js";

const ndcg = (value) => (100 * value).toFixed(1);

function cell(label, content, attributes = {}) {
  return el("td", { "data-label": label, ...attributes }, content);
}

const nameOf = (name) => el("span", { class: "name", title: name }, name);

function heading(name, note) {
  const th = el("th", { scope: "row" }, dot(name), nameOf(name));
  if (note) th.append(" ", el("span", { class: "tag", title: note[1] }, note[0]));
  return th;
}

function expertRow(expert, collections) {
  const isRouted = expert.measured.length > 0 || collections.length === 0;
  const note = isRouted ? null : ["only pinned", "The gain of this expert was not measured, so the router cannot choose it."];
  const known = expert.held_out > 0;
  const made = known && expert.gain_on_generated;
  const measured = made ? "held-out queries, which are synthetic" : "held-out queries";
  const chosen = { split: "; others chose the expert", "cross-fit": ", cross-fitted" }[expert.selection] || "";
  const other = expert.gain_on_other_styles;
  const styles = other === null ? "" : `; ${points(other)} on headings, sentences and keywords of documents`;
  const title = known ? `${count(expert.held_out)} ${measured}${chosen}${styles}` : "Not measured on held-out queries";
  return el(
    "tr",
    { "data-expert": expert.name },
    heading(expert.name, note),
    cell("trained on", expert.collection ? nameOf(expert.collection) : "imported"),
    cell("training queries", expert.queries ? count(expert.queries) : "–", { class: "number" }),
    cell("base → expert", known ? `${ndcg(expert.base_ndcg)} → ${ndcg(expert.expert_ndcg)}` : "–", { class: "number", title }),
    cell("gain", known ? points(expert.gain) + (made ? " (generated)" : "") : "–", { class: `number gain ${known ? sign(expert.gain) : ""}`, title }),
    cell("served, last hour", count(expert.served_last_hour), { class: "number served" }),
  );
}

function otherRow([name, served]) {
  const blank = ["trained on", "training queries", "base → expert", "gain"].map((label) => cell(label, "", { class: "blank" }));
  return el(
    "tr",
    { "data-expert": name, class: "other" },
    heading(name),
    ...blank,
    cell("served, last hour", count(served), { class: "number served" }),
  );
}

function summary(answer) {
  const parts = [answer.base.split("/").at(-1), `${count(answer.experts.length)} ${answer.experts.length === 1 ? "expert" : "experts"}`];
  parts.push(answer.documents === null ? "no index" : `${count(answer.documents)} ${answer.documents === 1 ? "document" : "documents"}`);
  return parts.join(" · ");
}

/** Shows the answer of /v1/experts. */
export function showExperts(answer) {
  $("summary").textContent = summary(answer);
  $("summary").title = answer.base;
  $("no-experts").hidden = answer.experts.length > 0;
  document.body.classList.toggle("plain", answer.experts.length === 0);
  const rows = answer.experts.map((expert) => expertRow(expert, answer.collections));
  const others = Object.entries(answer.others_last_hour).map(otherRow);
  $("experts").querySelector("tbody").replaceChildren(...rows, ...others);
}

/** Fills the choice of what encodes the query, and keeps what is chosen. */
export function showChoices(names, chosen) {
  const all = chosen && !names.includes(chosen) ? [...names, chosen] : names;
  const options = all.map((name) => el("option", { value: name === "routed" ? "" : name }, name));
  $("pin").replaceChildren(...options);
  $("pin").value = chosen ?? "";
}
