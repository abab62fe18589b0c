// What the page says besides pictures: what went wrong, what a screen reader should hear, numbers in words.

import { byId } from "./dom.js";

/** Say what went wrong, until it is dismissed or something succeeds; `again` is offered as another try. */
export function complain(error, again = null) {
  byId("alert-text").textContent = error.message;
  byId("alert-again").hidden = !again;
  byId("alert-again").onclick = () => {
    settle();
    again();
  };
  byId("alert").hidden = false;
}

/** Take back what was said to be wrong. */
export function settle() {
  byId("alert").hidden = true;
}

/** Have a screen reader say something. */
export function announce(text) {
  byId("announcer").textContent = text;
}

/** "1 photo", "2,500 photos". */
export const counted = (count, one, many = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

/** The part of a photo's name that there is room for in a list: without its folders. */
export const fileName = (name) => name.slice(name.lastIndexOf("/") + 1);

/** Bytes as people say them. */
export const sized = (bytes) =>
  bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;

byId("alert-close").addEventListener("click", settle);
