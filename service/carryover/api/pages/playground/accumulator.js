/** Accumulators: totals of values, live in every tab. */

import { sparkline } from "./charts.js";
import { button, card, form, guarded, h, newTab, say, short } from "./dom.js";
import { follow } from "./events.js";
import { call, path, python, read } from "./service.js";
import { fragment } from "./session.js";

const QUICK = [1, 10, 0.1, -1];
const MOST = 60; // steps in the chart

/** The view of the accumulator `name`; `moved` gets the name of another. */
export function accumulator(model, name, moved) {
  const own = name ?? "playground";
  const where = path`v1/accumulators/${own}`;
  const client = python`client.accumulator(${own})`;
  const following = new AbortController();
  const [totals, trend, step] = [h("dl.totals"), h("div.trend"), h("output.step", { "aria-label": "Step" }, "–")];
  const chosen = h("input", { value: own, spellcheck: "false" });
  const given = h("input", { value: "0.1, 0.2, 0.3" });
  const link = newTab(fragment(model.name, own));
  const sums = [];
  let [at, followed] = [0, false];

  const show = (found) => {
    at = step.textContent = found.step;
    totals.replaceChildren(...model.outputs.map((output) =>
      h("div", h("dt", output.name), h("dd", short(found[output.name] ?? NaN)))));
    sums.push(found.sum);
    trend.replaceChildren(sparkline(sums.slice(-MOST), "The sum so far"));
    if (followed) return;
    followed = true;
    history.replaceState(null, "", link.hash);
    follow(`${path`v1/models/${model.name}/sessions/${own}`}/events`, guarded(heard), following.signal);
  };
  const heard = async (now) => {
    if (now !== null && now <= at) return;
    const found = await read(where);
    if (found.step === at) return;
    show(found);
    say(`Another client: step ${at}`);
  };
  const add = guarded(async (values) => {
    const response = await call("POST", where, { json: { values }, like: client + python`.add(${values})` });
    show(await response.json());
  });
  const remove = guarded(async () => {
    following.abort();
    await call("DELETE", where, { like: `${client}.delete()` });
    moved(null);
  });
  const quick = QUICK.map((value) => button(`${value > 0 ? "+" : "−"}${Math.abs(value)}`, () => add([value])));
  const element = h("div.columns",
    card("Values",
      form("form.line", () => moved(chosen.value.trim()), h("label", "Accumulator", chosen), h("button", "Open")),
      form("form.line", () => add(numbers(given.value)), h("label", "Values", given), h("button.primary", "Add")),
      h("div.keys", quick)),
    card("Totals",
      h("div.session", h("span.soft", "Step"), step, h("code", own), h("div.tools", button("Delete", remove), link)),
      totals, trend));
  return {
    element,
    open: async () => name && show(await read(where, { like: `${client}.totals()` })),
    close: () => following.abort(),
  };
}

/** Numbers in a text; other words are sent as they are, for the service to reject. */
const numbers = (text) => text.split(/[\s,;]+/).filter(Boolean).map((word) => (isNaN(word) ? word : +word));
