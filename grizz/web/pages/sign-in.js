/**
 * Signing in and out, where the server has accounts.
 *
 * An API key becomes a session: a cookie that the browser keeps and no script can read. The key
 * itself stays nowhere in the page.
 */

import { clear } from "./store.js";

const $ = (id) => document.getElementById(id);

/** Whether the server has accounts at all; it says so in the page itself. */
export const hasAccounts = "accounts" in document.documentElement.dataset;

export class SignIn {
  #info;
  #onIn;
  #needed = false;
  #signedIn = false;

  /** `info()` asks the server who we are to it; `onIn()` is called when it will have us. */
  constructor(info, onIn) {
    this.#info = info;
    this.#onIn = onIn;
    $("sign-in-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    $("sign-in").addEventListener("close", () => {
      if (this.#needed) $("sign-in").showModal(); // Escape leads nowhere: without a key there is nothing to see
    });
    $("account").addEventListener("click", () => (this.#signedIn ? this.#leave() : this.#ask(false)));
  }

  /** Ask the server whether it knows us; if it must and does not, ask for a key. */
  async check() {
    const info = await this.#info().catch(() => null);
    if (info?.access === "needed") return this.#ask(true);
    this.#become(info?.access === "session");
    this.#onIn(); // also when it cannot be reached: then connecting is what goes on trying
  }

  /** The server closed the connection: because it no longer knows us? */
  async again() {
    const info = await this.#info().catch(() => null);
    if (info?.access === "needed") this.#ask(true);
  }

  #ask(needed) {
    this.#needed = needed;
    $("account").hidden = true;
    if (!$("sign-in").open) $("sign-in").showModal();
    $("key").focus();
  }

  async #submit() {
    const key = $("key").value.trim();
    if (!key) return;
    $("sign-in-send").disabled = true;
    const problem = await begin(key);
    $("sign-in-send").disabled = false;
    $("sign-in-error").textContent = problem;
    $("key").toggleAttribute("aria-invalid", problem !== "");
    if (problem) {
      $("key").select();
      return;
    }
    $("key").value = "";
    this.#needed = false;
    $("sign-in").close();
    this.check();
  }

  #become(signedIn) {
    this.#signedIn = signedIn;
    $("account").hidden = false;
    $("account").lastElementChild.textContent = $("account").ariaLabel = signedIn ? "Sign out" : "Sign in";
  }

  async #leave() {
    await clear();
    await fetch("/v1/session", { method: "DELETE" });
    location.reload();
  }
}

/** Make a session of a key; what is wrong, in words, or "". */
async function begin(key) {
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
