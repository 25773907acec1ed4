// The map: pilots and training queries, and where the present query stands among them.

import { $, count, dot, el, points as asPoints, svg, tint } from "./dom.js";
import { View } from "./view.js";

const MARGIN = 18; // pixels

const frame = $("map");
const marks = svg("g");
const query = svg("g", { id: "map-query", display: "none" }, svg("circle", { class: "pulse", r: 13 }), svg("circle", { r: 13 }), svg("path", { d: "M0-8 8 0 0 8-8 0z" }));
const hidden = new Set();
let shown = []; // {point, mark}
let extent = null;
let queryAt = null;
let pending = 0;
let isGain = true; // or a similarity, under the paper's rules

const score = (value) => (isGain ? `${asPoints(value)} predicted` : `${value.toFixed(2)} similar`);

frame.append(marks, query);
const view = new View(frame, redraw);
new ResizeObserver(redraw).observe(frame);

function redraw() {
  pending ||= requestAnimationFrame(place);
}

/** The map's axes mean nothing, so each is stretched to fill the frame. */
function project(x, y) {
  const across = (x - extent.left) / extent.width;
  const down = (y - extent.top) / extent.height;
  return [
    view.left + view.scale * (MARGIN + across * (view.width - 2 * MARGIN)),
    view.top + view.scale * (MARGIN + down * (view.height - 2 * MARGIN)),
  ];
}

function place() {
  pending = 0;
  if (!extent) return;
  for (const { point, mark } of shown) {
    const [x, y] = project(point.x, point.y);
    mark.setAttribute("cx", x.toFixed(1));
    mark.setAttribute("cy", y.toFixed(1));
  }
  if (queryAt) {
    const [x, y] = project(...queryAt);
    query.setAttribute("transform", `translate(${x.toFixed(1)} ${y.toFixed(1)})`);
  }
  frame.dataset.zoom = view.scale.toFixed(2);
  frame.dataset.pan = `${Math.round(view.left)},${Math.round(view.top)}`;
  settleTip();
}

function measure(all) {
  const side = (values) => {
    const low = values.reduce((a, b) => Math.min(a, b), Infinity);
    return [low, Math.max(1e-6, values.reduce((a, b) => Math.max(a, b), -Infinity) - low)];
  };
  const [left, width] = side(all.map((point) => point.x));
  const [top, height] = side(all.map((point) => point.y));
  return { left, width, top, height };
}

function makeMark(point, number) {
  const mark = svg("circle", {
    class: `point ${point.measured ? "measured" : "training"}`,
    r: point.measured ? 4.2 : 2.8,
    tabindex: -1,
    role: "button",
    "data-number": number,
    "data-expert": point.expert,
    "data-collection": point.collection,
  });
  return tint(mark, point.expert);
}

// -- legend -----------------------------------------------------------------------------------------

function filter() {
  for (const { point, mark } of shown) {
    if (hidden.has(point.expert)) mark.setAttribute("display", "none");
    else mark.removeAttribute("display");
  }
  hideTip();
}

function legendButton(name, number) {
  const pressed = () => String(!hidden.has(name));
  const button = el(
    "button",
    { type: "button", class: "chip", "data-expert": name, "aria-pressed": pressed(), title: "Show or hide" },
    dot(name),
    name,
    el("span", { class: "soft" }, count(number)),
  );
  button.addEventListener("click", () => {
    if (!hidden.delete(name)) hidden.add(name);
    button.setAttribute("aria-pressed", pressed());
    filter();
  });
  return button;
}

function showLegend(all, order) {
  const totals = new Map();
  for (const { expert } of all) totals.set(expert, (totals.get(expert) ?? 0) + 1);
  const rank = (name) => (order.includes(name) ? order.indexOf(name) : order.length);
  const names = [...totals.keys()].sort((a, b) => rank(a) - rank(b));
  $("legend").replaceChildren(...names.map((name) => legendButton(name, totals.get(name))));
}

// -- tooltip ----------------------------------------------------------------------------------------

function pointOf(target) {
  const number = target.dataset?.number;
  return number === undefined ? null : shown[Number(number)];
}

