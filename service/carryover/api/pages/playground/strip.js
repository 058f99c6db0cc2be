/** The film strip of a session: its state after each step, to which a click goes back. */

import { heat } from "./charts.js";
import { button, guarded, h, short } from "./dom.js";

const FEW = 4; // numbers that are shown as such

/** `details` is what a frame shows beside its state. */
export function strip(session, details = () => null) {
  const list = h("ol.strip", { tabindex: 0, "aria-label": "Steps" });
  const nodes = new WeakMap();
  const make = (frame) => h("li", button(
    [h("b", `Step ${frame.step}`), frame.tensors.map(buffer), details(frame)], guarded(() => session.go(frame))));
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

function buffer({ name, dtype, shape, values }) {
  const title = `${name} ${dtype} [${shape.join(", ")}]`;
  return values.length > FEW ? heat(values, title) : h("code", { title }, values.map(short).join(" "));
}
