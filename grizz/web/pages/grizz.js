/**
 * A client for a Grizz server: the OpenAI Responses API over one WebSocket, with resume. See docs/clients.md.
 *
 *     const grizz = new Grizz();
 *     grizz.connect();
 *     for await (const event of grizz.create({ input: "Hello" })) if (event.delta) show(event.delta);
 *
 * - Every event comes once and in order, whatever the network does: the socket is opened again (full jitter, at most
 *   15 s apart), the response attached behind the last `sequence_number` seen. An answer that the server lost and
 *   began anew has `response.created` again: what came before is void.
 * - `onEnd` is called and `stream.done` resolved once, with {kind}:
 *     done       `response` is the final Response object
 *     refused    `error` is {type, code, message, param, status}
 *     cancelled  before it was a response
 *     unknown    the socket dropped between sending and `response.created`: it may have run or not
 *     lost       the server no longer has it
 *     closed     by `close()`
 * - Nothing is sent twice; what is created while offline waits for the connection.
 */

const BACKOFF_BASE_MS = 500;
const BACKOFF_CAP_MS = 15_000;
const DIAL_MS = 10_000; // for a handshake or a request
const QUIET_MS = 20_000; // without a frame that is waited for: ask for one,
const ALIVE_MS = 8_000; // which has to come in this
const LARGE = 65_536; // characters of a frame from which on the silence before it says nothing
const NAP_MS = 90_000; // our timers paused: the machine slept
const TICK_MS = 5_000;
const BUFFER = 256; // events that a loop may be behind

/** Whether a response with this status will still change. */
export const isRunning = (status) => status === "queued" || status === "in_progress";

const isTerminal = (type) => /^response\.(completed|incomplete|failed)$/.test(type);
const isDenied = ({ status }) => status === 401 || status === 403;

/** A timer that keeps no Node process alive. */
const later = (act, ms) => setTimeout(act, ms).unref?.();

/**
 * One response being read. A loop over it gives its events if there is no `onEvent`, and throws {kind, code, status,
 * responseId} at a bad end. Leaving it early cancels what `create` made, and detaches from the rest.
 */
class Stream {
  #client;
  #handlers;
  #settle;
  #queue; // null: events are not kept
  #looping;
  #outcome;
  #wake;

