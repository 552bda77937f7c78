"""Bodies of `POST /v1/responses` and `response.create` frames: what is taken, what is refused, and how (protocol §3).

Known fields are checked, unknown ones ignored: clients send many that only one server understands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from grizz.errors import Code, RequestError
from grizz.protocol.fields import FIELDS, PASSED_ON, check_choice
from grizz.protocol.items import Item, Source, bad, kind, normalise

# How deep orjson writes, and how much of that is left for what a request may be wrapped in.
_WRITABLE = 254
_WRAPPINGS = 16
_MAX_DEPTH = _WRITABLE - _WRAPPINGS
_STREAM_ID = re.compile(r"[A-Za-z0-9_.\-]{1,256}\Z")
# What is to be compacted, and by whom; the rest of a create says how to answer.
_COMPACTED = ("model", "input", "instructions", "previous_response_id", "conversation")
# With one of these there is something to answer without any input.
_SAY_ENOUGH = ("previous_response_id", "conversation", "instructions")
_PRESENCES = ("visible", "hidden", "idle")
_REFUSED = {
    "prompt": "stored prompt templates live on another server; send 'instructions' and 'input'.",
}


@dataclass(frozen=True, slots=True)
class Request:
    """A checked request.

    Attributes:
        model: the model to ask; the client's, or the server's default.
        input: this turn's items, one shape (`items.normalise`).
        fields: the other known fields as the client sent them, nulls left out, and those that only an upstream of
            the same API understands.
    """

    model: str
    input: tuple[Item, ...]
    fields: dict[str, Any]

    @property
    def previous_response_id(self) -> str | None:
        """The response this one continues."""
        return self.fields.get("previous_response_id")

    @property
    def conversation(self) -> str | None:
        """The conversation whose next turn it is."""
        named = self.fields.get("conversation")
        return named["id"] if isinstance(named, dict) else named

    @property
    def source(self) -> Source | None:
        """What it goes on from."""
        for param, named in (("conversation", self.conversation), ("previous_response_id", self.previous_response_id)):
            if named is not None:
                return Source(param, named)
        return None

    @property
    def store(self) -> bool:
        """May it be continued and fetched later? True unless refused."""
        return bool(self.fields.get("store", True))

    @property
    def background(self) -> bool:
        """Does it run to its end even when nobody watches?"""
        return bool(self.fields.get("background", False))

    @property
    def fleeting(self) -> bool:
        """Is it of use only to the connection that asked? So are unstored chat completions, and what compacts."""
        return ("grizz_chat" in self.fields or "grizz_summary" in self.fields) and not self.store

    @property
    def generate(self) -> bool:
        """False: only remember the input (a warm-up)."""
        return bool(self.fields.get("generate", True))

    @property
    def stream(self) -> bool:
        """HTTP only: server-sent events instead of one JSON body."""
        return bool(self.fields.get("stream", False))

    @property
    def may_truncate(self) -> bool:
        """May what was said long ago be left out when it is too much for the model?"""
        return self.fields.get("truncation") == "auto"

    @property
    def most_calls(self) -> int | None:
        """How many tool calls the response may hold; None for any number."""
        most: int | None = self.fields.get("max_tool_calls")
        if self.fields.get("parallel_tool_calls") is False:
            most = 1 if most is None else min(1, most)
        return most

    @property
    def obfuscated(self) -> bool:
        """Shall deltas be padded, so that their sizes tell nothing?"""
        return bool(self.fields.get("stream_options", {}).get("include_obfuscation", False))

    @property
    def raw_reasoning(self) -> bool:
        """Reasoning as `response.reasoning_text.*` instead of the portable summary form."""
        return self.fields.get("grizz_reasoning") == "raw"

    @property
    def sealed_reasoning(self) -> bool:
        """Reasoning with `encrypted_content`, which goes back to the model's server with the conversation."""
        return "reasoning.encrypted_content" in (self.fields.get("include") or ())


def parse(body: Any, default_model: str) -> Request:
    """Check a create body.

    Args:
        default_model: answers when the client names none.

    Raises:
        RequestError: 400; its `param` is the path of what is wrong.
    """
    if not isinstance(body, dict):
        raise RequestError(400, Code.INVALID_TYPE, f"The request body must be a JSON object, not {kind(body)}.")
    check_depth(body)
    fields = {key: body[key] for key in FIELDS if body.get(key) is not None}
    for key, value in fields.items():
        FIELDS[key](value, key)
    fields |= {key: body[key] for key in PASSED_ON if body.get(key) is not None}
    for key, why in _REFUSED.items():
        if body.get(key) is not None:
            raise bad(Code.UNSUPPORTED_PARAMETER, f"'{key}' is not supported: {why}", key)
    if "conversation" in fields and "previous_response_id" in fields:
        text = "Mutually exclusive parameters: 'previous_response_id' and 'conversation'; send one of them."
        raise bad(Code.MUTUALLY_EXCLUSIVE, text, "previous_response_id")
    check_choice(fields)
    model = fields.pop("model", None) or default_model
    if not model:
        raise bad(Code.MISSING_PARAMETER, "'model' is missing and this server has no default model.", "model")
    return Request(model=model, input=tuple(_input(body, fields)), fields=fields)


