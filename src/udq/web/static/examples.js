// The examples of a search as chips: a thumbnail of the box, its kind, and a button to remove it.

import * as api from "./api.js";
import { make } from "./dom.js";

const KINDS = { drawn: "Drawn", right: "Right", wrong: "Wrong" };

/** Chips inside a <ul>. on.pick(index): show its photo; on.remove(index). */
export class Examples {
  #list;
  #on;

  constructor(list, on) {
    this.#list = list;
    this.#on = on;
  }

  /** Show examples; the one at index `active` is being adjusted. */
  show(examples, active) {
    this.#list.replaceChildren(...examples.map((example, i) => this.#chip(example, i, i === active)));
    // On narrow screens the chips are one scrolling line.
    if (active !== null) this.#list.parentElement.scrollLeft = this.#list.children[active].offsetLeft - this.#list.offsetLeft;
  }

  #chip(example, index, isActive) {
    const place = example.box ? `a box in ${example.name}` : `all of ${example.name}`;
    const label = `${KINDS[example.kind]}: ${place}`;
    return make(
      "li",
      { class: `chip ${example.kind}${isActive ? " active" : ""}` },
      make(
        "button",
        { class: "pick", type: "button", title: label, "aria-label": `${label}. Show it`, onclick: () => this.#on.pick(index) },
        make("img", { src: api.thumbnailUrl(example, example.box), alt: "" }),
        make("span", {}, KINDS[example.kind]),
      ),
      make(
        "button",
        { class: "remove", type: "button", title: "Remove", "aria-label": `Remove ${label}`, onclick: () => this.#on.remove(index) },
        make("span", { class: "sign cross", "aria-hidden": "true" }),
      ),
    );
  }
}
