/** Elements made by calls: what comes from data becomes text, never markup. */

const SVG = "http://www.w3.org/2000/svg";
export const find = (id) => document.getElementById(id);

/** h("p.class", { attribute, event() {} }, ...children); null and false are left out. */
export const h = (tag, ...rest) => fill((name) => document.createElement(name), tag, rest);

export const svg = (tag, ...rest) => fill((name) => document.createElementNS(SVG, name), tag, rest);

function fill(create, tag, rest) {
  const [name, ...classes] = tag.split(".");
  const node = create(name);
  const attributes = rest[0]?.constructor === Object ? rest.shift() : {};
  if (classes.length) node.classList.add(...classes);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...rest.flat(Infinity).filter((child) => child != null && child !== false));
  return node;
}

export const button = (text, click, attributes) => 
  h("button", { type: "button", click: (event) => (alarm(""), click(event)), ...attributes }, text);

export const card = (title, ...children) => h("section.card", { "aria-label": title }, h("h3", title), children);

export const form = (tag, work, ...children) =>
  h(tag, { submit: (event) => (event.preventDefault(), alarm(""), work()), autocomplete: "off" }, children);

export const newTab = (href) => h("a.button", { href, target: "_blank", rel: "noopener" }, "Open in another tab");

export const say = (text) => (find("status").textContent = text);

/** Show what has failed. */
export const alarm = (text) =>
  find("alert").replaceChildren(...(text ? [h("p", text, button("Dismiss", () => alarm("")))] : []));

/** Work that shows what fails in it. */
export const guarded = (work) => async (...given) => {
  try {
    return await work(...given);
  } catch (error) {
    alarm(error.message);
  }
};

export const short = (number) => String(Number(number.toPrecision(4)));

/** A name that no one else has chosen. */
export const fresh = (prefix) =>
  prefix + Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => (byte % 36).toString(36)).join("");

export const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
