/** The chat page: connection pill, scrolling, shortcuts and dialogs around one open chat. */

import { make } from "./body.js";
import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { Grizz } from "./grizz.js";
import { Sidebar } from "./sidebar.js";
import * as store from "./store.js";
import { Talks } from "./talks.js";

const $ = (id) => document.getElementById(id);
const scroller = $("scroller");
const NEAR_BOTTOM_PX = 48;
const COPIED_MS = 1500;
const TOAST_MS = 8000;
const AWAY_MS = 30_000; // who looked away for longer may have gone on elsewhere

const grizz = new Grizz();
const talks = new Talks(grizz);
const chats = new Map(); // id → Chat: the open one, and those whose answers still run
let chat = null; // the one on screen
let opened;
const begun = new Promise((resolve) => (opened = resolve)); // until a chat is on screen
let opening = 0;

// Where the server has accounts, it says so in the page itself.
const signIn = "accounts" in document.documentElement.dataset ? await import("./sign-in.js") : null;
const composer = new Composer({
  send,
  changed: () => chat && refresh(),
  editLast: () => chat.edit(),
  complain: toast,
});
const sidebar = new Sidebar(talks, {
  open: (entry) => {
    closeSide();
    open(entry);
  },
  current: () => chat?.id,
  rename: (entry, name) => attempt("Not renamed", async () => {
    const one = await whole(entry);
    await one.rename(name);
    hooks.changed(one);
  }),
  remove: (entry) => attempt("Not deleted on the server", () => remove(entry)),
  save: (entry, kind) => attempt("Not exported", async () => {
    const [one, { download }] = await Promise.all([whole(entry), import("./export.js")]);
    await one.sync();
    download(one, kind);
  }),
});

const hooks = {
  copy,
  model: () => ($("model").hidden ? null : $("model").value || null),
  changed: (one) => {
    sidebar.touch(one);
    if (one !== chat) return;
    remember();
    refresh();
  },
  announce: (one, text, failed) => (failed ? toast(text) : one === chat && announce(text)),
  replaced: (one) => one === chat && composer.focus(),
  branched: (saved) => {
    const branch = new Chat(grizz, talks, hooks, saved);
    branch.save();
    sidebar.touch(branch);
    chats.set(branch.id, branch);
    open(branch);
    announce("A branch of the chat is open.");
  },
};

// Chats -------------------------------------------------------------------------------------------

/** The chat of an entry, as this browser has it. */
async function whole(entry) {
  if (chats.has(entry.id)) return chats.get(entry.id);
  const saved = await store.load(entry.id);
  return chats.get(entry.id) ?? new Chat(grizz, talks, hooks, saved ?? entry);
}

/** Put a chat on screen: that of an entry, or an empty one; then look at what the server has of it. */
async function open(entry) {
  const turn = ++opening;
  const fresh = { options: store.setting("options") ?? {} };
  const next = entry ? await whole(entry) : new Chat(grizz, talks, hooks, fresh);
  if (turn !== opening) return;
  if (chat && !chat.running && chat !== next) chats.delete(chat.id);
  chat = next;
  opened();
  chats.set(chat.id, chat);
  remember();
  $("messages").replaceChildren(chat.element);
  refresh();
  follow.now();
  sidebar.reload();
  composer.focusIfMouse();
  chat.sync();
}

/** So that this tab finds its chat again, also where its copy in this browser is gone. */
function remember() {
  const { id, conversation } = chat;
  store.setCurrent(chat.empty && !conversation ? {} : { id, conversation });
}

function refresh() {
  const empty = chat.empty && !chat.conversation;
  $("welcome").hidden = !empty;
  $("messages").hidden = empty;
  $("stop").hidden = !chat.running;
  $("send").hidden = chat.running;
  $("send").disabled = composer.empty;
  $("stop").disabled = chat.stopping;
  const { instructions, temperature } = chat.options;
  $("options-open").toggleAttribute("data-set", Boolean(instructions) || (temperature ?? null) !== null);
  document.title = chat.title ? `${chat.title} - Grizz` : "Grizz";
}

function send(text, images = []) {
  if (!chat) return void begun.then(() => send(text, images)); // who is fast asks before the page has read its chats
  if (chat.running || !(text.trim() || images.length)) return;
  chat.send(text, images);
  composer.clear();
  composer.focus();
  follow.now();
}

function stop() {
  if (!chat?.running) return;
  composer.focus();
  chat.stop();
  refresh();
}

