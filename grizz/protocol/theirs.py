"""Items and parts of an upstream's answer, as OpenAI writes them: whatever shape a server gives to what it says."""

from __future__ import annotations

from typing import Any

import orjson

from grizz.errors import Code, UpstreamError

# Only clients say these; from a model they would confuse every later turn.
_OF_CLIENTS = frozenset({"function_call_output", "item_reference"})
_LONGEST_TYPE = 128
# What is meant where a server writes a plain text in the place of a list, or a part of the type `text` into it.
_PLAIN = {
    ("message", "content"): "output_text",
    ("reasoning", "content"): "reasoning_text",
    ("reasoning", "summary"): "summary_text",
}


def garbage(what: str) -> UpstreamError:
    """The failure of an upstream that sends what is no answer."""
    return UpstreamError(Code.SERVER_ERROR, f"the upstream sent {what}", result="truncated")


def item(obj: Any) -> dict[str, Any]:
    """An item with a type, its texts in parts, its arguments a text.

    Raises:
        UpstreamError: it is none that a model may say.
    """
    kind = obj.get("type") if isinstance(obj, dict) else None
    if not isinstance(kind, str) or not 0 < len(kind) <= _LONGEST_TYPE:
        raise garbage("an item without a type")
    if kind in _OF_CLIENTS:
        raise garbage(f"an item that only clients have, {kind}")
    usual: dict[str, Any] = obj
    for (holder, home), name in _PLAIN.items():
        if kind != holder:
            continue
        given = obj.get(home)
        if isinstance(given, str):
            usual = {**usual, home: [{"type": name, "text": given}] if given else []}
        elif isinstance(given, list) and any(isinstance(one, dict) and one.get("type") == "text" for one in given):
            usual = {**usual, home: [part(one, name) for one in given]}
    if kind == "function_call" and isinstance(obj.get("arguments"), dict):
        usual = {**usual, "arguments": orjson.dumps(obj["arguments"]).decode()}
    return usual


def part(given: Any, name: str = "output_text") -> Any:
    """A part; one whose type is `text` is of the kind that its list holds."""
    return {**given, "type": name} if isinstance(given, dict) and given.get("type") == "text" else given
