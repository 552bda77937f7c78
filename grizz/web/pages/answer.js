/**
 * One answer on the page: takes the events of a response and keeps its record and its DOM.
 *
 * The record is plain data, so it can be stored and shown again later:
 * `{role, id, status, text, thoughts, refusal, calls, problem, stats, sentAt, firstAt, gap, late,
 * model, items, kept}`. `status` is a Response status; `problem` is `{text, code}`; `gap` tells that part of the answer
 * came while nobody measured, so no speed is shown.
 */

import { Body, button, make } from "./body.js";
import { isRunning } from "./grizz.js";
import { isCall, readCall, readOutput } from "./items.js";

export const newRecord = () => ({ role: "assistant", id: null, status: "queued", text: "", sentAt: Date.now() });

/** Event type → method of Answer; what is not here needs no answer of the page. */
const APPLY = {
  "response.created": "onCreated",
  "response.queued": "onStatus",
  "response.in_progress": "onStatus",
  "response.output_item.added": "onItem",
  "response.output_item.done": "onItemDone",
  "response.content_part.added": "onPart",
  "response.output_text.delta": "onText",
  "response.output_text.done": "onTextDone",
  "response.refusal.delta": "onRefusal",
  "response.refusal.done": "onRefusal",
  "response.reasoning_summary_part.added": "onThoughtPart",
  "response.reasoning_summary_text.delta": "onThought",
  "response.reasoning_text.delta": "onThought",
  "response.reasoning.delta": "onThought",
  "response.function_call_arguments.delta": "onArguments",
  "response.function_call_arguments.done": "onArgumentsDone",
};

const INCOMPLETE = {
  max_output_tokens: "The answer reached its length limit.",
  content_filter: "The content filter stopped this answer.",
};

export class Answer {
  #hooks;
  #body;
  #wait;
  #footer;
  #live = true;
  #waiting = false; // the server said "queued"
  #position = null; // how many are before it
  #items = new Map(); // output_index → {kind, partAt}
  #severed = false; // an item was closed as incomplete: if another follows, the answer starts again
  #created = false;
  #old = null; // what stays on screen while a replay is drawn aside,
  #showAt = null; // until the replay reaches this sequence_number

