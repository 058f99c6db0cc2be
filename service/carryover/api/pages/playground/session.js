/** A session and the steps that this tab has seen of it, and the card that shows where it is. */

import { alarm, button, fresh, guarded, h, newTab, say } from "./dom.js";
import { follow } from "./events.js";
import { parse } from "./safetensors.js";
import { call, newKey, path, python } from "./service.js";
import { connect } from "./socket.js";

const MOST = 120; // frames
const TTL = 3600; // seconds

/** Return the part of the page's URL that names a model, and a session. */
export const fragment = (model, session) =>
  `#/${path`models/${model}`}${session ? path`/sessions/${session}` : ""}`;

/** A session of a model; without the `name` of one that exists, the first step creates it. Fires `change`. */
export class Session extends EventTarget {
  /** For each step: its number, the file of its state, the tensors in it, and what was `told` of it. */
  frames = [];
  /** The step that the session is at; null before it is created. */
  at = null;
  #tail = Promise.resolve();
  #following = new AbortController();

  constructor(model, name) {
    super();
    this.model = model;
    this.name = name;
  }

  get path() {
    return path`v1/models/${this.model.name}/sessions/${this.name}`;
  }

  /** Look at a session that exists, and follow it. */
  open = () => this.#alone(() => this.#look().then(() => this.#follow()));

  /** Take a step and return its predictions. It goes over `socket`, where there is one. */
  step = (instances, told, socket) => this.#alone(async () => {
    await this.#create();
    const [once, json] = [newKey(), { instances }];
    const sent = await socket?.ask({ ...json, idempotency_key: once });
    const asked = { json, once, like: python`step(${instances}).predictions` };
    const { predictions } = sent ?? (await (await this.#change("POST", ":predict", asked)).json());
    await this.#look({ predictions, ...told });
    return predictions;
  });

  /** Return a WebSocket for many steps; null where there is none, and steps are requests of their own. */
  socket = () => this.#alone(async () => {
    await this.#create();
    return connect(`${this.path}:stream`).catch(() => null);
  });

  /** Bring the session to the state of a frame. */
  go = (frame) => this.#alone(async () => {
    await this.#change("PUT", "/state", { body: frame.file, like: 'put_state(open("state.safetensors", "rb").read())' });
    this.#arrive(frame.step);
  });

  reset = () => this.#alone(async () => {
    await this.#change("POST", ":reset", { json: {}, like: "reset()" });
    this.frames = [];
    await this.#look();
  });

  /** Copy the session, and return the name of the copy. */
  fork = () => this.#alone(async () => {
    const session = fresh("fork-");
    await this.#change("POST", ":fork", { json: { session }, like: python`fork(${session}).describe()` });
    return session;
  });

  close = () => this.#following.abort();

  async #create() {
    if (this.at !== null) return;
    this.name ??= fresh("page-");
    const json = { session: this.name, ttl: TTL };
    const like = python`client.create(${this.model.name}, ${this.name}, ttl=${TTL}).describe()`;
    await call("POST", path`v1/models/${this.model.name}/sessions`, { json, like });
    await this.#look();
    this.#follow();
  }

  /** Change it, provided that it is where this tab believes it to be; else look where it is. */
  async #change(method, what, { like, ...asked }) {
    const session = python`client.session(${this.model.name}, ${this.name}).`;
    const headers = { "If-Match": `"${this.at}"` };
    try {
      return await call(method, this.path + what, { headers, like: session + like, ...asked });
    } catch (error) {
      if (error.status !== 412) throw error;
      await this.#look();
      throw new Error(`Another client has changed the session, which is at step ${this.at}; nothing was done.`);
    }
  }

  /** Load the state, as the frame of its step. */
  async #look(told) {
    const response = await call("GET", `${this.path}/state`);
    const step = Number(response.headers.get("ETag").replaceAll('"', ""));
    const file = await response.arrayBuffer();
    if (!this.frames.some((known) => known.step === step && same(known.file, file))) {
      const frame = { step, file, tensors: parse(file), ...told };
      this.frames = [...this.frames.filter((other) => other.step < step), frame].slice(-MOST);
    }
    this.#arrive(step);
  }

  #arrive(step) {
    this.at = step;
    this.dispatchEvent(new Event("change"));
  }

  #follow() {
    const heard = (event) => this.#alone(() => this.#hear(event)).catch(() => {});
    follow(`${this.path}/events`, heard, this.#following.signal);
  }

  /** `step` is of a step that anyone has committed; `state` of any other change. */
  async #hear({ event, data }) {
    const before = this.at;
    if (event === "deleted" || event === "expired") alarm(`The session ${this.name} is ${event}.`);
    if (event !== "state" && (event !== "step" || data.step <= before)) return;
    await this.#look({ followed: true });
    if (this.at !== before) say(`Another client has brought the session to step ${this.at}`);
  }

  /** Do one thing after another. */
  #alone(work) {
    const done = this.#tail.then(work);
    this.#tail = done.catch(() => {});
    return done;
  }
}

/** Whether two files hold the same bytes. */
function same(...files) {
  const [a, b] = files.map((file) => new Uint8Array(file));
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

/** Return where a session is, and what can be done with it. `moved` gets the names of others, null for a new one. */
export function sessionCard(session, moved) {
  const [name, step, link] = [h("code"), h("output.step", { "aria-label": "Step" }), newTab()];
  const reset = button("Reset", guarded(session.reset));
  const fork = button("Fork", guarded(async () => moved(await session.fork())));
  const show = () => {
    const none = session.at === null;
    name.textContent = none ? "none yet: the first step creates it" : session.name;
    step.textContent = session.at ?? "–";
    link.hidden = reset.disabled = fork.disabled = none;
    link.href = fragment(session.model.name, session.name);
    if (!none && link.hash !== location.hash) history.replaceState(null, "", link.hash);
  };
  session.addEventListener("change", show);
  show();
  return h("div.session", h("span.soft", "Step"), step, h("span.soft", "Session "), name,
    h("div.tools", reset, fork, button("New session", () => moved(null)), link));
}
