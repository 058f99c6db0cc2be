/** The page: models, the view of one, the API key and the theme. */

import { accumulator } from "./accumulator.js";
import { classifier } from "./classifier.js";
import { alarm, find, guarded, h } from "./dom.js";
import { form } from "./form.js";
import { showMetrics } from "./metrics.js";
import { rows } from "./rows.js";
import { BASE, key, read } from "./service.js";
import { fragment } from "./session.js";
import { showSnippets } from "./snippets.js";

const PERIOD = 10000; // milliseconds after which models are listed again
const THEMES = ["auto", "light", "dark"];
const VIEWS = {
  __proto__: null,
  "digits-batchnorm": [classifier, [-1, 64], false],
  "digits-rnn": [rows, [-1, 1, 8], true],
  accumulator: [accumulator, [-1], true],
};
const { documentElement: root } = document;
let [models, view, shown] = [[], null, ""];

/** A view made for a model of this name, if its inputs are those; else the form. */
function viewOf({ name, inputs, stateful }) {
  const [own, shape, keeps] = VIEWS[name] ?? [];
  return inputs.length === 1 && `${inputs[0].shape}` === `${shape}` && stateful === keeps ? own : form;
}

const place = () => (location.hash.match(/^#\/models\/([^/]+)(?:\/sessions\/([^/]+))?$/) ?? []).slice(1)
  .map((name) => name && new URLSearchParams(`=${name.replaceAll("+", "%2B")}`).get(""));

/** The model in the page's URL. */
const named = () => models.find(({ name }) => name === place()[0]);

const open = guarded(async () => {
  const [wanted, session] = place();
  const model = named() ?? models[0];
  view?.close?.();
  alarm(model && (!wanted || named()) ? "" : `There is no model ${wanted ?? "yet"}.`);
  mark(model?.name);
  document.title = `${model?.name ?? "…"} · Carryover`;
  view = model && viewOf(model)(model, named() && session, go(model.name));
  find("main").replaceChildren(...(model ? [title(model), view.element] : []));
  await view?.open?.();
});

const go = (model) => (session) => {
  const there = fragment(model, session);
  if (location.hash === there) open();
  else location.hash = there;
};

const title = ({ name, stateful, version }) => h("div.title", h("h2", name),
  h("span.pill", stateful ? "keeps state" : "stateless"), h("span.soft", `version ${version}`));

function mark(name) {
  shown = name;
  for (const link of find("models").querySelectorAll("a")) {
    const here = link.textContent === name;
    link.ariaCurrent = here && "page";
    if (here) link.scrollIntoView({ block: "nearest" });
  }
}

const names = () => String(models.map(({ name }) => name));

/** List the models, and show one where none is. */
async function list() {
  const before = names();
  ({ models } = await read("v1/models"));
  if (names() === before && view) return;
  find("models").replaceChildren(...models.map(({ name }) => h("li", h("a", { href: fragment(name) }, name))));
  mark(shown);
  if (!view || (named() && named().name !== shown)) await open();
}

async function look() {
  if (document.hidden) return;
  const ready = await fetch(new URL("v2/health/ready", BASE)).then(({ ok }) => ok).catch(() => false);
  find("ready").textContent = ready ? "ready" : "not ready";
  find("ready").classList.toggle("bad", !ready);
  await list().catch((error) => {
    if (models.length) return;
    alarm(error.message);
    find("key").open = error.status === 401;
  });
}

function theme(chosen) {
  root.dataset.theme = chosen;
  find("theme").textContent = `Theme: ${chosen}`;
  localStorage.setItem("carryover-theme", chosen);
}

find("theme").addEventListener("click", () => theme(THEMES[(THEMES.indexOf(root.dataset.theme) + 1) % THEMES.length]));
find("secret").value = key.get();
find("key").querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(find("secret").value.trim());
  find("key").open = false;
  [models, view] = [[], null];
  alarm("");
  look();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  find("main").focus();
});
addEventListener("hashchange", open);
document.addEventListener("visibilitychange", look);

theme(THEMES.find((one) => one === localStorage.getItem("carryover-theme")) ?? "auto");
showSnippets(find("call"));
showMetrics(find("metrics"));
look();
setInterval(look, PERIOD);
