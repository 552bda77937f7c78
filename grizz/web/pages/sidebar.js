/** The list of chats: those cached in this browser and those that the server keeps, as one. */

import { button, make } from "./body.js";
import * as store from "./store.js";

const $ = (id) => document.getElementById(id);
const TYPED_MS = 250;

export class Sidebar {
  #talks;
  #hooks;
  #local = new Map(); // id → entry of the store
  #remote = new Map(); // conversation → entry of the server
  #rows = new Map(); // id → {row, ...}
  #more = false;
  #last = null; // the last conversation of the last page
  #asked = 0;
  #timer = 0;
  #chosen = null; // the entry whose menu is open

  /** `hooks`: {open(entry), current(), rename(entry, name), remove(entry), save(entry, kind)}. */
  constructor(talks, hooks) {
    this.#talks = talks;
    this.#hooks = hooks;
    $("search").addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.refresh(), TYPED_MS);
      this.#draw();
    });
    $("search").addEventListener("keydown", (event) => {
      if (event.key === "Escape" && $("search").value) event.stopPropagation(); // it clears the field and stops no answer
      if (event.key === "ArrowDown") $("chat-list").querySelector("button")?.focus();
    });
    $("more-chats").addEventListener("click", () => this.#ask(this.#last));
    for (const item of $("menu").querySelectorAll("[data-do]")) {
      item.addEventListener("click", () => this.#do(item.dataset.do));
    }
    $("confirm").addEventListener("close", () => this.#confirmed());
  }

  /** Read this browser's chats, then ask the server for its own. */
  async refresh() {
    await this.reload();
    await this.#ask();
  }

  /** Read this browser's chats again. */
  async reload() {
    this.#local = new Map((await store.list()).map((entry) => [entry.id, entry]));
    this.#draw();
  }

  /** A chat of this page changed. */
  touch(chat) {
    const { id, conversation, title, name, updated, running } = chat;
    if (chat.empty) return;
    this.#local.set(id, { id, conversation, title, name, updated });
    const remote = this.#remote.get(conversation);
    if (remote) Object.assign(remote, { running, metadata: { ...remote.metadata, title: name } });
    this.#draw();
  }

  forget({ id, conversation }) {
    this.#local.delete(id);
    this.#remote.delete(conversation);
    this.#draw();
  }

  get #query() {
    return $("search").value.trim();
  }

  /** One page of the server's; those that are known stay when it cannot be asked. */
  async #ask(after = null) {
    const asked = ++this.#asked;
    const { entries, more } = await this.#talks.page({ after, query: this.#query }).catch(() => ({}));
    if (!entries || asked !== this.#asked) return;
    if (!after) this.#remote.clear();
    for (const entry of entries) this.#remote.set(entry.id, entry);
    [this.#more, this.#last] = [more, entries.at(-1)?.id ?? this.#last];
    this.#draw();
  }

  #entries() {
    const entries = new Map();
    for (const one of this.#remote.values()) {
      if (!one.items && !one.running) continue; // made and never used
      const { id, title, running, metadata } = one;
      const name = metadata.title ?? "";
      entries.set(id, { id, conversation: id, title: title || "New chat", name, updated: one.updated_at * 1000, running });
    }
    for (const own of this.#local.values()) {
      const both = entries.get(own.conversation);
      entries.delete(own.conversation);
      const title = both?.name || own.title;
      entries.set(own.id, { ...both, ...own, title, updated: Math.max(own.updated, both?.updated ?? 0) });
    }
    const wanted = this.#query.toLowerCase();
    return [...entries.values()]
      .filter(({ title }) => title.toLowerCase().includes(wanted))
      .sort((a, b) => b.updated - a.updated);
  }

  #draw() {
    const list = $("chat-list");
    const entries = this.#entries();
    const rows = new Map(entries.map((entry) => [entry.id, this.#row(entry)]));
    for (const [id, { row }] of this.#rows) if (!rows.has(id)) row.remove();
    [...rows.values()].forEach(({ row }, at) => {
      if (list.children[at] !== row) list.insertBefore(row, list.children[at] ?? null);
    });
    this.#rows = rows;
    $("no-chats").hidden = entries.length > 0;
    $("no-chats").textContent = this.#query ? "Nothing found." : "No chats yet.";
    $("more-chats").hidden = !this.#more;
  }

  #row(entry) {
    const made = this.#rows.get(entry.id) ?? this.#newRow();
    made.entry = entry;
    made.title.textContent = entry.title;
    made.time.textContent = entry.running ? "answering" : ago(entry.updated);
    made.more.ariaLabel = `Rename, export or delete: ${entry.title}`;
    if (entry.id === this.#hooks.current()) made.choose.ariaCurrent = "true";
    else made.choose.removeAttribute("aria-current");
    return made;
  }

  #newRow() {
    const made = { row: make("li"), title: make("span"), time: make("time") };
    made.title.dir = "auto";
    made.choose = button("", () => this.#hooks.open(made.entry));
    made.choose.classList.add("open");
    made.choose.append(made.title, made.time);
    made.more = button("⋯", () => this.#menu(made));
    made.more.classList.add("more");
    made.row.append(made.choose, made.more);
    return made;
  }

  #menu(made) {
    this.#chosen = made;
    const menu = $("menu");
    menu.showPopover();
    const at = made.more.getBoundingClientRect();
    menu.style.left = `${Math.max(8, Math.min(at.left, innerWidth - menu.offsetWidth - 8))}px`;
    menu.style.top = `${Math.min(at.bottom + 4, innerHeight - menu.offsetHeight - 8)}px`;
    menu.firstElementChild.focus();
  }

  #do(what) {
    $("menu").hidePopover();
    const { entry, more } = this.#chosen;
    more.focus();
    if (what === "rename") return this.#edit(this.#chosen);
    if (what !== "remove") return this.#hooks.save(entry, what);
    $("confirm-text").textContent = `“${entry.title}” is deleted here and on the server.`;
    $("confirm").showModal();
  }

  #confirmed() {
    if ($("confirm").returnValue !== "yes") return;
    $("confirm").returnValue = "";
    const { row, entry } = this.#chosen;
    const next = row.nextElementSibling ?? row.previousElementSibling;
    this.#hooks.remove(entry);
    (next?.querySelector("button") ?? $("search")).focus();
  }

  /** Its name, in a field in its place. */
  #edit({ row, choose, entry, more }) {
    const field = make("input");
    field.value = entry.title;
    field.maxLength = 200;
    field.ariaLabel = "New name";
    let over = false;
    const leave = (keep) => {
      if (over) return;
      over = true;
      const focused = document.activeElement === field;
      field.replaceWith(choose);
      if (focused) more.focus();
      const name = field.value.trim();
      if (keep && name !== entry.title) this.#hooks.rename(entry, name);
    };
    field.addEventListener("keydown", (event) => {
      if (event.isComposing || event.keyCode === 229 || !["Enter", "Escape"].includes(event.key)) return;
      event.preventDefault(); // else Enter would also press what has the focus next
      if (event.key === "Enter") return leave(true);
      event.stopPropagation(); // it stops no answer
      leave(false);
    });
    field.addEventListener("blur", () => leave(true));
    row.firstElementChild.replaceWith(field);
    field.select();
  }
}

function ago(time) {
  const minutes = Math.round((Date.now() - time) / 60_000);
  const format = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "short" });
  if (minutes < 60) return minutes < 1 ? "now" : format.format(-minutes, "minute");
  if (minutes < 60 * 24) return format.format(-Math.round(minutes / 60), "hour");
  return format.format(-Math.round(minutes / 60 / 24), "day");
}
