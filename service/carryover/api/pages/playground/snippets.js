/** The last call, as a command and programs to copy. */

import { button, h } from "./dom.js";
import { BASE, calls, key } from "./service.js";

const KINDS = { curl, Python: asPython, JavaScript: javascript };

export function showSnippets(place) {
  const code = h("code");
  let [made, kind] = [null, "curl"];
  const show = () => {
    code.textContent = KINDS[kind](made);
    copied.textContent = "Copy";
  };
  const choose = (name) => () => {
    kind = name;
    show();
  };
  const choices = Object.keys(KINDS).map((name) => h("label",
    h("input", { type: "radio", name: "kind", checked: name === kind, change: choose(name) }), h("span", name)));
  const copied = button("Copy", async () => (copied.textContent = (await copy(code)) ? "Copied" : "Press Ctrl+C"));
  place.replaceChildren(
    h("div.head", h("h2", "The last call"), h("div.choice", { role: "group", "aria-label": "As" }, choices), copied),
    h("pre", { tabindex: 0 }, code));
  calls.addEventListener("made", ({ detail }) => {
    [made, place.hidden] = [detail, false];
    show();
  });
}

/** Copy a text; over plain HTTP, browsers know the older way only. */
async function copy(code) {
  getSelection().selectAllChildren(code);
  return navigator.clipboard?.writeText(code.textContent).then(() => true, () => false) ?? document.execCommand("copy");
}

function curl({ method, url, json, body, headers }) {
  const quoted = (text) => `'${text.replaceAll("'", String.raw`'\''`)}'`;
  const given = Object.entries(headers).map((pair) => `-H ${quoted(pair.join(": "))}`);
  if (key.get()) given.push('-H "Authorization: Bearer $CARRYOVER_KEY"');
  if (json) given.push(`-d ${quoted(JSON.stringify(json))}`);
  if (body) given.push("--data-binary @state.safetensors");
  return [`curl -s -X ${method} ${quoted(url.href)}`, ...given].join(" \\\n  ");
}

function asPython({ like }) {
  const secret = key.get() && ', headers={"Authorization": "Bearer " + os.environ["CARRYOVER_KEY"]}';
  return `${secret && "import os\n\n"}from carryover.client import Client

with Client("${BASE.href.replace(/\/$/, "")}"${secret}) as client:
    print(${like})`;
}

function javascript({ method, url, json, body, headers }) {
  const all = Object.entries(headers).map((pair) => pair.map((text) => JSON.stringify(text)).join(": "));
  if (key.get()) all.push('Authorization: "Bearer " + key');
  const data = json ? `JSON.stringify(${JSON.stringify(json)})` : body && "state";
  return `const response = await fetch("${url.href}", {
  method: "${method}",
  headers: { ${all.join(", ")} },${data ? `\n  body: ${data},` : ""}
});
console.log(response.status, await response.text());`;
}
