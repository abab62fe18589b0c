// Choosing a photo: from the collection by name, folder and eye, or one's own by file, drop or paste.

import * as api from "./api.js";
import { byId, make } from "./dom.js";
import { complain, counted, settle } from "./messages.js";
import { PhotoGrid } from "./photo-grid.js";

const TYPING = 180; // ms after a key before the list is asked for

/** The view of index.html. on.source(source): a photo was chosen. */
export class Browse {
  #grid;
  #filter = byId("filter");
  #folder = byId("folder");
  #typed = null;
  #on;

  constructor(on) {
    this.#on = on;
    this.#grid = new PhotoGrid(byId("grid"), {
      pick: ({ id, name, width, height }) => on.source({ photo: id, name, width, height }),
      count: (total) => this.#counted(total),
      fail: (error) => complain(error, () => this.#look()),
    });
    this.#filter.addEventListener("input", () => {
      clearTimeout(this.#typed);
      this.#typed = setTimeout(() => this.#look(), TYPING);
    });
    this.#filter.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowDown" && event.key !== "Enter") return;
      event.preventDefault();
      this.#grid.focus();
    });
    this.#folder.addEventListener("change", () => this.#look());
    byId("file").addEventListener("change", (event) => {
      if (event.target.files.length) this.#bring(event.target.files[0]);
      event.target.value = ""; // so that the same file can be chosen again
    });
    this.#listen();
  }

  /** Ask for the folders and the first photos. */
  async start() {
    this.#look();
    try {
      const { folders } = await api.folders();
      const options = folders.map(({ path, photos }) =>
        make("option", { value: path }, `${path || "All folders"} (${photos.toLocaleString("en")})`),
      );
      this.#folder.replaceChildren(...options);
      byId("folder-field").hidden = folders.length < 2;
    } catch (error) {
      complain(error, () => this.start());
    }
  }

  /** Say what a chosen photo will be for: a new search, or one more example of the present one. */
  show(adding) {
    byId("browse-title").textContent = adding
      ? "Choose another photo of the same object"
      : "Choose a photo of what you are looking for";
    byId("browse-hint").textContent = adding
      ? "The box that you draw in it is added to the search."
      : "Then draw a box round the object. Every photo that shows this very object comes back, with its place.";
    byId("cancel-adding").hidden = !adding;
  }

  #look() {
    return this.#grid.filter({ q: this.#filter.value.trim(), folder: this.#folder.value });
  }

  #counted(total) {
    byId("count").textContent = counted(total, "photo");
    byId("no-photos").hidden = total > 0;
    byId("no-photos").textContent = this.#filter.value.trim()
      ? `No photo has “${this.#filter.value.trim()}” in its name here.`
      : "There are no photos here.";
  }

  async #bring(file) {
    byId("drop-text").textContent = `Sending ${file.name || "the photo"}…`;
    document.body.classList.add("bringing");
    try {
      const { id, name, width, height } = await api.upload(file);
      settle();
      this.#on.source({ upload: id, name, width, height });
    } catch (error) {
      complain(error);
    } finally {
      document.body.classList.remove("bringing");
    }
  }

  #listen() {
    const holdsFile = (event) => event.dataTransfer?.types.includes("Files");
    let depth = 0; // each element that a drag enters is told of it, and each one that it leaves
    const over = (by) => {
      depth = by === 0 ? 0 : depth + by;
      document.body.classList.toggle("dropping", depth > 0);
      if (depth > 0) byId("drop-text").textContent = "Drop the photo to search with it";
    };
    addEventListener("dragenter", (event) => holdsFile(event) && over(1));
    addEventListener("dragleave", (event) => holdsFile(event) && over(-1));
    addEventListener("dragover", (event) => holdsFile(event) && event.preventDefault());
    addEventListener("drop", (event) => {
      if (!holdsFile(event)) return;
      event.preventDefault();
      over(0);
      if (event.dataTransfer.files.length) this.#bring(event.dataTransfer.files[0]);
    });
    addEventListener("paste", (event) => {
      const file = [...event.clipboardData.files].find(({ type }) => type.startsWith("image/"));
      if (!file) return;
      event.preventDefault();
      this.#bring(file);
    });
  }
}
