// Boxes as arithmetic: [x1, y1, x2, y2] in pixels of a photo, left, top, right, bottom. Pure functions, no page.

// Smaller than this, in pixels of the photo, a box shows nothing that could be found again.
export const LEAST = 8;

const within = (value, low, high) => Math.min(Math.max(value, low), high);

/** The box between two corners, inside a photo of a size {width, height}, on whole pixels. */
export function between([ax, ay], [bx, by], { width, height }) {
  const xs = [ax, bx].map((x) => Math.round(within(x, 0, width))).sort((a, b) => a - b);
  const ys = [ay, by].map((y) => Math.round(within(y, 0, height))).sort((a, b) => a - b);
  return [xs[0], ys[0], xs[1], ys[1]];
}

/** Whether a box is large enough to search with. */
export const isUsable = ([x1, y1, x2, y2]) => x2 - x1 >= LEAST && y2 - y1 >= LEAST;

/** The box moved by (dx, dy) as far as the photo allows. */
export function moved([x1, y1, x2, y2], dx, dy, { width, height }) {
  const right = Math.round(within(dx, -x1, width - x2));
  const down = Math.round(within(dy, -y1, height - y2));
  return [x1 + right, y1 + down, x2 + right, y2 + down];
}

/** The box with the edges that `grip` names ("n", "se", ...) moved by (dx, dy); edges stop before they cross. */
export function resized([x1, y1, x2, y2], grip, dx, dy, { width, height }) {
  return [
    grip.includes("w") ? Math.round(within(x1 + dx, 0, x2 - LEAST)) : x1,
    grip.includes("n") ? Math.round(within(y1 + dy, 0, y2 - LEAST)) : y1,
    grip.includes("e") ? Math.round(within(x2 + dx, x1 + LEAST, width)) : x2,
    grip.includes("s") ? Math.round(within(y2 + dy, y1 + LEAST, height)) : y2,
  ];
}

/** A box in the middle of a photo, half as wide and half as high: where the keyboard begins. */
export function middle({ width, height }) {
  return between([width / 4, height / 4], [(3 * width) / 4, (3 * height) / 4], { width, height });
}

/**
 * What of a box a point takes hold of: a grip ("nw", "n", ..., "w"), "inside", or null.
 * `reach` is how near an edge counts, in pixels of the photo; it shrinks with the box, so that the inside of a small
 * one can still be held.
 */
export function gripAt([x1, y1, x2, y2], [x, y], reach) {
  const nearX = Math.min(reach, (x2 - x1) / 4);
  const nearY = Math.min(reach, (y2 - y1) / 4);
  if (x < x1 - reach || x > x2 + reach || y < y1 - reach || y > y2 + reach) return null;
  const vertical = y < y1 + nearY ? "n" : y > y2 - nearY ? "s" : "";
  const horizontal = x < x1 + nearX ? "w" : x > x2 - nearX ? "e" : "";
  return vertical + horizontal || "inside";
}

/**
 * How to show the part of a photo round a box in a frame that holds the whole photo: {scale, x, y}, the translation
 * in shares of the frame, for `translate(x, y) scale(scale)` from the upper left. The photo is fitted into the frame, whose
 * sides are as `aspect` = width / height.
 */
export function zoomTo([x1, y1, x2, y2], { width, height }, aspect) {
  const [frameWidth, frameHeight] = width / height > aspect ? [width, width / aspect] : [height * aspect, height];
  const left = (frameWidth - width) / 2;
  const top = (frameHeight - height) / 2;
  const margin = 1.25;
  const scale = within(Math.min(frameWidth / (margin * (x2 - x1)), frameHeight / (margin * (y2 - y1))), 1, 8);
  const shift = (center, side) => within(0.5 - scale * (center / side), 1 - scale, 0);
  return {
    scale,
    x: shift(left + (x1 + x2) / 2, frameWidth),
    y: shift(top + (y1 + y2) / 2, frameHeight),
  };
}
