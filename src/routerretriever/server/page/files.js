// What was indexed: counts, the newest documents, uploads and deletion.

import * as api from "./api.js";
import { $, count, el } from "./dom.js";
import { attempt } from "./recovery.js";

const PAGE = 10;
const AT_ONCE = 20; // files of one request, and their bytes
const BYTES_AT_ONCE = 100 * 2 ** 20;

let held = null; // the last answer of /v1/files
let shown = PAGE;
let changed = () => {};

/** The collection whose files can be opened, if any. */
export const filesOf = () => held?.files_of ?? null;

const date = (text) => (/^\d{4}-\d\d-\d\dT/.test(text ?? "") ? text.slice(0, 10) : "");

/** Where a document can be opened: a file of the folder, or a page of the web; null if nowhere. */
export function addressOf(hit) {
  if (hit.collection === filesOf() && hit.metadata.path === hit.id) {
    return `/files/${hit.id.split("/").map(encodeURIComponent).join("/")}`;
  }
  const url = hit.metadata.url;
  return typeof url === "string" && /^https?:\/\//i.test(url) ? url : null;
}

/** A link to a document, at its passage if the browser can find it there. */
export function linkTo(hit, children) {
  const address = addressOf(hit);
  if (!address) return el("span", {}, ...children);
  const words = (hit.passage ? hit.text : "").split(/\s+/).filter(Boolean).slice(0, 6).join(" ");
  const place = words ? `#:~:text=${encodeURIComponent(words).replaceAll("-", "%2D")}` : "";
  const link = el("a", { href: address + place, target: "_blank", rel: "noopener noreferrer" }, ...children);
  if (address.startsWith("/files/") && api.hasKey()) link.addEventListener("click", (event) => download(event, address, hit));
  return link;
}

/** A browser sends no key when it follows a link, so the page asks for the file itself. */
async function download(event, address, hit) {
  event.preventDefault();
  attempt("file", async () => {
    const url = URL.createObjectURL(await api.file(address));
    el("a", { href: url, download: hit.id.split("/").at(-1) }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  });
}

function counts() {
  const parts = [`${count(held.documents)} ${held.documents === 1 ? "document" : "documents"}`];
  if (held.passages > held.documents) parts.push(`${count(held.passages)} passages`);
  return parts.join(", ");
}

function deleteButton(entry) {
  const label = `Delete ${entry.title || entry.id}`;
  const button = el("button", { type: "button", class: "link delete", "aria-label": label }, "delete");
  button.addEventListener("click", () => {
    if (button.dataset.sure) return attempt("delete", () => remove(entry));
    button.dataset.sure = "yes"; // a second click does it
    button.textContent = "really delete?";
    setTimeout(() => {
      delete button.dataset.sure;
      button.textContent = "delete";
    }, 4000);
  });
  return button;
}

function row(entry) {
  const { type, modified } = entry.metadata;
  const about = [entry.collection, type, date(modified)].filter(Boolean).join(" · ");
  const name = el("span", { class: "name" }, linkTo(entry, [entry.title || entry.id]));
  const where = el("span", { class: "soft small" }, [entry.title ? entry.id : "", about].filter(Boolean).join(" · "));
  const item = el("li", { "data-id": entry.id, "data-collection": entry.collection }, el("div", {}, name, where));
  // A file of the folder would come back with the next `up`.
  if (held.writable && entry.collection !== held.files_of) item.append(deleteButton(entry));
  return item;
}

function show() {
  const named = held.collections.filter(({ name }) => name);
  const parts = named.map(({ name, documents }) => el("li", { class: "tag" }, `${name} ${count(documents)}`));
  $("held-counts").textContent = counts();
  $("held-collections").replaceChildren(...parts);
  $("held").replaceChildren(...held.newest.map(row));
  $("held-more").hidden = held.newest.length >= held.documents;
  $("files").hidden = false;
  $("drop").hidden = !held.writable;
  $("read-only").hidden = held.writable;
  $("first").hidden = held.documents > 0;
  $("usual").hidden = held.documents === 0;
}

/** Asks again what the index holds. */
export async function loadFiles() {
  try {
    held = await api.indexed(0, shown);
  } catch (error) {
    if (error.code === "no_index") return;
    throw error;
  }
  show();
}

async function remove(entry) {
  await api.remove(entry.collection, entry.id);
  await loadFiles();
  changed();
}

// -- uploads ----------------------------------------------------------------------------------------

function outcome({ name, indexed, problem }) {
  const text = indexed ? "indexed" : `not indexed: ${problem}`;
  return el("li", { class: indexed ? "up" : "down" }, el("b", {}, name), ` ${text}`);
}

/** Files in groups that one request takes. */
function groups(files) {
  const all = [];
  let bytes = Infinity;
  for (const [name, file] of files) {
    if (bytes + file.size > BYTES_AT_ONCE || all.at(-1).length === AT_ONCE) {
      all.push([]);
      bytes = 0;
    }
    all.at(-1).push([name, file]);
    bytes += file.size;
  }
  return all;
}

async function send(files) {
  if (!files.length) return;
  $("outcomes").replaceChildren();
  $("drop").setAttribute("aria-busy", "true");
  try {
    let begun = 0;
    for (const part of groups(files)) {
      begun += part.length;
      $("drop-state").textContent = `Reading ${count(begun)} of ${count(files.length)} files…`;
      const answer = await api.upload(part);
      $("outcomes").append(...answer.files.map(outcome));
    }
  } finally {
    $("drop").removeAttribute("aria-busy");
    $("drop-state").textContent = "";
    await loadFiles();
    changed();
  }
}

/** Name and file of everything that was dropped, with the files of folders. */
async function dropped(items) {
  const entries = [...items].map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile()).filter(Boolean);
  const found = [];
  for (const entry of entries) await walk(entry, found);
  return found;
}

async function walk(entry, found) {
  if (entry instanceof File) {
    found.push([entry.name, entry]);
    return;
  }
  if (entry.isFile) {
    const file = await new Promise((done, failed) => entry.file(done, failed));
    found.push([entry.fullPath.slice(1), file]);
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const part = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (!part.length) return;
    for (const child of part) if (!child.name.startsWith(".")) await walk(child, found);
  }
}

const isOfFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");

/** Connects the page's parts; `onChange` is called after documents were added or deleted. */
export function startFiles(onChange) {
  changed = onChange;
  $("choose").addEventListener("click", () => $("chosen-files").click());
  $("chosen-files").addEventListener("change", () => {
    const files = [...$("chosen-files").files].map((file) => [file.name, file]);
    $("chosen-files").value = "";
    attempt("upload", () => send(files));
  });
  $("held-more").addEventListener("click", () => {
    shown = Math.min(200, shown + 3 * PAGE);
    attempt("files", loadFiles);
  });
  addEventListener("dragover", (event) => {
    if (!isOfFiles(event)) return;
    event.preventDefault();
    $("drop").classList.add("over");
  });
  addEventListener("dragleave", (event) => event.relatedTarget ?? $("drop").classList.remove("over"));
  addEventListener("drop", (event) => {
    if (!isOfFiles(event)) return;
    event.preventDefault(); // or the browser opens the file
    $("drop").classList.remove("over");
    if (!held?.writable) return;
    const items = event.dataTransfer.items;
    attempt("upload", async () => send(await dropped(items)));
  });
}
