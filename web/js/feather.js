// The edge of a pasted face, as latentsync/faces/blending.py feathers it, for a picture of the browser's size.
// Free of the page and of the host: only numbers in, numbers out.

export const FEATHER_WIDTH = 0.1; // of the face's side, at mask_smooth 1

const FAR = 1e20;

/**
 * Signed distance to the edge of a hole, px: positive inside, negative outside, half a pixel from either side's centres.
 * hole  Uint8Array(width * height), not 0 = hole. Returns Float32Array(width * height).
 */
export function signedDistance(hole, width, height) {
  const inside = squaredDistances(hole, width, height, (value) => !value);
  const outside = squaredDistances(hole, width, height, (value) => value);
  const bound = Math.max(width, height); // where there is no edge at all
  return Float32Array.from(hole, (value, i) => {
    const distance = Math.min(Math.sqrt(value ? inside[i] : outside[i]), bound) - 0.5;
    return value ? distance : -distance;
  });
}

/**
 * The ramp before it is bent: 0 and less = the source, 1 and more = generated, straight between.
 * distance  signedDistance of the hole; feather  mask_smooth, 0 hard edge .. 1 softest; side  of the face's square, px
 * bordered  the picture is that square: the ramp also ends at its border
 */
export function ramp(distance, width, height, { feather, side, bordered }) {
  const span = feather * FEATHER_WIDTH * side;
  if (span < 1) return distance.map((value) => (value > 0 ? 1 + value : value)); // a hard edge
  const straight = distance.map((value) => 0.5 + value / span);
  if (!bordered) return straight;
  for (let y = 0, i = 0; y < height; y++)
    for (let x = 0; x < width; x++, i++) {
      const border = Math.min(x, y, width - 1 - x, height - 1 - y) / (span / 2);
      if (border < straight[i]) straight[i] = border;
    }
  return straight;
}

/** Weight of the generated pixels, 0..1, from the ramp. */
export function alpha(straight) {
  return straight.map((value) => {
    const bounded = Math.min(1, Math.max(0, value));
    return bounded * bounded * (3 - 2 * bounded);
  });
}

/** Lines where a field crosses a level: flat array of x0, y0, x1, y1 in px, by marching squares. */
export function contour(field, width, height, level) {
  const lines = [];
  for (let y = 0; y + 1 < height; y++)
    for (let x = 0; x + 1 < width; x++) {
      const i = y * width + x;
      const corners = [field[i], field[i + 1], field[i + width + 1], field[i + width]];
      const above = corners.map((value) => value > level);
      if (above[0] === above[1] && above[1] === above[2] && above[2] === above[3]) continue;
      const crossings = [];
      for (let k = 0; k < 4; k++) {
        const next = (k + 1) % 4;
        if (above[k] === above[next]) continue;
        const part = (level - corners[k]) / (corners[next] - corners[k]);
        const [ax, ay] = CELL[k];
        const [bx, by] = CELL[next];
        crossings.push(x + ax + (bx - ax) * part, y + ay + (by - ay) * part);
      }
      lines.push(...crossings); // 2 or 4 points: one or two lines
    }
  return lines;
}

const CELL = [
  [0, 0],
  [1, 0],
  [1, 1],
  [0, 1],
];

/** Squared distance of each pixel to the nearest one that `isTarget`, exact (lower envelope of parabolas). */
function squaredDistances(hole, width, height, isTarget) {
  const field = Float64Array.from(hole, (value) => (isTarget(value) ? 0 : FAR));
  const longest = Math.max(width, height);
  const line = { values: new Float64Array(longest), vertex: new Int32Array(longest), from: new Float64Array(longest + 1) };
  for (let x = 0; x < width; x++) lineDistances(field, x, width, height, line);
  for (let y = 0; y < height; y++) lineDistances(field, y * width, 1, width, line);
  return field;
}

function lineDistances(field, offset, stride, length, { values, vertex, from }) {
  for (let q = 0; q < length; q++) values[q] = field[offset + q * stride];
  let k = 0;
  vertex[0] = 0;
  from[0] = -FAR;
  from[1] = FAR;
  for (let q = 1; q < length; q++) {
    let crossing;
    do {
      const v = vertex[k];
      crossing = (values[q] + q * q - values[v] - v * v) / (2 * (q - v));
    } while (crossing <= from[k] && --k >= 0);
    k++;
    vertex[k] = q;
    from[k] = crossing;
    from[k + 1] = FAR;
  }
  k = 0;
  for (let q = 0; q < length; q++) {
    while (from[k + 1] < q) k++;
    const distance = q - vertex[k];
    field[offset + q * stride] = distance * distance + values[vertex[k]];
  }
}
