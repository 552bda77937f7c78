"""Input items: what a client may put into `input`, brought to one shape (protocol §6)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from grizz.errors import Code, RequestError

Item = dict[str, Any]

ROLES = ("user", "system", "developer", "assistant")
_PARTS = {
    "input_text": "text",
    "output_text": "text",
    "text": "text",
    "refusal": "refusal",
    "input_image": None,
    "input_file": None,
}
_SCHEMES = ("https:", "http:", "data:")
# Items of hosted tools, which clients send back as they got them: kept in the history, not shown to a chat upstream.
_FOREIGN_SUFFIXES = ("_call", "_call_output", "_output", "_request", "_response", "_tools")


def bad(code: Code, message: str, param: str) -> RequestError:
    """A 400 that names the parameter."""
    return RequestError(400, code, message, param=param)


def normalise(value: Any, param: str = "input") -> list[Item]:
    """A string or an array of items as a list of items, messages with a list of parts.

    Raises:
        RequestError: 400 with the path of what is wrong and what is allowed.
    """
    if isinstance(value, str):
        return [message("user", value)]
    if not isinstance(value, list):
        raise bad(Code.INVALID_TYPE, f"'{param}' must be a string or an array of items, not {kind(value)}.", param)
    return [_item(item, f"{param}[{index}]") for index, item in enumerate(value)]


def message(role: str, text: str) -> Item:
    """A message with one text part."""
    part = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": part, "text": text}]}


def text_of(part: dict[str, Any]) -> str | None:
    """What a part of a message says; None when it is an image or a file, or of a kind not known here."""
    key = _PARTS.get(part["type"])
    text = part.get(key) if key is not None else None
    return text if isinstance(text, str) else None


def kind(value: Any) -> str:
    """The JSON name of a value's type, for error texts."""
    if value is None:
        return "null"
    names = ((bool, "a boolean"), (int, "a number"), (float, "a number"), (str, "a string"), (list, "an array"))
    return next((name for python, name in names if isinstance(value, python)), "an object")


def _item(item: Any, where: str) -> Item:
    if not isinstance(item, dict):
        raise bad(Code.INVALID_TYPE, f"'{where}' must be an object, not {kind(item)}.", where)
    item_type = item.get("type")
    if item_type is None and "role" in item:
        item_type = "message"
    if item_type is None:
        raise bad(Code.MISSING_PARAMETER, f"'{where}' needs a 'type'.", f"{where}.type")
    checker = _CHECKS.get(item_type) if isinstance(item_type, str) else None
    if checker is not None:
        return checker({**item, "type": item_type}, where)
    if isinstance(item_type, str) and (item_type.endswith(_FOREIGN_SUFFIXES) or ":" in item_type):
        return item
    allowed = ", ".join(_CHECKS)
    found = repr(item_type[:100]) if isinstance(item_type, str) else kind(item_type)
    raise bad(Code.INVALID_VALUE, f"'{where}.type' is {found}; known types are {allowed}.", f"{where}.type")


def _string(item: Item, key: str, where: str) -> None:
    if key not in item:
        raise bad(Code.MISSING_PARAMETER, f"'{where}' needs '{key}'.", f"{where}.{key}")
    if not isinstance(item[key], str):
        raise bad(Code.INVALID_TYPE, f"'{where}.{key}' must be a string, not {kind(item[key])}.", f"{where}.{key}")


def _message(item: Item, where: str) -> Item:
    role = item.get("role")
    if role not in ROLES:
        raise bad(Code.INVALID_VALUE, f"'{where}.role' must be one of {', '.join(ROLES)}.", f"{where}.role")
    content = item.get("content")
    if isinstance(content, str):
        return {**item, **message(role, content)}
    if not isinstance(content, list):
        raise bad(Code.INVALID_TYPE, f"'{where}.content' must be a string or an array of parts.", f"{where}.content")
    for index, part in enumerate(content):
        _part(part, f"{where}.content[{index}]")
    return item


def _part(part: Any, where: str) -> None:
    part_type = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part_type, str) or part_type not in _PARTS:
        raise bad(Code.INVALID_VALUE, f"'{where}' must be an object with a 'type' of {', '.join(_PARTS)}.", where)
    if (key := _PARTS[part_type]) is not None:
        _string(part, key, where)
    if part_type == "input_image" and not isinstance(part.get("image_url"), str):
        text = f"'{where}' needs 'image_url', a URL or a data: URL; uploaded files are not to be had here."
        raise bad(Code.MISSING_PARAMETER, text, f"{where}.image_url")
    sources = ("file_data", "file_url", "file_id")
    if part_type == "input_file" and not any(isinstance(part.get(source), str) for source in sources):
        raise bad(
            Code.MISSING_PARAMETER, f"'{where}' needs 'file_data', 'file_url' or 'file_id'.", f"{where}.file_data"
        )
    for key in ("image_url", "file_url"):
        # A server that fetches it must not be led to its own disk.
        if isinstance(part.get(key), str) and not part[key].lower().startswith(_SCHEMES):
            raise bad(Code.INVALID_VALUE, f"'{where}.{key}' must begin with {', '.join(_SCHEMES)}.", f"{where}.{key}")


