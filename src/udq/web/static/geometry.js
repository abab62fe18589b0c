// Geometry of boxes [x1, y1, x2, y2] (left, top, right, bottom) in pixels of a photo. Pure functions without DOM.

// Shortest side of a box to search with, in pixels of the photo.
export const MIN_SIDE = 8;

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** The box between two corners, clipped to a photo of a size {width, height} and rounded to whole pixels. */
export function between([ax, ay], [bx, by], { width, height }) {
  const xs = [ax, bx].map((x) => Math.round(clamp(x, 0, width))).sort((a, b) => a - b);
  const ys = [ay, by].map((y) => Math.round(clamp(y, 0, height))).sort((a, b) => a - b);
  return [xs[0], ys[0], xs[1], ys[1]];
}

/** Whether a box is large enough to search with. */
export const isUsable = ([x1, y1, x2, y2]) => x2 - x1 >= MIN_SIDE && y2 - y1 >= MIN_SIDE;

/** The box moved by (dx, dy), but not beyond the photo. */
export function moved([x1, y1, x2, y2], dx, dy, { width, height }) {
  const right = Math.round(clamp(dx, -x1, width - x2));
  const down = Math.round(clamp(dy, -y1, height - y2));
  return [x1 + right, y1 + down, x2 + right, y2 + down];
}

/** The box with the edges that `grip` names ("n", "se", ...) moved by (dx, dy), but at least MIN_SIDE apart. */
export function resized([x1, y1, x2, y2], grip, dx, dy, { width, height }) {
  return [
    grip.includes("w") ? Math.round(clamp(x1 + dx, 0, x2 - MIN_SIDE)) : x1,
    grip.includes("n") ? Math.round(clamp(y1 + dy, 0, y2 - MIN_SIDE)) : y1,
    grip.includes("e") ? Math.round(clamp(x2 + dx, x1 + MIN_SIDE, width)) : x2,
    grip.includes("s") ? Math.round(clamp(y2 + dy, y1 + MIN_SIDE, height)) : y2,
  ];
}

/** A centred box of half the width and height of a photo: the first box by keyboard. */
export function middle({ width, height }) {
  return between([width / 4, height / 4], [(3 * width) / 4, (3 * height) / 4], { width, height });
}

/**
 * The part of a box at a point: a grip ("nw", "n", ..., "w"), "inside", or null.
 * `reach` is the distance from an edge that still grips it, in pixels of the photo; inside the box it is at most a
 * quarter of the side, so that small boxes can still be moved.
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
 * The transformation that zooms to a box with a margin: {scale, x, y}, with x and y as fractions of the frame, for
 * `translate(x, y) scale(scale)` from the upper left. The frame has aspect ratio `aspect` = width / height and contains
 * the whole photo, centred.
 */
export function zoomTo([x1, y1, x2, y2], { width, height }, aspect) {
  const [frameWidth, frameHeight] = width / height > aspect ? [width, width / aspect] : [height * aspect, height];
  const left = (frameWidth - width) / 2;
  const top = (frameHeight - height) / 2;
  const margin = 1.25;
  const scale = clamp(Math.min(frameWidth / (margin * (x2 - x1)), frameHeight / (margin * (y2 - y1))), 1, 8);
  const shift = (center, side) => clamp(0.5 - scale * (center / side), 1 - scale, 0);
  return {
    scale,
    x: shift(left + (x1 + x2) / 2, frameWidth),
    y: shift(top + (y1 + y2) / 2, frameHeight),
  };
}
