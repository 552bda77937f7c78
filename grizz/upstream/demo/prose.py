"""What the demo says when nothing is scripted: the same words for the same conversation, others for another."""

from __future__ import annotations

import hashlib

from grizz.upstream.demo.conversation import Chat
from grizz.upstream.demo.directives import scan

_OPENINGS = (
    "Hello! I am the demo model built into Grizz. I follow a small script and understand nothing, but I stream.",
    "Hi! You are talking to Grizz's built-in demo model: no intelligence, only a few prepared sentences.",
    "Good to hear from you! I am the demo model that comes with Grizz, so please do not expect real answers.",
    "Welcome! These words come from the built-in demo model of Grizz. No language model is connected yet.",
)
_SETUPS = (
    "To talk to a real model, set `OPENAI_API_KEY` and start Grizz again. For any other OpenAI-compatible API, set "
    "`OPENAI_BASE_URL` as well.",
    "For real answers, give Grizz a key in `OPENAI_API_KEY`; `OPENAI_BASE_URL` points it to another "
    "OpenAI-compatible API, such as one on your own machine.",
)
_EXTRAS = (
    "It takes two lines:\n\n```sh\nexport OPENAI_API_KEY=your-key\n"
    "export OPENAI_BASE_URL=https://api.openai.com/v1\n```",
    "Meanwhile you can try what Grizz does:\n\n- **reload** the page while I write: the answer goes on\n"
    "- open a *second tab* and watch both\n- press stop, and I stop at once",
    "What you see arrives word by word, as it would from a real model.",
)
_ABOUT_SYSTEM = ("system prompt", "system message", "instructions")
_MAX_QUOTE = 600


def chat_answer(chat: Chat, text: str) -> str:
    """A friendly answer to `text`, the last user message without its directives."""
    seed = hashlib.sha256(text.encode(errors="surrogatepass")).digest()
    said = text.strip()
    parts = [
        _OPENINGS[seed[0] % len(_OPENINGS)],
        f"You said: {quote(said)}" if said else "You said nothing in words.",
        _received(chat.attachments),
        _history(chat),
        _system(chat, said),
        _SETUPS[seed[1] % len(_SETUPS)],
        _EXTRAS[seed[2] % len(_EXTRAS)],
    ]
    return "\n\n".join(part for part in parts if part)


def tool_answer(chat: Chat) -> str:
    """An answer that quotes the tool results the conversation ends with."""
    lines = [
        f"The tool {result.name} answered: {quote(result.text)}"
        if result.name
        else f"A tool answered: {quote(result.text)}"
        for result in chat.results
    ]
    lines.append("A real model would now make use of it; I am the built-in demo model and only pass it on.")
    return "\n\n".join(lines)


def quote(text: str, limit: int = _MAX_QUOTE) -> str:
    """`text`, or its first `limit` characters and how many there are."""
    return text if len(text) <= limit else f"{text[:limit]}… (the first {limit} of {len(text):,} characters)"


def _history(chat: Chat) -> str:
    line = f"This is turn {chat.turn} of our conversation."
    earlier = scan(chat.earlier)[0].strip() if chat.earlier else ""
    return f"{line} Before that you wrote: {quote(earlier, 100)}" if earlier else line


def _received(attachments: tuple[str, ...]) -> str:
    if not attachments:
        return ""
    if len(attachments) == 1:
        return f"I received {attachments[0]}, but I cannot see it."
    return f"I received {', '.join(attachments[:-1])} and {attachments[-1]}, but I cannot see them."


def _system(chat: Chat, said: str) -> str:
    if not any(word in said.lower() for word in _ABOUT_SYSTEM):
        return ""
    if not chat.system:
        return "There is no system prompt."
    return f"There is a system prompt, which I do not follow: {quote(chat.system, 200)}"
