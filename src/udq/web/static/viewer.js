// A dialog that shows one result large, with its box: previous and next result, marks, and a search from this result.

import * as api from "./api.js";
import { byId, outlines } from "./dom.js";

const WIDTH = 1920;

/**
 * The dialog of index.html. on.mark(match, kind), on.from(match), on.close(index).
 */
export class Viewer {
  #dialog = byId("viewer");
  #frame = byId("viewer-frame");
  #photo = byId("viewer-photo");
  #matches = [];
  #index = 0;
  #kindOf = () => null;
  #on;

  constructor(on) {
    this.#on = on;
    this.#dialog.addEventListener("keydown", (event) => this.#key(event));
    this.#dialog.addEventListener("close", () => {
      if (this.#dialog.returnValue === "search") this.#on.from(this.#match);
      else this.#on.close(this.#index);
    });
    this.#dialog.addEventListener("click", (event) => event.target === this.#dialog && this.#dialog.close());
    byId("viewer-close").addEventListener("click", () => this.#dialog.close());
    byId("viewer-previous").addEventListener("click", () => this.#step(-1));
    byId("viewer-next").addEventListener("click", () => this.#step(1));
    byId("viewer-right").addEventListener("click", () => this.#on.mark(this.#match, "right"));
    byId("viewer-wrong").addEventListener("click", () => this.#on.mark(this.#match, "wrong"));
    byId("viewer-search").addEventListener("click", () => this.#dialog.close("search"));
  }

  get #match() {
    return this.#matches[this.#index];
  }

  /** Open the dialog with one of the matches. */
  open(matches, index) {
    this.#matches = matches;
    this.#index = index;
    this.#dialog.returnValue = "";
    this.#dialog.showModal();
    this.#render();
  }

  /** Close the dialog if it is open. */
  close() {
    this.#dialog.close();
  }

  /** Show the marks of photos: `kindOf(id)` is "right", "wrong" or null. */
  update(kindOf) {
    this.#kindOf = kindOf;
    if (this.#dialog.open) this.#render();
  }

  #step(by) {
    this.#index = Math.min(Math.max(this.#index + by, 0), this.#matches.length - 1);
    this.#render();
  }

  #render() {
    const match = this.#match;
    const kind = this.#kindOf(match.id);
    const url = api.fileUrl({ photo: match.id }, WIDTH);
    if (this.#photo.getAttribute("src") !== url) this.#photo.src = url;
    this.#photo.alt = match.image;
    this.#frame.style.aspectRatio = `${match.width} / ${match.height}`;
    this.#frame.style.setProperty("--aspect", match.width / match.height);
    this.#frame.querySelector("svg")?.remove();
    this.#frame.append(outlines(match, [match.box, kind ?? "found"]));
    byId("viewer-name").textContent = match.image;
    const box = match.box.map((side) => Math.round(side)).join(", ");
    byId("viewer-facts").textContent =
      `Rank ${match.rank} of ${this.#matches.length}, score ${match.score.toFixed(2)}, box ${box}`;
    byId("viewer-right").setAttribute("aria-pressed", String(kind === "right"));
    byId("viewer-wrong").setAttribute("aria-pressed", String(kind === "wrong"));
    byId("viewer-previous").disabled = this.#index === 0;
    byId("viewer-next").disabled = this.#index === this.#matches.length - 1;
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.toLowerCase();
    if (key === "arrowleft") this.#step(-1);
    else if (key === "arrowright") this.#step(1);
    else if (key === "r") this.#on.mark(this.#match, "right");
    else if (key === "w") this.#on.mark(this.#match, "wrong");
    else return;
    event.preventDefault();
  }
}