function newChat() {
  closeSide();
  if (!chat.empty || chat.conversation) open();
  composer.focus();
}

async function remove(entry) {
  const one = await whole(entry);
  chats.delete(one.id);
  const gone = one.remove(); // begun first: what is read of the store from now on is without it
  sidebar.forget(one);
  if (one === chat) open();
  await gone;
}

async function attempt(failed, work) {
  try {
    await work();
  } catch (error) {
    toast(`${failed}. ${error.message}`);
  }
}

$("new-chat").addEventListener("click", newChat);
$("stop").addEventListener("click", stop);
for (const example of document.querySelectorAll("[data-prompt]")) {
  example.addEventListener("click", () => send(example.dataset.prompt));
}

store.onChanged(async ({ kind, id }) => {
  if (id === null) { // signed out in another tab
    store.clearTab();
    return location.reload();
  }
  const one = chats.get(id);
  if (kind === "removed") {
    one?.forget();
    chats.delete(id);
    store.removedElsewhere(id);
    if (one && one === chat) open();
  } else if (kind === "saved" && one) {
    const saved = await store.load(id);
    if (saved) one.adopt(saved);
  }
  sidebar.reload();
});

function saveAll() {
  for (const one of chats.values()) if (one.running) one.save();
}

// Dialogs, the drawer and shortcuts ---------------------------------------------------------------

const wide = matchMedia("(min-width: 60rem)");
wide.addEventListener("change", closeSide);

function closeSide() {
  if ($("side").matches(":popover-open")) $("side").hidePopover();
}

$("side").addEventListener("toggle", (event) => event.newState === "open" && sidebar.refresh());
$("help").addEventListener("click", () => $("shortcuts").showModal());
for (const dialog of document.querySelectorAll("dialog:not(#sign-in)")) {
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close("")); // the backdrop
}

$("options-open").addEventListener("click", () => {
  $("instructions").value = chat.options.instructions ?? "";
  $("temperature").value = chat.options.temperature ?? "";
  $("options").returnValue = "";
  $("options").showModal();
});

$("options-cancel").addEventListener("click", () => $("options").close());
$("options").addEventListener("close", () => {
  if ($("options").returnValue !== "save") return;
  const temperature = $("temperature").value === "" ? null : Number($("temperature").value);
  chat.options = { instructions: $("instructions").value.trim(), temperature };
  store.setSetting("options", chat.options);
  attempt("Not kept on the server", () => chat.describe());
  refresh();
  composer.focus();
});

addEventListener("keydown", (event) => {
  if (event.isComposing || event.keyCode === 229 || event.defaultPrevented || document.querySelector("dialog[open]")) return;
  const control = event.ctrlKey || event.metaKey;
  const typing = event.target.matches("input, textarea, select");
  if (event.key === "Escape" && !document.querySelector(":popover-open")) return stop();
  if (control && !event.shiftKey && event.key.toLowerCase() === "k") {
    if (!wide.matches) $("side").showPopover();
    $("search").focus();
  } else if (control && event.shiftKey && event.key.toLowerCase() === "o") newChat();
  else if (event.key === "?" && !typing) $("shortcuts").showModal();
  else if (event.key === "/" && !typing) composer.focus();
  else return;
  event.preventDefault();
});

// Connection --------------------------------------------------------------------------------------

let countdown = 0;
let degraded = ""; // why the server works alone, when it should work with others

function showConnection() {
  clearTimeout(countdown);
  const { name, retryAt, restarting, reason } = grizz.state;
  const seconds = retryAt ? Math.max(1, Math.ceil((retryAt - Date.now()) / 1000)) : 0;
  const pill = $("connection");
  pill.dataset.state = name;
  if (name === "reconnecting" && restarting) pill.textContent = "server restarting";
  else if (name === "reconnecting" && seconds) pill.textContent = `reconnecting in ${seconds} s`;
  else if (name === "asleep") pill.textContent = "idle";
  else pill.textContent = name === "live" && degraded ? "live, degraded" : name;
  pill.dataset.degraded = degraded;
  if (name === "asleep") pill.title = "Closed for being idle; the next message connects again";
  else if (name !== "live") pill.title = reason ?? "";
  else pill.title = degraded ? `Connected; this server works alone (${degraded})` : "Connected to the server";
  $("refused").hidden = name !== "refused";
  $("refused").textContent = reason ? `The server closed the connection: ${reason} Reload the page to try again.` : "";
  if (seconds > 1) countdown = setTimeout(showConnection, 1000);
}

