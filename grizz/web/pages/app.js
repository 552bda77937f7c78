/** The chat page: composer, connection pill, scrolling and the list of chats around one open chat. */

import { button, make } from "./body.js";
import { Chat } from "./chat.js";
import { Grizz } from "./grizz.js";
import { SignIn, hasAccounts } from "./sign-in.js";
import * as store from "./store.js";

const $ = (id) => document.getElementById(id);
const composer = $("composer");
const scroller = $("scroller");
const NEAR_BOTTOM_PX = 48;
const COPIED_MS = 1500;

const grizz = new Grizz();
const chats = new Map(); // id → Chat: the open one, and those whose answers still run
let chat = null; // the one on screen
const signIn = hasAccounts ? new SignIn(() => grizz.info(), () => grizz.connect()) : null;

const hooks = {
  copy,
  model: () => ($("model").hidden ? null : $("model").value || null),
  changed: (one) => one === chat && refresh(),
  announce: (one, text) => one === chat && announce(text),
};

// Chats -------------------------------------------------------------------------------------------

/** Put a chat on screen: a stored one by its id, or an empty one. */
function open(id) {
  const saved = id && !chats.has(id) ? store.load(id) : null;
  const next = chats.get(id) ?? new Chat(grizz, hooks, saved);
  if (chat && !chat.running && chat !== next) chats.delete(chat.id);
  chat = next;
  chats.set(chat.id, chat);
  store.setCurrent(chat.id);
  $("messages").replaceChildren(chat.element);
  refresh();
  follow.now();
}

function refresh() {
  $("welcome").hidden = !chat.empty;
  $("messages").hidden = chat.empty;
  $("stop").hidden = !chat.running;
  $("send").hidden = chat.running;
  $("send").disabled = !composer.value.trim();
  if (!chat.running) $("stop").disabled = false;
  document.title = chat.title ? `${chat.title} - Grizz` : "Grizz";
}

function send(text) {
  if (!text.trim() || chat.running) return;
  chat.send(text.trim());
  follow.now();
}

function stop() {
  if (!chat.running) return;
  $("stop").disabled = true; // until the server says that it ended
  composer.focus();
  chat.stop();
}

$("new-chat").addEventListener("click", () => {
  if (!chat.empty) open(null);
  composer.focus();
});

$("recent").addEventListener("click", () => {
  const entries = store.list();
  $("chat-list").replaceChildren(
    ...entries.map((entry) => {
      const row = make("li");
      const choose = button(entry.title, () => {
        $("chats").close();
        open(entry.id);
      });
      if (entry.id === chat.id) choose.ariaCurrent = "true";
      choose.append(make("time", "", ago(entry.updated)));
      row.append(choose);
      return row;
    }),
  );
  $("no-chats").hidden = entries.length > 0;
  $("forget").hidden = entries.length === 0;
  $("chats").showModal();
});

$("chats").addEventListener("click", (event) => {
  if (event.target === $("chats")) $("chats").close(); // the backdrop
});

$("forget").addEventListener("click", () => {
  store.clear();
  $("chats").close();
  for (const one of chats.values()) one.forget();
  open(null);
});

for (const example of document.querySelectorAll("[data-prompt]")) {
  example.addEventListener("click", () => {
    send(example.dataset.prompt);
    composer.focus();
  });
}

// The same chat in another tab went on: show what it shows.
store.onSaved((id) => {
  if (id !== chat.id || chat.running) return;
  const saved = store.load(id);
  const last = saved?.messages.at(-1);
  const unconfirmed = last?.status === "queued" && !last.id;
  if (!saved || unconfirmed || chat.matches(saved)) return;
  chats.delete(id);
  chat = null;
  open(id);
});

function saveAll() {
  for (const one of chats.values()) if (one.running) one.save();
}

// Composer ----------------------------------------------------------------------------------------

function grow() {
  composer.style.height = "auto";
  composer.style.height = `${composer.scrollHeight}px`;
}

composer.addEventListener("input", () => {
  grow();
  store.setDraft(composer.value);
  $("send").disabled = !composer.value.trim();
});

composer.addEventListener("keydown", (event) => {
  const composing = event.isComposing || event.keyCode === 229; // an input method owns this Enter
  if (event.key !== "Enter" || event.shiftKey || composing) return;
  event.preventDefault();
  $("form").requestSubmit();
});

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (chat.running || !composer.value.trim()) return;
  send(composer.value);
  composer.value = "";
  store.setDraft("");
  grow();
  refresh();
  composer.focus();
});

$("stop").addEventListener("click", stop);
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.isComposing && !document.querySelector("dialog[open]")) stop();
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
  if (hasAccounts && grizz.state.name === "refused") signIn.again();
});

document.addEventListener("visibilitychange", () => {
  grizz.presence(document.visibilityState === "hidden" ? "hidden" : "visible");
  if (document.visibilityState === "hidden") saveAll();
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
    $("jump").hidden = this.on || chat.empty;
  },

  grown() {
    if (!this.on) return this.scrolled();
    scroller.scrollTop = chat.empty ? 0 : scroller.scrollHeight;
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

function ago(time) {
  const minutes = Math.round((Date.now() - time) / 60_000);
  const format = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "short" });
  if (minutes < 60) return minutes < 1 ? "now" : format.format(-minutes, "minute");
  if (minutes < 60 * 24) return format.format(-Math.round(minutes / 60), "hour");
  return format.format(-Math.round(minutes / 60 / 24), "day");
}

// Start -------------------------------------------------------------------------------------------

if (document.visibilityState === "hidden") grizz.presence("hidden");
composer.value = store.draft();
open(store.current());
grow();
showConnection();
if (hasAccounts) signIn.check();
else grizz.connect();
if (matchMedia("(pointer: fine)").matches) composer.focus();
