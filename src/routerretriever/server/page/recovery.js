// What failed is said in one place, and tried again where that may help.

import * as api from "./api.js";
import { $, el } from "./dom.js";

const POLL_SECONDS = 2;

const failed = new Map(); // name → the task that waits to be run again
let cause = "";
let timer = 0;

/** Runs a task. A failure that passes is shown, and the task is run again after it. */
export async function attempt(name, task) {
  forget(name);
  try {
    await task();
    succeed();
  } catch (error) {
    if (error.name !== "AbortError") fail(name, task, error);
  }
}

/** The task need not be run again: a newer one takes its place. */
export function forget(name) {
  failed.delete(name);
  if (cause === name) clear();
}

function succeed() {
  if (cause === "unreachable") retryAll();
  else if (failed.size === 0 && cause in RECOVERIES) clear();
}

function fail(name, task, error) {
  const kind = kindOf(error);
  if (!kind) {
    console.warn(error);
    if (!(cause in RECOVERIES)) show(name, error.message);
    return;
  }
  failed.set(name, task);
  if (kind !== cause) RECOVERIES[kind](error);
}

function kindOf(error) {
  if (error instanceof api.Unreachable) return "unreachable";
  return { 401: "key", 429: "busy", 503: "loading" }[error.status];
}

const RECOVERIES = {
  unreachable() {
    show("unreachable", "The server cannot be reached. Check that it runs.", retryButton());
  },
  busy(error) {
    const seconds = error.retryAfter || POLL_SECONDS;
    show("busy", `The server is busy. This page tries again in ${seconds} s.`, retryButton());
    timer = setTimeout(retryAll, 1000 * seconds);
  },
  loading(error) {
    const text = error.code ? error.message : "The server is still loading.";
    show("loading", `${text} This page tries again by itself.`);
    timer = setTimeout(poll, 1000 * Math.max(POLL_SECONDS, error.retryAfter || 0));
  },
  key() {
    const text = api.hasKey() ? "The server did not accept this key." : "The server asks for a key.";
    show("key", text, keyForm());
    $("key").focus();
  },
};

async function poll() {
  const asked = timer;
  const ready = await api.isReady();
  if (asked !== timer) return; // another message came meanwhile
  if (ready) retryAll();
  else timer = setTimeout(poll, 1000 * POLL_SECONDS);
}

function retryAll() {
  const tasks = [...failed];
  failed.clear();
  clear();
  for (const [name, task] of tasks) attempt(name, task);
}

function retryButton() {
  const button = el("button", { id: "retry", type: "button" }, "Try again");
  button.addEventListener("click", retryAll);
  return button;
}

function keyForm() {
  const input = el("input", { id: "key", type: "password", autocomplete: "off", "aria-label": "API key" });
  const form = el("form", { id: "key-form" }, input, el("button", { type: "submit" }, "Use this key"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!input.value.trim()) return;
    api.setKey(input.value.trim());
    retryAll();
  });
  return form;
}

function show(kind, text, ...more) {
  clear();
  cause = kind;
  $("message").dataset.kind = kind in RECOVERIES ? kind : "error";
  $("message").replaceChildren(el("p", {}, text), ...more);
  $("message").hidden = false;
}

function clear() {
  clearTimeout(timer);
  timer = 0;
  cause = "";
  $("message").hidden = true;
  $("message").replaceChildren();
}
