"""Chat and Script → Answer: what will be said, in pieces, and how it ends."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import orjson

from grizz.upstream.demo import prose
from grizz.upstream.demo.conversation import Chat, Tool
from grizz.upstream.demo.directives import Script
from grizz.upstream.demo.schema import fill

# A piece is a word with the space before it; long runs (a URL, Chinese) are cut so that they stream too.
_PIECE = re.compile(r"\s*\S{1,12}|\s+")
_NAME_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[^\W\d_]+")
_TEXT_WORD = re.compile(r"[^\W\d_]+")
_COMMON = frozenset(
    "a an and any are as at by call can current do fetch find for from function get give given has in into is it list "
    "look make of on or return returns run search set show tell that the them this to tool use used user uses value "
    "was what when where which with you your".split()
)


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call; `arguments` is JSON text."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What will be said, in this order; every piece becomes one delta."""

    reasoning: Sequence[str] = ()
    content: Iterable[str] = ()
    refusal: Sequence[str] = ()
    calls: tuple[Call, ...] = ()

    @property
    def finish_reason(self) -> str:
        """How it ends if nothing interferes."""
        return "tool_calls" if self.calls else "stop"


def pieces(text: str) -> list[str]:
    """Cut a text into small pieces whose concatenation is the text."""
    return _PIECE.findall(text)


def compose(chat: Chat, script: Script, text: str) -> Answer:
    """Decide what to say. `text` is the last user message without its directives."""
    reasoning = pieces(script.reasoning or "")
    if script.empty:
        return Answer(reasoning)
    if chat.results:
        return Answer(reasoning, pieces(prose.tool_answer(chat)))
    scripted = _scripted_content(script, text)
    calls = _scripted_calls(chat, script, text) or _chosen_call(chat, text, by_mention=scripted is None)
    refusal = pieces(script.refusal or "")
    if scripted is not None or calls or refusal:
        return Answer(reasoning, scripted or (), refusal, calls)
    return Answer(reasoning, pieces(_free_content(chat, text)))


def _scripted_content(script: Script, text: str) -> Iterable[str] | None:
    if script.words is not None:
        return (f"w{number} " for number in range(script.words))
    if script.echo is not None:
        return pieces(script.echo)
    return pieces(text) if script.echo_message else None


def _free_content(chat: Chat, text: str) -> str:
    if chat.schema is None:
        return prose.chat_answer(chat, text)
    if chat.schema:
        return orjson.dumps(fill(chat.schema, text)).decode()
    return orjson.dumps({"model": "demo", "you_said": prose.quote(text.strip()), "turn": chat.turn}).decode()


def _scripted_calls(chat: Chat, script: Script, text: str) -> tuple[Call, ...]:
    offered = {tool.name: tool for tool in chat.tools}
    calls = []
    for call in script.calls:
        tool = offered.get(call.name, Tool(call.name, "", None))
        calls.append(_call(tool, text) if call.arguments is None else Call(call.name, call.arguments))
    return tuple(calls)


def _chosen_call(chat: Chat, text: str, *, by_mention: bool) -> tuple[Call, ...]:
    """The call a model would make: the forced one, or the first tool the user seems to speak of."""
    tools = chat.tools
    match chat.tool_choice:
        case ("named", name):
            tools = tuple(tool for tool in tools if tool.name == name)
        case "required":
            tools = tuple(tool for tool in tools if _mentions(text, tool)) or tools
        case "auto" if by_mention and not chat.answered:
            tools = tuple(tool for tool in tools if _mentions(text, tool))
        case _:
            tools = ()
    return (_call(tools[0], text),) if tools else ()


def _mentions(text: str, tool: Tool) -> bool:
    """Whether the text has a telling word of the tool's name or description ("weather" of get_weather)."""
    words = {word.lower() for word in (*_NAME_WORD.findall(tool.name), *_TEXT_WORD.findall(tool.description))}
    telling = {word for word in words if len(word) > 2} - _COMMON
    return not telling.isdisjoint(word.lower() for word in _TEXT_WORD.findall(text))


def _call(tool: Tool, text: str) -> Call:
    arguments = fill(tool.parameters, text) if tool.parameters else {}
    return Call(tool.name, orjson.dumps(arguments).decode())
