/**
 * Chats cached in this browser (IndexedDB), and small settings of it.
 *
 * A chat is `{id, conversation, title, updated, options, messages}`; an entry is a chat without its messages. The
 * server keeps conversations for as long as it is told to, this cache the latest MAX_CHATS of them. Where the browser
 * denies storage, everything works until the page is left.
 */

const MAX_CHATS = 200;
const CURRENT = "grizz:current";

const OPEN_MS = 3000; // some browsers never answer

const channel = wire(); // to other tabs
const memory = new Map(); // in place of the database, where there is none
let opened = null;
let cleared = false; // this page is about to be loaded anew, for somebody else

function wire() {
  try {
    return new BroadcastChannel("grizz");
  } catch {
    return null; // as for all that is kept, where storage is denied
  }
}

function database() {
  opened ??= new Promise((resolve) => {
    try {
      const asked = indexedDB.open("grizz", 1);
      asked.onupgradeneeded = () => {
        asked.result.createObjectStore("chats", { keyPath: "id" });
        asked.result.createObjectStore("entries", { keyPath: "id" });
      };
      asked.onsuccess = () => {
        const db = asked.result;
        db.onclose = db.onversionchange = () => {
          db.close();
          opened = null;
        };
        resolve(db);
      };
      asked.onerror = () => resolve(null);
      setTimeout(() => resolve(null), OPEN_MS);
    } catch {
      resolve(null);
    }
  });
  return opened;
}

/**
 * Do `work(chats, entries)` in one transaction; the result of the request that it returns, or null without a database.
 * In the order of the calls.
 */
async function transact(mode, work, again = true) {
  const db = await database();
  if (!db) return null;
  try {
    return await within(db, mode, work);
  } catch (error) {
    // Browsers close a database that lies idle, or whose page was in the background.
    if (!again || !["InvalidStateError", "UnknownError"].includes(error?.name)) throw error;
    opened = null;
    return transact(mode, work, false);
  }
}

function within(db, mode, work) {
  return new Promise((resolve, reject) => {
    const all = db.transaction(["chats", "entries"], mode);
    const asked = work(all.objectStore("chats"), all.objectStore("entries"));
    if (mode === "readwrite") all.commit?.(); // at once: a page that is left now has no time to hear that it was written
    all.oncomplete = () => resolve(asked?.result ?? null);
    all.onabort = all.onerror = () => reject(all.error);
  });
}

const entryOf = ({ messages: _, ...entry }) => entry;
const latestFirst = (entries) => entries.sort((a, b) => b.updated - a.updated);

/** Entries, latest first. */
export async function list() {
  const found = await transact("readonly", (_, entries) => entries.getAll()).catch(() => null);
  return latestFirst(found ?? [...memory.values()].map(entryOf));
}

export async function load(id) {
  return (await transact("readonly", (chats) => chats.get(id)).catch(() => null)) ?? memory.get(id) ?? null;
}

/** Keep a chat; the oldest gives way. Other tabs are told. */
export async function save(chat) {
  if (cleared) return;
  const put = (chats, entries) => {
    entries.put(entryOf(chat));
    return chats.put(chat);
  };
  const full = () => shrink(MAX_CHATS / 4).then(() => transact("readwrite", put));
  const kept = await transact("readwrite", put).catch(full).catch(() => null);
  if (kept === null) memory.set(chat.id, structuredClone(chat));
  else await shrink(MAX_CHATS);
  channel?.postMessage({ kind: "saved", id: chat.id });
}

async function shrink(most) {
  const gone = (await list()).slice(most);
  if (gone.length) await erase(gone);
}

const erase = (gone) =>
  transact("readwrite", (chats, entries) => {
    for (const { id } of gone) {
      chats.delete(id);
      entries.delete(id);
    }
  });

export async function remove(id) {
  memory.delete(id);
  await erase([{ id }]);
  channel?.postMessage({ kind: "removed", id });
}

/** Another tab removed a chat: this one may have saved it once more before it heard of that. */
export async function removedElsewhere(id) {
  memory.delete(id);
  await erase([{ id }]);
  channel?.postMessage({ kind: "gone", id });
}

/** Forget what this tab keeps of this user, and keep nothing more until it is loaded anew. */
export function clearTab() {
  cleared = true;
  tab(() => sessionStorage.clear());
  for (const name of ["options", "model"]) tab(() => localStorage.removeItem(`grizz:${name}`));
}

/** Forget everything that this browser keeps of this user; the page has to be loaded anew after it. */
export async function clear() {
  clearTab();
  memory.clear();
  const empty = (chats, entries) => {
    chats.clear();
    entries.clear();
  };
  await transact("readwrite", empty).catch(destroy);
  channel?.postMessage({ kind: "removed", id: null });
}

const destroy = () =>
  new Promise((resolve, reject) => {
    const asked = indexedDB.deleteDatabase("grizz");
    asked.onsuccess = resolve;
    asked.onerror = () => reject(asked.error);
  });

/** Another tab changed a chat: `listener({kind: "saved" | "removed" | "gone", id})`; id null: all of them. */
export function onChanged(listener) {
  if (channel) channel.onmessage = ({ data }) => listener(data);
}

// Small settings: even looking at a denied storage throws.

function tab(work) {
  try {
    return JSON.parse(work() ?? null);
  } catch {
    return null;
  }
}

/** The chat of this tab: `{id, conversation}`, `{}` for one that has nothing yet, null in a tab that had none. */
export const current = () => tab(() => sessionStorage.getItem(CURRENT));
export const setCurrent = (entry) => cleared || tab(() => sessionStorage.setItem(CURRENT, JSON.stringify(entry)));
/** Of this browser: the model that was picked, and the like. */
export const setting = (name) => tab(() => localStorage.getItem(`grizz:${name}`));
export const setSetting = (name, value) => tab(() => localStorage.setItem(`grizz:${name}`, JSON.stringify(value)));
export const draft = () => tab(() => sessionStorage.getItem("grizz:draft")) ?? "";
export const setDraft = (text) => tab(() => sessionStorage.setItem("grizz:draft", JSON.stringify(text)));