grizz.addEventListener("state", () => {
  showConnection();
  for (const one of chats.values()) one.setLive(grizz.live);
  if (grizz.live && !known) learn();
  if (grizz.live) look();
  if (signIn && grizz.state.name === "refused") signIn.again(grizz);
});

/** What the server has: the list of chats, and more of the open one. */
function look() {
  sidebar.refresh();
  chat?.sync();
}

let left = 0;
document.addEventListener("visibilitychange", () => {
  const hidden = document.visibilityState === "hidden";
  grizz.presence(hidden ? "hidden" : "visible");
  if (hidden) saveAll();
  else if (Date.now() - left > AWAY_MS) look();
  left = Date.now();
});
addEventListener("pagehide", saveAll);

// What the server is ------------------------------------------------------------------------------

const HEALTH_MS = 20_000;
let known = false;
let health = 0;

/** Several servers share their work: is this one cut off from the others? Asked while somebody looks. */
async function watchHealth() {
  clearTimeout(health);
  if (document.visibilityState === "visible") {
    const info = await grizz.info().catch(() => null);
    if (info && info.access !== "needed" && info.degraded !== degraded) {
      degraded = info.degraded;
      showConnection();
    }
  }
  health = setTimeout(watchHealth, HEALTH_MS);
}

async function learn() {
  known = true;
  const [info, models] = await Promise.allSettled([grizz.info(), grizz.models()]);
  if (info.status === "fulfilled") {
    $("banner").hidden = !info.value.demo;
    if (info.value.scaled) watchHealth();
  }
  if (models.status === "fulfilled") offer(models.value, info.value?.model);
  else if (info.status === "fulfilled") $("model-name").textContent = info.value.model ?? "";
  known = info.status === "fulfilled" && models.status === "fulfilled";
}

/** A choice if there is one to make, else the plain name. */
function offer(models, preset) {
  const select = $("model");
  const chosen = store.setting("model");
  select.replaceChildren(...models.map((id) => new Option(id, id)));
  select.hidden = models.length < 2;
  $("model-name").textContent = models.length < 2 ? (models[0] ?? preset ?? "") : "";
  select.value = [chosen, preset, models[0]].find((id) => models.includes(id)) ?? "";
}

$("model").addEventListener("change", () => store.setSetting("model", $("model").value));

// Scrolling: follow only a reader who is at the end -----------------------------------------------

const follow = {
  on: true,
  lastTop: 0,

  now() {
    this.on = true;
    this.grown();
    $("jump").hidden = true;
  },

  scrolled() {
    const top = scroller.scrollTop;
    const gap = scroller.scrollHeight - scroller.clientHeight - top;
    // Growing text also moves the end away: only a reader who went up has left it.
    if (gap < NEAR_BOTTOM_PX) this.on = true;
    else if (top < this.lastTop) this.on = false;
    this.lastTop = top;
    $("jump").hidden = this.on || !chat || chat.empty;
  },

  grown() {
    if (!this.on) return this.scrolled();
    scroller.scrollTop = !chat || chat.empty ? 0 : scroller.scrollHeight;
    this.lastTop = scroller.scrollTop;
  },
};

scroller.addEventListener("scroll", () => follow.scrolled(), { passive: true });
new ResizeObserver(() => follow.grown()).observe($("messages"));
new ResizeObserver(() => follow.grown()).observe(scroller);
$("jump").addEventListener("click", () => {
  follow.now();
  composer.focus();
});

// Small things ------------------------------------------------------------------------------------

function announce(text) {
  $("announcer").textContent = text;
}

let toasted = 0;
function toast(text) {
  clearTimeout(toasted);
  $("toast").textContent = text;
  $("toast").hidden = false;
  toasted = setTimeout(() => ($("toast").hidden = true), TOAST_MS);
}

async function copy(text, from) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copyTheOldWay(text); // no clipboard API without https
  }
  from.dataset.done = "";
  setTimeout(() => delete from.dataset.done, COPIED_MS);
  announce("Copied.");
}

function copyTheOldWay(text) {
  const area = make("textarea", "hidden");
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

// Start -------------------------------------------------------------------------------------------

if (document.visibilityState === "hidden") grizz.presence("hidden");
showConnection();
if (signIn) signIn.begin(grizz, start);
else await start();

/** Show the chat that was open here last, and connect. */
async function start() {
  grizz.connect();
  const last = store.current() ?? (await store.list())[0];
  await open(chat ?? (last?.id ? last : null));
}
