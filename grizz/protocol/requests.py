"""Bodies of `POST /v1/responses` and `response.create` frames: what is taken, what is refused, and how (protocol §3).

Known fields are checked, unknown ones ignored: clients send many that only one server understands.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from grizz.errors import Code, RequestError
from grizz.protocol.items import Item, bad, kind, normalise

# How deep orjson writes, and how much of that is left for what a request may be wrapped in.
_WRITABLE = 254
_WRAPPINGS = 16
_MAX_DEPTH = _WRITABLE - _WRAPPINGS
_STREAM_ID = re.compile(r"[A-Za-z0-9_.\-]{1,256}\Z")


@dataclass(frozen=True, slots=True)
class Request:
    """A checked request.

    Attributes:
        model: the model to ask; the client's, or the server's default.
        input: this turn's items, one shape (`items.normalise`).
        fields: the other known fields as the client sent them, nulls left out.
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
    def store(self) -> bool:
        """May it be continued and fetched later? True unless refused."""
        return bool(self.fields.get("store", True))

    @property
    def background(self) -> bool:
        """Does it run to its end even when nobody watches?"""
        return bool(self.fields.get("background", False))

    @property
    def generate(self) -> bool:
        """False: only remember the input (a warm-up)."""
        return bool(self.fields.get("generate", True))

    @property
    def stream(self) -> bool:
        """HTTP only: server-sent events instead of one JSON body."""
        return bool(self.fields.get("stream", False))

    @property
    def raw_reasoning(self) -> bool:
        """Reasoning as `response.reasoning_text.*` instead of the portable summary form."""
        return self.fields.get("grizz_reasoning") == "raw"


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
    fields = {key: body[key] for key in _FIELDS if body.get(key) is not None}
    for key, value in fields.items():
        _FIELDS[key](value, key)
    for key, why in _REFUSED.items():
        if body.get(key) is not None:
            raise bad(Code.UNSUPPORTED_PARAMETER, f"'{key}' is not supported: {why}", key)
    if "conversation" in fields and "previous_response_id" in fields:
        text = "Mutually exclusive parameters: 'previous_response_id' and 'conversation'; send one of them."
        raise bad(Code.MUTUALLY_EXCLUSIVE, text, "previous_response_id")
    model = fields.pop("model", None) or default_model
    if not model:
        raise bad(Code.MISSING_PARAMETER, "'model' is missing and this server has no default model.", "model")
    return Request(model=model, input=tuple(_input(body, fields)), fields=fields)


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


def conversation_id(value: str, param: str) -> str:
    """The id of a conversation, as far as its form tells.

    Raises:
        RequestError: 400 when no conversation can have it.
    """
    if not value.startswith("conv_"):
        raise bad(Code.INVALID_VALUE, f"Invalid '{param}': '{value[:100]}'. An id begins with 'conv_'.", param)
    return value


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


Check = Callable[[Any, str], None]

# With one of these there is something to answer without any input.
_SAY_ENOUGH = ("previous_response_id", "conversation", "instructions")
_REFUSED = {
    "prompt": "stored prompt templates live on another server; send 'instructions' and 'input'.",
}


def _string(value: Any, key: str) -> None:
    if not isinstance(value, str):
        raise bad(Code.INVALID_TYPE, f"'{key}' must be a string, not {kind(value)}.", key)


def _boolean(value: Any, key: str) -> None:
    if not isinstance(value, bool):
        raise bad(Code.INVALID_TYPE, f"'{key}' must be true or false, not {kind(value)}.", key)


def _object(value: Any, key: str) -> None:
    if not isinstance(value, dict):
        raise bad(Code.INVALID_TYPE, f"'{key}' must be an object, not {kind(value)}.", key)


