/** The recurrent digit reader: a drawing goes row by row through a session. */

import { bars, verdict } from "./charts.js";
import { SIDE } from "./digits.js";
import { button, card, guarded, h, say, sleep } from "./dom.js";
import { dots, drawing } from "./pad.js";
import { Session, sessionCard } from "./session.js";
import { strip } from "./strip.js";

const PACE = matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 120; // milliseconds between rows
const HELP = "Choose a frame to go back to its step, or forward again.";

const foundIn = (frame) => frame?.predictions?.at(-1);

export function rows(model, name, moved) {
  const session = new Session(model, name);
  const [chart, belief] = [bars(model.labels), h("p.belief")];
  let pad = null;

  const readNext = (socket) => {
    const row = (session.at ?? 0) % SIDE;
    const pixels = pad.pixels().slice(row * SIDE, (row + 1) * SIDE);
    return session.step([pixels], { pixels }, socket);
  };
  const readAll = async () => {
    if (session.at) await session.reset();
    const socket = await session.socket();
    for (let row = 0; row < SIDE; row++) {
      await readNext(socket);
      await sleep(PACE);
    }
    socket?.close();
    say(`The model reads ${belief.textContent}`);
  };
  const run = (work) => guarded(async () => {
    all.disabled = next.disabled = true;
    await work().finally(show);
  });
  const all = button("Read all rows", run(readAll), { class: "primary" });
  const next = button("", run(() => readNext()));

  function show() {
    const found = foundIn(session.frame);
    const other = session.frame?.followed && !found;
    chart.show(found?.probabilities);
    belief.replaceChildren(...(other ? ["Another client took this step."] : verdict(found)));
    next.textContent = `Read row ${((session.at ?? 0) % SIDE) + 1}`;
    all.disabled = next.disabled = !pad.pixels();
  }

  pad = drawing(() => pad && show());
  session.addEventListener("change", show);
  show();
  const element = h("div",
    h("div.columns",
      card("Draw a digit", pad.element, h("div.tools", all, next)),
      card("What the model believes", belief, chart.element)),
    card("The hidden state, step by step",
      sessionCard(session, moved), strip(session, details), h("p.soft", HELP)));
  return { element, open: () => name && session.open(), close: session.close };
}

function details(frame) {
  const found = foundIn(frame);
  const words = found ? verdict(found).at(-1).replace("with", `${found.label} ·`) : frame.followed ? "followed" : "initial";
  return [frame.pixels && dots(frame.pixels, "The row"), h("span.soft", words)];
}
