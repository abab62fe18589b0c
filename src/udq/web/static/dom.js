// Elements of the page, made in one expression each. Text is always text: no name of a file becomes markup.

const SVG = "http://www.w3.org/2000/svg";

/** `make("button", { class: "quiet", onclick: go, disabled: true }, "Go")`: attributes, listeners, children. */
export function make(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

// The same for drawings.
function draw(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

/** A drawing over a photo of a size {width, height}: its boxes, each with a class, in pixels of the photo. */
export function outlines({ width, height }, ...boxes) {
  const rects = boxes.flatMap(([[x1, y1, x2, y2], kind]) => {
    const place = { x: x1, y: y1, width: x2 - x1, height: y2 - y1 };
    return [draw("rect", { ...place, class: "under" }), draw("rect", { ...place, class: `outline ${kind}` })];
  });
  return draw("svg", { class: "outlines", viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, ...rects);
}

/** The element of index.html with this id. */
export const byId = (id) => document.getElementById(id);

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}
