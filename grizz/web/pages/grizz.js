/**
 * A client for a Grizz server: the OpenAI Responses API over one WebSocket, with resume, for pages and Node.
 * docs/clients.md says more.
 *
 *     const grizz = new Grizz();
 *     grizz.connect();
 *     const stream = grizz.create({ input: "Hello" });
 *     for await (const event of stream) if (event.type === "response.output_text.delta") show(event.delta);
 *     const { kind, response } = await stream.done;
 *
 * - Every event comes once and in order, whatever the network does: the socket is opened again (full jitter, at most
 *   15 s apart), the response attached behind the last `sequence_number` seen. An answer that the server lost and
 *   began anew has `response.created` again: what came before is void.
 * - `onEnd` is called and `done` resolved once, with {kind}:
 *     done       `response` is the final Response object
 *     refused    `error` is {type, code, message, param, status}
 *     cancelled  stopped before it was a response
 *     unknown    the socket dropped between sending and `response.created`: it may have run or not
 *     lost       the server no longer has the response
 *     closed     by `close()`
 * - Nothing is sent twice; what is created while offline waits for the connection.
 */

const BACKOFF_BASE_MS = 500;
const BACKOFF_CAP_MS = 15_000;
const DIAL_MS = 10_000; // for a handshake or a request
const QUIET_MS = 20_000; // without a frame that is waited for: ask whether the socket is alive,
const ALIVE_MS = 8_000; // and give it so long to answer
const NAP_MS = 90_000; // our timers paused: the machine slept
const TICK_MS = 5_000;
const LIVED_MS = 5_000; // then the next backoff starts over
const HANG_UP_MS = 2_000;
const BUFFER = 1024; // events that a loop may be behind
const MISSES = 5; // how often in a row a result may be out of reach while the socket is not
const PROBE = "probe"; // a lane on which nothing ever runs
const TERMINAL = new Set(["response.completed", "response.incomplete", "response.failed"]);
const RUNNING = new Set(["queued", "in_progress"]);
const MEANING = {
  unknown: "The connection dropped before the server confirmed this request. It may have run or not.",
  lost: "The server no longer has this response.",
  closed: "The client was closed.",
};

/** Whether a response with this status will still change. */
export const isRunning = (status) => RUNNING.has(status);

const isDenied = ({ status }) => status === 401 || status === 403;

/** A timer that keeps no Node process alive. */
const idly = (timer) => timer.unref?.();

/**
 * One response being read, made by `create` and `attach`. A loop over it gives its events, if there is no `onEvent`, and
 * throws {kind, code, status, responseId} unless the end is "done" or "cancelled". Leaving it early cancels what
 * `create` made, and detaches from the rest.
 */
class Stream {
  #client;
  #handlers;
  #settle;
  #queue; // null: events are not kept
  #looping = false;
  #outcome = null;
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
    /** The last sequence_number seen; undefined: nothing yet, replay from the start. */
    this.cursor = cursor ?? undefined;
    this.lane = null;
    this.burnt = false; // late frames may come on the lane, so its name is not used again
    this.attaching = this.polling = this.paused = this.missed = this.wantsCancel = false;
  }

  /** Stop the response, in any phase. */
  cancel() {
    this.#client.cancel(this);
  }

  /** Stop reading; the response runs on. No `onEnd` follows; `done` says "detached". */
  detach() {
    this.#client.detach(this);
  }

  emit(name, argument) {
    try {
      this.#handlers[name]?.(argument);
    } catch (error) {
      queueMicrotask(() => { throw error; }); // to be seen, and not to be stumbled over here
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
    const { kind, error } = this.#outcome;
    if (kind !== "refused" && !MEANING[kind]) return;
    const facts = { kind, code: error?.code, status: error?.status, responseId: this.responseId };
    throw Object.assign(new Error(error?.message ?? MEANING[kind]), facts);
  }
}

