// The official JavaScript package and its chat completions. Usage: node chat.mjs BASE_URL; prints one JSON object.
import OpenAI from "openai";

const openai = new OpenAI({ baseURL: process.argv[2], apiKey: "any", maxRetries: 0 });
const model = "grizz-demo";
const user = (content) => [{ role: "user", content }];
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const weather = { name: "get_weather", description: "The weather of a city", parameters };
const out = {};

const done = await openai.chat.completions.create({ model, messages: user("[[words:20]]") });
out.create = [done.choices[0].message.content, done.choices[0].finish_reason, done.usage.completion_tokens];

const asked = { model, messages: user("[[words:30]] [[rate:300]]"), stream: true, stream_options: { include_usage: true } };
const chunks = [];
for await (const chunk of await openai.chat.completions.create(asked)) chunks.push(chunk);
out.stream = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
out.ids = new Set(chunks.map((chunk) => chunk.id)).size;
out.usage = chunks.at(-1).usage.completion_tokens;

const helper = openai.chat.completions.stream({ model, messages: user("[[reasoning:hm]] [[words:25]]") });
out.helper = await helper.finalContent();

const runner = openai.chat.completions.runTools({
  model,
  stream: true,
  messages: user("Weather in Paris?"),
  tools: [{ type: "function", function: { ...weather, parse: JSON.parse, function: ({ city }) => `sunny in ${city}` } }],
});
out.tools = (await runner.finalContent()).includes("sunny in");

async function raised(call) {
  try {
    await call();
  } catch (error) {
    return [error.constructor.name, error.code, error.param ?? null];
  }
}
out.refused = await raised(() => openai.chat.completions.create({ model, messages: user("x"), n: 2 }));
out.failed = await raised(() => openai.chat.completions.create({ model, messages: user("[[error:context]]"), stream: true }));
let said = "";
out.halfway = await raised(async () => {
  const stream = await openai.chat.completions.create({ model, messages: user("[[words:9]] [[rate:50]] [[cut:4]]"), stream: true });
  for await (const chunk of stream) said += chunk.choices[0].delta.content ?? "";
});
out.said = said;

const left = await openai.chat.completions.create({ model, messages: user("[[words:9]] [[stall:4]]"), stream: true });
for await (const chunk of left) if (chunk.choices[0].delta.content) break;

console.log(JSON.stringify(out));
