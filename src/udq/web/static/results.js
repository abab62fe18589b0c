// The ranked matches as cards: photo with the box of the object, zoom on hover or focus, marks, and the large photo.

import * as api from "./api.js";
import { make, outlines } from "./dom.js";
import { zoomTo } from "./geometry.js";
import { counted, fileName } from "./messages.js";

const FRAME = 4 / 3; // aspect ratio of a card's photo, as in page.css
const SHARP = 1280; // width in pixels of the photo that is loaded for zooming
const COPIES = 100; // copies that are shown; a collection may have thousands of one photo

const KEYS = { r: "right", w: "wrong" };

/** A list of results inside an <ol>. on.open(index), on.mark(match, kind). */
export class Results {
  #list;
  #on;
  #cards = [];
  #current = 0; // index of the card with keyboard focus

  constructor(list, on) {
    this.#list = list;
    this.#on = on;
    list.addEventListener("keydown", (event) => this.#key(event));
    list.addEventListener("focusin", (event) => {
      const index = this.#cards.findIndex(({ card }) => card.contains(event.target));
      if (index !== -1) this.#goTo(index);
    });
  }

  /** Replace the matches. `isQuery(match)`: whether the photo is one of the query. */
  show(matches, isQuery) {
    this.#cards = matches.map((match, index) => this.#card(match, index, isQuery(match)));
    this.#list.replaceChildren(...this.#cards.map(({ card }) => card));
    this.#goTo(0);
  }

  /** Show the marks, and only matches that score at least `minScore`; returns their number. */
  update(kindOf, minScore) {
    let shown = 0;
    for (const { card, match, buttons, drawing } of this.#cards) {
      const kind = kindOf(match.id);
      for (const [name, button] of Object.entries(buttons)) button.setAttribute("aria-pressed", String(name === kind));
      card.classList.toggle("is-right", kind === "right");
      card.classList.toggle("is-wrong", kind === "wrong");
      drawing.lastChild.setAttribute("class", `outline ${kind ?? "found"}`);
      card.hidden = minScore !== null && match.score < minScore;
      shown += card.hidden ? 0 : 1;
    }
    return shown;
  }

  /** Move keyboard focus to a result. */
  focus(index = this.#current) {
    this.#cards[index]?.open.focus();
  }

  #card(match, index, isQuery) {
    const score = match.score.toFixed(2);
    const image = make("img", { src: api.thumbnailUrl({ photo: match.id }), alt: "", decoding: "async" });
    const drawing = outlines(match, [match.box, "found"]);
    const zoom = make("span", { class: "zoom" }, image, drawing);
    const open = make(
      "button",
      {
        class: "open",
        type: "button",
        "aria-label": `Rank ${match.rank}: ${match.image}, score ${score}${isQuery ? ", a photo you drew on" : ""}`,
        onclick: () => this.#on.open(index),
      },
      make("span", { class: "frame" }, zoom),
    );
    const button = (kind, sign) =>
      make(
        "button",
        {
          class: `mark ${kind}`,
          type: "button",
          title: kind === "right" ? "Right: shows the object (R)" : "Wrong: shows something else (W)",
          "aria-label": `${kind === "right" ? "Right" : "Wrong"}: ${match.image}`,
          onclick: () => this.#on.mark(match, kind),
        },
        make("span", { class: `sign ${sign}`, "aria-hidden": "true" }),
      );
    const buttons = { right: button("right", "tick"), wrong: button("wrong", "cross") };
    const copies = match.copies.length ? copiesOf(match) : null;
    const card = make(
      "li",
      { class: "card" },
      open,
      make(
        "div",
        { class: "caption" },
        make("span", { class: "rank" }, match.rank),
        make("span", { class: "name", title: match.image }, fileName(match.image)),
        make("span", { class: "score", title: confidenceText(match) }, isQuery ? `${score} · query` : score),
        match.inliers === null ? null : make("span", { class: "points" }, `${match.inliers} points agree`),
        make("span", { class: "marks" }, buttons.right, buttons.wrong),
      ),
      copies,
    );
    for (const begin of ["pointerenter", "focusin"]) open.addEventListener(begin, () => zoomIn(zoom, image, match));
    for (const end of ["pointerleave", "focusout"]) open.addEventListener(end, () => zoom.removeAttribute("style"));
    const tabbable = [open, buttons.right, buttons.wrong, ...(copies ? [copies.firstChild] : [])];
    return { card, match, open, buttons, drawing, tabbable };
  }

  #goTo(index) {
    this.#current = index;
    // Only the current card is in the Tab order, with its marks; arrow keys move between cards.
    for (const [i, { tabbable }] of this.#cards.entries()) {
      for (const control of tabbable) control.tabIndex = i === index ? 0 : -1;
    }
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const visible = this.#cards.map((_, i) => i).filter((i) => !this.#cards[i].card.hidden);
    const at = visible.indexOf(this.#current);
    const columns = getComputedStyle(this.#list).gridTemplateColumns.split(" ").length;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -Infinity, End: Infinity };
    if (event.key in steps) {
      const next = Math.min(Math.max(at + steps[event.key], 0), visible.length - 1);
      this.focus(visible[next]);
    } else if (event.key.toLowerCase() in KEYS && at !== -1) {
      this.#on.mark(this.#cards[this.#current].match, KEYS[event.key.toLowerCase()]);
    } else return;
    event.preventDefault();
  }
}

/** Confidence and inliers of a match as text. */
function confidenceText(match) {
  const confidence = match.confidence === null ? "" : `${Math.floor(100 * match.confidence)} % sure`;
  return match.inliers === null ? confidence : `${confidence}, ${match.inliers} points agree`;
}

/** The copies of a match, folded; their thumbnails are loaded when they are unfolded. */
function copiesOf({ copies }) {
  const links = copies.slice(0, COPIES).map(({ id, image, exact }) => {
    const title = `${image}, ${exact ? "the same file" : "nearly the same"}`;
    const thumbnail = make("img", { src: api.thumbnailUrl({ photo: id }), alt: title, loading: "lazy", decoding: "async" });
    return make("a", { href: api.fileUrl({ photo: id }, SHARP), target: "_blank", rel: "noopener", title }, thumbnail);
  });
  const more = copies.length > COPIES ? ` (the first ${COPIES})` : "";
  const summary = make("summary", {}, `+${counted(copies.length, "copy", "copies")}${more}`);
  return make("details", { class: "copies" }, summary, make("div", {}, ...links));
}

function zoomIn(zoom, image, match) {
  const { scale, x, y } = zoomTo(match.box, match, FRAME);
  zoom.style.setProperty("--zoom", scale);
  zoom.style.transform = `translate(${100 * x}%, ${100 * y}%) scale(${scale})`;
  if (scale < 1.5 || image.dataset.sharp) return;
  image.dataset.sharp = "loading";
  const sharp = new Image();
  sharp.addEventListener("load", () => (image.src = sharp.src));
  sharp.src = api.fileUrl({ photo: match.id }, SHARP);
}
