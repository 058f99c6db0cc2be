/** What `/metrics` says, and which workers responded to this page. */

import { sparkline } from "./charts.js";
import { h, short } from "./dom.js";
import { BASE, authorization, calls, key } from "./service.js";

const PERIOD = 2000; // milliseconds
const LENGTH = 45; // periods that are shown
const RECENT = 24; // responses that are shown
const HUES = 3;
const OWN = /route="\/(metrics|playground\/{asset}|v1\/models|v2\/health\/ready|)"/;
const CLOSED = "/metrics is closed here: it needs an API key, or a proxy keeps it.";
const TILES = {
  "Requests, per second": (now, then, seconds) => change(now, then, "requests") / seconds,
  "Steps, per second": (now, then, seconds) => change(now, then, "steps") / seconds,
  "Requests in a batch": (now, then) => change(now, then, "batched") / change(now, then, "batches"),
  "Median latency, ms": (now, then) => 1000 * median(now.buckets, then.buckets),
};

export function showMetrics(place) {
  const said = h("p.soft");
  const tiles = Object.entries(TILES).map(([title, value]) => tile(title, value));
  place.replaceChildren(h("h2", "Live metrics"), said, h("div.tiles", tiles.map(({ element }) => element)), served());
  let [then, closedTo] = [null, null];
  const look = async () => {
    const secret = key.get();
    if (document.hidden || closedTo === secret) return;
    const response = await fetch(new URL("metrics", BASE), { headers: authorization() }).catch(() => ({ status: 0 }));
    if (response.status >= 400 && response.status < 500) closedTo = secret;
    said.textContent = closedTo === secret ? CLOSED : "";
    if (!response.ok) return;
    const now = parse(await response.text());
    if (then) tiles.forEach(({ show }) => show(now, then));
    then = now;
  };
  look();
  setInterval(look, PERIOD);
}

function tile(title, of) {
  const [value, line, series] = [h("b", "–"), h("div"), []];
  const show = (now, then) => {
    const number = of(now, then, (now.time - then.time) / 1000);
    series.splice(0, series.push(number) - LENGTH);
    value.textContent = Number.isFinite(number) ? short(number) : "–";
    line.replaceChildren(sparkline(series, title, { least: 0, length: LENGTH }));
  };
  return { element: h("div", h("span.soft", title), value, line), show };
}

/** The counters, without requests that this page makes for itself. */
function parse(text) {
  const found = { time: performance.now(), requests: 0, steps: 0, batches: 0, batched: 0, buckets: new Map() };
  const counted = { steps_total: "steps", batch_size_sum: "batched", batch_size_count: "batches" };
  for (const [, name, labels, value] of text.matchAll(/^carryover_(\w+)(?:{(.*)})? (\S+)$/gm)) {
    const [, part] = name.match(/^http_request_duration_seconds_(count|bucket)$/) ?? [];
    const key = part === "count" ? "requests" : counted[name];
    if (part && OWN.test(labels)) continue;
    if (key) found[key] += Number(value);
    if (part !== "bucket") continue;
    const bound = Number(labels.match(/le="([^"]*)"/)[1].replace("+Inf", "Infinity"));
    found.buckets.set(bound, (found.buckets.get(bound) ?? 0) + Number(value));
  }
  return found;
}

const change = (now, then, name) => Math.max(0, now[name] - then[name]);

/** The median of what was added to a histogram. */
function median(now, then) {
  const grown = [...now].map(([bound, count]) => [bound, count - (then.get(bound) ?? 0)]).sort(([a], [b]) => a - b);
  const half = (grown.at(-1)?.[1] ?? 0) / 2;
  const i = half > 0 ? grown.findIndex(([, count]) => count >= half) : -1;
  if (i < 0) return NaN;
  const [[low, under], [high, upTo]] = [grown[i - 1] ?? [0, 0], grown[i]];
  return Number.isFinite(high) ? low + ((high - low) * (half - under)) / (upTo - under) : low;
}

/** A dot for each of the last responses, of one hue for each worker. */
function served() {
  const [known, list, text] = [[], h("ol.lights"), h("p.soft")];
  calls.addEventListener("served", ({ detail: { replica, worker, spent } }) => {
    if (!worker) return;
    const who = `worker ${worker} of replica ${replica}`;
    if (!known.includes(who)) known.push(who);
    list.append(h(`li.hue${known.indexOf(who) % HUES}`, { title: who }));
    if (list.children.length > RECENT) list.firstChild.remove();
    text.textContent = `Last response: ${who}, in ${spent.toFixed(0)} ms; workers seen: ${known.length}. Any will do: sessions are in Redis.`;
  });
  return h("div.served", list, text);
}
