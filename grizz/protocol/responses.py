"""The Responses API as an upstream speaks it: Request → body (protocol §16.3).

Such a server gets the whole conversation each time and stores nothing: what is remembered, for whom and how long is
ours to say. All else that the client asked for goes on as it came.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from grizz.protocol.items import Item
from grizz.protocol.requests import Request

# Ours to do.
_NOT_SENT = frozenset({"previous_response_id", "conversation", "background", "generate", "store", "stream", "model"})
# What a client says gets an id and a status here, for listings; a server may know neither and refuse them.
_OF_CLIENTS = frozenset({"function_call_output"})
_TEXT_OF = {"assistant": "output_text"}


def body(request: Request, context: Iterable[Item]) -> dict[str, Any]:
    """The body of `POST /responses`, streaming, stored nowhere.

    Args:
        context: everything the model shall see, oldest first: the resolved history and this turn's input.
    """
    given = {
        key: value for key, value in request.fields.items() if key not in _NOT_SENT and not key.startswith("grizz_")
    }
    told = {"model": request.model, "input": items(context), "store": False, "stream": True}
    return {**given, **told}


def items(context: Iterable[Item]) -> list[Item]:
    """Items as the upstream takes them: whole, less what it could not read or only we know."""
    return [_item(item) for item in context if item["type"] != "reasoning" or item.get("encrypted_content")]


def _item(item: Item) -> Item:
    kind = item["type"]
    if kind == "message":
        role = item["role"]
        kept = _kept(item, () if role == "assistant" else ("id", "status"))
        return {**kept, "content": [_part(part, role) for part in item["content"]]}
    return _kept(item, ("id", "status") if kind in _OF_CLIENTS else ())


def _kept(item: Item, own: Collection[str]) -> Item:
    return {
        key: value
        for key, value in item.items()
        if key not in own and not key.startswith("grizz_") and value is not None
    }


def _part(part: dict[str, Any], role: str) -> dict[str, Any]:
    if part.get("type") == "text":
        part = {**part, "type": _TEXT_OF.get(role, "input_text")}
    if part.get("type") == "output_text" and "annotations" not in part:
        part = {**part, "annotations": []}
    return part
