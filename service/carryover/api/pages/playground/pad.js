/** A pad to draw on, with mouse, finger or keyboard, and what a model sees of it. */

import { button, h, say, svg } from "./dom.js";
import { EXAMPLES, SIDE, pixels } from "./digits.js";
import { heat } from "./charts.js";

const STEP = 8; // of the keyboard's pen, in percent of the pad
const MOVES = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
const HELP = "Draw with mouse or finger, or by keyboard: arrows move the pen, space lowers or lifts it.";
const SIGHT = "What the model sees: 8 × 8 pixels.";

export const dots = (values, label) => heat(values, label, { columns: SIDE, scale: 16, tag: "svg.heat.dots" });

/** `changed` gets the pixels, null of none, and whether a stroke has ended. */
export function drawing(changed) {
  let [strokes, seen, isDown] = [[], null, false];
  const [ink, pen, sight] = [svg("g.ink"), svg("circle.pen", { r: 3 }), h("div.sight")];
  const attributes = { viewBox: "0 0 100 100", tabindex: 0, role: "application", "aria-describedby": "help" };
  const pad = svg("svg.pad", { ...attributes, "aria-label": "Drawing pad" }, ink, pen);

  const update = (done) => {
    seen = pixels(strokes);
    ink.replaceChildren(...strokes.map((stroke) => svg("polyline", { points: [stroke[0], ...stroke].join(" ") })));
    sight.replaceChildren(dots(seen ?? Array(SIDE * SIDE).fill(0), "8 by 8 pixels"));
    changed(seen, done);
  };
  const tool = {
    isDown: () => isDown,
    lower(point) {
      isDown = true;
      strokes.push([point]);
      update(false);
    },
    extend(point) {
      strokes.at(-1).push(point);
      update(false);
    },
    lift() {
      if (isDown) update(true);
      isDown = false;
    },
    show(drawn) {
      isDown = false;
      strokes = drawn.map((stroke) => [...stroke]);
      update(true);
    },
  };
  byPointer(pad, tool);
  byKeyboard(pad, pen, tool);
  const examples = EXAMPLES.map((drawn, digit) =>
    button(digit, () => tool.show(drawn), { "aria-label": `Draw an example of ${digit}` }));
  const element = h("div.drawing",
    h("div.boards",
      h("figure", pad, h("figcaption", { id: "help" }, HELP)), h("figure", sight, h("figcaption", SIGHT))),
    h("div.tools", button("Clear", () => tool.show([])), h("span.soft", "or an example"), h("div.keys", examples)));
  update(true);
  return { element, pixels: () => seen };
}

function byPointer(pad, { lower, extend, lift, isDown }) {
  const place = ({ clientX, clientY }) => {
    const { left, top, width, height } = pad.getBoundingClientRect();
    return [(clientX - left) / width, (clientY - top) / height].map((share) => Math.round(1000 * share) / 10);
  };
  const on = (name, work) => pad.addEventListener(name, (event) => event.isPrimary && work(event));
  on("pointerdown", (event) => {
    if (event.button !== 0) return;
    pad.setPointerCapture(event.pointerId);
    lower(place(event));
  });
  on("pointermove", (event) => isDown() && pad.hasPointerCapture(event.pointerId) && extend(place(event)));
  on("pointerup", lift);
  on("pointercancel", lift);
}

function byKeyboard(pad, pen, { lower, extend, lift, show, isDown }) {
  let at = [50, 50];
  const move = (by) => {
    at = at.map((value, axis) => Math.min(98, Math.max(2, value + by[axis])));
    if (isDown()) extend(at);
  };
  const draw = () => {
    pen.setAttribute("transform", `translate(${at})`);
    pen.classList.toggle("down", isDown());
  };
  pad.addEventListener("keydown", (event) => {
    if (event.key in MOVES) move(MOVES[event.key]);
    else if (event.key === " ") isDown() ? lift() : lower(at);
    else if (event.key === "Delete" || event.key === "Backspace") show([]);
    else return;
    event.preventDefault();
    draw();
    say(`Pen ${isDown() ? "down" : "up"}, ${at[0]} % across, ${at[1]} % down`);
  });
  pad.addEventListener("blur", lift);
  draw();
}
