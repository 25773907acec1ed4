// Small helpers: elements, numbers, and the colour of every expert.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children); // strings become text nodes, never markup
  return element;
}

export const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);

export const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

/** A gain as nDCG@10 points: +17.0, −3.2, 0.0. */
export function points(gain) {
  const text = Math.abs(100 * gain).toFixed(1);
  if (text === "0.0") return text;
  return (gain > 0 ? "+" : "−") + text;
}

export const sign = (gain) => (Math.abs(gain) < 0.0005 ? "" : gain > 0 ? "up" : "down");

export const count = (number) => number.toLocaleString("en");

// Twelve hues for light and dark ground, each at least 3:1 against it.
const PALETTE = [
  ["#2f6fde", "#6ea4ff"],
  ["#c2570c", "#f79a4b"],
  ["#15864a", "#4fc785"],
  ["#8b47d6", "#bb93f5"],
  ["#cf2f4a", "#fb7a8c"],
  ["#0a8796", "#41c7d6"],
  ["#c23a97", "#f084cb"],
  ["#6f7a00", "#bcc63d"],
  ["#8a5638", "#cf9f80"],
  ["#4a49a8", "#8f90ee"],
  ["#3f8f8a", "#9ad9cd"],
  ["#7d2748", "#d7698f"],
];
const OTHERS = { base: ["#6b7686", "#97a3b3"], merged: ["#8f6a00", "#e3b74f"] };
const places = new Map();

/** Gives colours in the order in which names are first seen, so that they stay when others come or go. */
export function learnNames(names) {
  for (const name of names) if (!(name in OTHERS) && !places.has(name)) places.set(name, places.size);
}

function colour(name) {
  if (name in OTHERS) return OTHERS[name];
  learnNames([name]);
  const [light, dark] = PALETTE[places.get(name) % PALETTE.length];
  const round = Math.floor(places.get(name) / PALETTE.length) % 3;
  if (round === 0) return [light, dark];
  const share = round === 1 ? 68 : 45;
  return [`color-mix(in oklab, ${light} ${share}%, black)`, `color-mix(in oklab, ${dark} ${share}%, white)`];
}

/** Sets the property that the style sheet paints with. */
export function tint(element, name) {
  const [light, dark] = colour(name);
  element.style.setProperty("--tint", `light-dark(${light}, ${dark})`);
  return element;
}

export const dot = (name) => tint(el("span", { class: "dot", "aria-hidden": "true" }), name);