def parse_compact(body: Any) -> Request:
    """Check the body of `POST /v1/responses/compact`: what to compact; no default model stands in for a missing one.

    Raises:
        RequestError: 400; its `param` is the path of what is wrong.
    """
    if isinstance(body, dict):
        if body.get("model") is None:
            raise bad(Code.MISSING_PARAMETER, "'model' is missing.", "model")
        body = {key: body[key] for key in _COMPACTED if key in body}
        if body.get("input") is None and not any(body.get(key) for key in ("previous_response_id", "conversation")):
            raise bad(Code.MISSING_PARAMETER, "'input' or 'previous_response_id' is missing.", "input")
    return parse(body, "")


def stream_id(frame: dict[str, Any]) -> str | None:
    """The lane a frame names, or None for the default lane.

    Raises:
        RequestError: 400 invalid_stream_id.
    """
    value = frame.get("stream_id")
    if value is None:
        return None
    if not isinstance(value, str) or not _STREAM_ID.match(value):
        raise bad(Code.INVALID_STREAM_ID, "'stream_id' must be 1 to 256 characters of A-Z a-z 0-9 _ . -", "stream_id")
    return value


def response_id(frame: dict[str, Any]) -> str | None:
    """The response a frame names, or None.

    Raises:
        RequestError: 400 when it is not a string.
    """
    value = frame.get("response_id")
    if value is not None and not isinstance(value, str):
        raise bad(Code.INVALID_TYPE, f"'response_id' must be a string, not {kind(value)}.", "response_id")
    return value


def unknown_event(name: Any, known: Iterable[str]) -> RequestError:
    """The answer to a frame of another type than those that are known."""
    shown = repr(name[:100]) if isinstance(name, str) else kind(name)
    return bad(Code.UNKNOWN_EVENT_TYPE, f"Unknown event type {shown}; known are {', '.join(known)}.", "type")


def presence(frame: dict[str, Any]) -> str:
    """How much somebody looks at a page.

    Raises:
        RequestError: 400, it is no such word.
    """
    state = frame.get("state")
    if state not in _PRESENCES:
        raise bad(Code.INVALID_VALUE, f"'state' must be one of {', '.join(_PRESENCES)}.", "state")
    return str(state)


def starting_after(value: Any) -> int:
    """A cursor: the last sequence number the caller has; -1 when it has none. Accepts an int or its decimal text.

    Raises:
        RequestError: 400 when it is anything else.
    """
    if value is None:
        return -1
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,15}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value < 10**15:
        raise bad(Code.INVALID_VALUE, "'starting_after' must be a whole number, -1 or more.", "starting_after")
    return value


def frame(data: str | bytes) -> dict[str, Any]:
    """One WebSocket message as an object.

    Raises:
        RequestError: 400, it is no JSON object.
    """
    try:
        parsed = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise RequestError(400, Code.INVALID_JSON, f"The frame is not JSON: {error}.") from error
    if not isinstance(parsed, dict):
        raise RequestError(400, Code.INVALID_JSON, "The frame must be a JSON object.")
    return parsed


def size(data: str | bytes) -> int:
    """Bytes of a WebSocket message."""
    return len(data) if data.isascii() or isinstance(data, bytes) else len(data.encode())


def check_depth(body: dict[str, Any]) -> None:
    """JSON is read four times as deep as it can be written: what is accepted must be writable, within an event, too.

    Raises:
        RequestError: 400.
    """
    inner: Any = body
    for _ in range(_WRAPPINGS):
        inner = [inner]
    try:
        orjson.dumps(inner)
    except orjson.JSONEncodeError as error:
        text = f"The request is nested too deep; allowed are {_MAX_DEPTH} levels."
        raise RequestError(400, Code.INVALID_VALUE, text) from error


def _input(body: dict[str, Any], fields: dict[str, Any]) -> list[Item]:
    value = body.get("input")
    if value is not None:
        return normalise(value)
    if any(fields.get(key) for key in _SAY_ENOUGH) or fields.get("generate") is False:
        return []
    raise bad(Code.MISSING_PARAMETER, "'input' is missing: a string or an array of items.", "input")
