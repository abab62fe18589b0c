// An editor for boxes on a photo: draw, move and resize by mouse, pen, touch and keyboard.
//
// Not a library: those for annotation have more than a search needs (shapes, comments, undo), those for cropping less
// (one box, no keyboard). Hit testing is arithmetic rather than elements for handles, so that the reach of a finger can
// be wider than that of a mouse.

import * as boxes from "./geometry.js";
import { make } from "./dom.js";

const REACH = { mouse: 8, pen: 12, touch: 22 }; // distance from an edge that still grips it, in screen pixels
const CLICK = 4; // a press that moves less than this, in screen pixels, is a click
const GRIPS = ["nw", "n", "ne", "e", "se", "s", "sw", "w"];
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/**
 * An editor inside an element.
 * on.box(box): a box was drawn or the active one changed; search for it.
 * on.draft(box): the box is still being changed.
 * on.pick(index): another box was clicked. on.clear(): the active box was cleared.
 */
export class BoxEditor {
  #photo = make("img", { alt: "", draggable: "false" });
  #marks = make("div", { class: "boxes" });
  #stage;
  #size = { width: 1, height: 1 };
  #boxes = [];
  #active = null; // index in #boxes of the box that can be adjusted; null if there is none
  #draft = null; // the box while it is being drawn or adjusted
  #press = null;
  #on;

  constructor(stage, on) {
    this.#stage = stage;
    this.#on = on;
    stage.append(this.#photo, this.#marks);
    stage.addEventListener("pointerdown", (event) => this.#down(event));
    stage.addEventListener("pointermove", (event) => (this.#press ? this.#drag(event) : this.#hover(event)));
    stage.addEventListener("pointerup", (event) => this.#up(event));
    stage.addEventListener("pointercancel", () => this.#discard());
    stage.addEventListener("keydown", (event) => this.#key(event));
    // Browsers would otherwise drag the image out of the page.
    stage.addEventListener("dragstart", (event) => event.preventDefault());
  }

  /** Show a photo of `size` {width, height} with boxes {box, kind}; the one at index `active` can be adjusted. */
  show({ url, name, size, boxes, active }) {
    if (this.#photo.getAttribute("src") !== url) {
      this.#photo.src = url;
      this.#photo.alt = name;
    }
    this.#size = size;
    this.#boxes = boxes;
    this.#active = active;
    this.#draft = null;
    this.#press = null;
    this.#stage.style.aspectRatio = `${size.width} / ${size.height}`;
    this.#stage.style.setProperty("--aspect", size.width / size.height);
    this.#render();
  }

  get #current() {
    return this.#draft ?? (this.#active === null ? null : this.#boxes[this.#active].box);
  }

  #position(event) {
    const area = this.#stage.getBoundingClientRect();
    return [
      ((event.clientX - area.left) / area.width) * this.#size.width,
      ((event.clientY - area.top) / area.height) * this.#size.height,
    ];
  }

  #scale() {
    return this.#size.width / this.#stage.getBoundingClientRect().width;
  }

  #grip(event) {
    const reach = (REACH[event.pointerType] ?? REACH.mouse) * this.#scale();
    return this.#current && boxes.gripAt(this.#current, this.#position(event), reach);
  }

  #hover(event) {
    const grip = this.#grip(event);
    const cursors = { nw: "nwse", se: "nwse", ne: "nesw", sw: "nesw", n: "ns", s: "ns", e: "ew", w: "ew" };
    this.#stage.style.cursor = !grip ? "crosshair" : grip === "inside" ? "move" : `${cursors[grip]}-resize`;
  }

  #down(event) {
    if (event.button !== 0 || this.#press) return;
    this.#stage.setPointerCapture(event.pointerId);
    const from = this.#position(event);
    this.#press = { pointer: event.pointerId, from, grip: this.#grip(event), box: this.#current, moved: false };
  }

  #drag(event) {
    const { pointer, from, grip, box } = this.#press;
    if (event.pointerId !== pointer) return;
    const to = this.#position(event);
    const [dx, dy] = [to[0] - from[0], to[1] - from[1]];
    if (!this.#press.moved && Math.hypot(dx, dy) < CLICK * this.#scale()) return;
    this.#press.moved = true;
    if (!grip) this.#draft = boxes.between(from, to, this.#size);
    else if (grip === "inside") this.#draft = boxes.moved(box, dx, dy, this.#size);
    else this.#draft = boxes.resized(box, grip, dx, dy, this.#size);
    this.#on.draft(this.#draft);
    this.#render();
  }

  #up(event) {
    const press = this.#press;
    if (!press || event.pointerId !== press.pointer) return;
    this.#press = null;
    if (press.moved && boxes.isUsable(this.#draft)) this.#on.box(this.#draft);
    else if (press.moved) this.#discard();
    else {
      const under = this.#boxes.findIndex(({ box }, i) => i !== this.#active && boxes.gripAt(box, press.from, 0));
      if (under !== -1 && press.grip !== "inside") this.#on.pick(under);
    }
  }

  #discard() {
    this.#press = null;
    this.#draft = null;
    this.#render();
  }

  #key(event) {
    const arrow = ARROWS[event.key];
    if (arrow && !event.altKey && !event.metaKey) {
      // A step is 1/50 of the longer side; with Ctrl, one pixel.
      const step = event.ctrlKey ? 1 : Math.max(1, Math.round(Math.max(this.#size.width, this.#size.height) / 50));
      const [dx, dy] = arrow.map((direction) => direction * step);
      const box = this.#current;
      if (!box) this.#draft = boxes.middle(this.#size);
      else if (event.shiftKey) this.#draft = boxes.resized(box, "se", dx, dy, this.#size);
      else this.#draft = boxes.moved(box, dx, dy, this.#size);
      this.#on.draft(this.#draft);
    } else if (event.key === "Enter") {
      if (this.#current) this.#on.box(this.#current);
      else {
        this.#draft = boxes.middle(this.#size);
        this.#on.draft(this.#draft);
      }
    } else if (event.key === "Escape" && (this.#draft || this.#active !== null)) {
      const hadActive = this.#active !== null;
      this.#discard();
      if (hadActive) this.#on.clear();
    } else return;
    event.preventDefault();
    event.stopPropagation();
    this.#render();
  }

  #render() {
    const others = this.#boxes.filter((_, i) => i !== this.#active).map(({ box, kind }) => this.#boxElement(box, kind));
    const current = this.#current;
    const kind = this.#active === null ? "drawn" : this.#boxes[this.#active].kind;
    const active = current && this.#boxElement(current, `${kind} active`, GRIPS);
    this.#marks.replaceChildren(...others, ...(active ? [active] : []));
    this.#stage.classList.toggle("has-box", Boolean(current));
  }

  #boxElement([x1, y1, x2, y2], kind, grips = []) {
    const { width, height } = this.#size;
    const box = make("div", { class: `box ${kind}` }, ...grips.map((grip) => make("i", { class: `grip ${grip}` })));
    box.style.left = `${(100 * x1) / width}%`;
    box.style.top = `${(100 * y1) / height}%`;
    box.style.width = `${(100 * (x2 - x1)) / width}%`;
    box.style.height = `${(100 * (y2 - y1)) / height}%`;
    return box;
  }
}
