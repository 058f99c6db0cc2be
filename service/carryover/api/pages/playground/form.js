/** Any model: a form made of its metadata. */

import { bars, heat } from "./charts.js";
import { predictions, verdict } from "./classifier.js";
import { button, card, form as formOf, guarded, h, short } from "./dom.js";
import { read } from "./service.js";
import { Session, sessionCard } from "./session.js";
import { strip } from "./strip.js";

const FEW = 12; // numbers that are shown as such
const MOST = 4096; // elements of an instance that are filled in

/** The view of any model; with state, a call is a step of a session unless that is switched off. */
export function form(model, name, moved) {
  const session = new Session(model, name);
  const fields = model.inputs.map(field);
  const kept = h("input", { type: "checkbox", checked: true });
  const results = h("div.results");

  const run = guarded(async () => {
    const instances = joined(fields);
    const keeps = model.stateful && kept.checked;
    show(results, keeps ? await session.step(instances) : await predictions(model, instances), model);
  });
  const example = guarded(async () => {
    const found = await exampleOf(model);
    const of = (name) => found?.map((instance) => (fields.length > 1 ? instance[name] : instance));
    fields.forEach(({ spec, set }) => set(of(spec.name)));
  });
  const tools = h("div.tools", h("button.primary", "Run"), button("Example values", example),
    button("Random values", () => fields.forEach(({ vary }) => vary())));
  const element = h("div",
    h("div.columns",
      card("Inputs", formOf("form", run, fields.map((one) => one.element),
        model.stateful && h("label.check", kept, "In a session, which keeps the state"), tools)),
      card("Outputs", h("p.soft", model.outputs.map(typed).join(" · ")), results)),
    model.stateful && card("The state, step by step", sessionCard(session, moved), strip(session)));
  example();
  return { element, open: () => name && session.open(), close: session.close };
}

const typed = ({ name, datatype, shape }) => `${name} ${datatype} [${shape}]`;

/** Instances that the service tried a model with; undefined where it documents none. */
async function exampleOf({ name }) {
  const { paths } = await read("openapi.json");
  const body = paths["/v1/models/{model}:predict"].post.requestBody.content["application/json"];
  return body.examples?.[name]?.value.instances;
}

function field(spec) {
  const shape = instanceShape(spec.shape);
  const size = [...shape, spec.datatype].join(" × ");
  const text = h("textarea", { spellcheck: "false" });
  const lines = () => text.value.split("\n").filter((line) => line.trim());
  const values = () => lines().map((line) => JSON.parse(line));
  const set = (given = [filled(shape, spec, () => 0)]) =>
    (text.value = given.filter((value) => value !== undefined).map((value) => JSON.stringify(value)).join("\n"));
  const random = () => filled(shape, spec, Math.random);
  return {
    spec, values, set,
    vary: () => set((lines().length ? lines() : [""]).map(random)),
    element: h("label.field", h("b", typed(spec)), text, h("span.soft", "One instance a line: ", size)),
  };
}

/** Values of the only input, or objects by input name. */
function joined(fields) {
  const given = fields.map(({ spec, values }) => [spec.name, values()]).filter(([, values]) => values.length);
  if (fields.length === 1) return given[0]?.[1] ?? [];
  const length = Math.max(0, ...given.map(([, values]) => values.length));
  return Array.from({ length }, (_, i) => Object.fromEntries(given.map(([name, values]) => [name, values[i]])));
}

/** The shape of one instance: without the first axis that varies and those of size 1. */
const instanceShape = (shape) =>
  shape.filter((size, i) => i !== shape.indexOf(-1) && size !== 1).map((size) => Math.max(1, size));

/** Nested lists of values that `from` makes of 0 to 1; undefined of too many. */
function filled(shape, spec, from) {
  if (shape.reduce((product, size) => product * size, 1) > MOST) return undefined;
  if (shape.length) return Array.from({ length: shape[0] }, () => filled(shape.slice(1), spec, from));
  if (spec.datatype === "BOOL") return from() > 0.5;
  return /^(FP|BF)/.test(spec.datatype) ? Math.round(200 * from()) / 100 : Math.floor(2 * from());
}

function show(place, found, model) {
  place.replaceChildren(
    ...found.map((one, i) => h("div", found.length > 1 && h("h4", `Instance ${i + 1}`), prediction(one, model))),
    h("details", h("summary", "As JSON"), h("pre", { tabindex: 0 }, JSON.stringify(found, null, 1))));
}

function prediction(found, { labels, outputs }) {
  if (labels) {
    const chart = bars(labels);
    chart.show(found.probabilities);
    return [h("p.belief", verdict(found)), chart.element];
  }
  return Object.entries(outputs.length > 1 ? found : { [outputs[0].name]: found }).map(([name, value]) => {
    const all = [value].flat(Infinity);
    const drawn = all.length > FEW && all.every(Number.isFinite);
    const text = () => all.map((one) => (typeof one === "number" ? short(one) : String(one))).join("  ");
    return h("div.output", h("b", name), drawn ? heat(all, `Output ${name}`) : h("code", text()));
  });
}
