/** The message field: its text, kept as a draft, and images by button, paste and drop. */

import { button, make } from "./body.js";
import { grow } from "./question.js";
import * as store from "./store.js";

const $ = (id) => document.getElementById(id);
const field = $("composer");
const MAX_IMAGES = 8;

export class Composer {
  #hooks;
  #images = []; // data URLs

  /** `hooks`: {send(text, images), changed(), editLast(), complain(text)}. */
  constructor(hooks) {
    this.#hooks = hooks;
    field.value = store.draft();
    grow(field);
    field.addEventListener("input", () => this.#changed());
    field.addEventListener("keydown", (event) => this.#key(event));
    field.addEventListener("paste", (event) => {
      // Office programs put a picture of the text beside it.
      if (!event.clipboardData.types.includes("text/plain")) this.#take(event, event.clipboardData);
    });
    $("form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (!this.empty) hooks.send(field.value.trim(), [...this.#images]);
    });
    $("attach").addEventListener("click", () => $("files").click());
    $("files").addEventListener("change", async () => {
      await this.add([...$("files").files]);
      $("files").value = "";
      field.focus();
    });
    this.#takeDrops();
  }

  get empty() {
    return !field.value.trim() && !this.#images.length;
  }

  clear() {
    field.value = "";
    this.#images = [];
    this.#draw();
    this.#changed();
  }

  focus() {
    field.focus();
  }

  /** Where a finger types, the focus would bring up a keyboard. */
  focusIfMouse() {
    if (matchMedia("(pointer: fine)").matches) field.focus();
  }

  /** Image files, made small enough to send. */
  async add(files) {
    const { readable } = await import("./images.js");
    for (const file of files) {
      if (this.#images.length >= MAX_IMAGES) return this.#hooks.complain(`A message holds ${MAX_IMAGES} images at most.`);
      try {
        const image = await readable(file);
        this.#images.push(image); // of now: a message may have been sent meanwhile
      } catch {
        this.#hooks.complain(`“${file.name}” is no image that this browser can read.`);
      }
      this.#draw();
      this.#hooks.changed();
    }
  }

  #changed() {
    grow(field);
    store.setDraft(field.value);
    this.#hooks.changed();
  }

  #key(event) {
    if (event.isComposing || event.keyCode === 229) return; // an input method owns this key
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      $("form").requestSubmit();
    } else if (event.key === "ArrowUp" && this.empty && this.#hooks.editLast()) {
      event.preventDefault();
    }
  }

  #take(event, data) {
    const files = [...data.files].filter(({ type }) => type.startsWith("image/"));
    if (!files.length) return;
    event.preventDefault();
    this.add(files);
  }

  #takeDrops() {
    let over = 0; // every element on the way says that it was entered, and left
    const show = (change) => {
      over = Math.max(0, over + change);
      document.body.toggleAttribute("data-dropping", over > 0);
    };
    const files = (event) => event.dataTransfer?.types.includes("Files");
    addEventListener("dragenter", (event) => files(event) && show(1));
    addEventListener("dragleave", (event) => files(event) && show(-1));
    addEventListener("dragover", (event) => files(event) && event.preventDefault());
    addEventListener("drop", (event) => {
      show(-over);
      if (!files(event)) return;
      event.preventDefault(); // else the browser would leave the page for the file
      this.#take(event, event.dataTransfer);
      field.focus();
    });
  }

  #draw() {
    const shown = this.#images.map((url, index) => {
      const box = make("span", "attachment");
      const image = make("img");
      image.src = url;
      image.alt = `Image ${index + 1}`;
      const away = button("×", () => {
        this.#images.splice(index, 1);
        this.#draw();
        this.#hooks.changed();
        field.focus();
      });
      away.ariaLabel = `Remove image ${index + 1}`;
      box.append(image, away);
      return box;
    });
    $("attached").replaceChildren(...shown);
    $("attached").hidden = !shown.length;
  }
}
