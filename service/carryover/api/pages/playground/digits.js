/**
 * From a drawing to pixels as in the data set: its bounding square has 32 × 32 dots, counted in blocks of 4 × 4.
 *
 * Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, https://doi.org/10.24432/C50P49
 */

const DOTS = 32;
const BLOCK = 4;
const RADIUS = 2.3; // of the pen, in dots
export const SIDE = DOTS / BLOCK;

/** 64 numbers from 0 to 16, row after row; null of no strokes, which are lists of points [x, y]. */
export function pixels(strokes) {
  if (!strokes.length) return null;
  const lines = fitted(strokes);
  const counts = Array(SIDE * SIDE).fill(0);
  for (let y = 0; y < DOTS; y++)
    for (let x = 0; x < DOTS; x++)
      counts[Math.floor(y / BLOCK) * SIDE + Math.floor(x / BLOCK)] += isUnder(lines, x + 0.5, y + 0.5);
  return counts;
}

/** The strokes in dots: the pen just touches the edges of the square. */
function fitted(strokes) {
  const [xs, ys] = [0, 1].map((axis) => strokes.flat().map((point) => point[axis]));
  const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const scale = (DOTS - 2 * RADIUS) / (Math.max(right - left, bottom - top) || 1);
  const place = ([x, y]) => [x - (left + right) / 2, y - (top + bottom) / 2].map((offset) => DOTS / 2 + offset * scale);
  return strokes.map((stroke) => stroke.map(place));
}

const isUnder = (lines, x, y) =>
  lines.some((line) => line.some((end, i) => distance(x, y, line[Math.max(0, i - 1)], end) <= RADIUS));

function distance(x, y, [ax, ay], [bx, by]) {
  const [dx, dy] = [bx - ax, by - ay];
  const along = Math.min(1, Math.max(0, ((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy || 1)));
  return Math.hypot(x - ax - along * dx, y - ay - along * dy);
}

/** Drawings of the ten digits: points, in percent of the pad. */
export const EXAMPLES = [
  "5010 3216 2436 2464 3284 5090 6884 7664 7636 6816 5010",
  "4418 5210 5290",
  "2630 3414 5210 6818 7134 5854 4072 2589 7889",
  "2817 4610 6514 7129 6343 4649 6654 7570 6785 4691 2683",
  "5410 4032 2462 7861;6142 5890",
  "7311 3811 3345 5239 7150 7469 6287 4290 2580",
  "6411 4426 3052 2874 4290 6089 7275 6659 5054 3465",
  "2612 7512 6048 4790;3652 7250",
  "5049 3235 3417 5010 6617 6835 5049 3066 3284 5091 6884 7066 5049",
  "7032 5848 3946 3030 3814 5810 7020 7046 6670 5590",
].map((drawing) => drawing.split(";").map((line) => line.split(" ").map((point) => point.match(/../g).map(Number))));
