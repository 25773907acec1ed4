// What happens when: the address says what is asked, and every answer is shown as it comes.

import * as api from "./api.js";
import { $, dot, el, learnNames } from "./dom.js";
import { showChoices, showExperts } from "./experts.js";
import { loadFiles, startFiles } from "./files.js";
import { pickExamples, placeQuery, showMap, showMapState, startMap } from "./map.js";
import { attempt, forget } from "./recovery.js";
import { clearResults, offerMore, showResults } from "./results.js";
import { hideRoute, showNoLibrary, showRoute } from "./route.js";

const EXPERTS_SECONDS = 15;
const EXAMPLES = 6;

api.takeKey();
let names = []; // routed, base, merged and every expert
let about = null; // the last answer of /v1/experts
let started = false;
let isMapDrawn = false;
let running = new AbortController();
let route = null; // of the query that is shown

// -- the address ------------------------------------------------------------------------------------

function asked() {
  const given = new URLSearchParams(location.hash.slice(1));
  return { query: (given.get("q") ?? "").trim(), expert: given.get("expert") || null };
}

function ask(query, expert) {
  const pinned = expert ? `&expert=${encodeURIComponent(expert)}` : "";
  const hash = query.trim() ? `#q=${encodeURIComponent(query.trim())}${pinned}` : "";
  if (hash === location.hash) run();
  else location.hash = hash; // hashchange runs it
}

// -- a query ----------------------------------------------------------------------------------------

function run() {
  const { query, expert } = asked();
  $("query").value = query;
  $("pin").value = expert ?? "";
  answer();
}

/** Answers what the address asks; what is being typed meanwhile stays. */
function answer() {
  running.abort();
  running = new AbortController();
  const { query, expert } = asked();
  $("empty").hidden = Boolean(query);
  $("answers").hidden = !query;
  if (!query) return showNothing();
  $("answers").setAttribute("aria-busy", "true");
  $("status").textContent = "Searching…";
  if (started) attemptBoth(query, expert, running.signal);
}

function showNothing() {
  forget("search");
  forget("route");
  route = null;
  placeQuery(null);
  $("status").textContent = "";
}

async function attemptBoth(query, expert, signal) {
  await Promise.all([
    attempt("search", () => search(query, expert, signal)),
    attempt("route", () => showRouteOf(query, expert, signal)),
  ]);
  if (!signal.aborted) $("answers").removeAttribute("aria-busy");
}

async function search(query, expert, signal) {
  if (about.documents === null) return showIndex(false);
  try {
    const isPlain = about.experts.length === 0; // then there is nothing to compare with
    const asking = [api.search(query, expert, signal)];
    if (!isPlain) asking.push(api.search(query, "base", signal));
    const [left, base] = await Promise.all(asking);
    showIndex(true);
    showResults(left, base, expert);
    const found = `${left.hits.length} results with ${left.expert}.`;
    $("status").textContent = left.nothing_relevant ? `${found} Probably nothing here answers the query.` : found;
  } catch (error) {
    if (error.code === "no_index") return showIndex(false);
    if (error instanceof api.ApiError) clearResults(); // those of an older query would mislead
    throw error;
  }
}

function showIndex(exists) {
  $("no-index").hidden = exists;
  for (const section of document.querySelectorAll(".results")) section.hidden = !exists;
}

async function showRouteOf(query, expert, signal) {
  route = null;
  if (about.experts.length === 0) return;
  if (about.collections.length === 0) return withoutRoute();
  try {
    route = await api.route(query, signal);
  } catch (error) {
    if (error.code === "no_library") return withoutRoute();
    if (error instanceof api.ApiError) hideRoute();
    throw error;
  }
  showRoute(route, expert);
  if (isMapDrawn && !route.position) await redrawMap(); // the library has changed since
  await locate(signal);
}

function withoutRoute() {
  showNoLibrary();
  placeQuery(null);
}

/** Puts the query on the map; a route that came before the map has no place there, and is asked for again. */
async function locate(signal) {
  if (!route) return;
  const shown = route;
  if (!route.position && isMapDrawn) {
    const again = await api.route(route.query, signal);
    if (shown === route) route.position = again.position;
  }
  if (shown === route) placeQuery(route.position);
}

// -- experts and map --------------------------------------------------------------------------------

async function loadModel() {
  [names, about] = await Promise.all([api.models(), api.experts()]);
  learnNames(names.filter((name) => name !== "routed"));
  showChoices(names, asked().expert ?? $("pin").value);
  showExperts(about);
}

const namesOf = (answer) => answer.experts.map((expert) => expert.name).join("\n");

async function refreshExperts() {
  const before = namesOf(about);
  about = await api.experts();
  if (namesOf(about) === before) showExperts(about);
  else await loadModel();
}

async function redrawMap() {
  const { points, scores } = await api.pilotMap();
  isMapDrawn = points.length > 0;
  if (!isMapDrawn) return showMapState("There are no pilots to draw.");
  showMap(points, names, scores);
  showExamples(pickExamples(points, EXAMPLES));
}

async function loadMap() {
  if (about.collections.length === 0) return explainNoMap();
  showMapState("Drawing the map…");
  try {
    await redrawMap();
  } catch (error) {
    if (error.code === "no_library") return explainNoMap();
    if (error instanceof api.ApiError) showMapState("The map is not available at the moment.");
    throw error;
  }
  await locate(running.signal);
}

function explainNoMap() {
  const command = el("code", {}, "routerretriever library MODEL COLLECTION…");
  showMapState("There is no pilot library to draw. Make one with ", command);
  $("map-frame").classList.add("none");
  $("try").hidden = true;
}

function showExamples(examples) {
  const buttons = examples.map((point) => {
    const button = el("button", { type: "button", class: "example-query" }, dot(point.expert), point.example);
    button.addEventListener("click", () => ask(point.example, $("pin").value));
    return button;
  });
  $("examples").replaceChildren(...buttons);
}

// -- start ------------------------------------------------------------------------------------------

/** After documents were added or deleted: counts, and the results that are shown. */
function onDocuments() {
  attempt("experts", refreshExperts);
  if (asked().query) answer();
}

async function start() {
  await Promise.all([loadModel(), loadFiles()]);
  started = true;
  answer();
  const later = window.requestIdleCallback ?? ((task) => setTimeout(task, 200));
  later(() => attempt("map", loadMap));
}

function refreshWhileVisible() {
  if (started && document.visibilityState === "visible") attempt("experts", refreshExperts);
}

function onSlash(event) {
  const isTyping = event.target.closest?.("input, select, textarea");
  if (event.key !== "/" || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  $("query").focus();
  $("query").select();
}

$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  ask($("query").value, $("pin").value);
});
$("pin").addEventListener("change", () => {
  if (asked().query) ask($("query").value, $("pin").value);
});
$("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address keeps the query
  $("content").focus();
});
addEventListener("hashchange", run);
addEventListener("keydown", onSlash);
addEventListener("resize", offerMore);
document.addEventListener("visibilitychange", refreshWhileVisible);
setInterval(refreshWhileVisible, 1000 * EXPERTS_SECONDS);
startMap((example) => {
  ask(example, $("pin").value);
  scrollTo({ top: 0 });
});
startFiles(onDocuments);
run();
attempt("start", start);
