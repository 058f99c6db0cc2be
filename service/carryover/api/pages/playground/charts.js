/** Charts, in the colours of the style sheet. */

import { h, svg } from "./dom.js";

const SHADES = 10;
const MOST = 4096; // numbers in a heat map
const [WIDTH, HEIGHT] = [120, 32]; // of a sparkline

/** Numbers as squares of two hues, by sign; `scale` is the strongest. */
export function heat(values, label, { columns, scale, tag = "svg.heat" } = {}) {
  const shown = values.slice(0, MOST);
  const width = columns ?? Math.ceil(Math.sqrt(shown.length));
  const largest = scale ?? Math.max(1, ...shown.map(Math.abs).filter(Number.isFinite));
  const squares = {};
  shown.forEach((value, i) => {
    const shade = Math.round((Math.max(-1, Math.min(1, value / largest)) || 0) * SHADES);
    if (shade) squares[shade] = `${squares[shade] ?? ""}M${i % width} ${Math.floor(i / width)}h1v1h-1z`;
  });
  const box = `0 0 ${width || 1} ${Math.ceil(shown.length / width) || 1}`;
  return svg(tag, { viewBox: box, role: "img", "aria-label": label, "shape-rendering": "crispEdges" },
    Object.entries(squares).map(([shade, d]) =>
      svg(shade > 0 ? "path.plus" : "path.minus", { d, "fill-opacity": Math.abs(shade) / SHADES })));
}

/** Bars for the probabilities of labels, and what sets them. */
export function bars(labels) {
  const rows = labels.map((label) => {
    const [share, value] = [h("span.share"), h("span.value", "–")];
    return { share, value, item: h("li", h("span", label), h("span.track", share), value) };
  });
  const show = (shares) => rows.forEach(({ share, value, item }, i) => {
    share.style.setProperty("--share", shares?.[i] ?? 0);
    value.textContent = shares ? percent(shares[i]) : "–";
    item.classList.toggle("best", Boolean(shares) && shares[i] === Math.max(...shares));
  });
  return { element: h("ol.bars", rows.map(({ item }) => item)), show };
}

const percent = (share) => `${(100 * share).toFixed(share > 0.0995 ? 0 : 1)} %`;

/** What a classifier says, in words. */
export const verdict = (found) =>
  found ? [h("b", found.label), ` with ${percent(Math.max(...found.probabilities))}`] : ["Nothing to read yet."];

/** A line of numbers; those that are not finite are left out. */
export function sparkline(values, label, { least, length = values.length } = {}) {
  const known = values.filter(Number.isFinite);
  const low = least ?? Math.min(...known);
  const span = Math.max(...known) - low || 1;
  const points = values.flatMap((value, i) => (Number.isFinite(value) ? [[
    ((WIDTH * (i + length - values.length)) / Math.max(1, length - 1)).toFixed(1),
    (HEIGHT - 2 - ((value - low) / span) * (HEIGHT - 4)).toFixed(1),
  ]] : []));
  const box = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label };
  if (points.length < 2) return svg("svg.spark", box);
  const area = `M${points[0][0]},${HEIGHT}L${points.join("L")}L${points.at(-1)[0]},${HEIGHT}z`;
  return svg("svg.spark", box, svg("path", { d: area }),
    svg("polyline", { points: points.join(" "), "vector-effect": "non-scaling-stroke" }));
}
