/** A session, and the card that shows where it is. */

import { button, fresh, guarded, h, newTab, say } from "./dom.js";
import { follow } from "./events.js";
import { parse } from "./safetensors.js";
import { call, newKey, path, python } from "./service.js";
import { connect } from "./socket.js";

const MOST = 120; // frames
const BYTES = 2 ** 26; // of their states

/** The part of the page's URL that names a model and a session. */
export const fragment = (model, session) =>
  `#/${path`models/${model}`}${session ? path`/sessions/${session}` : ""}`;

/** Without the `name` of one that exists, the first step creates it. Fires `change`. */
export class Session extends EventTarget {
  /** For each step: its number, file of its state, tensors in it, and what was `told`. */
  frames = [];
  /** Null before it is created. */
  at = null;
  #tail = Promise.resolve();
  #following = new AbortController();
  #tabs = new BroadcastChannel("carryover");
  #told = []; // frames of other tabs

  constructor(model, name) {
    super();
    this.model = model;
    this.name = name;
    this.#tabs.onmessage = ({ data: { path, frames } }) => {
      if (path === this.path) frames ? this.#learn(frames) : this.#tell(this.frames);
    };
  }

  get path() {
    return path`v1/models/${this.model.name}/sessions/${this.name}`;
  }

  get frame() {
    return this.frames.find(({ step }) => step === this.at);
  }

  open = () => this.#alone(async () => {
    await this.#look();
    this.#follow();
    this.#tabs.postMessage({ path: this.path });
  });

  /** Take a step, over `socket` where there is one. */
  step = (instances, told, socket) => this.#alone(async () => {
    await this.#create();
    const [once, json] = [newKey(), { instances }];
    const line = { ...json, idempotency_key: once };
    const sent = (await socket?.ask(line)) ?? (socket && (await this.#again(line)));
    const asked = { json, once, sent, like: python`step(${instances}).predictions` };
    const made = await this.#change("POST", ":predict", asked);
    const { predictions, step } = sent ?? (await made.json());
    await this.#look({ predictions, ...told }, step);
    this.#tell([this.frame]);
    return predictions;
  });

  /** A WebSocket for many steps; null where steps must be requests of their own. */
  socket = () => this.#alone(async () => {
    await this.#create();
    return connect(`${this.path}:stream`).catch(() => null);
  });

  go = (frame) => this.#alone(async () => {
    const like = 'put_state(open("state.safetensors", "rb").read())';
    await this.#change("PUT", "/state", { body: frame.file, like });
    this.#arrive(frame.step);
  });

  reset = () => this.#alone(async () => {
    await this.#change("POST", ":reset", { json: {}, like: "reset()" });
    this.frames = [];
    await this.#look();
  });

  fork = () => this.#alone(async () => {
    const session = fresh("fork-");
    await this.#change("POST", ":fork", { json: { session }, like: python`fork(${session}).describe()` });
    return session;
  });

  close = () => {
    this.#following.abort();
    this.#tabs.onmessage = null;
  };

  /** Tell other tabs what was predicted. */
  #tell(frames) {
    const told = frames.filter(({ predictions }) => predictions).map(({ file, ...rest }) => rest);
    if (told.length) this.#tabs.postMessage({ path: this.path, frames: told });
  }

  #learn(frames) {
    this.#told = [...frames, ...this.#told].slice(0, MOST);
    this.frames = this.frames.map(this.#completed);
    this.#arrive(this.at);
  }

  #completed = (frame) => {
    const told = !frame.predictions && this.#told.find((one) => isSame(one, frame));
    return told ? { ...told, ...frame } : frame;
  };

  /** Send a line again: if it has run, its response is replayed. */
  async #again(line) {
    const socket = await connect(`${this.path}:stream`).catch(() => null);
    return socket?.ask(line).finally(socket.close);
  }

  async #create() {
    if (this.at !== null) return;
    this.name ??= fresh("page-");
    const like = python`client.create(${this.model.name}, ${this.name}).describe()`;
    await call("POST", path`v1/models/${this.model.name}/sessions`, { json: { session: this.name }, like });
    await this.#look();
    this.#follow();
  }

  /** Change it if it is at the step shown. */
  async #change(method, what, { like, ...asked }) {
    const session = python`client.session(${this.model.name}, ${this.name}).`;
    const headers = { "If-Match": `"${this.at}"` };
    try {
      return await call(method, this.path + what, { headers, like: session + like, ...asked });
    } catch (error) {
      if (error.status !== 412) throw error;
      await this.#look();
      throw new Error(`Another client has brought the session to step ${this.at}; nothing was done.`);
    }
  }

  /** Load the state, as the frame of its step; `told` is of the step `made`. */
  async #look(told, made) {
    const response = await call("GET", `${this.path}/state`);
    const step = Number(response.headers.get("ETag").replaceAll('"', ""));
    const file = await response.arrayBuffer();
    const tensors = parse(file);
    const frame = this.#completed({ step, file, tensors, ...((made ?? step) === step ? told : { followed: true }) });
    if (!this.frames.some((known) => isSame(known, frame)))
      this.frames = [...this.frames.filter((other) => other.step < step), frame]
        .slice(-Math.min(MOST, Math.ceil(BYTES / file.byteLength)));
    this.#arrive(step);
  }

  #arrive(step) {
    this.at = step;
    this.dispatchEvent(new Event("change"));
  }

  #follow() {
    const heard = (step) => this.#alone(() => this.#hear(step)).catch(() => {});
    follow(`${this.path}/events`, heard, this.#following.signal);
  }

  async #hear(step) {
    const before = this.at;
    if (step !== null && step <= before) return;
    await this.#look({ followed: true });
    if (this.at !== before) say(`Another client: step ${this.at}`);
  }

  #alone(work) {
    const done = this.#tail.then(work);
    this.#tail = done.catch(() => {});
    return done;
  }
}

const isSame = (one, other) => one.step === other.step && text(one) === text(other);
const text = ({ tensors }) => JSON.stringify(tensors);

/** The card; `moved` gets the name of another session, null for a new one. */
export function sessionCard(session, moved) {
  const [name, step, link] = [h("code"), h("output.step", { "aria-label": "Step" }), newTab()];
  const reset = button("Reset", guarded(session.reset));
  const fork = button("Fork", guarded(async () => moved(await session.fork())));
  const show = () => {
    const none = session.at === null;
    name.textContent = none ? "none: the first step creates it" : session.name;
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