def _number(low: float, high: float) -> Check:
    def check(value: Any, key: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise bad(Code.INVALID_TYPE, f"'{key}' must be a number, not {kind(value)}.", key)
        if not low <= value <= high:
            raise bad(Code.INVALID_VALUE, f"'{key}' is {value}; allowed is {low} to {high}.", key)

    return check


def _integer(low: int, high: int) -> Check:
    def check(value: Any, key: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise bad(Code.INVALID_TYPE, f"'{key}' must be a whole number, not {kind(value)}.", key)
        if not low <= value <= high:
            raise bad(Code.INVALID_VALUE, f"'{key}' is {value}; allowed is {low} to {high}.", key)

    return check


def _choice(*allowed: str) -> Check:
    def check(value: Any, key: str) -> None:
        if value not in allowed:
            raise bad(Code.INVALID_VALUE, f"'{key}' must be one of {', '.join(allowed)}.", key)

    return check


def _tools(value: Any, key: str) -> None:
    if not isinstance(value, list):
        raise bad(Code.INVALID_TYPE, f"'{key}' must be an array, not {kind(value)}.", key)
    for index, tool in enumerate(value):
        where = f"{key}[{index}]"
        if not isinstance(tool, dict) or not isinstance(tool.get("type"), str):
            raise bad(Code.INVALID_TYPE, f"'{where}' must be an object with a 'type'.", where)
        if tool["type"] != "function":
            continue
        if not isinstance(tool.get("name"), str) or not tool["name"]:
            raise bad(Code.MISSING_PARAMETER, f"'{where}' needs a 'name'.", f"{where}.name")
        if tool.get("parameters") is not None and not isinstance(tool["parameters"], dict):
            raise bad(Code.INVALID_TYPE, f"'{where}.parameters' must be a JSON schema object.", f"{where}.parameters")


def _tool_choice(value: Any, key: str) -> None:
    if isinstance(value, str):
        _choice("auto", "none", "required")(value, key)
    elif not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise bad(Code.INVALID_TYPE, f"'{key}' must be auto, none, required or an object with a 'type'.", key)
    elif value["type"] == "allowed_tools":
        tools = value.get("tools")
        if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
            raise bad(Code.INVALID_TYPE, f"'{key}.tools' must be an array of objects.", f"{key}.tools")
        if value.get("mode", "auto") not in ("auto", "required"):
            raise bad(Code.INVALID_VALUE, f"'{key}.mode' must be auto or required.", f"{key}.mode")


def _text(value: Any, key: str) -> None:
    _object(value, key)
    form = value.get("format")
    if form is None:
        return
    form_type = form.get("type") if isinstance(form, dict) else None
    if form_type not in ("text", "json_object", "json_schema"):
        raise bad(
            Code.INVALID_VALUE, "'text.format.type' must be text, json_object or json_schema.", "text.format.type"
        )
    if form_type == "json_schema" and not (isinstance(form.get("name"), str) and isinstance(form.get("schema"), dict)):
        raise bad(Code.MISSING_PARAMETER, "'text.format' needs 'name' and 'schema'.", "text.format.schema")


def _conversation(value: Any, key: str) -> None:
    named = value.get("id") if isinstance(value, dict) else value
    if not isinstance(named, str):
        raise bad(Code.INVALID_TYPE, f"'{key}' must be an id or an object with an 'id', not {kind(value)}.", key)
    conversation_id(named, key)


def check_metadata(value: Any, key: str) -> None:
    """What may be written on a response or a conversation.

    Raises:
        RequestError: 400.
    """
    _object(value, key)
    if len(value) > 16:
        raise bad(Code.INVALID_VALUE, f"'{key}' has {len(value)} entries; allowed are 16.", key)
    for name, text in value.items():
        if not isinstance(text, str) or len(name) > 64 or len(text) > 512:
            raise bad(Code.INVALID_VALUE, f"'{key}' maps names of up to 64 to strings of up to 512 characters.", key)


def _strings(value: Any, key: str) -> None:
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise bad(Code.INVALID_TYPE, f"'{key}' must be an array of strings.", key)


_FIELDS: dict[str, Check] = {
    "model": _string,
    "instructions": _string,
    "previous_response_id": _string,
    "conversation": _conversation,
    "store": _boolean,
    "background": _boolean,
    "generate": _boolean,
    "stream": _boolean,
    "tools": _tools,
    "tool_choice": _tool_choice,
    "parallel_tool_calls": _boolean,
    "max_tool_calls": _integer(0, 10_000),
    "max_output_tokens": _integer(1, 10_000_000),
    "temperature": _number(0, 2),
    "top_p": _number(0, 1),
    "presence_penalty": _number(-2, 2),
    "frequency_penalty": _number(-2, 2),
    "top_logprobs": _integer(0, 20),
    "include": _strings,
    "reasoning": _object,
    "text": _text,
    "truncation": _choice("auto", "disabled"),
    "metadata": check_metadata,
    "user": _string,
    "safety_identifier": _string,
    "prompt_cache_key": _string,
    "service_tier": _string,
    "grizz_reasoning": _choice("raw", "summary"),
}
