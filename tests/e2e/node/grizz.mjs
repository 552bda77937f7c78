// Grizz's own client in Node. Usage: node grizz.mjs SCENARIO BASE_URL CLIENT_FILE [ARGUMENT]; prints JSON, one a line.
import WebSocket from "ws";

const [scenario, base, file, argument] = process.argv.slice(2);
const { Grizz } = await import(file);
const options = { base, WebSocket };
const say = (fact) => console.log(JSON.stringify(fact));
const ended = (outcome) => ({ end: outcome.kind, status: outcome.response?.status, code: outcome.error?.code });

/** Reads a stream to its end; what a page would show, and what must be right about it. */
function reader(first = -1) {
  const seen = { text: "", numbers: [], begun: 0, ends: 0 };
  return {
    seen,
    onEvent(event) {
      if (event.type === "response.created") {
        seen.begun += 1;
        seen.text = "";
        if (seen.begun === 1) say({ id: event.response.id });
      }
      seen.numbers.push(event.sequence_number);
      if (event.delta) seen.text += event.delta;
      if (seen.numbers.length === 12) say({ seen: 12 });
    },
    onQueue: (position) => say({ position }),
    onEnd(outcome) {
      seen.ends += 1;
      const { text, numbers, begun, ends } = seen;
      const inOrder = numbers.every((n, i) => n > (numbers[i - 1] ?? first));
      const gaps = numbers.filter((n, i) => n !== (numbers[i - 1] ?? first) + 1);
      say({ ...ended(outcome), text, begun, ends, inOrder, gaps, count: numbers.length });
    },
  };
}