function showTip({ point, mark }) {
  const kind = point.measured ? "pilot with measured gains" : "training query";
  const tip = $("map-tip");
  tip.replaceChildren(
    el("p", { class: "example" }, point.example),
    el("p", { class: "soft small" }, `${point.collection} · ${kind}`),
    el("p", { class: "small" }, dot(point.expert), `${point.expert} `, el("b", {}, score(point.gain))),
  );
  mark.setAttribute("aria-label", `${point.example}. ${point.collection}, ${kind}. ${point.expert}, ${score(point.gain)}.`);
  tip.hidden = false;
  const [x, y] = [Number(mark.getAttribute("cx")), Number(mark.getAttribute("cy"))];
  const left = Math.min(Math.max(0, x - tip.offsetWidth / 2), view.width - tip.offsetWidth);
  tip.style.left = `${left}px`;
  tip.style.top = `${y > tip.offsetHeight + 14 ? y - tip.offsetHeight - 12 : y + 14}px`;
}

function hideTip() {
  $("map-tip").hidden = true;
}

/** The pointer has left a point, or all have moved: only what the keyboard stands on is still told of. */
function settleTip() {
  const marked = document.activeElement;
  const found = marked?.matches(":focus-visible") ? pointOf(marked) : null;
  if (found) showTip(found);
  else hideTip();
}

function step(by) {
  const visible = shown.filter(({ point }) => !hidden.has(point.expert));
  if (!visible.length) return;
  const now = visible.findIndex(({ mark }) => mark === document.activeElement);
  const next = now < 0 && by < 0 ? visible.length - 1 : (now + by + visible.length) % visible.length;
  visible[next].mark.focus({ preventScroll: true });
}

function onKey(event, choose) {
  const found = pointOf(event.target);
  if (event.key === "n") step(1);
  else if (event.key === "p") step(-1);
  else if (event.key === "Escape") hideTip();
  else if (event.key === "Enter" && found) choose(found.point.example);
}

/** Wires the map once; ``choose`` is called with the example of a point that is clicked. */
export function startMap(choose) {
  for (const name of ["pointerover", "focusin"]) {
    frame.addEventListener(name, (event) => {
      const found = pointOf(event.target);
      if (found) showTip(found);
    });
  }
  frame.addEventListener("pointerout", settleTip);
  frame.addEventListener("focusout", hideTip);
  frame.addEventListener("keydown", (event) => onKey(event, choose));
  frame.addEventListener("click", (event) => {
    const found = pointOf(event.target);
    if (found && !view.dragged) choose(found.point.example);
  });
  $("zoom-in").addEventListener("click", () => view.zoomIn());
  $("zoom-out").addEventListener("click", () => view.zoomOut());
  $("zoom-reset").addEventListener("click", () => view.reset());
}

/** Draws the points of /v1/map; ``order`` is that of the legend, ``scores`` what their gains are. */
export function showMap(all, order, scores) {
  isGain = scores === "gain";
  extent = measure(all);
  shown = all.map((point, number) => ({ point, mark: makeMark(point, number) }));
  // What has measured gains is painted last, over the many training queries.
  const painted = [...shown].sort((a, b) => a.point.measured - b.point.measured);
  marks.replaceChildren(...painted.map(({ mark }) => mark));
  showLegend(all, order);
  filter();
  $("map-state").hidden = true;
  $("map-key").hidden = false;
  $("map-frame").classList.add("drawn");
  redraw();
}

/** Says why there is no map. */
export function showMapState(...content) {
  $("map-state").replaceChildren(el("span", {}, ...content));
  $("map-state").hidden = false;
}

/** Puts the query on the map, or takes it away with ``null``. */
export function placeQuery(position) {
  queryAt = position;
  if (position) query.removeAttribute("display");
  else query.setAttribute("display", "none");
  redraw();
}

/** One example query of each collection: the point with the highest gain whose text is short enough for a button. */
export function pickExamples(all, most) {
  const best = new Map();
  for (const point of all) {
    if (point.example.length > 90) continue;
    const rank = point.gain + (point.measured ? 1 : 0);
    if (!best.has(point.collection) || rank > best.get(point.collection).rank) best.set(point.collection, { rank, point });
  }
  return [...best.values()].map(({ point }) => point).slice(0, most);
}
