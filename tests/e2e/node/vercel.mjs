// Vercel's AI SDK as a client, by both of its providers. Usage: node vercel.mjs BASE_URL; prints one JSON object.
import { createOpenResponses } from "@ai-sdk/open-responses";
import { createOpenAI } from "@ai-sdk/openai";
import { generateObject, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const baseURL = process.argv[2];
const openai = createOpenAI({ baseURL, apiKey: "any" });
const openResponses = createOpenResponses({ name: "grizz", url: `${baseURL}/responses`, apiKey: "any" });
const providers = { openai: openai.responses("grizz-demo"), "open-responses": openResponses("grizz-demo") };

const weather = tool({
  description: "The weather of a city",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `It rains frogs in ${city}`,
});
const person = z.object({ name: z.string(), age: z.number().int() });
const pixel = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

async function everything(model) {
  const out = {};
  const whole = await generateText({ model, prompt: "[[words:20]]", maxRetries: 0 });
  out.generate = whole.text;
  out.usage = whole.usage.outputTokens;
  out.finish = (await generateText({ model, prompt: "[[words:20]] [[length:3]]", maxRetries: 0 })).finishReason;

  const stream = streamText({ model, prompt: "[[reasoning:hm]] [[words:30]] [[rate:300]]", maxRetries: 0 });
  const kinds = new Set();
  for await (const part of stream.fullStream) {
    if (part.type === "error") throw part.error;
    kinds.add(part.type);
  }
  out.stream = await stream.text;
  out.reasoning = await stream.reasoningText;
  out.deltas = kinds.has("text-delta") && kinds.has("reasoning-delta");

  const tools = { get_weather: weather };
  const loop = { model, tools, prompt: "What is the weather in Paris?", stopWhen: stepCountIs(3), maxRetries: 0 };
  const looped = await generateText(loop);
  out.loop = [looped.steps.length, looped.text.split("\n")[0]];
  const streamed = streamText(loop);
  await streamed.consumeStream();
  out.streamedLoop = [(await streamed.steps).length, (await streamed.text).split("\n")[0]];

  out.object = (await generateObject({ model, schema: person, prompt: "Who is Alice?", maxRetries: 0 })).object;
  const output = Output.object({ schema: person });
  out.output = (await generateText({ model, output, prompt: "Who is Alice?", maxRetries: 0 })).output;

  const content = [{ type: "text", text: "What is it?" }, { type: "image", image: pixel }];
  const seen = await generateText({ model, messages: [{ role: "user", content }], maxRetries: 0 });
  out.image = /I received (an image \(\S+),/.exec(seen.text)?.[1];
  const turns = [{ role: "user", content: "I am Alice." }, { role: "assistant", content: "Hello." }, { role: "user", content: "And now?" }];
  out.turns = /turn (\d+)/.exec((await generateText({ model, messages: turns, maxRetries: 0 })).text)[1];
  return out;
}

const result = {};
for (const [name, model] of Object.entries(providers)) result[name] = await everything(model);

const first = await generateText({ model: providers.openai, prompt: "I am Alice." });
const providerOptions = { openai: { previousResponseId: first.providerMetadata.openai.responseId } };
const second = await generateText({ model: providers.openai, prompt: "Who am I?", providerOptions });
result.chain = /Before that you wrote: (.*)/.exec(second.text)[1];
try {
  await generateText({ model: providers.openai, prompt: "x", providerOptions: { openai: { previousResponseId: "resp_none" } } });
} catch (error) {
  result.refused = [error.statusCode, error.isRetryable, error.message];
}
console.log(JSON.stringify(result));
