/** A user's message on the page: its words and images, and a small editor in their place when they are changed. */

import { button, make } from "./body.js";

const composing = (event) => event.isComposing || event.keyCode === 229; // an input method owns this key

export class Question {
  #hooks;
  #text;
  #actions;

  /** `hooks`: {copy(text, button), resend(text)}. */
  constructor(message, hooks) {
    this.message = message;
    this.#hooks = hooks;
    this.element = make("article", "message");
    this.element.dataset.role = "user";
    this.element.ariaLabel = "You";
    this.show();
  }

  show() {
    const { text, images = [] } = this.message;
    this.#text = make("div", "text", text);
    this.#text.dir = "auto";
    if (images.length) this.#text.prepend(gallery(images));
    this.#actions = make("div", "actions");
    const copy = button("Copy", () => this.#hooks.copy(text, copy));
    const edit = button("Edit", () => this.edit());
    edit.classList.add("edit");
    this.#actions.append(copy, edit);
    this.element.replaceChildren(this.#text, this.#actions);
  }

  edit() {
    const box = make("form", "editor");
    const area = make("textarea");
    area.value = this.message.text;
    area.ariaLabel = "Edit your message";
    area.dir = "auto";
    const leave = () => {
      this.show();
      this.#actions.lastElementChild.focus();
    };
    const send = make("button", "primary", "Send");
    box.append(area, make("p", "note", "What follows in this chat is replaced."), button("Cancel", leave), send);
    box.addEventListener("submit", (event) => {
      event.preventDefault();
      const text = area.value.trim();
      if (text || this.message.images?.length) this.#hooks.resend(text);
    });
    area.addEventListener("keydown", (event) => {
      if (composing(event)) return;
      if (event.key === "Escape") {
        event.stopPropagation(); // it stops no answer
        leave();
      } else if (event.key === "Enter" && !event.shiftKey) {
        event.preventDefault();
        box.requestSubmit();
      }
    });
    area.addEventListener("input", () => grow(area));
    this.element.replaceChildren(box);
    grow(area);
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }
}

/** As high as its text, within what the style allows. */
export function grow(area) {
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight}px`;
}

/** Small pictures in a row. Only data is shown: an address would tell its server who reads this. */
export function gallery(images) {
  const row = make("div", "gallery");
  images.forEach((url, index) => {
    if (!url.startsWith("data:image/")) return row.append(make("span", "note", `Image at ${url}`));
    const image = make("img");
    image.src = url;
    image.alt = `Attached image ${index + 1}`;
    row.append(image);
  });
  return row;
}
