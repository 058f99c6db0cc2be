/** Any model: a form made of its metadata. */

import { bars, heat, verdict } from "./charts.js";
import { predictions } from "./classifier.js";
import { button, card, form as formOf, guarded, h, short } from "./dom.js";
import { read } from "./service.js";
import { Session, sessionCard } from "./session.js";
import { strip } from "./strip.js";

const FEW = 12; // numbers that are shown as such
const SHORT = 8; // numbers with a field each
const MOST = 4096; // elements of an instance that are filled in

/** The view of any model; with state, a call is a step unless that is switched off. */
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
  const example = guarded(async (pressed) => {
    const found = await exampleOf(model);
    const of = (name) => found?.map((instance) => (fields.length > 1 ? instance[name] : instance));
    if (pressed || !fields.some(({ values }) => values().length)) fields.forEach(({ spec, set }) => set(of(spec.name)));
  });
  const tools = h("div.tools", h("button.primary", "Run"), button("Example values", example),
    button("Random values", () => fields.forEach(({ vary }) => vary())),
    button("Add an instance", guarded(() => fields.forEach(({ add }) => add()))));
  session.addEventListener("change", () => show(results, session.frame?.predictions ?? [], model));
  const element = h("div",
    h("div.columns",
      card("Inputs", formOf("form", run, fields.map((one) => one.element),
        model.stateful && h("p", h("label", kept, " In a session, which keeps the state")), tools)),
      card("Outputs", h("p.soft", model.outputs.map(typed).join(" · ")), results,
        buffers("State buffers: steps change them", model.state_buffers),
        buffers("Frozen buffers: nothing changes them", model.frozen_buffers))),
    model.stateful && card("The state, step by step", sessionCard(session, moved), strip(session)));
  example();
  return { element, open: () => name && session.open(), close: session.close };
}

const typed = ({ name, datatype, shape }) => `${name} ${datatype ?? "None"} [${shape ?? ""}]`;

const buffers = (title, list) =>
  list.length > 0 && h("details", h("summary", title), h("p.soft", list.map(typed).join(" · ")));

/** Instances that the service tried a model with, if there are any. */
async function exampleOf({ name }) {
  const { paths } = await read("openapi.json");
  const body = paths["/v1/models/{model}:predict"].post.requestBody.content["application/json"];
  return body.examples?.[name]?.value.instances;
}

/** An input: for each instance a row, of a field for each number of a short vector. */
function field(spec) {
  const shape = instanceShape(spec.shape);
  const isFixed = spec.shape.filter((size) => size === -1).length < 2;
  const isShort = isFixed && shape.length === 1 && shape[0] <= SHORT;
  const rows = h("div.rows");
  const tag = shape.length && !isShort ? "textarea" : "input";
  const box = (value, i, j = "") => Object.assign(
    h(tag, { "aria-label": `${spec.name} ${i + 1} ${j}` }), { value: JSON.stringify(value) ?? "" });
  const row = (value, i) => h("div.keys", isShort
    ? (value ?? Array(shape[0]).fill()).map((one, j) => box(one, i, j + 1)) : box(value, i));
  const read = ({ value }) => (value.trim() ? JSON.parse(value) : undefined);
  const valueOf = ({ children }) => {
    const all = [...children].map(read);
    return isShort && all.some((one) => one !== undefined) ? all : all[0];
  };
  const values = () => [...rows.children].map(valueOf).filter((value) => value !== undefined);
  const zero = () => filled(shape, spec, () => 0);
  const set = (given = [zero()]) => rows.replaceChildren(...given.map(row));
  set([undefined]);
  return {
    spec, values, set,
    add: () => values().length && set([...values(), zero()]),
    vary: () => set(Array.from(rows.children, () => filled(shape, spec, Math.random))),
    element: h("div.field", { role: "group", "aria-label": typed(spec) }, h("b", typed(spec)), rows),
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
  if (!found.length) return place.replaceChildren();
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
