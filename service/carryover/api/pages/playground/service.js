/** Calls to the service, relative to the page. */

import { fresh, sleep } from "./dom.js";

/** The service's URL: the page may be under a prefix. */
export const BASE = new URL("./", document.baseURI.split("#")[0]);

/** `made` says how to make a call, `served` who responded to it. */
export const calls = new EventTarget();

const STORED = "carryover-key";
const PASSING = [502, 503, 504];
const PATIENCE = 10000; // milliseconds

export const problem = (status, detail) => Object.assign(new Error(`${status}: ${detail}`), { status });

/** The API key, until the tab is closed. */
export const key = { get: () => sessionStorage.getItem(STORED) ?? "", set: (to) => sessionStorage.setItem(STORED, to) };

export const authorization = () => (key.get() ? { Authorization: `Bearer ${key.get()}` } : {});

/** Encode the names in a path: path`v1/models/${name}`. */
export const path = (parts, ...names) => String.raw({ raw: parts }, ...names.map(encodeURIComponent));

/** Write values in Python: python`client.predict(${name})`. */
export const python = (parts, ...values) => String.raw({ raw: parts }, ...values.map(literal));

const WORDS = { true: "True", false: "False", null: "None" };
const literal = (value) =>
  JSON.stringify(value).replace(/"(?:[^"\\]|\\.)*"|true|false|null/g, (found) => WORDS[found] ?? found);

export const newKey = () => fresh("page-");

/**
 * Make a call and return its response, which has succeeded. `json` or `body` is sent, `like` is the same in Python.
 * With the idempotency key, a change is made once, however often it is sent; what was `sent` is only told.
 */
export async function call(method, where, { json, body, headers = {}, like, sent, once = newKey() } = {}) {
  const url = new URL(where, BASE);
  const named = { ...headers };
  if (json || body) named["Content-Type"] = json ? "application/json" : "application/octet-stream";
  if (like) tell("made", { method, url, json, body, headers: named, like });
  if (sent) return sent;
  const safe = method === "GET" ? {} : { "Idempotency-Key": once };
  const all = { ...named, ...safe, ...authorization(), Prefer: "server-timing" };
  const started = performance.now();
  const init = { method, headers: all, body: json ? JSON.stringify(json) : body, cache: "no-store" };
  const response = await persist(url, init);
  const timing = response.headers.get("Server-Timing") ?? "";
  const [replica, worker] = ["replica", "worker"].map((name) => timing.match(`${name};desc="([^"]*)"`)?.[1]);
  tell("served", { replica, worker, spent: performance.now() - started });
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  throw problem(response.status, said.detail ?? said.error ?? response.statusText);
}

export const read = async (where, asked) => (await call("GET", where, asked)).json();

async function persist(url, init) {
  const until = performance.now() + PATIENCE;
  for (let wait = 100; ; wait *= 1.6) {
    const response = await fetch(url, init).catch(() => null);
    const passes = !response || PASSING.includes(response.status) || response.headers.has("Retry-After");
    if (!passes) return response;
    if (performance.now() > until) return response ?? Promise.reject(new Error("The service does not respond."));
    await sleep(wait * (0.5 + Math.random()));
  }
}

const tell = (type, detail) => calls.dispatchEvent(new CustomEvent(type, { detail }));
