// Documents, routed and base side by side.

import { $, dot, el } from "./dom.js";
import { linkTo } from "./files.js";

const STOP_WORDS = new Set(
  "a an and are as at be by can do does for from how i in is it its my of on or the to what when which who why with".split(" "),
);
const WORDS = /([\p{L}\p{N}]+)/u;

/** Word forms that count as the same: crude, but it only decides what is highlighted. */
function stem(word) {
  const lower = word.toLowerCase();
  const cut = lower.replace(/(ing|ed|es|s)$/, "");
  return cut.length >= 3 ? cut : lower;
}

function queryStems(query) {
  const words = query.split(WORDS).filter((_, place) => place % 2 === 1);
  return new Set(words.filter((word) => !STOP_WORDS.has(word.toLowerCase())).map(stem));
}

const BEFORE = 40; // characters that are shown before the first match
const SHOWN = 220; // characters that are shown while a text is cut short, about

/** Where the shown part of a text begins while it is cut short: before the most matches that fit into it. */
function beginning(text, stems) {
  const places = [];
  let end = 0;
  text.split(WORDS).forEach((piece, number) => {
    if (number % 2 === 1 && stems.has(stem(piece))) places.push(end);
    end += piece.length;
  });
  const within = places.map((from) => places.filter((place) => place >= from && place < from + SHOWN).length);
  const first = places[within.indexOf(Math.max(...within))] ?? 0;
  if (first < SHOWN / 2) return 0;
  const sentence = text.slice(0, first).search(/[.!?\n]\s+[^.!?\n]*$/) + 1;
  return first - sentence <= 2 * BEFORE ? sentence : text.indexOf(" ", first - BEFORE) + 1;
}

/** The text in pieces, with the query's words marked. */
function marked(text, stems) {
  const pieces = [];
  let plain = "";
  text.split(WORDS).forEach((piece, place) => {
    if (place % 2 === 0 || !stems.has(stem(piece))) {
      plain += piece;
      return;
    }
    pieces.push(plain, el("mark", {}, piece));
    plain = "";
  });
  return [...pieces, plain];
}

const keyOf = (hit) => `${hit.collection}\n${hit.id}`;

/** How far a hit moved against base: the text shown, what it means, and a class. */
function movement(place, before) {
  if (before === undefined) return ["new", "New: not among the base's first ten", "up"];
  const by = before - place;
  if (by === 0) return ["=", "Same place as in base", "same"];
  const places = `${Math.abs(by)} ${Math.abs(by) === 1 ? "place" : "places"}`;
  return by > 0 ? [`▲ ${by}`, `Up ${places} compared with base`, "up"] : [`▼ ${-by}`, `Down ${places} compared with base`, "down"];
}

function movedTag(place, before) {
  const [text, label, kind] = movement(place, before);
  return el("span", { class: `moved ${kind}`, role: "img", "aria-label": label, title: label }, text);
}

function moreButton(text, start) {
  const button = el("button", { type: "button", class: "more link", "aria-expanded": "false", hidden: start ? null : "" }, "more");
  button.addEventListener("click", () => {
    const open = text.classList.toggle("open");
    if (start) text.querySelector(".left-out").hidden = open;
    if (start) text.querySelector(".before").hidden = !open;
    button.textContent = open ? "less" : "more";
    button.setAttribute("aria-expanded", open);
  });
  return button;
}

const scoreTitle = (mode) =>
  mode === "hybrid" ? "Similarity and words together, 0 to 1" : "Similarity of query and document";

function relevanceTag(hit) {
  if (hit.relevance === null) return "";
  const title = "Probability that a judge would call it relevant";
  return el("span", { class: "relevance soft", title }, `${Math.round(100 * hit.relevance)}% relevant`);
}

/** Where a passage is in its document: its page and the headings above it. */
function placeOf(hit) {
  if (!hit.passage) return [];
  const { page, heading, start, stop } = hit.passage;
  return [page ? `page ${page}` : "", heading || (page ? "" : `characters ${start}–${stop}`)];
}

function item(hit, place, stems, before, mode) {
  const content = hit.text.replace(/\n\s*\n/g, "\n"); // blank lines take the room of what matched
  const start = beginning(content, stems);
  const text = el("p", { class: "text" });
  if (start) {
    text.append(el("span", { class: "left-out", "aria-hidden": "true" }, "… "));
    text.append(el("span", { class: "before", hidden: "" }, ...marked(content.slice(0, start), stems)));
  }
  text.append(...marked(content.slice(start), stems));
  const name = el("h3", {}, linkTo(hit, hit.title ? marked(hit.title, stems) : [hit.id]));
  const head = el("div", { class: "head" }, el("span", { class: "rank" }, `${place + 1}`), name);
  if (before) head.append(movedTag(place, before.get(keyOf(hit))));
  head.append(el("span", { class: "score", title: scoreTitle(mode) }, hit.score.toFixed(3)));
  const source = el("p", { class: "source" }, [hit.collection, hit.id, ...placeOf(hit)].filter(Boolean).join(" · "));
  const foot = el("div", { class: "foot" }, source, relevanceTag(hit), moreButton(text, start));
  return el("li", { "data-id": hit.id, "data-collection": hit.collection }, head, text, foot);
}

function fillList(list, result, before) {
  const stems = queryStems(result.query);
  const items = result.hits.map((hit, place) => item(hit, place, stems, before, result.mode));
  list.replaceChildren(...(items.length ? items : [el("li", { class: "soft none" }, "No documents.")]));
}

/** Offers "more" only where something is cut. */
export function offerMore() {
  for (const text of document.querySelectorAll(".results .text:not(.open)")) {
    const isCut = text.scrollHeight > text.clientHeight + 1 || text.querySelector(".left-out");
    text.parentElement.querySelector(".more").hidden = !isCut;
  }
}

/** Shows both answers; ``pinned`` names what the left one was pinned to, if anything. Without experts there is one. */
export function showResults(left, base, pinned) {
  if (!base) {
    fillList($("routed-results"), left);
    $("routed-title").textContent = "Results";
    return offerMore();
  }
  const places = new Map(base.hits.map((hit, place) => [keyOf(hit), place]));
  fillList($("routed-results"), left, places);
  fillList($("base-results"), base);
  const kind = pinned ? "Pinned" : "Routed";
  $("routed-title").replaceChildren(kind, " ", el("span", { class: "by" }, dot(left.expert), left.expert));
  $("base-title").replaceChildren("Base", " ", el("span", { class: "by" }, "for comparison"));
  offerMore();
}

/** Empties both lists. */
export function clearResults() {
  $("routed-title").textContent = "Routed";
  for (const id of ["routed-results", "base-results"]) $(id).replaceChildren();
}
