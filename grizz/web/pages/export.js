/** A chat as a file. */

import { make } from "./body.js";

const WRITERS = {
  json: ["application/json", (chat) => JSON.stringify(chat, null, 2) + "\n"],
  markdown: ["text/markdown", asMarkdown],
};

/** Hand the browser a file of a chat, `{title, updated, messages, …}`; `kind`: "json" or "markdown". */
export function download(chat, kind) {
  const [type, write] = WRITERS[kind];
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([write(plain(chat))], { type }));
  link.download = `${chat.title.replace(/[^\p{L}\p{N} _-]+/gu, "").trim().slice(0, 60) || "chat"}.${kind === "json" ? "json" : "md"}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function plain({ title, conversation, updated, options, messages }) {
  return {
    title,
    conversation,
    updated: new Date(updated).toISOString(),
    ...options,
    messages: messages.map(({ role, text, images, status, model, thoughts, refusal, calls, problem, stats }) =>
      role === "user" ? { role, text, images } : { role, status, model, text, thoughts, refusal, calls, problem, stats },
    ),
  };
}

const longest = (text, pattern) => Math.max(0, ...(text.match(pattern) ?? []).map((run) => run.length));

/** In a fence that is longer than all in it. */
function fenced(text) {
  const fence = "`".repeat(Math.max(3, longest(text, /`+/g) + 1));
  return `${fence}\n${text}\n${fence}`;
}

/** With the end of a block of code that was cut off, so that it does not swallow what follows. */
function closed(text) {
  let open = null;
  for (const line of text.split("\n")) {
    const [, fence, rest] = /^[ >]*(`{3,}|~{3,})(.*)/.exec(line) ?? [];
    if (!fence) continue;
    if (!open) open = fence;
    else if (fence[0] === open[0] && fence.length >= open.length && !rest.trim()) open = null;
  }
  return open ? `${text}\n${open}` : text;
}

function asMarkdown({ title, instructions, messages }) {
  const parts = [`# ${title}`];
  if (instructions) parts.push(`> ${instructions.replaceAll("\n", "\n> ")}`);
  for (const { role, text, images, thoughts, refusal, calls, problem } of messages) {
    parts.push(role === "user" ? "## You" : "## Assistant");
    if (thoughts) parts.push(`<details><summary>Reasoning</summary>\n\n${closed(thoughts)}\n\n</details>`);
    if (text) parts.push(closed(text));
    if (refusal) parts.push(`*${refusal}*`);
    for (const { name, arguments: told, output } of calls ?? []) {
      parts.push(`Tool call \`${name}\`:\n\n${fenced(told)}`);
      if (output) parts.push(`Result:\n\n${fenced(output)}`);
    }
    images?.forEach((url, index) => parts.push(`![Image ${index + 1}](${url})`));
    if (problem) parts.push(`*${problem.text}*`);
  }
  return parts.join("\n\n") + "\n";
}