const scenarios = {
  /** A loop, the outcome, and all that goes over HTTP. */
  async plain(grizz) {
    let text = "";
    const stream = grizz.create({ input: "[[words:50]]" });
    for await (const event of stream) if (event.delta) text += event.delta;
    const outcome = await stream.done;
    const again = await grizz.retrieve(stream.responseId);
    const made = await grizz.request("POST", "/v1/conversations", { metadata: { title: "Bears" } });
    const error = await grizz.request("GET", "/v1/conversations/conv_none").catch((caught) => caught);
    const { model } = await grizz.info();
    say({
      text, ...ended(outcome), again: again.status, models: await grizz.models(), model, title: made.metadata.title,
      error: [error instanceof Error, error.status, error.code, error.message.length > 10],
    });
  },

  async cancel(grizz) {
    let text = "";
    const stream = grizz.create({ input: "[[words:1000]] [[rate:50]]" });
    for await (const event of stream) {
      if (event.delta) text += event.delta;
      if (event.delta?.startsWith("w2")) stream.cancel();
    }
    say({ text, ...ended(await stream.done) });
  },

  /** Leaving the loop cancels what it made, and not what it only looks at. */
  async leave(grizz) {
    const stream = grizz.create({ input: "[[words:1000]] [[rate:50]]" });
    const other = await new Promise((resolve) => {
      (async () => {
        for await (const event of stream) {
          if (event.type === "response.created") resolve(grizz.attach(event.response.id));
          if (event.delta?.startsWith("w9")) break;
        }
      })();
    });
    let watched = 0;
    for await (const _ of other) if ((watched += 1) === 3) break;
    const running = (await grizz.retrieve(stream.responseId)).status;
    say({ watched, running, left: (await other.done).kind, ...ended(await stream.done) });
  },

  /** Until its end, whatever the test does meanwhile. */
  async read(grizz) {
    await grizz.create({ input: argument }, reader()).done;
  },

  async attach(grizz) {
    const first = reader();
    const stream = grizz.create({ input: "[[words:80]] [[rate:200]]" }, first);
    await new Promise((resolve) => grizz.addEventListener("state", () => grizz.live && resolve()));
    while (!stream.responseId || first.seen.numbers.length < 9) await new Promise((resolve) => setTimeout(resolve, 5));
    const other = new Grizz(options);
    other.connect();
    const second = reader();
    const rest = reader(7);
    await Promise.all([
      other.attach(stream.responseId, {}, second).done,
      other.attach(stream.responseId, { startingAfter: 7 }, rest).done,
      stream.done,
    ]);
    other.close();
    say({ same: second.seen.text === first.seen.text, rest: rest.seen.numbers[0], all: second.seen.numbers[0] });
  },

  async presence(grizz) {
    const counts = {};
    for (const state of ["visible", "hidden"]) {
      grizz.presence(state);
      const { onEvent, seen } = reader();
      await grizz.create({ input: "[[words:300]] [[rate:200]]" }, { onEvent }).done;
      counts[state] = seen.numbers.length;
      counts.text = seen.text;
    }
    say(counts);
  },

  /** A loop that stops reading for a while holds little, and misses nothing. Calls, since no two of them are merged. */
  async slow(grizz) {
    const calls = Array.from({ length: 150 }, (_, n) => `[[tool:t${n}]] [[args:{"n":${n}}]]`);
    const stream = grizz.create({ input: calls.join(" ") });
    const numbers = [];
    const called = [];
    let paused = false;
    for await (const event of stream) {
      while (numbers.length === 10 && !stream.paused && stream.phase !== "ended")
        await new Promise((resolve) => setTimeout(resolve, 20));
      numbers.push(event.sequence_number);
      paused ||= stream.paused;
      if (event.type === "response.output_item.done") called.push(event.item.arguments);
    }
    const all = called.length === 150 && called.every((text, n) => text === `{"n":${n}}`);
    say({ paused, all, gapless: numbers.every((number, n) => number === n), ...ended(await stream.done) });
  },

  /** More streams left than one connection has names for. */
  async many(grizz) {
    const kept = reader();
    const whole = grizz.create({ input: "[[words:300]] [[rate:200]]" }, kept).done;
    const left = [];
    for (let n = 0; n < 40; n += 1) {
      const stream = grizz.create({ input: "[[words:9]] [[rate:20]]" });
      for await (const event of stream) if (event.type === "response.created") stream.detach();
      left.push((await stream.done).kind);
    }
    await whole;
    say({ left: left.filter((kind) => kind === "detached").length });
  },

  async refused(grizz) {
    try {
      for await (const _ of grizz.create({ input: 7 })) say("an event");
    } catch (error) {
      say({ kind: error.kind, code: error.code, status: error.status });
    }
  },

  /** Stopped while it waits behind another turn of its conversation. */
  async withdraw(grizz) {
    const conversation = (await grizz.request("POST", "/v1/conversations", {})).id;
    const first = grizz.create({ input: "[[words:500]] [[rate:50]]", conversation });
    for await (const event of first) if (event.delta) { // its turn has begun
      const second = grizz.create({ input: "[[words:3]]", conversation });
      await grizz.models();
      second.cancel();
      say({ second: (await second.done).kind, first: first.phase });
      break;
    }
    await first.done;
  },

  async account(grizz) {
    const text = [];
    for await (const event of grizz.create({ input: "[[words:5]]" })) if (event.delta) text.push(event.delta);
    say({ text: text.join(""), models: await grizz.models() });
  },

  async stranger(grizz) {
    const outcome = await grizz.create({ input: "[[words:5]]" }).done;
    say({ ...ended(outcome), state: grizz.state.name, reason: grizz.state.reason });
  },

  /** Closed in the middle: everything ends, and so does the process. */
  async close(grizz) {
    const stream = grizz.create({ input: "[[words:1000]] [[rate:20]]" }, {});
    const waiting = grizz.request("GET", "/v1/responses/resp_none").catch((error) => error.code);
    await new Promise((resolve) => setTimeout(resolve, 300));
    grizz.attach("resp_none", { startingAfter: 3 }); // is tried again in a second
    await waiting;
    grizz.close();
    say({ ...ended(await stream.done), state: grizz.state.name });
  },

  /** Closed while there is no server. */
  async unreachable(grizz) {
    const stream = grizz.create({ input: "Hello" });
    await new Promise((resolve) => setTimeout(resolve, 700));
    const error = await grizz.models().catch((caught) => caught);
    say({ state: grizz.state.name, code: error.code, status: error.status ?? null });
    grizz.close();
    say(ended(await stream.done));
  },
};

if (argument?.startsWith("key:")) {
  const key = argument.slice(4);
  options.token = scenario === "account" ? async () => key : key;
}
const grizz = new Grizz(options);
grizz.connect();
await scenarios[scenario](grizz);
grizz.close(); // nothing else may keep this process
