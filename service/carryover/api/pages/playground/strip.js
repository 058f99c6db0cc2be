/** The film strip of a session: a frame for each step, with a heat map of its state; choosing one goes there. */

import { heat } from "./charts.js";
import { guarded, h, short } from "./dom.js";

const FEW = 4; // numbers that are shown as such

/** Return the strip; `details` gives what a frame shows beside its state, and `title` what it is called. */
export function strip(session, details = () => null, title = () => "") {
  const list = h("ol.strip", { tabindex: 0, "aria-label": "Steps" });
  const nodes = new WeakMap();
  const make = (frame) => h("li", h("button", {
    type: "button", click: guarded(() => session.go(frame)), "aria-label": `Step ${frame.step}${title(frame)}: go to it`,
  }, h("b", `Step ${frame.step}`), frame.tensors.map(buffer), details(frame)));
  const show = () => {
    const shown = session.frames.map((frame) => nodes.get(frame) ?? nodes.set(frame, make(frame)).get(frame));
    for (const node of [...list.children]) if (!shown.includes(node)) node.remove();
    shown.forEach((node, i) => {
      if (list.children[i] !== node) list.insertBefore(node, list.children[i] ?? null); // others keep the focus
      const { step } = session.frames[i];
      node.classList.toggle("undone", step > session.at);
      node.firstChild.setAttribute("aria-current", step === session.at ? "step" : "false");
      if (step === session.at) list.scrollTo({ left: node.offsetLeft - list.clientWidth / 2 });
    });
  };
  session.addEventListener("change", show);
  return list;
}

/** Return a state buffer: its numbers where they are few, else a heat map. */
function buffer({ name, dtype, shape, values }) {
  const title = `${name} ${dtype} [${shape.join(", ")}]`;
  return values.length > FEW ? heat(values, title) : h("code", { title }, values.map(short).join(" "));
}
