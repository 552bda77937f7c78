"""Directives: how a test or a curious user tells the demo server what to do, inside the last user message.

Syntax: `[[name]]` or `[[name:value]]`, any number of them, anywhere. A value ends at the first `]]`; only the JSON of
`args` may contain `]]` itself. They are cut out of the text, which otherwise keeps every character. `DIRECTIVES` lists
them all. A *delta* is one chunk of an answer after the role chunk; "after N deltas" means after the last one if the
answer has fewer.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from grizz.errors import Code, RequestError

MAX_COUNT = 1_000_000
MAX_SECONDS = 3600.0
MAX_RATE = 1e9
FORMS = ("summary", "text", "open")
SKIPS = ("created", "in_progress", "item", "part", "text_done", "part_done", "item_done", "output")
ERRORS = ("400", "401", "403", "404", "408", "409", "413", "422", "429", "500", "502", "503", "context", "quota")

_OPEN = re.compile(r"\[\[([a-z][a-z0-9_-]*)(:|]])")
_TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_JSON = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class ScriptedCall:
    """A tool call by script. `arguments` is the JSON exactly as written, or None: to be made up from the schema."""

    name: str
    arguments: str | None = None


@dataclass(frozen=True, slots=True)
class Script:
    """What the directives of one message ask for. Each field is the directive of that name; see `DIRECTIVES`."""

    echo: str | None = None
    echo_message: bool = False
    words: int | None = None
    rate: float | None = None
    delay: float = 0.0
    first: float = 0.0
    stall: int | None = None
    cut: int | None = None
    eof: int | None = None
    error: str | None = None
    window: int | None = None
    retry_after: float | None = None
    times: int | None = None
    midstream_error: int | None = None
    garbage: int | None = None
    filter: int | None = None
    length: int | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_field: str = "reasoning_content"
    calls: tuple[ScriptedCall, ...] = ()
    whole_tool: bool = False
    late_name: bool = False
    no_usage: bool = False
    no_role: bool = False
    split: int | None = None
    comment: bool = False
    crlf: bool = False
    empty: bool = False
    reasoning_form: str = "summary"
    encrypted: bool = False
    hosted: bool = False
    unknown_event: int | None = None
    skip: tuple[str, ...] = ()
    collide: bool = False

    def without_failures(self) -> Script:
        """The same script once `times` has run out: nothing goes wrong any more."""
        return replace(self, error=None, cut=None, eof=None, stall=None, midstream_error=None, garbage=None)


@dataclass(frozen=True, slots=True)
class Value:
    """What a directive takes. `sign` stands for it in the syntax, `allowed` says it in words.

    `read` gets the text after the colon, or None without one, and raises ValueError when it may not be that.
    """

    sign: str
    allowed: str
    read: Callable[[str | None], Any]


@dataclass(frozen=True, slots=True)
class Directive:
    """One row of the table."""

    value: Value
    meaning: str


def _given(text: str | None) -> str:
    if text is None or text == "":
        raise ValueError("a value is needed")
    return text


def _flag(text: str | None) -> bool:
    if text is not None:
        raise ValueError("no value is taken")
    return True


def _whole(lowest: int) -> Callable[[str | None], int]:
    def read(text: str | None) -> int:
        digits = _given(text)
        if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
            raise ValueError("not a whole number")
        number = int(digits)
        if not lowest <= number <= MAX_COUNT:
            raise ValueError("out of range")
        return number

    return read


def _decimal(highest: float) -> Callable[[str | None], float]:
    def read(text: str | None) -> float:
        number = float(_given(text))
        if not (math.isfinite(number) and 0 <= number <= highest):
            raise ValueError("out of range")
        return number

    return read


def _one_of(*allowed: str) -> Callable[[str | None], str]:
    def read(text: str | None) -> str:
        if text not in allowed:
            raise ValueError("not one of the allowed")
        return text

    return read


def _tool_name(text: str | None) -> str:
    if not _TOOL_NAME.fullmatch(_given(text)):
        raise ValueError("not a tool name")
    return _given(text)


def _json_text(text: str | None) -> str:
    try:
        json.loads(_given(text))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return _given(text)


_FLAG = Value("", "no value", _flag)
_TEXT = Value("TEXT", "a text of at least one character, without ]]", _given)
_MAYBE_TEXT = Value("[TEXT]", "no value, or a text without ]]", lambda text: text)
_COUNT = Value("N", f"a whole number from 0 to {MAX_COUNT}", _whole(0))
_FROM_ONE = Value("N", f"a whole number from 1 to {MAX_COUNT}", _whole(1))
_SECONDS = Value("SECONDS", f"a number of seconds from 0 to {MAX_SECONDS:.0f}", _decimal(MAX_SECONDS))
_RATE = Value("R", f"tokens per second from 0 (as fast as possible) to {MAX_RATE:.0f}", _decimal(MAX_RATE))
_ERROR = Value("STATUS", "one of " + ", ".join(ERRORS), _one_of(*ERRORS))
_FIELD = Value("KEY", "reasoning_content or reasoning", _one_of("reasoning_content", "reasoning"))
_FORM = Value("FORM", "one of " + ", ".join(FORMS), _one_of(*FORMS))
_SKIP = Value("EVENT", "one of " + ", ".join(SKIPS), _one_of(*SKIPS))
_TOOL = Value("NAME", "1 to 64 letters, digits, _ . or -", _tool_name)
_ARGS = Value("JSON", "valid JSON, after the tool it belongs to", _json_text)

DIRECTIVES: dict[str, Directive] = {
    "echo": Directive(_MAYBE_TEXT, "answer exactly TEXT; without it exactly the user's message, less its directives"),
    "words": Directive(_COUNT, 'answer "w0 w1 w2 ... ": N words, each a delta with its trailing space'),
    "tokens": Directive(_COUNT, "the same as words"),
    "empty": Directive(_FLAG, "no content, finish_reason stop"),
    "rate": Directive(_RATE, "tokens per second of this answer; 0 as fast as possible"),
    "delay": Directive(_SECONDS, "wait before the response headers"),
    "first": Directive(_SECONDS, "wait after the headers, before the first chunk"),
    "error": Directive(_ERROR, "answer with this HTTP status; context: 400 too long; quota: 429 out of money"),
    "window": Directive(_FROM_ONE, "answer 400, too long, if all messages together have more than N words"),
    "retry-after": Directive(_SECONDS, "add a Retry-After header, to an error or to an answer"),
    "times": Directive(_FROM_ONE, "error, cut, eof, stall, midstream-error and garbage only the first N times"),
    "stall": Directive(_COUNT, "after N deltas say nothing more and keep the connection open"),
    "cut": Directive(_COUNT, "after N deltas close the connection in the middle of the body"),
    "eof": Directive(_COUNT, "after N deltas end the body cleanly, without finish_reason or [DONE]"),
    "midstream-error": Directive(_COUNT, 'after N deltas a chunk {"error": {...}}, then [DONE]'),
    "garbage": Directive(_COUNT, "after N deltas one data line that is no JSON, then on as if nothing was"),
    "filter": Directive(_COUNT, "after N deltas finish_reason content_filter"),
    "length": Directive(_COUNT, "after N deltas finish_reason length"),
    "refusal": Directive(_TEXT, "stream TEXT as delta.refusal"),
    "reasoning": Directive(_TEXT, "stream TEXT as reasoning first, then the answer"),
    "reasoning-field": Directive(_FIELD, "the delta key of the reasoning; default reasoning_content"),
    "tool": Directive(_TOOL, "call this tool, whatever is offered; repeated: parallel calls"),
    "args": Directive(_ARGS, "the arguments of the tool directive before it, sent exactly as written"),
    "whole-tool": Directive(_FLAG, "each tool call in one chunk"),
    "late-name": Directive(_FLAG, "the tool's name comes after its id and its first argument fragment"),
    "no-usage": Directive(_FLAG, "send no usage, even if asked"),
    "no-role": Directive(_FLAG, "leave out the role chunk"),
    "split": Directive(_FROM_ONE, "write the SSE bytes in pieces of N bytes"),
    "comment": Directive(_FLAG, "an SSE comment before every event"),
    "crlf": Directive(_FLAG, "end SSE lines with CR LF"),
    # Of /v1/responses alone:
    "reasoning-form": Directive(_FORM, "the events of the reasoning: OpenAI's summary or text, or Open Responses' own"),
    "encrypted": Directive(_FLAG, "reasoning has encrypted_content, and needs no text"),
    "hosted": Directive(_FLAG, "a web search of the server's own before the answer, and a source in it"),
    "unknown-event": Directive(_COUNT, "after N deltas an event of a type that nobody knows"),
    "skip": Directive(_SKIP, "leave out these events (output: of the last one); repeated: several kinds"),
    "collide": Directive(_FLAG, "every item has output_index 0"),
}

_FIELD_OF = {"tokens": "words"} | {name: name.replace("-", "_") for name in DIRECTIVES if name != "tokens"}


def table() -> str:
    """All directives as plain text, one a line."""
    rows = [(f"[[{name}{':' + row.value.sign if row.value.sign else ''}]]", row) for name, row in DIRECTIVES.items()]
    width = max(len(syntax) for syntax, _ in rows)
    return "\n".join(f"{syntax:<{width}}  {row.meaning}" for syntax, row in rows)


def scan(text: str) -> tuple[str, list[tuple[str, str | None]]]:
    """Cut everything of a directive's shape out of `text`; return the rest and the (name, value) pairs."""
    kept: list[str] = []
    found: list[tuple[str, str | None]] = []
    position = 0
    while match := _OPEN.search(text, position):
        name, sign = match.groups()
        start = end = match.end()
        if sign == ":":
            end = _value_end(text, start, name)
            if end < 0:
                # No `]]` is left anywhere, so nothing after this can be a directive either.
                break
        kept.append(text[position : match.start()])
        found.append((name, text[start:end] if sign == ":" else None))
        position = end + 2 if sign == ":" else end
    kept.append(text[position:])
    return "".join(kept), found