export class Grizz extends EventTarget {
  #options;
  #socket = null;
  #openedAt = 0;
  #lastFrame = 0;
  #probedAt = 0;
  #streams = new Set();
  #lanes = new Map(); // lane name → Stream, or null for a name not to be used again
  #state = { name: "connecting" };
  #presence = "visible";
  #attempts = 0;
  #failedDials = 0;
  #restarting = false;
  #wasOffline = false;
  #running = false;
  #retired = false; // this connection takes nothing new
  #asProtocol = false; // how the token is shown
  #requests = new Set(); // an AbortController for each
  #timer = 0;
  #ticker = 0;
  #lastTick = 0;

  /**
   * @param {object} [options]
   * @param {string} [options.base] the server's origin; by default the page's own
   * @param {string | (() => string | Promise<string>)} [options.token] an API key or token, or what fetches one
   * @param {Record<string, string>} [options.headers] more headers; of WebSockets only if `WebSocket` is that of `ws`
   * @param {typeof WebSocket} [options.WebSocket] for where none is global
   */
  constructor({ base = globalThis.location?.origin, token, headers, WebSocket = globalThis.WebSocket } = {}) {
    super();
    if (!base || !WebSocket) throw new Error("Outside of pages a `base` is needed, in Node before 22 a `WebSocket`.");
    this.#options = { base, token, headers, WebSocket };
  }

  /**
   * `{name, retryAt?, restarting?, reason?}`; `name` is one of connecting, live, reconnecting, offline, asleep,
   * refused, closed. A "state" event tells of every change. `retryAt` is in Date.now() time.
   */
  get state() {
    return this.#state;
  }

  get live() {
    return this.#state.name === "live";
  }

