"""The fields of a create that are known, and what each may be (protocol §3.1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from grizz.errors import Code
from grizz.protocol.items import bad, kind

Check = Callable[[Any, str], None]

# What may be asked for in addition. All but the last concern tools that run elsewhere.
_MOST_OF_A_NAME = 256
_INCLUDABLE = (
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
    "message.output_text.logprobs",
)


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


def check_choice(fields: dict[str, Any]) -> None:
    """A choice among tools needs the tools.

    Raises:
        RequestError: 400.
    """
    choice, tools = fields.get("tool_choice"), fields.get("tools") or ()
    if choice == "required" and not tools:
        raise bad(Code.INVALID_VALUE, "'tool_choice' is required, but there are no 'tools'.", "tool_choice")
    if isinstance(choice, dict) and choice["type"] in ("function", "custom"):
        name = choice.get("name")
        if not any(tool["type"] == choice["type"] and tool.get("name") == name for tool in tools):
            raise bad(Code.INVALID_VALUE, f"'tool_choice' names {name!r}, which is not among 'tools'.", "tool_choice")


def _reasoning(value: Any, key: str) -> None:
    _object(value, key)
    # Not which efforts there are: models differ, and the upstream knows its own.
    if value.get("effort") is not None:
        _string(value["effort"], f"{key}.effort")
    for name in ("summary", "generate_summary"):
        if value.get(name) is not None:
            _choice("auto", "concise", "detailed")(value[name], f"{key}.{name}")


def _stream_options(value: Any, key: str) -> None:
    _object(value, key)
    if value.get("include_obfuscation") is not None:
        _boolean(value["include_obfuscation"], f"{key}.include_obfuscation")


def _context_management(value: Any, key: str) -> None:
    if not isinstance(value, list):
        raise bad(Code.INVALID_TYPE, f"'{key}' must be an array, not {kind(value)}.", key)
    for index, entry in enumerate(value):
        where = f"{key}[{index}]"
        _object(entry, where)
        _choice("compaction")(entry.get("type"), f"{where}.type")
        if entry.get("compact_threshold") is not None:
            _integer(1, 10**12)(entry["compact_threshold"], f"{where}.compact_threshold")


def _include(value: Any, key: str) -> None:
    _strings(value, key)
    for index, entry in enumerate(value):
        _choice(*_INCLUDABLE)(entry, f"{key}[{index}]")


def _text(value: Any, key: str) -> None:
    _object(value, key)
    if value.get("verbosity") is not None:
        _choice("low", "medium", "high")(value["verbosity"], f"{key}.verbosity")
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


def conversation_id(value: str, param: str) -> str:
    """The id of a conversation, as far as its form tells.

    Raises:
        RequestError: 400 when no conversation can have it.
    """
    if not value.startswith("conv_"):
        raise bad(Code.INVALID_VALUE, f"Invalid '{param}': '{value[:100]}'. An id begins with 'conv_'.", param)
    return value


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


def _model(value: Any, key: str) -> None:
    _string(value, key)
    if len(value) > _MOST_OF_A_NAME:  # it is written into logs and traces
        raise bad(Code.INVALID_VALUE, f"'{key}' has at most {_MOST_OF_A_NAME} characters, not {len(value)}.", key)


FIELDS: dict[str, Check] = {
    "model": _model,
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
    "include": _include,
    "reasoning": _reasoning,
    "stream_options": _stream_options,
    "context_management": _context_management,
    "text": _text,
    "truncation": _choice("auto", "disabled"),
    "metadata": check_metadata,
    "user": _string,
    "safety_identifier": _string,
    "prompt_cache_key": _string,
    "prompt_cache_retention": _choice("in_memory", "24h"),
    "service_tier": _choice("auto", "default", "flex", "scale", "priority", "fast", "ultrafast"),
    "grizz_reasoning": _choice("raw", "summary"),
}
# Nothing to us; an upstream that speaks the same API knows what they mean.
PASSED_ON = ("access_programs", "image", "moderation", "prompt_cache_options")
