/** The digit classifier: what is drawn is predicted while it is drawn. */

import { bars, verdict } from "./charts.js";
import { card, guarded, h, say } from "./dom.js";
import { drawing } from "./pad.js";
import { call, path, python } from "./service.js";

export function classifier(model) {
  const [chart, belief] = [bars(model.labels), h("p.belief")];
  let [waiting, busy] = [null, false];

  const predict = guarded(async ([pixels, done]) => {
    if (!pixels) return show(null);
    show((await predictions(model, [pixels]))[0], done);
  });
  const show = (found, done) => {
    chart.show(found?.probabilities);
    belief.replaceChildren(...verdict(found));
    if (found && done) say(`The model reads ${belief.textContent}`);
  };
  /** What is drawn during a call waits, and only the latest of it is predicted. */
  const changed = async (...drawn) => {
    waiting = drawn;
    if (busy) return;
    for (busy = true; waiting; ) {
      const next = waiting;
      waiting = null;
      await predict(next);
    }
    busy = false;
  };
  const element = h("div.columns",
    card("Draw a digit", drawing(changed).element),
    card("Probabilities", belief, chart.element));
  return { element };
}

export async function predictions({ name }, instances) {
  const like = python`client.predict(${name}, ${instances}).predictions`;
  const response = await call("POST", path`v1/models/${name}:predict`, { json: { instances }, like });
  return (await response.json()).predictions;
}