  /** Open the connection and keep it open until `close()` or a refusal. */
  connect() {
    if (this.#running) return;
    this.#running = true;
    this.#lastTick = Date.now();
    idly((this.#ticker = setInterval(this.#tick, TICK_MS)));
    this.#listen("addEventListener");
    this.#become({ name: "connecting" });
    this.#dial();
  }

  /** End everything: socket, timers, requests, streams. The responses run on. `connect()` may follow. */
  close() {
    this.#shutdown(1000);
    this.#parkStreams(1000);
    for (const abort of this.#requests) abort.abort();
    this.#become({ name: "closed" });
    for (const stream of [...this.#streams]) this.#end(stream, { kind: "closed" });
  }

  /**
   * Start a response. `body` is what POST /v1/responses takes; `stream_id` is set here.
   * `handlers`: {onEvent(event), onQueue(position), onAttached(event), onSnapshot(response), onEnd(outcome)};
   * `position` is how many jobs will be handed out before this one.
   */
  create(body, handlers = {}) {
    return this.#begin(new Stream(this, handlers, { phase: "waiting", body }));
  }

  /** Read a response that already exists. Without `startingAfter` it is replayed from its first event. */
  attach(responseId, { startingAfter } = {}, handlers = {}) {
    return this.#begin(new Stream(this, handlers, { phase: "open", responseId, cursor: startingAfter }));
  }

  #begin(stream) {
    this.#streams.add(stream);
    if (this.live) this.#sendFirst(stream);
    else if (this.#state.name === "asleep") this.#hurry();
    else if (this.#state.name === "refused") queueMicrotask(() => this.#end(stream, this.#refusal()));
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

  /** Say whether somebody is looking: "visible", "hidden" or "idle". Hidden tabs get fewer, larger frames. */
  presence(state) {
    this.#presence = state;
    this.#lastFrame = Date.now();
    this.#send({ type: "grizz:presence", state });
  }

  /** The Response object as it is now. Throws as `request` does. */
  retrieve(responseId) {
    return this.request("GET", `/v1/responses/${encodeURIComponent(responseId)}`);
  }

  /** Ids of the models that the server offers. */
  async models() {
    return (await this.request("GET", "/v1/models")).data.map((model) => model.id);
  }

  /** `{access, version, model, demo, upstream}` of the server; `access` alone if it wants to know who we are. */
  info() {
    return this.request("GET", "/pages/info.json");
  }

  /**
   * Any call of the API: `await grizz.request("POST", "/v1/conversations", { metadata })` returns the parsed answer.
   * A refusal throws an Error with `message`, `status` and `code`; no answer in time, one with code "unreachable".
   */
  async request(method, path, body, timeoutMs = DIAL_MS) {
    const { base, token, headers } = this.#options;
    const options = { method, cache: "no-store", headers: { ...headers } };
    if (body !== undefined) {
      options.headers["Content-Type"] = "application/json";
      options.body = JSON.stringify(body);
    }
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(), timeoutMs);
    this.#requests.add(abort);
    let answer, parsed;
    try {
      if (token) options.headers.Authorization = `Bearer ${await this.#credential()}`;
      answer = await fetch(new URL(path, base), { ...options, signal: abort.signal });
      parsed = parse(await answer.text());
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
    let first;
    if (token) {
      const shown = await this.#credential().catch(() => null);
      if (this.#socket !== pending) return;
      if (!shown) return this.#dropped(1006);
      if (this.#asProtocol) protocols.push(`openai-insecure-api-key.${shown}`);
      else first = { type: "grizz:auth", token: shown };
    }
    const url = new URL("/v1/responses", base);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = (this.#socket = new WebSocket(url.href, protocols, { headers }));
    socket.onopen = () => (first ? this.#send(first) : this.#opened());
    socket.onmessage = (message) => this.#received(message.data);
    socket.onclose = (close) => this.#dropped(close.code, close.reason);
    socket.onerror = () => {}; // a close follows
  }

  /** What comes in answer to our token. */
  #introduced(event) {
    if (event.type === "grizz:authenticated") return this.#opened();
    if (!isDenied(event)) return;
    if (event.status === 401) return this.#refuse(event.error.message);
    this.#asProtocol = true; // who shows nothing in the handshake is let in here, as somebody else
    this.#replace();
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
    const neverOpened = !this.#openedAt;
    const lived = neverOpened ? 0 : Date.now() - this.#openedAt;
    this.#forgetSocket();
    const renewable = !neverOpened && typeof this.#options.token === "function"; // only the token has ended
    if (code === 1008 && !renewable) return this.#refuse(reason || "The server refused the connection.");
    this.#parkStreams(code);
    // Closed for being idle: nothing is amiss, and the next question opens another one.
    if (code === 1000 && !this.#streams.size) return this.#become({ name: "asleep" });
    if (lived > LIVED_MS) this.#attempts = 0;
    if (code === 1012) this.#restarting = true;
    // A refused handshake looks like a dead network here: every second time, ask over HTTP which it was.
    if (neverOpened && ++this.#failedDials % 2 === 0) this.#askWhy();
    const offline = globalThis.navigator?.onLine === false;
    const ceiling = Math.min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** this.#attempts++);
    // Offline we still try now and then: a server on this very machine needs no network.
    const delay = offline ? BACKOFF_CAP_MS : Math.random() * ceiling;
    const name = offline ? "offline" : "reconnecting";
    this.#become({ name, retryAt: Date.now() + delay, restarting: this.#restarting });
    this.#timer = setTimeout(() => this.#dial(), delay);
  }

  /** Give the current socket up, open or not, as if it had dropped, and dial again at once. */
  #replace() {
    this.#hangUp();
    this.#parkStreams(1006);
    if (!this.#openedAt) return this.#dropped(1006);
    this.#become({ name: "reconnecting", restarting: this.#restarting });
    this.#dial();
  }

  #forgetSocket() {
    clearTimeout(this.#timer);
    const socket = this.#socket;
    if (socket) socket.onopen = socket.onmessage = socket.onclose = null;
    this.#socket = null;
    return socket;
  }

  #hangUp(code) {
    const socket = this.#forgetSocket();
    socket?.close(code);
    if (socket?.terminate) idly(setTimeout(() => socket.terminate(), HANG_UP_MS)); // `ws` would wait for 30 s
  }

  /** The socket is gone: streams with an id wait for the next one, a create without one is unknown. */
  #parkStreams(code) {
    this.#lanes.clear();
    const sent = [];
    for (const stream of this.#streams) {
      stream.lane = null;
      stream.burnt = stream.attaching = false;
      if (stream.phase === "sent") sent.push(stream);
    }
    const error = { code: "body_too_large", message: "The message is too large for this server." };
    const outcome = code === 1009 && sent.length === 1 ? { kind: "refused", error } : { kind: "unknown" };
    for (const stream of sent) this.#end(stream, outcome);
  }

  #refuse(reason) {
    this.#shutdown();
    this.#become({ name: "refused", reason });
    for (const stream of [...this.#streams]) this.#end(stream, this.#refusal());
  }

  #refusal() {
    return { kind: "refused", error: { code: "connection_refused", message: this.#state.reason } };
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

  async #askWhy() {
    try {
      await this.models();
    } catch (error) {
      if (isDenied(error) && !this.live && this.#running) this.#refuse(error.message);
    }
  }

  #become(state) {
    this.#state = state;
    this.dispatchEvent(new Event("state"));
  }

  /** Waiting for the next attempt: make it now. */
  #hurry() {
    if (this.#socket) return;
    this.#attempts = 0;
    this.#dial();
  }

  #online = () => {
    if (this.live && this.#wasOffline) this.#replace(); // another network: the old socket is most likely dead
    else this.#hurry();
  };

  #offline = async () => {
    this.#wasOffline = true;
    try {
      await this.info();
    } catch (error) {
      if (error.status || !this.live || navigator.onLine) return;
      this.#hangUp();
      this.#dropped(1006);
    }
  };

  #visible = () => {
    if (document.visibilityState === "visible") this.#hurry();
  };

  /** A socket can die without a word: when nothing comes that is waited for, it is asked, and replaced if dead. */
  #tick = () => {
    const now = Date.now();
    const slept = now - this.#lastTick > NAP_MS;
    this.#lastTick = now;
    if (!this.live) return;
    const asked = this.#probedAt >= this.#lastFrame;
    if (slept || (asked && now - this.#probedAt > ALIVE_MS)) return this.#replace();
    const waits = [...this.#streams].some((stream) => stream.lane);
    if (!waits || asked || now - this.#lastFrame < QUIET_MS) return;
    this.#probedAt = now;
    this.#send({ type: "response.cancel", stream_id: PROBE }); // is answered by an error, and does nothing else
  };

  // What is sent

  #send(event) {
    if (this.#socket?.readyState !== 1) return false;
    this.#socket.send(JSON.stringify(event));
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
    else stream.burnt = this.#send({ type: "response.cancel", stream_id: stream.lane }); // it may wait for its turn
  }

  /** Stop the delivery. */
  #leave(stream) {
    if (!stream.lane) return;
    this.#send({ type: "grizz:detach", stream_id: stream.lane });
    stream.burnt = true;
    this.#releaseLane(stream);
  }

  /** The lowest free name: a server allows only so many different lanes on one connection. */
  #takeLane(stream) {
    let number = 1;
    while (this.#lanes.has(`s${number}`)) number += 1;
    stream.lane = `s${number}`;
    this.#lanes.set(stream.lane, stream);
  }

  #releaseLane(stream) {
    if (stream.burnt) this.#lanes.set(stream.lane, null);
    else this.#lanes.delete(stream.lane);
    stream.lane = null;
    stream.burnt = stream.attaching = false;
  }

  // What arrives

  #received(data) {
    const event = JSON.parse(data);
    this.#lastFrame = Date.now();
    if (!this.live) return this.#introduced(event);
    const { type } = event;
    const stream = this.#lanes.get(event.stream_id);
    if (!stream) this.#unclaimed(event);
    else if (type === "error") this.#failed(stream, { ...event.error, status: event.status });
    else if (type === "grizz:attached") this.#attached(stream, event);
    else if (type === "grizz:queue" && event.response_id === stream.responseId) stream.emit("onQueue", event.position);
    else if (type.startsWith("response.")) this.#deliver(stream, event);
    // Not before the last create is confirmed or refused.
    if (this.#retired && ![...this.#streams].some(({ phase }) => phase === "sent")) this.#replace();
  }

  /** About the connection, or about nothing that is still read: for whoever is interested. */
  #unclaimed(event) {
    const { type, stream_id: lane } = event;
    if (lane === PROBE) return;
    const begun = type === "response.created" || type === "grizz:attached"; // it was detached before
    if (begun && this.#lanes.has(lane)) this.#send({ type: "grizz:detach", stream_id: lane });
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
    if (TERMINAL.has(event.type)) return this.#end(stream, { kind: "done", response: event.response });
    stream.paused = behind; // the server keeps what comes until the loop has caught up
    if (behind) this.#leave(stream);
  }

  #attached(stream, event) {
    stream.attaching = false;
    stream.emit("onAttached", event);
    // Nothing follows?
    if (!isRunning(event.status) && event.last_sequence_number <= stream.cursor) this.#takeSnapshot(stream);
  }

  #failed(stream, error) {
    const { code, status } = error;
    const open = stream.phase === "open";
    const used = code === "websocket_stream_limit_reached" && [...this.#lanes.values()].includes(null);
    if (used || (!open && code === "websocket_connection_limit_reached")) {
      if (!open) stream.phase = "waiting"; // it did not run: a young connection will take it
      this.#retired = true;
      return this.#releaseLane(stream);
    }
    if (open && stream.attaching) {
      this.#releaseLane(stream);
      if (code === "grizz:log_expired") return this.#takeSnapshot(stream);
      // Where another process takes it over, it can be nobody's for a moment.
      const again = code === "response_not_found" && stream.cursor !== undefined && !stream.missed;
      stream.missed ||= again;
      if (again || status === 429 || status >= 500) {
        return idly(setTimeout(() => this.live && this.#sendAttach(stream), 1000 + Math.random() * 2000));
      }
      if (code === "response_not_found") return this.#end(stream, { kind: "lost" });
    } else if (stream.burnt && code === "response_not_found") {
      return; // our cancel by lane came before it had begun, or after its end
    }
    this.#end(stream, code === "grizz:withdrawn" ? { kind: "cancelled" } : { kind: "refused", error });
  }

  /** The events are gone but the result may be there: poll it until it is final. */
  async #takeSnapshot(stream) {
    stream.polling = true;
    for (let wait = 2000, misses = 0; stream.phase === "open"; wait = Math.min(wait * 1.5, BACKOFF_CAP_MS)) {
      try {
        const response = await this.retrieve(stream.responseId);
        if (stream.phase === "open") stream.emit("onSnapshot", response);
        if (!isRunning(response.status)) return this.#end(stream, { kind: "done", response });
      } catch (error) {
        if (!error.status && this.live) misses += 1; // a page of another origin gets no answer at all
        if (error.status === 404 || misses === MISSES) return this.#end(stream, { kind: "lost" });
        if (isDenied(error)) return this.#end(stream, { kind: "refused", error });
      }
      await new Promise((resolve) => idly(setTimeout(resolve, wait)));
    }
  }

  #end(stream, outcome) {
    if (stream.phase === "ended") return;
    if (stream.lane) this.#releaseLane(stream);
    this.#streams.delete(stream);
    stream.settle(outcome);
  }
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return {};
  }
}
