// The photo with boxes to draw, move and resize: by mouse, pen, touch and keyboard.
//
// Our own and small, because libraries for annotation and for cropping bring either more (shapes, bodies, undo) or less
// (one box, no keyboard) than one search needs. What a press takes hold of is decided by arithmetic, not by handles as
// elements: so fingers get a wider reach than a mouse at no cost.

import * as boxes from "./geometry.js";
import { make } from "./dom.js";

const REACH = { mouse: 8, pen: 12, touch: 22 }; // pixels of the screen
const CLICK = 4; // a press that moves less than this, in pixels of the screen, draws nothing
const GRIPS = ["nw", "n", "ne", "e", "se", "s", "sw", "w"];
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/**
 * An editor inside an element.
 * on.box(box): a box was drawn, or the active one changed, and that is to be searched for.
 * on.draft(box): it is being changed, and nobody asked for a search yet.
 * on.pick(index): another of the boxes was pressed. on.clear(): the active box was given up.
 */
export class BoxEditor {
  #photo = make("img", { alt: "", draggable: "false" });
  #marks = make("div", { class: "boxes" });
  #stage;
  #size = { width: 1, height: 1 };
  #boxes = [];
  #active = null; // index in #boxes, null while there is none to adjust
  #draft = null; // the box as it is being drawn or adjusted
  #press = null;
  #on;

  constructor(stage, on) {
    this.#stage = stage;
    this.#on = on;
    stage.append(this.#photo, this.#marks);
    stage.addEventListener("pointerdown", (event) => this.#down(event));
    stage.addEventListener("pointermove", (event) => (this.#press ? this.#drag(event) : this.#hover(event)));
    stage.addEventListener("pointerup", (event) => this.#up(event));
    stage.addEventListener("pointercancel", () => this.#giveUp());
    stage.addEventListener("keydown", (event) => this.#key(event));
    // The photo is the page's, not a picture to drag out of it.
    stage.addEventListener("dragstart", (event) => event.preventDefault());
  }

  /** Show a photo of a size {width, height} with boxes {box, kind}; the one at index `active` can be adjusted. */
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

  #place(event) {
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
    return this.#current && boxes.gripAt(this.#current, this.#place(event), reach);
  }

  #hover(event) {
    const grip = this.#grip(event);
    const cursors = { nw: "nwse", se: "nwse", ne: "nesw", sw: "nesw", n: "ns", s: "ns", e: "ew", w: "ew" };
    this.#stage.style.cursor = !grip ? "crosshair" : grip === "inside" ? "move" : `${cursors[grip]}-resize`;
  }

  #down(event) {
    if (event.button !== 0 || this.#press) return;
    this.#stage.setPointerCapture(event.pointerId);
    const from = this.#place(event);
    this.#press = { pointer: event.pointerId, from, grip: this.#grip(event), box: this.#current, moved: false };
  }

  #drag(event) {
    const { pointer, from, grip, box } = this.#press;
    if (event.pointerId !== pointer) return;
    const to = this.#place(event);
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
    else if (press.moved) this.#giveUp();
    else {
      const under = this.#boxes.findIndex(({ box }, i) => i !== this.#active && boxes.gripAt(box, press.from, 0));
      if (under !== -1 && press.grip !== "inside") this.#on.pick(under);
    }
  }

  #giveUp() {
    this.#press = null;
    this.#draft = null;
    this.#render();
  }

  #key(event) {
    const arrow = ARROWS[event.key];
    if (arrow && !event.altKey && !event.metaKey) {
      // A fiftieth of the photo a key, or with Ctrl one pixel.
      const step = event.ctrlKey ? 1 : Math.max(1, Math.round(Math.max(this.#size.width, this.#size.height) / 50));
      const [dx, dy] = arrow.map((way) => way * step);
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
      const had = this.#active !== null;
      this.#giveUp();
      if (had) this.#on.clear();
    } else return;
    event.preventDefault();
    event.stopPropagation();
    this.#render();
  }

  #render() {
    const others = this.#boxes.filter((_, i) => i !== this.#active).map(({ box, kind }) => this.#drawn(box, kind));
    const current = this.#current;
    const kind = this.#active === null ? "drawn" : this.#boxes[this.#active].kind;
    const active = current && this.#drawn(current, `${kind} active`, GRIPS);
    this.#marks.replaceChildren(...others, ...(active ? [active] : []));
    this.#stage.classList.toggle("has-box", Boolean(current));
  }

  #drawn([x1, y1, x2, y2], kind, grips = []) {
    const { width, height } = this.#size;
    const box = make("div", { class: `box ${kind}` }, ...grips.map((grip) => make("i", { class: `grip ${grip}` })));
    box.style.left = `${(100 * x1) / width}%`;
    box.style.top = `${(100 * y1) / height}%`;
    box.style.width = `${(100 * (x2 - x1)) / width}%`;
    box.style.height = `${(100 * (y2 - y1)) / height}%`;
    return box;
  }
}