  /** `hooks`: {copy(text, button), retry(), branch()}. */
  constructor(record, hooks) {
    this.record = record;
    this.#hooks = hooks;
    this.element = make("article", "message");
    this.element.dataset.role = "assistant";
    this.element.dataset.testid = "answer";
    this.element.ariaLabel = "Answer";
    this.#body = new Body(hooks.copy);
    this.#wait = make("p", "wait");
    this.#footer = make("footer", "under");
    this.element.append(this.#body.element, this.#wait, this.#footer);
    this.#body.show(record);
    this.#refresh();
  }

  get running() {
    return isRunning(this.record.status);
  }

  /** Whether the connection is up, for the words under a running answer. */
  setLive(live) {
    if (!live && this.running && this.record.id) this.record.gap = true;
    this.#live = live;
    if (this.running) this.#refresh();
  }

  /** A replay from the first event begins; the text on screen stays until the replay caught up with `last`. */
  restart(last) {
    const shown = this.#old ?? this.#body.element;
    const keep = this.#old !== null || this.record.text !== "";
    Object.assign(this.record, { text: "", thoughts: "", refusal: "", calls: [], gap: true });
    this.#items.clear();
    this.#created = this.#severed = false;
    this.#body = new Body(this.#hooks.copy);
    if (keep) [this.#old, this.#showAt] = [shown, last];
    else shown.replaceWith(this.#body.element);
  }

  #caughtUp() {
    this.#body.flush();
    this.#old?.replaceWith(this.#body.element);
    this.#old = this.#showAt = null;
  }

  apply(event) {
    this[APPLY[event.type]]?.(event);
    if (event.delta && !this.record.firstAt) {
      this.record.firstAt = Date.now();
      this.record.late = this.record.gap; // the true first one may have come while nobody looked
      this.#refresh();
    }
    if (this.#showAt !== null && event.sequence_number >= this.#showAt) this.#caughtUp();
  }

  /** The place in the queue changed: so many are before it. */
  queue(position) {
    this.#position = position;
    this.#refresh();
  }

  /** The stream ended. `outcome` is what the client hands out, see grizz.js. */
  finish(outcome) {
    const record = this.record;
    if (outcome.kind === "done") this.#settle(outcome.response);
    else {
      record.status = outcome.kind === "cancelled" ? "cancelled" : "failed";
      if (outcome.kind !== "cancelled") record.problem = explain(outcome);
    }
    if (this.#old) this.#caughtUp();
    this.#body.end();
    this.#refresh();
  }

  /** The whole response at once, in place of its events. */
  snapshot(response) {
    const { text, thoughts, refusal, calls } = readOutput(response.output);
    const record = this.record;
    Object.assign(record, { id: response.id, status: response.status, model: response.model });
    record.items = response.output.map((item) => item.id);
    if (!text && !refusal && !calls.length && record.text) return; // keep what was already shown
    const same = text.trimEnd() === record.text.trimEnd() && calls.length === (record.calls?.length ?? 0);
    Object.assign(record, { text, refusal, calls });
    if (thoughts) record.thoughts = thoughts;
    if (!same) this.#body.show(record);
    else this.#body.showRest(record);
  }

  #settle(response) {
    this.snapshot(response);
    const record = this.record;
    const seconds = (Date.now() - record.firstAt) / 1000;
    const tokens = response.usage?.output_tokens ?? null;
    record.stats = {
      first: record.firstAt && !record.late ? (record.firstAt - record.sentAt) / 1000 : null,
      rate: tokens > 1 && !record.gap && seconds > 0.2 ? (tokens - 1) / seconds : null,
      tokens,
    };
    if (response.status === "failed") {
      const { code, message } = response.error ?? {};
      record.problem = { text: message ?? "The answer failed.", code };
    } else if (response.status === "incomplete") {
      const reason = response.incomplete_details?.reason;
      record.problem = { text: INCOMPLETE[reason] ?? "The answer is incomplete.", code: reason };
    } else if (response.status === "completed" && !record.text && !record.refusal && !record.calls?.length) {
      record.problem = { text: "The answer is empty." };
    }
  }

  /** What was written so far belongs to an attempt that died; the answer starts anew. */
  #interrupt() {
    const record = this.record;
    this.#severed = false;
    if (record.text) this.#body.fold(record.text);
    Object.assign(record, { text: "", thoughts: "", refusal: "", calls: [], gap: true });
    this.#body.show(record);
  }

  // Called through APPLY:

  onCreated(event) {
    if (this.#created) this.#interrupt();
    this.#created = true;
    this.#items.clear();
    this.record.id = event.response.id;
    this.onStatus(event);
  }

  onStatus(event) {
    this.record.status = event.response.status;
    this.#waiting = event.type === "response.queued";
    this.#refresh();
  }

  onItem({ output_index, item }) {
    if (this.#severed) this.#interrupt();
    this.#items.set(output_index, { kind: item.type, partAt: this.record.text.length });
    if (!isCall(item)) return;
    const call = readCall(item);
    this.#items.get(output_index).call = call;
    (this.record.calls ??= []).push(call);
    this.#body.showRest(this.record);
  }

  onItemDone({ output_index, item }) {
    if (item.status === "incomplete") this.#severed = true;
    this.#setArguments(output_index, item.arguments);
  }

  onPart({ output_index, part }) {
    const item = this.#items.get(output_index);
    if (!item || part.type !== "output_text") return;
    if (this.record.text) this.#write("\n\n");
    item.partAt = this.record.text.length;
    if (part.text) this.#write(part.text);
  }

  onText({ delta }) {
    this.#write(delta);
  }

  onTextDone({ output_index, text }) {
    const partAt = this.#items.get(output_index)?.partAt ?? 0;
    if (this.record.text.slice(partAt) === text) return;
    this.record.text = this.record.text.slice(0, partAt) + text;
    this.#body.show(this.record);
  }

  onRefusal({ delta, refusal }) {
    this.record.refusal = refusal ?? (this.record.refusal ?? "") + delta;
    this.#body.showRest(this.record);
  }

  onThoughtPart() {
    if (this.record.thoughts) this.#think("\n\n");
  }

  onThought({ delta }) {
    this.#think(delta);
  }

  onArguments({ output_index, delta }) {
    const call = this.#items.get(output_index)?.call;
    if (call) this.#setArguments(output_index, call.arguments + delta);
  }

  onArgumentsDone(event) {
    this.#setArguments(event.output_index, event.arguments);
  }

  #setArguments(index, text) {
    const call = this.#items.get(index)?.call;
    if (!call || text === undefined) return;
    call.arguments = text;
    this.#body.showRest(this.record);
  }

  #write(text) {
    this.record.text += text;
    this.#body.write(text);
  }

  #think(text) {
    this.record.thoughts = (this.record.thoughts ?? "") + text;
    this.#body.think(text);
  }

  /** Status, the line under a running answer, and the footer of a finished one. */
  #refresh() {
    const { status, problem, id } = this.record;
    this.element.dataset.status = status;
    this.element.ariaBusy = String(this.running);
    this.#wait.hidden = !this.running;
    this.#wait.textContent = this.running ? this.#waitingFor() : "";
    this.#footer.hidden = this.running;
    if (this.running) return;
    const parts = [];
    if (status === "cancelled") parts.push(make("p", "note", "Stopped."));
    if (problem) parts.push(problemBox(problem, id));
    parts.push(this.#actions());
    this.#footer.replaceChildren(...parts);
  }

  #waitingFor() {
    const { id, firstAt } = this.record;
    if (!this.#live) return id ? "Connection lost. The answer goes on when it is back." : "Waiting for the connection";
    if (this.#waiting && this.#position !== null) return `Waiting for a free slot, ${ordinal(this.#position + 1)} in line`;
    if (this.#waiting) return "Waiting for a free slot";
    return firstAt ? "" : "Thinking";
  }

  #actions() {
    const row = make("div", "actions");
    if (this.record.text) {
      const copy = button("Copy", () => this.#hooks.copy(this.record.text, copy));
      row.append(copy);
    }
    const retry = button("Retry", () => this.#hooks.retry());
    retry.dataset.testid = "retry";
    retry.classList.add("retry");
    row.append(retry, button("Branch", () => this.#hooks.branch()));
    row.lastChild.title = "Go on from here in another chat";
    const stats = statsLine(this.record);
    if (stats) row.append(make("span", "stats", stats));
    return row;
  }
}

function explain({ kind, error }) {
  if (kind === "unknown") {
    return { text: "The connection dropped before the server confirmed this message. It may or may not have been answered." };
  }
  if (kind === "absent") return { text: "The connection dropped before the server had this message. Retry sends it." };
  if (kind === "lost") return { text: "This answer is lost: the server no longer has it.", code: "response_not_found" };
  return { text: error?.message ?? "The server refused this message.", code: error?.code };
}

function problemBox({ text, code }, id) {
  const box = make("div", "problem");
  box.dataset.testid = "problem";
  box.append(make("p", "", text));
  const facts = [code, id && `request ${id}`].filter(Boolean).join(" · ");
  if (facts) box.append(make("p", "facts", facts));
  return box;
}

function statsLine({ stats, model }) {
  if (!stats) return model ?? "";
  const parts = model ? [model] : [];
  if (stats.first !== null) parts.push(`${duration(stats.first)} to first token`);
  if (stats.rate !== null) parts.push(`${Math.round(stats.rate)} tokens/s`);
  if (stats.tokens) parts.push(`${stats.tokens} token${stats.tokens === 1 ? "" : "s"}`);
  return parts.join(" · ");
}

function ordinal(number) {
  const ending = { one: "st", two: "nd", few: "rd", other: "th" };
  return `${number}${ending[new Intl.PluralRules("en", { type: "ordinal" }).select(number)]}`;
}

function duration(seconds) {
  if (seconds < 0.095) return `${Math.max(1, Math.round(seconds * 1000))} ms`;
  return `${seconds < 9.95 ? seconds.toFixed(1) : Math.round(seconds)} s`;
}