  constructor(client, handlers, { phase, body = null, responseId = null, cursor }) {
    this.#client = client;
    this.#handlers = handlers;
    this.#queue = handlers.onEvent ? null : [];
    this.done = new Promise((resolve) => (this.#settle = resolve));
    /** "waiting" (not sent), "sent" (no id yet), "open" (has an id), "ended". */
    this.phase = phase;
    this.body = body;
    this.made = body !== null;
    this.responseId = responseId;
    this.cursor = cursor ?? undefined; // the last sequence_number seen; undefined: replay from the start
    this.lane = null;
    // burnt: late frames may come on its lane, whose name is not used again
    this.burnt = this.attaching = this.polling = this.paused = this.missed = this.wantsCancel = false;
  }

  /** Stop the response, in any phase. */
  cancel() {
    this.#client.cancel(this);
  }

  /** Stop reading; the response runs on. `done` says "detached", `onEnd` nothing. */
  detach() {
    this.#client.detach(this);
  }

  emit(name, argument) {
    try {
      this.#handlers[name]?.(argument);
    } catch (error) {
      queueMicrotask(() => { throw error; }); // to be seen, and go on
    }
  }

  /** Returns whether the loop has fallen too far behind. */
  take(event) {
    this.emit("onEvent", event);
    if (!this.#queue) return false;
    this.#queue.push(event);
    this.#wake?.();
    const full = this.#queue.length >= BUFFER;
    if (full && !this.#looping) this.#queue = null; // nobody reads it
    return full && this.#looping;
  }

  settle(outcome) {
    this.phase = "ended";
    this.#outcome = outcome;
    this.#wake?.();
    if (outcome.kind !== "detached") this.emit("onEnd", outcome);
    this.#settle(outcome);
  }

  async *[Symbol.asyncIterator]() {
    if (!this.#queue) throw new Error("The events went to onEvent, or too many came before the loop.");
    this.#looping = true;
    try {
      while (this.#queue.length || !this.#outcome) {
        if (this.#queue.length) yield this.#queue.shift();
        else await new Promise((resolve) => (this.#wake = resolve));
        if (this.paused && this.#queue.length <= BUFFER / 2) this.#client.unpause(this);
      }
    } finally {
      this.#queue = null;
      if (this.made) this.cancel();
      else this.detach();
      if (this.paused) this.#client.unpause(this);
    }
    const { kind, error = { message: `The outcome is "${this.#outcome.kind}".` } } = this.#outcome;
    if (["done", "cancelled", "detached"].includes(kind)) return;
    const { message, code, status } = error;
    throw Object.assign(new Error(message), { kind, code, status, responseId: this.responseId });
  }
}

export class Grizz extends EventTarget {
  #options;
  #socket;
  #openedAt;
  #lastFrame;
  #unsent = 0;
  #probedAt;
  #streams = new Set();
  #lanes = new Map(); // lane name → Stream, or null for a name not to be used again
  #state = { name: "connecting" };
  #presence = "visible";
  #attempts = 0;
  #failedDials = 0;
  #restarting;
  #wasOffline;
  #running;
  #retired; // this connection takes nothing new
  #refusal;
  #requests = new Set(); // an AbortController for each
  #timer;
  #ticker;
  #lastTick;

  /**
   * @param {{base?: string, token?: string | (() => string | Promise<string>), headers?: Record<string, string>,
   *   WebSocket?: typeof WebSocket}} options `base`: the server's origin, by default the page's own; `token`: an API
   *   key or token; `headers`: more of them, in WebSockets of `ws` only; `WebSocket`: where none is global
   */
  constructor({ base = globalThis.location?.origin, token, headers, WebSocket = globalThis.WebSocket } = {}) {
    super();
    if (!base || !WebSocket) throw new Error("Grizz needs a `base`, and in Node before 22 a `WebSocket`.");
    this.#options = { base, token, headers, WebSocket };
  }

  /**
   * `{name, retryAt?, restarting?, reason?}`, `name` being connecting, live, reconnecting, offline, asleep, refused
   * or closed; a "state" event tells of changes. `retryAt` is in Date.now() time.
   */
  get state() {
    return this.#state;
  }

  get live() {
    return this.#state.name === "live";
  }

  /** Open the connection, and keep it until `close()` or a refusal. */
  connect() {
    if (this.#running) return;
    this.#running = true;
    this.#lastTick = Date.now();
    this.#ticker = setInterval(this.#tick, TICK_MS);
    this.#ticker.unref?.();
    this.#listen("addEventListener");
    this.#become({ name: "connecting" });
    this.#dial();
  }

  /** End everything; the responses run on. `connect()` may follow. */
  close() {
    this.#shutdown(1000);
    this.#parkStreams(1000);
    for (const abort of this.#requests) abort.abort();
    this.#become({ name: "closed" });
    this.#endAll({ kind: "closed" });
  }

  /**
   * Start a response; `body` is what POST /v1/responses takes. `handlers`: {onEvent(event), onQueue(position),
   * onAttached(event), onSnapshot(response), onEnd(outcome)}; so many jobs as `position` come before this one.
   */
  create(body, handlers = {}) {
    return this.#begin(new Stream(this, handlers, { phase: "waiting", body }));
  }

  /** Read a response that exists, behind a number or from its first event on. */
  attach(responseId, { startingAfter } = {}, handlers = {}) {
    return this.#begin(new Stream(this, handlers, { phase: "open", responseId, cursor: startingAfter }));
  }

  #begin(stream) {
    this.#streams.add(stream);
    if (this.live) this.#sendFirst(stream);
    else if (this.#state.name === "asleep") this.#hurry();
    else if (this.#state.name === "refused") queueMicrotask(() => this.#end(stream, this.#refusal));
    return stream;
  }

  cancel(stream) {
    if (stream.phase === "ended") return;
    if (stream.phase === "waiting") return this.#end(stream, { kind: "cancelled" });
    stream.wantsCancel = true;
    this.#sendCancel(stream);
  }

  detach(stream) {
    if (stream.phase === "ended") return;
    this.#leave(stream);
    this.#end(stream, { kind: "detached" });
  }

  /** A loop has caught up. */
  unpause(stream) {
    stream.paused = false;
    if (this.live) this.#sendAttach(stream);
  }

  /** Is somebody looking? "visible", "hidden" (fewer, larger frames) or "idle" (ends only). */
  presence(state) {
    this.#presence = state;
    this.#send({ type: "grizz:presence", state });
  }

  retrieve(responseId) {
    return this.request("GET", `/v1/responses/${encodeURIComponent(responseId)}`);
  }

  async models() {
    return (await this.request("GET", "/v1/models")).data.map((model) => model.id);
  }

  /** `{access, version, model, demo, upstream}`; `access` alone for strangers. */
  info() {
    return this.request("GET", "/pages/info.json");
  }

  /**
   * Any call of the API, `request("POST", "/v1/conversations", { metadata })`; returns the parsed answer, or throws an
   * Error with `message`, `status` and `code`; without an answer in time, the code is "unreachable".
   */
  async request(method, path, body, timeoutMs = DIAL_MS) {
    const { base, token } = this.#options;
    const headers = { ...this.#options.headers };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const abort = new AbortController();
    const options = { method, headers, cache: "no-store", signal: abort.signal, body: JSON.stringify(body) };
    options.keepalive = method === "DELETE"; // it goes through though its page is left
    const timer = setTimeout(() => abort.abort(), timeoutMs);
    this.#requests.add(abort);
    let answer, parsed;
    try {
      if (token) headers.Authorization = `Bearer ${await this.#credential()}`;
      answer = await fetch(new URL(path, base), options);
      const text = await answer.text();
      parsed = text.startsWith("{") ? JSON.parse(text) : {};
    } catch (cause) {
      throw Object.assign(new Error("The server did not answer.", { cause }), { code: "unreachable" });
    } finally {
      clearTimeout(timer);
      this.#requests.delete(abort);
    }
    if (answer.ok) return parsed;
    const { message = `The server answered ${answer.status}.`, code } = parsed.error ?? {};
    throw Object.assign(new Error(message), { status: answer.status, code });
  }

  async #credential() {
    const { token } = this.#options;
    return typeof token === "function" ? token() : token;
  }

  // The connection

  async #dial() {
    clearTimeout(this.#timer);
    const { base, token, headers, WebSocket } = this.#options;
    const pending = (this.#socket = { close() {} });
    this.#openedAt = 0;
    this.#retired = false;
    if (this.#state.retryAt) this.#become({ ...this.#state, retryAt: undefined });
    this.#timer = setTimeout(() => this.#replace(), DIAL_MS);
    const protocols = ["responses", "grizz"];
    if (token) {
      const shown = await this.#credential().catch(() => null);
      if (this.#socket !== pending) return;
      if (!shown) return this.#dropped(1006);
      protocols.push(`openai-insecure-api-key.${shown}`);
    }
    const url = new URL("/v1/responses", base);
    url.protocol = url.protocol.replace("http", "ws");
    let socket;
    try {
      socket = this.#socket = new WebSocket(url.href, protocols, { headers });
    } catch (error) {
      return this.#refuse(error.message); // an address that is none, a key with letters that no key has
    }
    socket.onopen = () => this.#opened();
    socket.onmessage = (message) => this.#received(message.data);
    socket.onclose = (close) => this.#dropped(close.code, close.reason);
    socket.onerror = () => {}; // a close follows
  }

  #opened() {
    clearTimeout(this.#timer);
    this.#openedAt = this.#lastFrame = Date.now();
    this.#failedDials = 0;
    this.#restarting = false;
    this.#wasOffline = false;
    this.#become({ name: "live" });
    this.#send({ type: "grizz:presence", state: this.#presence }); // also asks for grizz:* events
    for (const stream of [...this.#streams]) this.#sendFirst(stream);
  }

  #dropped(code, reason) {
    const opened = this.#openedAt;
    this.#hangUp();
    const renewable = opened && typeof this.#options.token === "function"; // only the token has ended
    if (code === 1008 && !renewable) return this.#refuse(reason || "The server refused the connection.");
    this.#parkStreams(code);
    // Closed for being idle: the next question opens another one.
    if (code === 1000 && !this.#streams.size) return this.#become({ name: "asleep" });
    if (opened && Date.now() - opened > 5_000) this.#attempts = 0; // it lived
    if (code === 1012) this.#restarting = true;
    // A refused handshake looks like a dead network: every second time, ask which it was.
    if (!opened && ++this.#failedDials % 2 === 0) {
      this.models().catch((error) => {
        if (isDenied(error) && !this.live && this.#running) this.#refuse(error.message);
      });
    }
    const ceiling = Math.min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** this.#attempts++);
    // Offline we still try: a server on this very machine needs no network.
    const offline = globalThis.navigator?.onLine === false;
    const delay = offline ? BACKOFF_CAP_MS : Math.random() * ceiling;
    const name = offline ? "offline" : "reconnecting";
    this.#become({ name, retryAt: Date.now() + delay, restarting: this.#restarting });
    this.#timer = setTimeout(() => this.#dial(), delay);
  }

  /** As if it had dropped, and dial again at once. */
  #replace() {
    if (!this.#openedAt) return this.#dropped(1006);
    this.#hangUp();
    this.#parkStreams(1006);
    this.#become({ name: "reconnecting", restarting: this.#restarting });
    this.#dial();
  }

  #hangUp(code) {
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = null;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close(code);
    if (socket.terminate) later(() => socket.terminate(), 2_000); // `ws` waits for 30 s
  }

  /** Streams with an id wait for the next socket, a create without one is unknown. */
  #parkStreams(code) {
    this.#lanes.clear();
    for (const stream of this.#streams) stream.lane = stream.burnt = stream.attaching = null;
    const sent = this.#unconfirmed();
    const error = { code: "body_too_large", message: "The message is too large for this server." };
    const tooLarge = code === 1009 && sent.length === 1;
    this.#endAll(tooLarge ? { kind: "refused", error } : { kind: "unknown" }, sent);
  }

  #unconfirmed() {
    return [...this.#streams].filter(({ phase }) => phase === "sent");
  }

  #refuse(message) {
    this.#shutdown();
    this.#become({ name: "refused", reason: message });
    this.#endAll((this.#refusal = { kind: "refused", error: { code: "connection_refused", message } }));
  }

  #endAll(outcome, streams = this.#streams) {
    for (const stream of [...streams]) this.#end(stream, outcome);
  }

  #shutdown(code) {
    this.#running = false;
    clearInterval(this.#ticker);
    this.#listen("removeEventListener");
    this.#hangUp(code);
  }

  #listen(how) {
    globalThis[how]?.("online", this.#online);
    globalThis[how]?.("offline", this.#offline);
    globalThis.document?.[how]("visibilitychange", this.#visible);
  }

  #become(state) {
    this.#state = state;
    this.dispatchEvent(new Event("state"));
  }

  #hurry() {
    if (this.#socket) return;
    this.#attempts = 0;
    this.#dial();
  }

  #online = () => {
    if (this.live && this.#wasOffline) this.#replace(); // most likely dead
    else this.#hurry();
  };

  #offline = () => {
    this.#wasOffline = true;
    this.info().catch((error) => {
      if (!error.status && this.live && !navigator.onLine) this.#dropped(1006);
    });
  };

  #visible = () => {
    if (document.visibilityState === "visible") this.#hurry();
  };

  /** A socket can die without a word. */
  #tick = () => {
    const now = Date.now();
    const slept = now - this.#lastTick > NAP_MS;
    this.#lastTick = now;
    if (!this.live) return;
    const unsent = this.#socket.bufferedAmount; // what changes is on its way: a large message takes its time
    if (unsent !== this.#unsent) this.#lastFrame = now;
    this.#unsent = unsent;
    const asked = this.#probedAt >= this.#lastFrame;
    if (slept || (asked && now - this.#probedAt > ALIVE_MS)) return this.#replace();
    const waits = [...this.#streams].some((stream) => stream.lane);
    if (!waits || asked || now - this.#lastFrame < QUIET_MS) return;
    this.#probedAt = now;
    this.#send({ type: "response.cancel", stream_id: "probe" }); // gets an error, and does nothing
  };

  // What is sent

  #send(event) {
    if (this.#socket?.readyState !== 1) return false;
    const frame = JSON.stringify(event);
    if (frame.length > LARGE) this.#lastFrame = Date.now();
    this.#socket.send(frame);
    return true;
  }

  #sendFirst(stream) {
    if (stream.phase !== "waiting") return this.#sendAttach(stream);
    if (this.#retired) return;
    this.#takeLane(stream);
    if (this.#send({ ...stream.body, type: "response.create", stream_id: stream.lane })) stream.phase = "sent";
    else this.#releaseLane(stream); // the socket is closing: the next one takes it
  }

  #sendAttach(stream) {
    if (stream.phase !== "open" || stream.lane || stream.polling || stream.paused || this.#retired) return;
    this.#takeLane(stream);
    stream.attaching = true;
    const event = { type: "grizz:attach", response_id: stream.responseId, stream_id: stream.lane };
    if (stream.cursor !== undefined) event.starting_after = stream.cursor;
    this.#send(event);
    if (stream.wantsCancel) this.#sendCancel(stream);
  }

  #sendCancel(stream) {
    if (stream.phase === "open") this.#send({ type: "response.cancel", response_id: stream.responseId });
    else stream.burnt = this.#send({ type: "response.cancel", stream_id: stream.lane });
  }

  #leave(stream) {
    if (!stream.lane) return;
    this.#send({ type: "grizz:detach", stream_id: stream.lane });
    stream.burnt = true;
    this.#releaseLane(stream);
  }

  /** The lowest free name: a connection has only so many. */
  #takeLane(stream) {
    let number = 1;
    while (this.#lanes.has(`s${number}`)) number += 1;
    stream.lane = `s${number}`;
    this.#lanes.set(stream.lane, stream);
  }

  #releaseLane(stream) {
    if (stream.burnt) this.#lanes.set(stream.lane, null);
    else this.#lanes.delete(stream.lane);
    stream.lane = stream.burnt = stream.attaching = null;
  }

  // What arrives

  #received(data) {
    const event = JSON.parse(data);
    this.#lastFrame = Date.now();
    const { type } = event;
    const stream = this.#lanes.get(event.stream_id);
    if (!stream) this.#unclaimed(event);
    else if (type === "error") this.#failed(stream, { ...event.error, status: event.status });
    else if (type === "grizz:attached") this.#attached(stream, event);
    else if (type === "grizz:queue" && event.response_id === stream.responseId) stream.emit("onQueue", event.position);
    else if (type.startsWith("response.")) this.#deliver(stream, event);
    // Not before the last create is confirmed or refused.
    if (this.#retired && !this.#unconfirmed().length) this.#replace();
  }

  #unclaimed(event) {
    const { type, stream_id: lane } = event;
    if (lane === "probe") return;
    const begins = type === "response.created" || type === "grizz:attached"; // and was detached before
    if (begins && this.#lanes.has(lane)) this.#send({ type: "grizz:detach", stream_id: lane });
    this.dispatchEvent(Object.assign(new Event("event"), { detail: event }));
  }

  #deliver(stream, event) {
    if (event.sequence_number <= stream.cursor) return; // seen before
    stream.cursor = event.sequence_number;
    stream.missed = false;
    this.#attempts = 0;
    if (event.type === "response.created") {
      stream.responseId = event.response.id;
      stream.phase = "open";
      stream.body = null;
      if (stream.wantsCancel) this.#sendCancel(stream);
    }
    const behind = stream.take(event);
    if (isTerminal(event.type)) return this.#end(stream, { kind: "done", response: event.response });
    stream.paused = behind; // the server keeps what comes until the loop has caught up
    if (behind) this.#leave(stream);
  }

  #attached(stream, event) {
    stream.attaching = false;
    stream.emit("onAttached", event);
    const nothingFollows = !isRunning(event.status) && event.last_sequence_number <= stream.cursor;
    if (nothingFollows) this.#takeSnapshot(stream);
  }

  #failed(stream, error) {
    const { code, status } = error;
    const open = stream.phase === "open";
    const used = code === "websocket_stream_limit_reached" && [...this.#lanes.values()].includes(null);
    if (used || (!open && code === "websocket_connection_limit_reached")) {
      if (!open) stream.phase = "waiting"; // it did not run, and another connection will take it
      this.#retired = true;
      return this.#releaseLane(stream);
    }
    if (open && stream.attaching) {
      this.#releaseLane(stream);
      if (code === "grizz:log_expired") return this.#takeSnapshot(stream);
      // While it is taken over, it can be nobody's for a moment.
      const again = code === "response_not_found" && stream.cursor !== undefined && !stream.missed;
      stream.missed ||= again;
      if (again || status === 429 || status >= 500) {
        return later(() => this.live && this.#sendAttach(stream), 1000 + Math.random() * 2000);
      }
      if (code === "response_not_found") return this.#end(stream, { kind: "lost" });
    } else if (stream.burnt && code === "response_not_found") {
      return; // our cancel by lane came before it had begun, or after its end
    }
    this.#end(stream, code === "grizz:withdrawn" ? { kind: "cancelled" } : { kind: "refused", error });
  }

  /** The events are gone, the result may be there: poll it until it is final. */
  async #takeSnapshot(stream) {
    stream.polling = true;
    for (let wait = 2000, misses = 0; stream.phase === "open"; wait = Math.min(wait * 1.5, BACKOFF_CAP_MS)) {
      try {
        const response = await this.retrieve(stream.responseId);
        if (stream.phase === "open") stream.emit("onSnapshot", response);
        if (!isRunning(response.status)) return this.#end(stream, { kind: "done", response });
      } catch (error) {
        if (!error.status && this.live) misses += 1; // a page of another origin gets no answer at all
        if (error.status === 404 || misses > 4) return this.#end(stream, { kind: "lost" });
        if (isDenied(error)) return this.#end(stream, { kind: "refused", error });
      }
      await new Promise((resolve) => later(resolve, wait));
    }
  }

  #end(stream, outcome) {
    if (stream.phase === "ended") return;
    if (stream.lane) this.#releaseLane(stream);
    this.#streams.delete(stream);
    stream.settle(outcome);
  }
}
