/**
 * Chats kept in this browser: the latest ones, bounded, and nowhere else.
 *
 * A chat is `{id, title, updated, messages}`, one localStorage entry each, with one more entry as
 * the index. Which chat a tab shows stands in its sessionStorage, so a reload finds it again. Where
 * the browser denies storage, everything still works until the page is left.
 */

const INDEX = "grizz:chats";
const CHAT = "grizz:chat:";
const CURRENT = "grizz:current";
const MAX_CHATS = 30;
const MAX_MESSAGES = 200;
const MAX_CHARS = 400_000; // of one chat

function read(storage, key) {
  try {
    return JSON.parse(storage().getItem(key));
  } catch {
    return null;
  }
}

function write(storage, key, value) {
  try {
    storage().setItem(key, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

function erase(storage, key) {
  try {
    storage().removeItem(key);
  } catch {
    // denied: there is nothing to erase
  }
}

// Functions, because even looking at a denied storage throws.
const local = () => localStorage;
const session = () => sessionStorage;

/** `[{id, title, updated}]`, latest first. */
export function list() {
  const entries = read(local, INDEX);
  return Array.isArray(entries) ? entries.sort((a, b) => b.updated - a.updated) : [];
}

export function load(id) {
  const chat = read(local, CHAT + id);
  return Array.isArray(chat?.messages) ? chat : null;
}

export function save(chat) {
  const kept = { ...chat, messages: bounded(chat.messages) };
  const entries = [
    { id: chat.id, title: chat.title, updated: chat.updated },
    ...list().filter((entry) => entry.id !== chat.id),
  ];
  for (const entry of entries.splice(MAX_CHATS)) erase(local, CHAT + entry.id);
  const written = () => write(local, CHAT + chat.id, kept) && write(local, INDEX, entries);
  while (!written() && entries.length > 1) erase(local, CHAT + entries.pop().id); // full: the oldest goes
}

export function clear() {
  for (const entry of list()) erase(local, CHAT + entry.id);
  erase(local, INDEX);
}

/** The chat of this tab, or in a new tab the latest one. */
export const current = () => read(session, CURRENT) ?? list()[0]?.id ?? null;
export const setCurrent = (id) => write(session, CURRENT, id);

/** Small settings: the model that was picked, the text in the composer. */
export const setting = (name) => read(local, `grizz:${name}`);
export const setSetting = (name, value) => write(local, `grizz:${name}`, value);
export const draft = () => read(session, "grizz:draft") ?? "";
export const setDraft = (text) => write(session, "grizz:draft", text);

/** Another tab saved a chat: `listener(id)`. */
export function onSaved(listener) {
  addEventListener("storage", (event) => {
    if (event.key?.startsWith(CHAT) && event.newValue) listener(event.key.slice(CHAT.length));
  });
}

function bounded(messages) {
  let size = 0;
  let first = messages.length;
  while (first > 0 && messages.length - first < MAX_MESSAGES) {
    size += JSON.stringify(messages[first - 1]).length;
    if (size > MAX_CHARS && messages.length - first >= 2) break; // the last question and answer always stay
    first -= 1;
  }
  return messages.slice(first);
}
