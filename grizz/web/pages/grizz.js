/**
 * A small client for a Grizz server: the OpenAI Responses API over one WebSocket, with resume.
 *
 *     import { Grizz } from "/pages/grizz.js";
 *
 *     const grizz = new Grizz();
 *     grizz.addEventListener("state", () => console.log(grizz.state.name));
 *     grizz.connect();
 *     const stream = grizz.create({ input: "Hello" }, {
 *       onEvent(event) { if (event.type === "response.output_text.delta") show(event.delta); },
 *       onEnd(outcome) { console.log(outcome.kind, outcome.response?.status); },
 *     });
 *     stream.cancel();
 *
 * What it promises:
 *
 * - `onEvent` sees every event of a response once and in order, whatever happens to the network:
 *   the socket is opened again (full jitter, at most 15 s apart) and the response attached behind
 *   its cursor, the last `sequence_number` seen.
 * - `onEnd` is called exactly once, with one of these outcomes:
 *     done       the terminal event came; `response` is the final Response object
 *     refused    the server said no; `error` is {type, code, message, param, status}
 *     cancelled  stopped before it was ever sent
 *     unknown    the socket dropped between sending and `response.created`: it may have run or
 *                not, so it is never sent again without being asked
 *     lost       the server no longer knows the response
 * - Nothing is sent twice, and what is created while offline waits for the connection.
 */

const BACKOFF_BASE_MS = 500;
const BACKOFF_CAP_MS = 15_000;
const DIAL_MS = 10_000; // a handshake that takes longer is given up
const ACK_MS = 20_000; // `response.created` comes at once; without it the socket is dead
const SILENCE_MS = 75_000; // a visible running answer says something at least once a minute
const NAP_MS = 90_000; // a pause of our timers this long means that the machine slept
const TICK_MS = 5_000;
const LIVED_MS = 5_000; // a socket that lived this long makes the next backoff start over

const TERMINAL = new Set(["response.completed", "response.incomplete", "response.failed"]);
const RUNNING = new Set(["queued", "in_progress"]);

/** Whether a response with this status will still change. */
export const isRunning = (status) => RUNNING.has(status);

/** One response being read. Made by `Grizz.create` and `Grizz.attach` only. */
class Stream {
  #client;
  #handlers;

  constructor(client, handlers, fields) {
    this.#client = client;
    this.#handlers = handlers;
    /** "waiting" (not sent), "sent" (no id yet), "open" (has an id), "ended". */
    this.phase = fields.phase;
    this.body = fields.body ?? null;
    this.responseId = fields.responseId ?? null;
    /** The last sequence_number seen; undefined: nothing yet, replay from the start. */
    this.cursor = fields.cursor;
    this.lane = null;
    this.sentAt = 0;
    this.attaching = false;
    this.polling = false;
    this.wantsCancel = false;
  }

  /** Stop the response. Safe in every phase: what has no id yet is cancelled when it gets one. */
  cancel() {
    this.#client.cancel(this);
  }

  /** Stop reading; the response runs on, and may be attached again later. No `onEnd` follows. */
  detach() {
    this.#client.detach(this);
  }

  emit(name, argument) {
    this.#handlers[name]?.(argument);
  }
}

export class Grizz extends EventTarget {
  #base;
  #socket = null;
  #openedAt = 0;
  #lastFrame = 0;
  #streams = new Set();
  #lanes = new Map(); // lane name → Stream, or null for a name not to be used again
  #state = { name: "connecting" };
  #presence = "visible";
  #attempts = 0;
  #failedDials = 0;
  #restarting = false;
  #wasOffline = false;
  #running = false;
  #timer = 0;
  #ticker = 0;
  #lastTick = 0;

  /** @param {{base?: string}} options `base`: the server's origin, by default the page's own. */
  constructor({ base = location.origin } = {}) {
    super();
    this.#base = base;
  }

