/**
 * From a drawing to the pixels of the data set that the digit models were trained on: the drawing's bounding square in
 * 32 × 32 dots, which are counted in blocks of 4 × 4.
 *
 * Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, https://doi.org/10.24432/C50P49
 */

const DOTS = 32;
const BLOCK = 4;
const RADIUS = 1.9; // of the pen, in dots
export const SIDE = DOTS / BLOCK;

/** Return 64 numbers from 0 to 16, row after row, of strokes that are lists of points [x, y]; null of no strokes. */
export function pixels(strokes) {
  if (!strokes.length) return null;
  const lines = fitted(strokes);
  const counts = Array(SIDE * SIDE).fill(0);
  for (let y = 0; y < DOTS; y++)
    for (let x = 0; x < DOTS; x++)
      counts[Math.floor(y / BLOCK) * SIDE + Math.floor(x / BLOCK)] += isUnder(lines, x + 0.5, y + 0.5);
  return counts;
}

/** Return the strokes in dots, so that the pen just touches the edges of the square. */
function fitted(strokes) {
  const [xs, ys] = [0, 1].map((axis) => strokes.flat().map((point) => point[axis]));
  const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const scale = (DOTS - 2 * RADIUS) / (Math.max(right - left, bottom - top) || 1);
  const place = ([x, y]) => [x - (left + right) / 2, y - (top + bottom) / 2].map((offset) => DOTS / 2 + offset * scale);
  return strokes.map((stroke) => stroke.map(place));
}

/** Whether a point is under the pen, somewhere on its way. */
const isUnder = (lines, x, y) =>
  lines.some((line) => line.some((end, i) => distance(x, y, line[Math.max(0, i - 1)], end) <= RADIUS));

/** Return how far a point is from the line between two others. */
function distance(x, y, [ax, ay], [bx, by]) {
  const [dx, dy] = [bx - ax, by - ay];
  const along = Math.min(1, Math.max(0, ((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy || 1)));
  return Math.hypot(x - ax - along * dx, y - ay - along * dy);
}

/** Drawings of the ten digits, in percent of the pad. */
export const EXAMPLES = [
  "50,10 32,16 24,36 24,64 32,84 50,90 68,84 76,64 76,36 68,16 50,10",
  "38,28 54,10 54,90",
  "26,30 34,14 52,10 68,18 71,34 58,54 40,72 25,89 78,89",
  "28,17 46,10 65,14 71,29 63,43 46,49 66,54 75,70 67,85 46,91 26,83",
  "54,10 40,32 24,62 78,61;61,42 58,90",
  "73,11 38,11 33,45 52,39 71,50 74,69 62,87 42,90 25,80",
  "64,11 44,26 30,52 28,74 42,90 60,89 72,75 66,59 50,54 34,65",
  "26,12 75,12 60,48 47,90;36,52 72,50",
  "50,49 32,35 34,17 50,10 66,17 68,35 50,49 30,66 32,84 50,91 68,84 70,66 50,49",
  "70,32 58,48 39,46 30,30 38,14 58,10 70,20 70,46 66,70 55,90",
].map((drawing) => drawing.split(";").map((line) => line.split(" ").map((point) => point.split(",").map(Number))));