def _function_call(item: Item, where: str) -> Item:
    for key in ("call_id", "name", "arguments"):
        _string(item, key, where)
    return item


def _function_call_output(item: Item, where: str) -> Item:
    _string(item, "call_id", where)
    output = item.get("output")
    if isinstance(output, list):
        for index, part in enumerate(output):
            _part(part, f"{where}.output[{index}]")
    elif not isinstance(output, str):
        raise bad(Code.INVALID_TYPE, f"'{where}.output' must be a string or an array of parts.", f"{where}.output")
    return item


def _reasoning(item: Item, where: str) -> Item:
    for key in ("summary", "content"):
        if item.get(key) is not None and not isinstance(item[key], list):
            raise bad(Code.INVALID_TYPE, f"'{where}.{key}' must be an array.", f"{where}.{key}")
    return item


def _reference(item: Item, where: str) -> Item:
    _string(item, "id", where)
    return item


def _compaction(item: Item, where: str) -> Item:
    _string(item, "encrypted_content", where)
    return item


_CHECKS: dict[str, Callable[[Item, str], Item]] = {
    "message": _message,
    "function_call": _function_call,
    "function_call_output": _function_call_output,
    "reasoning": _reasoning,
    "item_reference": _reference,
    "compaction": _compaction,
}


def with_ids(items: Iterable[Item], new_id: Callable[[str], str]) -> list[Item]:
    """The items as a listing shows them: each with an id, messages with a status."""
    listed = []
    for item in items:
        shown = dict(item)
        if not isinstance(shown.get("id"), str):
            shown["id"] = new_id(_PREFIX.get(item["type"], "item"))
        if item["type"] in ("message", "function_call", "function_call_output"):
            shown.setdefault("status", "completed")
        listed.append(shown)
    return listed


def shown(item: Item) -> Item:
    """An item as a listing shows it: with what both dialects require and a client may leave out (protocol §6)."""
    if item["type"] == "reasoning":
        return {"summary": [], **item}
    key = {"message": "content", "function_call_output": "output"}.get(item["type"], "")
    parts = item.get(key)
    if not isinstance(parts, list):
        return item
    said = "output_text" if item.get("role") == "assistant" else "input_text"
    return {**item, key: [_shown_part(part, said) for part in parts]}


def _shown_part(part: dict[str, Any], said: str) -> dict[str, Any]:
    if part["type"] == "input_image":
        return {"detail": "auto", **part}
    if part["type"] == "text":
        part = {**part, "type": said}
    return {"annotations": [], **part} if part["type"] == "output_text" else part


_PREFIX = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
    "compaction": "cmp",
}


@dataclass(frozen=True, slots=True)
class Source:
    """Where the items come from that a request goes on from.

    Attributes:
        param: the parameter that names it: `conversation` or `previous_response_id`.
        id: what it was given.
    """

    param: str
    id: str

    def names(self, item: Item) -> str:
        """Where an item that makes a request fail is to be found, as a sentence."""
        if self.param == "conversation":
            return f"It is item '{item['id']}' of conversation '{self.id}'; delete it there."
        return f"It is item '{item['id']}' of the chain of '{self.id}'; continue a response before it."


def check_calls_match(
    items: Iterable[Item], given: Sequence[Item] = (), *, where: str = "input", source: Source | None = None
) -> None:
    """Every tool output answers a call before it: an upstream refuses anything else, and clients rely on the error.

    Args:
        given: those of them that came with the request.
        where: the parameter that these came in.
        source: what all others are of; None when there are none.

    Raises:
        RequestError: 400, naming the call_id that nothing asked for, and the item where the request does not show it.
    """
    called: set[str] = set()
    for item in items:
        if item["type"] == "function_call":
            called.add(item["call_id"])
        elif item["type"] == "compaction":
            return  # only the server that sealed it knows which calls it holds
        elif item["type"] == "function_call_output" and item["call_id"] not in called:
            text, param = f"No tool call found for function call output with call_id {item['call_id']}.", where
            if source is not None and not any(one is item for one in given):
                text, param = f"{text} {source.names(item)}", source.param
            raise RequestError(400, Code.NO_TOOL_CALL, text, param=param)
