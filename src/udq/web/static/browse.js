// Choosing a photo: from the collection, filtered by name and folder; or the user's own, by file dialog, drop or paste.

import * as api from "./api.js";
import { byId, make } from "./dom.js";
import { clearError, counted, showError } from "./messages.js";
import { PhotoGrid } from "./photo-grid.js";

const TYPING = 180; // ms without a key press until the list is loaded

/** The view of index.html. on.source(source): a photo was chosen. */
export class Browse {
  #grid;
  #filter = byId("filter");
  #folder = byId("folder");
  #timer = null;
  #on;

  constructor(on) {
    this.#on = on;
    this.#grid = new PhotoGrid(byId("grid"), {
      pick: ({ id, name, width, height }) => on.source({ photo: id, name, width, height }),
      count: (total) => this.#showCount(total),
      fail: (error) => showError(error, () => this.#load()),
    });
    this.#filter.addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#load(), TYPING);
    });
    this.#filter.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowDown" && event.key !== "Enter") return;
      event.preventDefault();
      this.#grid.focus();
    });
    this.#folder.addEventListener("change", () => this.#load());
    byId("file").addEventListener("change", (event) => {
      if (event.target.files.length) this.#upload(event.target.files[0]);
      event.target.value = ""; // so that choosing the same file again fires the event
    });
    this.#listen();
  }

  /** Load the folders and the first photos. */
  async start() {
    this.#load();
    try {
      const { folders } = await api.folders();
      const options = folders.map(({ path, photos }) =>
        make("option", { value: path }, `${path || "All folders"} (${photos.toLocaleString("en")})`),
      );
      this.#folder.replaceChildren(...options);
      byId("folder-field").hidden = folders.length < 2;
    } catch (error) {
      showError(error, () => this.start());
    }
  }

  /** Show whether the chosen photo starts a new search or adds an example to the current one. */
  show(adding) {
    byId("browse-title").textContent = adding
      ? "Choose another photo of the same object"
      : "Choose a photo of what you are looking for";
    byId("browse-hint").textContent = adding
      ? "The box that you draw is added to the search."
      : "Then draw a box round the object. The results are the photos that show this very object, each with its box.";
    byId("cancel-adding").hidden = !adding;
  }

  #load() {
    return this.#grid.filter({ q: this.#filter.value.trim(), folder: this.#folder.value });
  }

  #showCount(total) {
    byId("count").textContent = counted(total, "photo");
    byId("no-photos").hidden = total > 0;
    byId("no-photos").textContent = this.#filter.value.trim()
      ? `No photo has “${this.#filter.value.trim()}” in its name here.`
      : "There are no photos here.";
  }

  async #upload(file) {
    byId("drop-text").textContent = `Uploading ${file.name || "the photo"}…`;
    document.body.classList.add("uploading");
    try {
      const { id, name, width, height } = await api.upload(file);
      clearError();
      this.#on.source({ upload: id, name, width, height });
    } catch (error) {
      showError(error);
    } finally {
      document.body.classList.remove("uploading");
    }
  }

  #listen() {
    const holdsFile = (event) => event.dataTransfer?.types.includes("Files");
    let depth = 0; // enter events minus leave events: they fire for every element under the pointer
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
      if (event.dataTransfer.files.length) this.#upload(event.dataTransfer.files[0]);
    });
    addEventListener("paste", (event) => {
      const file = [...event.clipboardData.files].find(({ type }) => type.startsWith("image/"));
      if (!file) return;
      event.preventDefault();
      this.#upload(file);
    });
  }
}
