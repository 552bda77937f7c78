/**
 * One conversation: its messages, the answer that is being written, and what is sent for the next one.
 *
 * The server keeps it as a conversation from the first question on. This browser keeps a copy, which is on screen at
 * once, holds what the server does not (how fast an answer was, what failed), and begins the conversation anew should
 * the server have forgotten it.
 */

import { Answer, newRecord } from "./answer.js";
import { make } from "./body.js";
import { isRunning } from "./grizz.js";
import { merge, toContent, toItems, toMessages } from "./items.js";
import { Question } from "./question.js";
import * as store from "./store.js";

const SAVE_MS = 2000;
const RETRY_MS = 3000;
const TITLE_CHARS = 60;
const METADATA_CHARS = 512; // the API's bound for a value

export class Chat {
  #client;
  #talks;
  #hooks;
  #views = new Map(); // message → Question or Answer
  #stream = null; // while an answer is read
  #sending = null; // {stopped} while a question is on its way
  #saveTimer = 0;
  #forgotten = false;
  #stopped = false; // somebody wants no more of the answer that is being made
  #told = 0; // how often the server was told of the name and the options
  #missed = false; // what the server has was read at a bad moment

  /**
   * `saved` is what the store keeps, what is known of a conversation of the server, or null for an empty chat.
   * `hooks`: {copy(text, button), model(), changed(chat), announce(chat, text, failed), branched(saved),
   * replaced(chat)}; the last says that what had the focus may be gone.
   */
  constructor(client, talks, hooks, saved = null) {
    this.#client = client;
    this.#talks = talks;
    this.#hooks = hooks;
    this.id = saved?.id ?? newId();
    this.conversation = saved?.conversation ?? null;
    this.name = saved?.name ?? ""; // as its owner calls it
    this.updated = saved?.updated ?? 0;
    this.options = saved?.options ?? {}; // {instructions, temperature}
    this.undescribed = saved?.undescribed ?? false; // the server does not know the last name or options
    this.messages = saved?.messages ?? [];
    this.element = make("div", "chat");
    this.#draw();
    this.#resume();
  }

  get title() {
    if (this.name) return this.name;
    const text = this.messages[0]?.text || (this.messages[0] ? "Image" : "");
    return text.length > TITLE_CHARS ? `${text.slice(0, TITLE_CHARS).trimEnd()}…` : text;
  }

  get running() {
    return this.#stream !== null || this.#sending !== null;
  }

  /** Told to stop, and not ended yet. */
  get stopping() {
    return this.#stopped && this.#stream !== null;
  }

  get empty() {
    return this.messages.length === 0;
  }

  send(text, images = []) {
    if (this.running) return;
    this.messages.push({ role: "user", text, images });
    this.#ask();
  }

  /** Ask the last question again; the new answer takes the place of the old one. */
  retry() {
    const question = this.messages.findLast(({ role }) => role === "user");
    if (question) this.resend(question, question.text);
  }

