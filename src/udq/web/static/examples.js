// The examples of a search as chips: a small picture of each box, the photo it is from, and a button to take it away.

import * as api from "./api.js";
import { make } from "./dom.js";

const KINDS = { drawn: "Drawn", right: "Right", wrong: "Wrong" };

/** Chips inside a <ul>. on.pick(index): its photo is to be shown; on.remove(index). */
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
    // On a narrow screen the chips are one line that scrolls.
    if (active !== null) this.#list.parentElement.scrollLeft = this.#list.children[active].offsetLeft - this.#list.offsetLeft;
  }

  #chip(example, index, isActive) {
    const place = example.box ? `a box in ${example.name}` : `all of ${example.name}`;
    const said = `${KINDS[example.kind]}: ${place}`;
    return make(
      "li",
      { class: `chip ${example.kind}${isActive ? " active" : ""}` },
      make(
        "button",
        { class: "pick", type: "button", title: said, "aria-label": `${said}. Show it`, onclick: () => this.#on.pick(index) },
        make("img", { src: api.thumbnailUrl(example, example.box), alt: "" }),
        make("span", {}, KINDS[example.kind]),
      ),
      make(
        "button",
        { class: "remove", type: "button", title: "Remove", "aria-label": `Remove ${said}`, onclick: () => this.#on.remove(index) },
        make("span", { class: "sign cross", "aria-hidden": "true" }),
      ),
    );
  }
}
