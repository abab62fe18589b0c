// Creation of elements. Strings become text nodes, never HTML: file names are untrusted.

const SVG = "http://www.w3.org/2000/svg";

/** Create an HTML element: `make("button", { class: "quiet", onclick: save, disabled: true }, "Save")`. */
export function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

// The same for SVG.
function makeSvg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** An SVG overlay for a photo of a size {width, height}: boxes in pixels of the photo, each [box, class]. */
export function outlines({ width, height }, ...boxes) {
  const rects = boxes.flatMap(([[x1, y1, x2, y2], kind]) => {
    const place = { x: x1, y: y1, width: x2 - x1, height: y2 - y1 };
    return [makeSvg("rect", { ...place, class: "under" }), makeSvg("rect", { ...place, class: `outline ${kind}` })];
  });
  return makeSvg("svg", { class: "outlines", viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, ...rects);
}

/** The element of index.html with this id. */
export const byId = (id) => document.getElementById(id);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}
