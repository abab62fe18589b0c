// Export of accepted boxes as a file: those drawn by hand and those marked right.

import * as api from "./api.js";
import { byId } from "./dom.js";
import { counted, showError } from "./messages.js";

const NAMES = { csv: "udq-boxes.csv", json: "udq-boxes.json", coco: "udq-coco.json" };

/**
 * The accepted boxes of a state: all boxes drawn on photos of the collection, and for other photos the boxes marked
 * right, with the scores of their matches.
 */
export function accepted({ examples, marks }, matches) {
  const byHand = examples.filter(({ kind, photo }) => kind === "drawn" && photo !== undefined);
  const right = marks.filter(({ kind, photo }) => kind === "right" && !byHand.some((each) => each.photo === photo));
  return [...byHand, ...right].map(({ photo, box, kind, width, height }) => ({
    photo,
    box: box ?? [0, 0, width, height],
    score: (kind === "right" && matches.find(({ id }) => id === photo)?.score) || null,
  }));
}

/** The dialog of index.html. */
export class Export {
  #dialog = byId("export-dialog");
  #boxes = [];

  constructor() {
    byId("export-close").addEventListener("click", () => this.#dialog.close());
    byId("export-formats").addEventListener("click", (event) => {
      if (event.target.value) this.#save(event.target.value);
    });
  }

  /** Open the dialog to choose a format for these boxes. */
  open(boxes) {
    this.#boxes = boxes;
    byId("export-text").textContent = boxes.length
      ? `${counted(boxes.length, "box", "boxes")}: those you drew on photos of this collection, and the results you marked right.`
      : "There is no box to export yet. Mark results as right, or draw a box on a photo of this collection.";
    for (const button of byId("export-formats").children) button.disabled = !boxes.length;
    this.#dialog.showModal();
  }

  async #save(format) {
    const label = byId("export-label").value.trim() || "object";
    try {
      const file = await api.exportBoxes({ format, label, boxes: this.#boxes });
      const link = document.createElement("a");
      link.href = URL.createObjectURL(file);
      link.download = NAMES[format];
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // some browsers start the download later
    } catch (error) {
      showError(error);
    }
    this.#dialog.close();
  }
}
