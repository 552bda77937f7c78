// The official JavaScript package as a client. Usage: node client.mjs BASE_URL; prints one JSON object.
import OpenAI from "openai";
import { ResponsesWS } from "openai/resources/responses/ws";

const openai = new OpenAI({ baseURL: process.argv[2], apiKey: "any", maxRetries: 0 });
const model = "grizz-demo";
const terminal = ["response.completed", "response.incomplete", "response.failed"];
const out = {};

out.create = (await openai.responses.create({ model, input: "[[words:20]]" })).output_text;

const stream = openai.responses.stream({ model, input: "[[words:30]] [[rate:300]]" });
out.helper = (await stream.finalResponse()).output_text;

const whole = [];
for await (const event of await openai.responses.create({ model, input: "[[words:25]]", stream: true })) whole.push(event);
const rest = [];
for await (const event of await openai.responses.retrieve(whole[0].response.id, { stream: true, starting_after: 4 }))
  rest.push(event);
out.resume = JSON.stringify(rest) === JSON.stringify(whole.slice(5));

function turn(ws, frame, stopAfter = Infinity) {
  return new Promise((resolve, reject) => {
    const events = [];
    const done = () => { ws.off("event", onEvent); resolve(events); };
    const onEvent = (event) => {
      events.push(event);
      if (terminal.includes(event.type) || events.length >= stopAfter) done();
    };
    ws.on("event", onEvent);
    ws.on("error", reject);
    ws.send(frame);
  });
}
const text = (events) => events.filter((e) => e.type === "response.output_text.delta").map((e) => e.delta).join("");

const ws = new ResponsesWS(openai);
const first = await turn(ws, { type: "response.create", model, input: "[[echo:one]]" });
const parent = first.at(-1).response.id;
const second = await turn(ws, { type: "response.create", model, input: "[[echo:two]]", previous_response_id: parent });
out.turns = [text(first), text(second)];

const begun = await turn(ws, { type: "response.create", model, input: "[[words:60]] [[rate:100]]" }, 9);
ws.close();
const again = new ResponsesWS(openai);
const attach = { type: "grizz:attach", response_id: begun[0].response.id, starting_after: begun.at(-1).sequence_number };
const continued = await turn(again, attach);
again.close();
out.attached = continued[0].type;
out.dropped = text(begun) + text(continued);

console.log(JSON.stringify(out));
