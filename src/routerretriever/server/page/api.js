// Requests to the server this page came from.

const KEY = "routerretriever-key";

/** The server answered, but not with success. */
export class ApiError extends Error {
  constructor(status, problem, retryAfter) {
    super(problem?.message ?? `The server answered with status ${status}.`);
    this.status = status;
    this.code = problem?.code ?? null;
    this.retryAfter = retryAfter;
  }
}

/** No server answered. */
export class Unreachable extends Error {}

let key = "";
try {
  key = sessionStorage.getItem(KEY) ?? "";
} catch {
  // storage is switched off: the key lives as long as the page
}

export function setKey(value) {
  key = value;
  try {
    sessionStorage.setItem(KEY, value);
  } catch {
    // as above
  }
}

export const hasKey = () => key !== "";

/** Takes the key that the address of `up` brings, and removes it from the address. */
export function takeKey() {
  const given = new URLSearchParams(location.hash.slice(1));
  if (!given.get("key")) return;
  setKey(given.get("key"));
  given.delete("key");
  const rest = given.toString();
  history.replaceState(null, "", rest ? `#${rest}` : location.pathname);
}

async function send(path, body, signal, method = "POST") {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const options = { headers, signal, cache: "no-store" };
  if (body instanceof FormData) {
    options.method = "POST";
    options.body = body;
  } else if (body) {
    options.method = method;
    options.body = JSON.stringify(body);
    headers["Content-Type"] = "application/json";
  }
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable("The server cannot be reached.");
  }
}

async function call(path, body, signal, method) {
  const response = await send(path, body, signal, method);
  if ([502, 504].includes(response.status)) throw new Unreachable("The server cannot be reached."); // a proxy's answer
  const content = await response.json().catch(() => null);
  signal?.throwIfAborted();
  if (!response.ok) throw new ApiError(response.status, content?.error, Number(response.headers.get("Retry-After")));
  if (content === null) throw new ApiError(response.status, { message: "The server's answer could not be read." });
  return content;
}

export const models = async () => (await call("/v1/models")).data.map((model) => model.id);
export const experts = () => call("/v1/experts");
export const pilotMap = () => call("/v1/map");

export const search = async (query, expert, signal) =>
  (await call("/v1/search", { query, k: 10, expert }, signal)).results[0];

export const route = async (query, signal) => (await call("/v1/route", { query, pilots: 5 }, signal)).routes[0];

export async function isReady() {
  try {
    return (await send("/ready")).ok;
  } catch {
    return false;
  }
}

export const indexed = (offset, limit) => call(`/v1/files?offset=${offset}&limit=${limit}`);

/** Uploads files; what became of each. */
export function upload(files) {
  const form = new FormData();
  for (const [name, file] of files) form.append("files", file, name);
  return call("/v1/files", form);
}

export const remove = (collection, id) => call("/v1/documents", { collection, ids: [id] }, undefined, "DELETE");

/** The content of a file that was indexed, for those who need a key to see it. */
export async function file(path) {
  const response = await send(path);
  if (!response.ok) throw new ApiError(response.status, (await response.json().catch(() => null))?.error);
  return response.blob();
}