  /**
   * `{name, retryAt?, restarting?, reason?}`; `name` is one of connecting, live, reconnecting,
   * offline, asleep, refused. A "state" event tells of every change. `retryAt` is in Date.now() time.
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
    this.#ticker = setInterval(this.#tick, TICK_MS);
    addEventListener("online", this.#online);
    addEventListener("offline", this.#offline);
    document.addEventListener("visibilitychange", this.#visible);
    this.#become({ name: "connecting" });
    this.#dial();
  }

  /** Close for good. Streams stay as they are and go on after another `connect()`. */
  close() {
    this.#shutdown();
    this.#forgetSocket()?.close(1000);
    this.#parkStreams(1000);
  }

  /**
   * Start a response. `body` is what POST /v1/responses takes; `stream_id` is set here.
   * `handlers`: {onEvent(event), onQueue(position), onAttached(event), onSnapshot(response), onEnd(outcome)};
   * `position` is how many jobs will be handed out before this one.
   */
  create(body, handlers = {}) {
    const stream = new Stream(this, handlers, { phase: "waiting", body });
    this.#streams.add(stream);
    if (this.live) this.#sendCreate(stream);
    else if (this.#state.name === "asleep") this.#hurry();
    else if (this.#state.name === "refused") queueMicrotask(() => this.#end(stream, this.#refusal()));
    return stream;
  }

  /** Read a response that already exists. Without `startingAfter` it is replayed from its first event. */
  attach(responseId, { startingAfter } = {}, handlers = {}) {
    const stream = new Stream(this, handlers, { phase: "open", responseId, cursor: startingAfter });
    this.#streams.add(stream);
    if (this.live) this.#sendAttach(stream);
    else if (this.#state.name === "asleep") this.#hurry();
    else if (this.#state.name === "refused") queueMicrotask(() => this.#end(stream, this.#refusal()));
    return stream;
  }

  /** Same as `stream.cancel()`. */
  cancel(stream) {
    if (stream.phase === "ended") return;
    if (stream.phase === "waiting") return this.#end(stream, { kind: "cancelled" });
    stream.wantsCancel = true;
    this.#sendCancel(stream);
  }

  /** Same as `stream.detach()`. */
  detach(stream) {
    if (stream.phase === "ended") return;
    if (stream.lane) {
      // Late events of this response may still arrive under this name: it is not used again.
      this.#send({ type: "grizz:detach", stream_id: stream.lane });
      this.#lanes.set(stream.lane, null);
    }
    stream.phase = "ended";
    this.#streams.delete(stream);
  }

  /** Say whether somebody is looking: "visible", "hidden" or "idle". Hidden tabs get fewer, larger frames. */
  presence(state) {
    this.#presence = state;
    this.#lastFrame = Date.now();
    this.#send({ type: "grizz:presence", state });
  }

  /** The Response object as it is now. Throws an Error with `status` and `code`. */
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
   * Any other call of the API: `await grizz.request("POST", "/v1/conversations", { metadata })`.
   * `body`, if any, goes as JSON; the parsed answer is returned. A refusal throws an Error with `message`, `status`
   * and `code`; no answer within 10 s, or no connection, an Error without a status.
   */
  async request(method, path, body) {
    const options = { method, cache: "no-store", signal: AbortSignal.timeout(DIAL_MS) };
    if (body !== undefined) {
      options.headers = { "Content-Type": "application/json" };
      options.body = JSON.stringify(body);
    }
    const answer = await fetch(new URL(path, this.#base), options);
    const parsed = await answer.json().catch(() => ({}));
    if (answer.ok) return parsed;
    const error = new Error(parsed.error?.message ?? `The server answered ${answer.status}.`);
    throw Object.assign(error, { status: answer.status, code: parsed.error?.code });
  }

  // The connection ------------------------------------------------------------------------------

  #dial() {
    clearTimeout(this.#timer);
    const url = new URL("/v1/responses", this.#base);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new WebSocket(url, ["responses", "grizz"]);
    this.#socket = socket;
    this.#openedAt = 0;
    if (this.#state.retryAt) this.#become({ ...this.#state, retryAt: undefined });
    this.#timer = setTimeout(() => this.#replace(), DIAL_MS);
    socket.onopen = () => this.#opened();
    socket.onmessage = (message) => this.#received(message.data);
    socket.onclose = (close) => this.#dropped(close.code, close.reason);
  }

  #opened() {
    clearTimeout(this.#timer);
    this.#openedAt = this.#lastFrame = Date.now();
    this.#failedDials = 0;
    this.#restarting = false;
    this.#wasOffline = false;
    this.#become({ name: "live" });
    this.#send({ type: "grizz:presence", state: this.#presence }); // also asks for grizz:* events
    for (const stream of [...this.#streams]) {
      if (stream.phase === "waiting") this.#sendCreate(stream);
      else this.#sendAttach(stream);
    }
  }

  #dropped(code, reason = "") {
    const lived = this.#openedAt ? Date.now() - this.#openedAt : 0;
    const neverOpened = !this.#openedAt;
    this.#forgetSocket();
    if (code === 1008) return this.#refuse(reason || "The server refused the connection.");
    this.#parkStreams(code);
    // Closed for being idle: nothing is amiss, and the next question opens another one.
    if (code === 1000 && !this.#streams.size) return this.#become({ name: "asleep" });
    if (lived > LIVED_MS) this.#attempts = 0;
    if (code === 1012) this.#restarting = true;
    // A refused handshake looks like a dead network here: every second time, ask over HTTP which it was.
    if (neverOpened && ++this.#failedDials % 2 === 0) this.#askWhy();
    const offline = !navigator.onLine;
    const ceiling = Math.min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** this.#attempts++);
    // Offline we still try now and then: a server on this very machine needs no network.
    const delay = offline ? BACKOFF_CAP_MS : Math.random() * ceiling;
    this.#become({
      name: offline ? "offline" : "reconnecting",
      retryAt: Date.now() + delay,
      restarting: this.#restarting,
    });
    this.#timer = setTimeout(() => this.#dial(), delay);
  }

  /** Give the current socket up, open or not, as if it had dropped, and dial again at once. */
  #replace() {
    const socket = this.#forgetSocket();
    socket?.close();
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

  /** The socket is gone: streams with an id wait for the next one, a create without one is unknown. */
  #parkStreams(code) {
    this.#lanes.clear();
    for (const stream of [...this.#streams]) {
      stream.lane = null;
      if (stream.phase !== "sent") continue;
      if (code === 1009) {
        const error = { code: "body_too_large", message: "The message is too large for this server." };
        this.#end(stream, { kind: "refused", error });
      } else {
        this.#end(stream, { kind: "unknown" });
      }
    }
  }

  #refuse(reason) {
    this.#shutdown();
    this.#forgetSocket()?.close();
    this.#become({ name: "refused", reason });
    for (const stream of [...this.#streams]) this.#end(stream, this.#refusal());
  }

  #refusal() {
    return { kind: "refused", error: { code: "connection_refused", message: this.#state.reason } };
  }

  #shutdown() {
    this.#running = false;
    clearInterval(this.#ticker);
    removeEventListener("online", this.#online);
    removeEventListener("offline", this.#offline);
    document.removeEventListener("visibilitychange", this.#visible);
  }

  async #askWhy() {
    try {
      await this.models();
    } catch (error) {
      if ((error.status === 401 || error.status === 403) && !this.live && this.#running) this.#refuse(error.message);
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
      if (!error.status && this.live && !navigator.onLine) {
        this.#forgetSocket()?.close();
        this.#dropped(1006);
      }
    }
  };

  #visible = () => {
    if (document.visibilityState === "visible") this.#hurry();
  };

  /** A socket can die without a word. What should have spoken and did not is replaced. */
  #tick = () => {
    const now = Date.now();
    const slept = now - this.#lastTick > NAP_MS;
    this.#lastTick = now;
    if (!this.live) return;
    const streams = [...this.#streams];
    const unanswered = streams.some((stream) => stream.phase === "sent" && now - stream.sentAt > ACK_MS);
    const silent = streams.length > 0 && this.#presence === "visible" && now - this.#lastFrame > SILENCE_MS;
    if (slept || unanswered || silent) this.#replace();
  };

  // What is sent --------------------------------------------------------------------------------

  #send(event) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(event));
    return true;
  }

  #sendCreate(stream) {
    this.#takeLane(stream);
    stream.phase = "sent";
    stream.sentAt = Date.now();
    this.#send({ ...stream.body, type: "response.create", stream_id: stream.lane });
  }

  #sendAttach(stream) {
    if (stream.phase !== "open" || stream.lane || stream.polling) return;
    this.#takeLane(stream);
    stream.attaching = true;
    const event = { type: "grizz:attach", response_id: stream.responseId, stream_id: stream.lane };
    if (stream.cursor !== undefined) event.starting_after = stream.cursor;
    this.#send(event);
    if (stream.wantsCancel) this.#sendCancel(stream);
  }

  #sendCancel(stream) {
    if (stream.phase === "open") this.#send({ type: "response.cancel", response_id: stream.responseId });
  }

  /** The lowest free name: a server allows only so many different lanes on one connection. */
  #takeLane(stream) {
    let number = 1;
    while (this.#lanes.has(`s${number}`)) number += 1;
    stream.lane = `s${number}`;
    this.#lanes.set(stream.lane, stream);
  }

  // What arrives --------------------------------------------------------------------------------

  #received(data) {
    const event = JSON.parse(data);
    this.#lastFrame = Date.now();
    this.#attempts = 0;
    const stream = this.#lanes.get(event.stream_id);
    if (stream && event.type === "grizz:queue") {
      if (event.response_id === stream.responseId) stream.emit("onQueue", event.position);
    } else if (!stream) {
      // About the connection, or about nothing that is still read: for whoever is interested.
      this.dispatchEvent(new CustomEvent("event", { detail: event }));
    } else if (event.type === "error") {
      this.#failed(stream, { ...event.error, status: event.status });
    } else if (event.type === "grizz:attached") {
      this.#attached(stream, event);
    } else if (event.type.startsWith("response.")) {
      this.#deliver(stream, event);
    }
  }

  #deliver(stream, event) {
    if (event.sequence_number <= stream.cursor) return; // seen before
    stream.cursor = event.sequence_number;
    if (event.type === "response.created") {
      stream.responseId = event.response.id;
      stream.phase = "open";
      stream.body = null;
      if (stream.wantsCancel) this.#sendCancel(stream);
    }
    stream.emit("onEvent", event);
    if (TERMINAL.has(event.type)) this.#end(stream, { kind: "done", response: event.response });
  }

  #attached(stream, event) {
    stream.attaching = false;
    stream.emit("onAttached", event);
    const nothingFollows = !isRunning(event.status) && event.last_sequence_number <= stream.cursor;
    if (nothingFollows) this.#takeSnapshot(stream);
  }

  #failed(stream, error) {
    if (stream.phase === "sent" && error.code === "websocket_connection_limit_reached") {
      stream.phase = "waiting"; // it did not run: a young connection will take it
      this.#releaseLane(stream);
      return this.#replace();
    }
    if (stream.phase === "open" && stream.attaching) {
      stream.attaching = false;
      this.#releaseLane(stream);
      if (error.code === "grizz:log_expired") return this.#takeSnapshot(stream);
      if (error.status === 429 || error.status >= 500) return this.#attachLater(stream);
    }
    const lost = stream.phase === "open" && error.code === "response_not_found";
    this.#end(stream, lost ? { kind: "lost" } : { kind: "refused", error });
  }

  #attachLater(stream) {
    setTimeout(() => this.live && this.#sendAttach(stream), 1000 + Math.random() * 4000);
  }

  /** The events are gone but the result may be there: poll it until it is final. */
  async #takeSnapshot(stream) {
    stream.polling = true;
    for (let wait = 2000; stream.phase === "open"; wait = Math.min(wait * 1.5, BACKOFF_CAP_MS)) {
      try {
        const response = await this.retrieve(stream.responseId);
        if (stream.phase !== "open") return;
        stream.emit("onSnapshot", response);
        if (!isRunning(response.status)) return this.#end(stream, { kind: "done", response });
      } catch (error) {
        if (error.status === 404) return this.#end(stream, { kind: "lost" });
        if (error.status === 401 || error.status === 403) return this.#end(stream, { kind: "refused", error });
      }
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }

  #releaseLane(stream) {
    if (stream.lane) this.#lanes.delete(stream.lane);
    stream.lane = null;
  }

  #end(stream, outcome) {
    if (stream.phase === "ended") return;
    stream.phase = "ended";
    this.#releaseLane(stream);
    this.#streams.delete(stream);
    stream.emit("onEnd", outcome);
  }
}
