/**
 * Between a conversation's items, as the server keeps them, and messages, as the page shows them.
 *
 * A message is plain data: `{role: "user", text, images}` or the record of an answer (answer.js). `items` are the
 * ids that it has in the conversation, known after a look at the server; `kept` says that the server has it.
 */

/** What a Response's output says, without the messages that a later attempt replaced. */
export function readOutput(output = []) {
  const messages = output.filter((item) => item.type === "message");
  const dead = messages.findLastIndex((item, index) => item.status === "incomplete" && index < messages.length - 1);
  const parts = messages.slice(dead + 1).flatMap((item) => item.content ?? []);
  return {
    text: parts.map((part) => part.text).filter(Boolean).join("\n\n"),
    refusal: parts.map((part) => part.refusal).filter(Boolean).join("\n"),
    thoughts: output
      .filter((item) => item.type === "reasoning")
      .flatMap((item) => (item.summary?.length ? item.summary : (item.content ?? [])))
      .map((part) => part.text)
      .filter(Boolean)
      .join("\n\n"),
    calls: output.filter(isCall).map(readCall),
  };
}

/** A call of a function, or of a tool that ran at the model's server. */
export const isCall = ({ type }) => type.endsWith("_call");

export function readCall(item) {
  const told = item.arguments ?? item.input ?? JSON.stringify(item.action ?? item.queries ?? item.code ?? "");
  return { id: item.call_id, name: item.name ?? item.type.slice(0, -5).replaceAll("_", " "), arguments: told };
}

/** The messages of a conversation's items, oldest first. */
export function toMessages(items) {
  const messages = [];
  let ids = []; // of what is not shown by itself and belongs to the next message
  let output = null; // the items of the answer that is being collected
  const answered = () => {
    if (!output) return;
    const { text, refusal, thoughts, calls } = readOutput(output);
    for (const call of calls) {
      const result = output.find((item) => item.type.endsWith("_output") && item.call_id === call.id);
      if (result) call.output = textOf(result.output);
    }
    const status = output.some((item) => item.status === "incomplete") ? "incomplete" : "completed";
    const own = output.map((item) => item.id);
    messages.push({ role: "assistant", id: null, status, text, refusal, thoughts, calls, items: own, kept: true });
    output = null;
  };
  for (const item of items) {
    if (item.type === "message" && item.role === "user") {
      answered();
      messages.push({ role: "user", text: textOf(item.content), images: imagesOf(item.content), items: [...ids, item.id], kept: true });
      ids = [];
    } else if (item.type === "message" && item.role !== "assistant") {
      answered();
      ids.push(item.id);
    } else {
      output = [...(output ?? []), item];
    }
  }
  answered();
  return messages;
}

const textOf = (content) =>
  typeof content === "string" ? content : (content ?? []).map((part) => part.text).filter(Boolean).join("\n");

const imagesOf = (content) =>
  typeof content === "string" ? [] : content.filter((part) => part.image_url).map((part) => part.image_url);

/** What a user says, as the content of an input message. */
export function toContent({ text, images = [] }) {
  const parts = images.map((url) => ({ type: "input_image", image_url: url, detail: "auto" }));
  return text ? [...parts, { type: "input_text", text }] : parts;
}

/** Messages as input items, for a server that does not know them. */
export function toItems(messages) {
  return messages.flatMap((message) => {
    if (message.role === "user") return [{ type: "message", role: "user", content: toContent(message) }];
    if (!message.text) return [];
    return [{ type: "message", role: "assistant", content: [{ type: "output_text", text: message.text, annotations: [] }] }];
  });
}

/**
 * The messages of this browser and those of the server as one list. Those of the server stand; where this browser has
 * one too, its object stays, with what only it knows (speed, errors). What the server never had stays in its place;
 * what it had and has no more was deleted elsewhere.
 */
export function merge(mine, theirs) {
  const merged = [];
  let next = 0;
  const keep = (passed) => {
    const rest = passed.filter(({ kept }) => !kept);
    // An answer that this browser gave up, and that the server has after all.
    if (merged.at(-1)?.role === "assistant" && rest[0]?.role === "assistant") rest.shift();
    merged.push(...rest);
  };
  for (const one of theirs) {
    const found = find(mine, next, one);
    if (found < 0) {
      merged.push(one);
      continue;
    }
    keep(mine.slice(next, found));
    merged.push(Object.assign(mine[found], { items: one.items, kept: true }, one.images?.length && { images: one.images }));
    next = found + 1;
  }
  keep(mine.slice(next));
  return merged;
}

/**
 * Where in `mine`, from `next` on, a message of the server is, or -1: by its items, else by its words, and then what
 * the server is known not to have comes last, since the same may have been asked again.
 */
function find(mine, next, one) {
  const first = (is) => mine.findIndex((own, index) => index >= next && own.role === one.role && is(own));
  const says = (own) => !own.items?.length && own.text.trim() === one.text.trim();
  const tries = [(own) => own.items?.some((id) => one.items.includes(id)), (own) => own.kept !== false && says(own), says];
  for (const is of tries) {
    const found = first(is);
    if (found >= 0) return found;
  }
  return -1;
}
