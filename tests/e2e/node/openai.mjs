// The official JavaScript package as a client. Usage: node openai.mjs BASE_URL; prints one JSON object.
import OpenAI from "openai";
import { zodTextFormat } from "openai/helpers/zod";
import { ResponsesWS } from "openai/resources/responses/ws";
import { z } from "zod";

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

const text = (events) => events.filter((e) => e.type === "response.output_text.delta").map((e) => e.delta).join("");

const begun = await openai.responses.create({ model, input: "[[words:25]] [[rate:200]]", background: true, stream: true });
const seen = [];
for await (const event of begun) {
  seen.push(event);
  if (seen.length === 8) break;
}
const { id } = seen[0].response;
for await (const event of await openai.responses.retrieve(id, { stream: true, starting_after: seen.at(-1).sequence_number }))
  seen.push(event);
out.background = text(seen);
out.helperResume = (await openai.responses.stream({ response_id: id, starting_after: 3 }).finalResponse()).output_text;

const format = zodTextFormat(z.object({ name: z.string(), age: z.number().int() }), "person");
out.parsed = (await openai.responses.parse({ model, input: "Who is Alice?", text: { format } })).output_parsed;

const slow = await openai.responses.create({ model, input: "[[words:9]] [[stall:3]]", background: true });
out.cancelled = (await openai.responses.cancel(slow.id)).status;
await openai.responses.delete(slow.id);
out.deleted = await openai.responses.retrieve(slow.id).catch((error) => [error.status, error.code]);

const image_url = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw==";
const content = [
  { type: "input_text", text: "What are these?" },
  { type: "input_image", image_url, detail: "auto" },
  { type: "input_file", filename: "a.pdf", file_data: "data:application/pdf;base64,JVBERi0xLjEKJSVFT0Y=" },
];
const given = [{ role: "user", content }, ...[1, 2, 3, 4].map((n) => ({ role: "user", content: `message ${n}` }))];
const attached = await openai.responses.create({ model, input: [...given.slice(1), given[0]] });
out.attachments = /I received (.*), but/.exec(attached.output_text)[1];
out.items = [];
for await (const item of openai.responses.inputItems.list(attached.id, { limit: 2, order: "asc" }))
  out.items.push(item.content.map((part) => part.type).join());
out.models = [];
for await (const entry of openai.models.list()) out.models.push(entry.id);

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

const ws = new ResponsesWS(openai);
const first = await turn(ws, { type: "response.create", model, input: "[[echo:one]]" });
const parent = first.at(-1).response.id;
const second = await turn(ws, { type: "response.create", model, input: "[[echo:two]]", previous_response_id: parent });
out.turns = [text(first), text(second)];

const started = await turn(ws, { type: "response.create", model, input: "[[words:60]] [[rate:100]]" }, 9);
ws.close();
const again = new ResponsesWS(openai);
const attach = { type: "grizz:attach", response_id: started[0].response.id, starting_after: started.at(-1).sequence_number };
const continued = await turn(again, attach);
again.close();
out.attached = continued[0].type;
out.dropped = text(started) + text(continued);

console.log(JSON.stringify(out));
