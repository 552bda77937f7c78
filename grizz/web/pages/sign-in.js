/**
 * Signing in and out, where the server has accounts.
 *
 * An API key becomes a session: a cookie that the browser keeps and no script can read. The key itself stays nowhere in
 * the page. What this browser keeps of a user goes with the user.
 */

import { clear, setSetting, setting } from "./store.js";

const $ = (id) => document.getElementById(id);
let needed = false;
let signedIn = false;
let whenIn = null;

/** Ask the server who we are to it, and for a key if it must know; `start` when it will have us, or nobody answers. */
export async function begin(client, start) {
  whenIn = start;
  $("sign-in-form").addEventListener("submit", (event) => {
    event.preventDefault();
    submit(client);
  });
  $("sign-in").addEventListener("close", () => {
    if (needed) $("sign-in").showModal(); // Escape leads nowhere: without a key there is nothing to see
  });
  $("account").addEventListener("click", () => (signedIn ? leave() : ask(false)));
  await check(client);
}

/** The server closed the connection: because it no longer knows us? */
export async function again(client) {
  const info = await client.info().catch(() => null);
  if (info?.access === "needed") ask(true);
}

async function check(client) {
  const info = await client.info().catch(() => null);
  if (info?.access === "needed") return ask(true);
  if (info && (await isAnother(info.owner))) return location.reload();
  signedIn = info?.access === "session";
  $("account").hidden = false;
  told(signedIn ? "Sign out" : "Sign in");
  whenIn();
}

/** Is this another user than the one whose chats are cached here? Then they are forgotten. */
async function isAnother(owner) {
  const before = setting("owner");
  setSetting("owner", owner);
  if (!before || before === owner) return false;
  await clear();
  return true;
}

function told(text) {
  $("account").lastElementChild.textContent = $("account").ariaLabel = text;
}

function ask(must) {
  needed = must;
  $("account").hidden = true;
  if (!$("sign-in").open) $("sign-in").showModal();
  $("key").focus();
}

async function submit(client) {
  const key = $("key").value.trim();
  if (!key) return;
  $("sign-in-send").disabled = true;
  const problem = await session(key);
  $("sign-in-send").disabled = false;
  $("sign-in-error").textContent = problem;
  $("key").toggleAttribute("aria-invalid", problem !== "");
  if (problem) {
    $("key").select();
    return;
  }
  $("key").value = "";
  needed = false;
  $("sign-in").close();
  check(client);
}

async function leave() {
  // First of all, since other tabs load anew when all is cleared.
  const answer = await fetch("/v1/session", { method: "DELETE" }).catch(() => null);
  if (!answer?.ok) return told("Not signed out: no answer");
  await clear().finally(() => location.reload());
}

/** Make a session of a key; what is wrong, in words, or "". */
async function session(key) {
  if (!/^[!-~]+$/.test(key)) return "This is no API key: it has letters that no key has.";
  try {
    const headers = { Authorization: `Bearer ${key}` };
    const answer = await fetch("/v1/session", { method: "POST", headers });
    if (answer.ok) return "";
    const body = await answer.json().catch(() => ({}));
    return body.error?.message ?? `The server answered ${answer.status}.`;
  } catch {
    return "The server cannot be reached.";
  }
}
