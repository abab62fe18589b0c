// A virtual grid of all photos of a collection: only photos in view have elements.
//
// Photos are loaded in pages, as far as the user has scrolled. Keyboard focus stays on the list, which names the active
// photo (aria-activedescendant), because the element of a photo is removed when it scrolls out of view.

import * as api from "./api.js";
import { make } from "./dom.js";
import { fileName } from "./messages.js";

const FIRST = 200; // photos of the first page, which should appear quickly
const PAGE = 5000; // photos of the other pages
const CAPTION = 30; // height of the name below a photo, in pixels
const GAP = 12;
const OVERSCAN = 2; // rows above and below the view that have elements
const DELAY = 120; // ms until thumbnails are loaded, so that scrolling past thousands of photos loads few

/** A grid inside a scrolling element. on.pick(photo), on.count(total), on.fail(error). */
export class PhotoGrid {
  #window;
  #space = make("div", { class: "space", role: "presentation" });
  #on;
  #filter = { q: "", folder: "" };
  #photos = [];
  #total = 0;
  #next = null;
  #loading = null; // AbortController of the page that is being loaded
  #active = 0;
  #top = 0; // scroll position, which some browsers reset while the element is hidden
  #cells = new Map(); // index -> element
  #timer = null; // for the next loading of thumbnails

  constructor(element, on) {
    this.#window = element;
    this.#on = on;
    element.append(this.#space);
    element.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    element.addEventListener("keydown", (event) => this.#key(event));
    element.addEventListener("click", (event) => this.#click(event));
    new ResizeObserver(() => this.#resized()).observe(element);
  }

  /** Show the photos in `folder` whose names contain `q`; "" matches all. */
  async filter(filter) {
    this.#filter = filter;
    await this.#load(null);
  }

  /** Move keyboard focus to the grid. */
  focus() {
    this.#window.focus({ preventScroll: true });
  }

  async #load(after) {
    this.#loading?.abort();
    const loading = new AbortController();
    this.#loading = loading;
    try {
      const limit = after === null ? FIRST : PAGE;
      const page = await api.photos({ ...this.#filter, after, limit }, loading.signal);
      if (after === null) this.#clear();
      this.#photos.push(...page.photos);
      this.#total = page.next === null ? this.#photos.length : page.total;
      this.#next = page.next;
      this.#loading = null;
      this.#on.count(this.#total);
      this.#render();
      if (after === null) this.#loadThumbnails();
    } catch (error) {
      if (error.name === "AbortError") return;
      this.#loading = null;
      this.#on.fail(error);
    }
  }

  // Called when the first page of a new filter has arrived: until then the previous photos stay and can be chosen.
  #clear() {
    for (const cell of this.#cells.values()) cell.remove();
    this.#cells.clear();
    this.#photos = [];
    this.#active = 0;
    this.#window.scrollTop = 0;
  }

  #scrolled() {
    if (this.#window.clientHeight) this.#top = this.#window.scrollTop;
    this.#render();
  }

  #resized() {
    if (this.#window.clientHeight) this.#window.scrollTop = this.#top;
    this.#render();
  }

  #layout() {
    const inner = this.#space.clientWidth;
    const least = inner < 480 ? 140 : 190;
    const columns = Math.max(2, Math.floor((inner + GAP) / (least + GAP)));
    const width = (inner - GAP * (columns - 1)) / columns;
    return { columns, width, row: Math.round(width * 0.75) + CAPTION + GAP };
  }

  #render() {
    const { columns, width, row } = this.#layout();
    if (width <= 0) return; // hidden
    this.#space.style.height = `${Math.ceil(this.#total / columns) * row}px`;
    const top = this.#window.scrollTop;
    const first = Math.max(0, Math.floor(top / row) - OVERSCAN) * columns;
    const end = Math.min(this.#total, (Math.ceil((top + this.#window.clientHeight) / row) + OVERSCAN) * columns);
    for (const [index, cell] of this.#cells) {
      if (index < first || index >= end) {
        cell.firstChild.removeAttribute("src"); // cancels loading
        cell.remove();
        this.#cells.delete(index);
      }
    }
    for (let index = first; index < end; index += 1) {
      const photo = this.#photos[index];
      if (!photo) break;
      let cell = this.#cells.get(index);
      if (!cell) {
        cell = this.#cell(photo, index);
        this.#cells.set(index, cell);
        this.#space.append(cell);
      }
      cell.style.width = `${width}px`;
      cell.style.height = `${row - GAP}px`;
      cell.style.transform = `translate(${(index % columns) * (width + GAP)}px, ${Math.floor(index / columns) * row}px)`;
      cell.setAttribute("aria-selected", String(index === this.#active));
    }
    if (this.#cells.has(this.#active)) this.#window.setAttribute("aria-activedescendant", `photo-${this.#active}`);
    else this.#window.removeAttribute("aria-activedescendant");
    this.#timer ??= setTimeout(() => this.#loadThumbnails(), DELAY);
    if (end > this.#photos.length && this.#next !== null && !this.#loading) this.#load(this.#next);
  }

  #loadThumbnails() {
    this.#timer = null;
    for (const [index, cell] of this.#cells) {
      const image = cell.firstChild;
      if (!image.hasAttribute("src")) image.src = api.thumbnailUrl({ photo: this.#photos[index].id });
    }
  }

  #cell(photo, index) {
    return make(
      "div",
      {
        class: "cell",
        role: "option",
        id: `photo-${index}`,
        title: photo.name,
        "data-index": index,
        "aria-label": photo.name,
        "aria-setsize": this.#total,
        "aria-posinset": index + 1,
      },
      make("img", { alt: "", decoding: "async", draggable: "false" }),
      make("span", { class: "name" }, fileName(photo.name)),
    );
  }

  #click(event) {
    const cell = event.target.closest(".cell");
    if (!cell) return;
    this.#active = Number(cell.dataset.index);
    this.#render();
    this.#on.pick(this.#photos[this.#active]);
  }

  #key(event) {
    const { columns, row } = this.#layout();
    const screen = columns * Math.max(1, Math.floor(this.#window.clientHeight / row));
    const steps = {
      ArrowLeft: -1,
      ArrowRight: 1,
      ArrowUp: -columns,
      ArrowDown: columns,
      PageUp: -screen,
      PageDown: screen,
      Home: -Infinity,
      End: Infinity,
    };
    if (event.key in steps) {
      const last = Math.max(0, this.#total - 1);
      this.#active = Math.min(Math.max(this.#active + steps[event.key], 0), last);
      const top = Math.floor(this.#active / columns) * row;
      const { scrollTop, clientHeight } = this.#window;
      if (top < scrollTop) this.#window.scrollTop = top;
      else if (top + row > scrollTop + clientHeight) this.#window.scrollTop = top + row - clientHeight;
      this.#render();
    } else if ((event.key === "Enter" || event.key === " ") && this.#photos[this.#active]) {
      this.#on.pick(this.#photos[this.#active]);
    } else return;
    event.preventDefault();
  }
}