  /** Ask something else in the place of one of the questions; what came after it goes. */
  async resend(question, text) {
    if (this.running || !this.messages.includes(question)) return;
    const sending = (this.#sending = { stopped: false });
    this.#hooks.changed(this);
    try {
      const gone = this.messages.slice(this.messages.indexOf(question));
      if (this.conversation && gone.some((one) => one.kept !== false)) await this.#cut(question);
    } catch (error) {
      this.#sending = null;
      this.#hooks.changed(this);
      return this.#hooks.announce(this, `Not sent. ${error.message}`, true);
    }
    this.#sending = null;
    this.messages.length = this.messages.indexOf(question);
    this.#draw();
    this.#hooks.replaced(this);
    this.messages.push({ role: "user", text, images: question.images });
    if (sending.stopped) this.messages.push({ ...newRecord(), status: "cancelled" });
    else return this.#ask();
    this.#draw();
    this.save();
    this.#hooks.changed(this);
  }

  /** The last question in its editor; false if there is none. */
  edit() {
    const last = this.messages.findLast(({ role }) => role === "user");
    if (!last || this.running) return false;
    this.#views.get(last).edit();
    return true;
  }

  /** Another chat that has this one's messages up to an answer. */
  async branch(record) {
    const upTo = this.messages.slice(0, this.messages.indexOf(record) + 1);
    const name = `${this.title} (branch)`;
    try {
      const items = this.conversation ? await this.#itemsUpTo(record) : toItems(upTo);
      const conversation = await this.#talks.create(items, { title: name });
      const messages = upTo.map((message) => structuredClone(message));
      this.#hooks.branched({ conversation, name, updated: Date.now(), options: { ...this.options }, messages });
    } catch (error) {
      this.#hooks.announce(this, `No branch made. ${error.message}`, true);
    }
  }

  stop() {
    this.#stopped = true;
    if (this.#sending) this.#sending.stopped = true;
    this.#stream?.cancel();
  }

  setLive(live) {
    if (this.running) this.#answer?.setLive(live);
  }

  /** Stop, and never be saved again. */
  forget() {
    this.#forgotten = true;
    this.stop();
  }

  /** Forget it here and on the server, which is asked at once: the page may be left the next moment. */
  async remove() {
    this.forget();
    const there = this.conversation && this.#talks.remove(this.conversation).catch(ignoreUnknown);
    const done = await Promise.allSettled([store.remove(this.id), there]);
    const failed = done.find(({ status }) => status === "rejected");
    if (failed) throw failed.reason;
  }

  /** Name it, or with "" call it by its first words again. */
  async rename(name) {
    await this.sync(); // what is written replaces all that the server knows beside the messages
    this.name = name;
    this.save();
    await this.describe();
  }

  /** Tell the server what is not in the messages, so that it is there on another device. */
  async describe() {
    const told = ++this.#told;
    this.undescribed = true;
    this.save();
    if (!this.conversation) return;
    await this.#talks.describe(this.conversation, this.#metadata()).catch(ignoreUnknown);
    if (told !== this.#told) return;
    this.undescribed = false;
    this.save();
  }

  save() {
    clearTimeout(this.#saveTimer);
    this.#saveTimer = 0;
    if (this.empty || this.#forgotten) return;
    const { id, conversation, name, title, updated, options, undescribed, messages } = this;
    store.save(structuredClone({ id, conversation, name, title, updated, options, undescribed, messages }));
  }

  /** Show what the server has of it: turns made elsewhere, and the answer that runs, if one does. */
  async sync() {
    if (!this.running) await this.#look();
  }

  /** What another tab wrote of this chat. */
  adopt(saved) {
    const last = saved.messages.at(-1);
    if (this.running || (last?.status === "queued" && !last.id)) return;
    const { conversation, name, options, undescribed = false } = saved;
    const described = name === this.name && JSON.stringify(options) === JSON.stringify(this.options);
    if (signature(saved.messages) === signature(this.messages) && described) {
      this.undescribed = undescribed;
      return;
    }
    const mine = this.messages.at(-1);
    const lags = last?.id && mine?.id === last.id && isRunning(last.status) && !isRunning(mine.status);
    if (lags) return this.save(); // it was served later than this page
    Object.assign(this, { conversation, name, options, undescribed });
    this.messages = saved.messages.map((one, at) => {
      const own = this.messages[at]; // what is the same stays as it is shown, with an editor that is open in it
      return own && signature([own]) === signature([one]) ? Object.assign(own, one) : one;
    });
    this.#draw();
    this.#resume();
    this.#hooks.changed(this);
  }

  // What is on the page -------------------------------------------------------------------------

  get #answer() {
    const view = this.#views.get(this.messages.at(-1));
    return view instanceof Answer ? view : null;
  }

  /** Show every message; those that are shown already stay as they are. */
  #draw() {
    const views = new Map(this.messages.map((one) => [one, this.#views.get(one) ?? this.#view(one)]));
    const wanted = [...views.values()].map((view) => view.element);
    for (const child of [...this.element.children]) if (!wanted.includes(child)) child.remove();
    wanted.forEach((element, at) => {
      if (this.element.children[at] !== element) this.element.insertBefore(element, this.element.children[at] ?? null);
    });
    this.#views = views;
  }

  #view(message) {
    const { copy } = this.#hooks;
    if (message.role === "user") return new Question(message, { copy, resend: (text) => this.resend(message, text) });
    return new Answer(message, { copy, retry: () => this.retry(), branch: () => this.branch(message) });
  }

  // Asking --------------------------------------------------------------------------------------

  #ask() {
    this.messages.push(newRecord());
    this.#draw();
    this.updated = Date.now();
    this.save();
    this.#send();
  }

  /** Send the last question, once there is a conversation to send it in. */
  async #send(again = true) {
    const sending = (this.#sending = { stopped: false });
    this.#stopped = false;
    this.#answer.setLive(this.#client.live);
    this.#hooks.changed(this);
    let failed = null;
    try {
      this.conversation ?? this.#begun(await this.#create(sending));
    } catch (error) {
      failed = { kind: "refused", error };
    }
    this.#sending = null;
    if (this.#forgotten) return this.#removeLate();
    if (sending.stopped) failed = { kind: "cancelled" };
    if (failed) return this.#ended(failed, again);
    this.#follow((handlers) => this.#client.create(this.#body(), handlers), again);
  }

  /** It was deleted while its conversation was being made. */
  async #removeLate() {
    try {
      if (this.conversation) await this.#talks.remove(this.conversation).catch(ignoreUnknown);
    } catch (error) {
      this.#hooks.announce(this, `Not deleted on the server. ${error.message}`, true);
    }
  }

  /** The conversation on the server, with what was said so far; waits for the connection. */
  async #create(sending) {
    const items = toItems(this.messages.slice(0, -2));
    for (;;) {
      try {
        return await this.#talks.create(items, this.#metadata());
      } catch (error) {
        if (error.status || sending.stopped || this.#client.state.name === "refused") throw error;
        await changed(this.#client);
      }
    }
  }

  /** There is a conversation, with all but the question that is about to be sent; null: there is none any more. */
  #begun(conversation) {
    this.conversation = conversation;
    const there = conversation === null ? [] : this.messages.slice(0, -2);
    // The ids of another conversation mean nothing in this one.
    for (const one of this.messages) Object.assign(one, { kept: there.includes(one), items: undefined });
    this.save();
  }

  #body() {
    const { text, images } = this.messages.at(-2);
    const input = images?.length ? [{ type: "message", role: "user", content: toContent({ text, images }) }] : text;
    const { instructions, temperature } = this.options;
    const body = { input, conversation: this.conversation, background: true, model: this.#hooks.model() ?? undefined };
    if (instructions) body.instructions = instructions;
    if (temperature !== undefined && temperature !== null) body.temperature = temperature;
    return body;
  }

  #follow(start, again = false) {
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
      onQueue: (position) => answer.queue(position),
      onSnapshot: (response) => answer.snapshot(response),
      onEnd: (outcome) => this.#ended(outcome, again),
    });
    this.#hooks.changed(this);
  }

  async #ended(outcome, again) {
    this.#stream = null;
    if (this.#forgotten) return;
    if (outcome.error?.code === "conversation_not_found" && again) {
      this.#begun(null); // the server forgot it, this page did not
      return this.#send(false);
    }
    if (outcome.kind === "unknown") {
      const found = await this.#lookForLast();
      this.#stopped &&= this.#stream !== null || found === false;
      if (found) return;
      if (found === false) outcome = { kind: this.#stopped ? "cancelled" : "absent" };
    }
    this.#stopped = false;
    const answer = this.#answer;
    answer.finish(outcome);
    const { id, status, items } = answer.record;
    // What the server keeps of a turn: see "Conversations" in docs/protocol.md.
    const said = status !== "failed" && (status !== "cancelled" || items?.length > 0);
    // Undefined: it may be there, so it is looked for before it is asked again.
    const kept = outcome.kind === "done" ? said : outcome.kind === "unknown" || id ? undefined : false;
    answer.record.kept = this.messages.at(-2).kept = kept;
    if (!said) answer.record.items = undefined;
    this.updated = Date.now();
    this.save();
    this.#hooks.changed(this);
    this.#hooks.announce(this, ending(answer.record));
    if (this.#missed) this.sync();
  }

  /** The connection dropped before the server confirmed a question: is it there? null: nobody could say. */
  async #lookForLast() {
    const sending = (this.#sending = { stopped: false, unwanted: this.#stopped });
    const record = this.messages.at(-1);
    this.#hooks.changed(this);
    const waits = () => !this.#client.live && !["refused", "asleep"].includes(this.#client.state.name);
    while (waits() && !sending.stopped) await changed(this.#client);
    const looked = !sending.stopped && (!this.conversation || (await this.#look(sending)));
    this.#sending = null;
    return looked ? !this.messages.includes(record) : null;
  }

  /** See `sync`. False when the server could not be asked, or something began here meanwhile. */
  async #look(sending = null) {
    if (!this.conversation) return false;
    const busy = () => this.#stream !== null || this.#sending !== sending;
    let items;
    let known;
    let asked;
    const told = this.#told;
    try {
      // In this order: a turn that ended in between is missing from the items, and their number tells.
      items = await this.#talks.items(this.conversation);
      known = await this.#talks.get(this.conversation);
      if (!known.running && known.items !== items.length) items = await this.#talks.items(this.conversation);
      // One whose process died is named and not found.
      asked = known.running && (await this.#talks.input(known.running).catch(ignoreUnknown));
    } catch (error) {
      if (error.status === 404 && !busy()) this.#begun(null);
      return error.status === 404;
    }
    this.#missed = busy();
    if (this.#missed || this.#forgotten) return false;
    const before = signature(this.messages);
    if (this.undescribed) this.describe().catch(() => {}); // the next look tries again
    else if (told === this.#told) this.#describedAs(known.metadata);
    this.messages = merge(this.messages, toMessages(items));
    if (asked) this.#join(known.running, toMessages(asked));
    if (before === signature(this.messages)) return true;
    this.#sending = null;
    this.#draw();
    if (!sending || this.messages.at(-1)?.id) this.#resume(); // else who looks has the last word on it
    if (sending?.stopped || sending?.unwanted) this.stop();
    this.save();
    this.#hooks.changed(this);
    return true;
  }

  /** An answer that was still running when this chat was kept, or that runs for another page, is read from its first event. */
  #resume() {
    const answer = this.#answer;
    if (!answer?.running || this.running) return;
    if (!answer.record.id) return this.#ended({ kind: "unknown" }, false);
    answer.setLive(this.#client.live);
    this.#follow((handlers) => this.#client.attach(answer.record.id, {}, handlers));
  }

  /** A response runs in this conversation: show its question and a place for its answer. */
  #join(id, asked) {
    if (this.messages.some((message) => message.id === id)) return;
    const questions = asked.map(({ role, text, images }) => ({ role, text, images }));
    const [question, answer] = this.messages.slice(-2);
    const mine = question?.text === questions.at(-1)?.text && answer && !answer.kept && !answer.id;
    if (mine) this.messages.pop();
    else this.messages.push(...questions);
    this.messages.push({ ...newRecord(), id, status: "in_progress", gap: true });
  }

  // The server's items --------------------------------------------------------------------------

  /** Take a question, and all that came after it, out of the conversation on the server. */
  async #cut(question) {
    const items = await this.#talks.items(this.conversation).catch(ignoreUnknown);
    if (!items) return; // the server forgot it
    const all = merge(this.messages, toMessages(items));
    const at = all.indexOf(question);
    if (at < 0) throw new Error("This chat was changed elsewhere. Open it again.");
    await this.#talks.cut(this.conversation, all.slice(at).flatMap((message) => message.items ?? []));
  }

  async #itemsUpTo(record) {
    const items = await this.#talks.items(this.conversation);
    const all = merge(this.messages, toMessages(items));
    const at = all.indexOf(record);
    if (at < 0) throw new Error("This chat was changed elsewhere. Open it again.");
    const ids = new Set(all.slice(0, at + 1).flatMap((message) => message.items ?? []));
    return items.slice(0, items.findLastIndex((item) => ids.has(item.id)) + 1);
  }

  #metadata() {
    const { instructions, temperature } = this.options;
    const metadata = {};
    if (this.name) metadata.title = this.name.slice(0, METADATA_CHARS);
    if (instructions && instructions.length <= METADATA_CHARS) metadata.instructions = instructions;
    if (temperature !== undefined && temperature !== null) metadata.temperature = String(temperature);
    return metadata;
  }

  #describedAs({ title = "", instructions = "", temperature }) {
    this.name = title;
    const own = this.options.instructions ?? "";
    const tooLong = own.length > METADATA_CHARS; // for the server, which has none then
    const said = instructions || !tooLong ? instructions : own;
    this.options = { instructions: said, temperature: temperature ? Number(temperature) : null };
  }

  #saveSoon() {
    this.#saveTimer ||= setTimeout(() => this.save(), SAVE_MS);
  }
}

const signature = (messages) => JSON.stringify(messages.map(({ role, id, status, text }) => [role, id, status, text]));

/** The next change of the connection's state, or a while later. */
function changed(client) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      client.removeEventListener("state", done);
      resolve();
    };
    const timer = setTimeout(done, RETRY_MS);
    client.addEventListener("state", done);
  });
}

function ignoreUnknown(error) {
  if (error.status !== 404) throw error;
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
