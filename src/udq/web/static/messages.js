// Messages of the page: errors, announcements for screen readers, and formatted numbers.

import { byId } from "./dom.js";

/** Show an error until it is dismissed or a request succeeds; `retry` adds a button to try again. */
export function showError(error, retry = null) {
  byId("alert-text").textContent = error.message;
  byId("alert-again").hidden = !retry;
  byId("alert-again").onclick = () => {
    clearError();
    retry();
  };
  byId("alert").hidden = false;
}

/** Hide the error. */
export function clearError() {
  byId("alert").hidden = true;
}

/** Announce a text to screen readers. */
export function announce(text) {
  byId("announcer").textContent = text;
}

/** "1 photo", "2,500 photos". */
export const counted = (count, one, many = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

/** The name of a photo without its folders, for lists. */
export const fileName = (name) => name.slice(name.lastIndexOf("/") + 1);

/** Bytes with a unit: "12 kB", "3.4 MB". */
export const formatBytes = (bytes) =>
  bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;

byId("alert-close").addEventListener("click", clearError);
