/** The model's words in an answer: reasoning, text, refusal and function calls. */

import { isRunning } from "./grizz.js";
import { Markdown } from "./markdown.js";

export class Body {
  #thoughts = make("details", "thoughts");
  #thoughtText;
  #text = make("div", "text");
  #refusal = make("div", "refusal");
  #calls = make("div", "calls");
  #markdown;
  #thinking;

  constructor(copy) {
    this.element = make("div", "body");
    this.#thoughtText = make("div", "thought");
    this.#thoughts.hidden = true;
    this.#thoughts.append(make("summary", "", "Reasoning"), this.#thoughtText);
    this.#refusal.hidden = this.#calls.hidden = true;
    this.element.append(this.#thoughts, this.#text, this.#refusal, this.#calls);
    this.#markdown = new Markdown(this.#text, { onCopy: copy });
    this.#thinking = new Markdown(this.#thoughtText, { onCopy: copy });
  }

  write(text) {
    this.#markdown.append(text);
  }

  think(text) {
    this.#thoughts.hidden = false;
    this.#thinking.append(text);
  }

  flush() {
    this.#markdown.flush();
    this.#thinking.flush();
  }

  end() {
    this.#markdown.end();
    this.#thinking.end();
  }

  /** Draw everything again from the record. */
  show(record) {
    this.#markdown.reset();
    this.#thinking.reset();
    this.#markdown.append(record.text);
    this.#thoughts.hidden = !record.thoughts;
    if (record.thoughts) this.#thinking.append(record.thoughts);
    if (!isRunning(record.status)) this.end();
    this.showRest(record);
  }

  /** Refusal and function calls: short, so simply drawn again. */
  showRest({ refusal, calls = [] }) {
    this.#refusal.hidden = !refusal;
    this.#refusal.textContent = refusal ?? "";
    this.#calls.hidden = !calls.length;
    this.#calls.replaceChildren(...calls.map(callBox));
  }

  /** Keep the words of an attempt that died, folded. */
  fold(text) {
    const details = make("details", "thoughts");
    details.append(make("summary", "", "Interrupted attempt"), make("div", "thought plain", text));
    this.element.prepend(details);
  }
}

function callBox({ name, arguments: text, output }) {
  const box = make("div", "call");
  box.append(make("span", "", "Tool call "), make("code", "", name ?? ""));
  if (text && text !== "{}" && text !== '""') box.append(code(pretty(text)));
  if (output) box.append(make("span", "", "Result"), code(pretty(output)));
  return box;
}

function code(text) {
  const block = make("pre", "", text);
  block.tabIndex = 0; // can be scrolled with the keyboard
  return block;
}

function pretty(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json;
  }
}

export function make(name, className = "", text = "") {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}

export function button(text, onClick) {
  const node = make("button", "quiet", text);
  node.type = "button";
  node.addEventListener("click", onClick);
  return node;
}
