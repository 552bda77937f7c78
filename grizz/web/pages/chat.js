/** One conversation: its messages, the answer that is being written, and what is sent for the next one. */

import { Answer, newRecord } from "./answer.js";
import { make } from "./body.js";
import * as store from "./store.js";

const SAVE_MS = 2000;
const TITLE_CHARS = 60;
const CONTINUABLE = new Set(["completed", "incomplete", "cancelled"]);

export class Chat {
  #client;
  #hooks;
  #answer = null; // the last one
  #stream = null; // while it runs
  #saveTimer = 0;
  #forgotten = false;

  /**
   * `saved` is what the store keeps, or null for an empty chat. `hooks`: {copy(text, button), model(),
   * changed(chat), announce(chat, text)}.
   */
  constructor(client, hooks, saved = null) {
    this.#client = client;
    this.#hooks = hooks;
    this.id = saved?.id ?? newId();
    this.updated = saved?.updated ?? 0;
    this.messages = saved?.messages ?? [];
    this.element = make("div", "chat");
    for (const message of this.messages) this.#show(message);
    this.#resume();
  }

  get title() {
    const text = this.messages[0]?.text ?? "";
    return text.length > TITLE_CHARS ? `${text.slice(0, TITLE_CHARS).trimEnd()}…` : text;
  }

  get running() {
    return this.#stream !== null;
  }

  get empty() {
    return this.messages.length === 0;
  }

  send(text) {
    if (this.running) return;
    const message = { role: "user", text };
    this.messages.push(message);
    this.#show(message);
    this.#ask();
  }

  /** Ask the last question again; the new answer takes the place of the old one. */
  retry() {
    if (this.running || this.messages.at(-1)?.role !== "assistant") return;
    this.messages.pop();
    this.#answer.element.remove();
    this.#ask();
  }

  stop() {
    this.#stream?.cancel();
  }

  setLive(live) {
    if (this.running) this.#answer.setLive(live);
  }

  /** Stop, and never be saved again. */
  forget() {
    this.#forgotten = true;
    this.stop();
  }

  save() {
    clearTimeout(this.#saveTimer);
    this.#saveTimer = 0;
    if (!this.empty && !this.#forgotten) store.save({ id: this.id, title: this.title, updated: this.updated, messages: this.messages });
  }

  /** Whether a stored version of this chat says the same. */
  matches(saved) {
    const [mine, theirs] = [this.messages.at(-1), saved.messages.at(-1)];
    return (
      this.messages.length === saved.messages.length &&
      mine?.id === theirs?.id &&
      mine?.status === theirs?.status &&
      mine?.text === theirs?.text
    );
  }

  #show(message) {
    if (message.role === "user") {
      this.element.append(userMessage(message.text));
      return;
    }
    this.#answer = new Answer(message, { copy: this.#hooks.copy, retry: () => this.retry() });
    this.element.append(this.#answer.element);
  }

  #ask() {
    const record = newRecord();
    const body = this.#body();
    this.messages.push(record);
    this.#show(record);
    this.updated = Date.now();
    this.#create(body);
    this.save();
  }

  #create(body) {
    this.#answer.setLive(this.#client.live);
    this.#follow((handlers) => this.#client.create(body, handlers), body);
  }

  #follow(start, body = null) {
    const answer = this.#answer;
    let started = false;
    this.#stream = start({
      onEvent: (event) => {
        answer.apply(event);
        if (event.type === "response.created") this.save();
        else this.#saveSoon();
        if (started || !event.delta) return;
        started = true;
        this.#hooks.announce(this, "Answer started.");
      },
      onAttached: (event) => {
        if (event.sequence_number < 0) answer.restart(event.last_sequence_number);
      },
      onSnapshot: (response) => answer.snapshot(response),
      onEnd: (outcome) => this.#ended(outcome, body),
    });
    this.#hooks.changed(this);
  }

  #ended(outcome, body) {
    if (outcome.error?.code === "previous_response_not_found" && body?.previous_response_id) {
      // The server forgot the conversation, this page did not: ask again with all of it.
      const { previous_response_id: _, ...rest } = body;
      return this.#create({ ...rest, input: this.#history() });
    }
    this.#stream = null;
    this.#answer.finish(outcome);
    this.updated = Date.now();
    this.save();
    this.#hooks.changed(this);
    this.#hooks.announce(this, ending(this.#answer.record));
  }

  /** After a reload: an answer that was running is read again from its first event. */
  #resume() {
    const answer = this.#answer;
    if (!answer?.running || answer.record !== this.messages.at(-1)) return;
    if (!answer.record.id) {
      answer.finish({ kind: "unknown" });
      return;
    }
    answer.setLive(this.#client.live);
    this.#follow((handlers) => this.#client.attach(answer.record.id, {}, handlers));
  }

  /** What is sent for the last question. */
  #body() {
    const model = this.#hooks.model();
    const parent = this.messages.at(-2);
    const body = { input: this.messages.at(-1).text };
    if (parent && parent.id && CONTINUABLE.has(parent.status)) body.previous_response_id = parent.id;
    else if (parent) body.input = this.#history();
    if (model) body.model = model;
    return body;
  }

  /** The whole conversation up to the last question, as input items. */
  #history() {
    return this.messages.filter(({ text }) => text).map(({ role, text }) => ({ role, content: text }));
  }

  #saveSoon() {
    this.#saveTimer ||= setTimeout(() => this.save(), SAVE_MS);
  }
}

function userMessage(text) {
  const element = make("article", "message");
  element.dataset.role = "user";
  element.ariaLabel = "You";
  element.append(make("div", "text", text));
  return element;
}

function ending({ status, text, refusal }) {
  if (status === "cancelled") return "Answer stopped.";
  if (status === "failed") return "The answer failed.";
  const count = (text || refusal || "").split(/\s+/).filter(Boolean).length;
  const words = `${count} word${count === 1 ? "" : "s"}`;
  return status === "incomplete" ? `Answer incomplete, ${words}.` : `Answer finished, ${words}.`;
}

function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(9)), (byte) => byte.toString(36).padStart(2, "0")).join("");
}