def _value_end(text: str, start: int, name: str) -> int:
    """Index of the `]]` that ends the value beginning at `start`, or -1."""
    if name == "args":
        try:
            _, end = _JSON.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start
        if text.startswith("]]", end):
            return end
    return text.find("]]", start)


def parse(text: str) -> tuple[str, Script]:
    """Split a user message into its text without directives and the script they make.

    The last of two equal directives wins, except `tool` and `skip`, which add a call or a kind of event.

    Raises:
        RequestError: 400; a directive is unknown or its value is not allowed. The message names it and what is.
    """
    plain, found = scan(text)
    fields: dict[str, Any] = {}
    calls: list[ScriptedCall] = []
    skips: list[str] = []
    for name, raw in found:
        value = _read(name, raw)
        if name == "tool":
            calls.append(ScriptedCall(value))
        elif name == "skip":
            skips.append(value)
        elif name == "args":
            if not calls:
                _refuse(name, raw)
            calls[-1] = replace(calls[-1], arguments=value)
        elif name == "echo" and raw is None:
            fields["echo_message"] = True
        else:
            fields[_FIELD_OF[name]] = value
    return plain, Script(**fields, calls=tuple(calls), skip=tuple(skips))


def _read(name: str, raw: str | None) -> Any:
    row = DIRECTIVES.get(name)
    if row is None:
        raise _bad(f"Unknown directive [[{name}]]. Known are: {', '.join(DIRECTIVES)}.")
    try:
        return row.value.read(raw)
    except ValueError:
        _refuse(name, raw)


def _refuse(name: str, raw: str | None) -> NoReturn:
    shown = name if raw is None else f"{name}:{raw[:100]}"
    raise _bad(f"Bad directive [[{shown}]]. {name} allows: {DIRECTIVES[name].value.allowed}.")


def _bad(message: str) -> RequestError:
    return RequestError(400, Code.INVALID_VALUE, message, param="messages")
