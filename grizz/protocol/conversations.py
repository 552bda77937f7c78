"""Bodies and answers of `/v1/conversations` (protocol §11.4), and what a conversation is called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from grizz.errors import Code, RequestError
from grizz.protocol.fields import check_metadata
from grizz.protocol.items import Item, bad, kind, normalise, shown, text_of
from grizz.protocol.requests import check_depth

# What may be added by one request; a turn may bring more.
MAX_ITEMS_AT_ONCE = 20
_OPENING = 100
_MAX_QUERY = 200


def created(body: Any) -> tuple[list[Item], dict[str, str]]:
    """The items and the metadata of a new conversation; a body is not needed.

    Raises:
        RequestError: 400.
    """
    fields = {} if body is None else _fields(body)
    items = fields.get("items")
    return [] if items is None else _items(items), _metadata(fields.get("metadata"))


def updated(body: Any) -> dict[str, str]:
    """The new metadata.

    Raises:
        RequestError: 400.
    """
    fields = _fields(body)
    if "metadata" not in fields:
        raise bad(Code.MISSING_PARAMETER, "'metadata' is missing.", "metadata")
    return _metadata(fields["metadata"])


def added(body: Any) -> list[Item]:
    """Items to add.

    Raises:
        RequestError: 400.
    """
    fields = _fields(body)
    if fields.get("items") is None:
        raise bad(Code.MISSING_PARAMETER, "'items' is missing: an array of items.", "items")
    return _items(fields["items"])


def query(value: str) -> str:
    """A part of a title.

    Raises:
        RequestError: 400, it is too long for one.
    """
    if len(value) > _MAX_QUERY:
        raise bad(Code.INVALID_VALUE, f"'query' has {len(value)} characters; allowed are {_MAX_QUERY}.", "query")
    return " ".join(value.split())


def opening(items: Iterable[Item]) -> str:
    """The first words that a user says in these items; "" when none does."""
    for item in items:
        if item["type"] != "message" or item["role"] != "user":
            continue
        words = " ".join(" ".join(text_of(part) or "" for part in item["content"]).split())
        if words:
            return words if len(words) <= _OPENING else words[: _OPENING - 1].rstrip() + "…"
    return ""


def conversation_object(conversation_id: str, created_at: int, metadata: Mapping[str, str]) -> dict[str, Any]:
    """A conversation as clients see it."""
    return {
        "id": conversation_id,
        "object": "conversation",
        "created_at": created_at,
        "metadata": dict(metadata),
    }


def deleted_object(conversation_id: str) -> dict[str, Any]:
    """That it is gone."""
    return {"id": conversation_id, "object": "conversation.deleted", "deleted": True}


def item_list(items: Sequence[Item], *, has_more: bool) -> dict[str, Any]:
    """A page of items."""
    return page([shown(item) for item in items], has_more=has_more)


def page(data: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """A page of anything that has an id; strict clients want strings even when it is empty."""
    return {
        "object": "list",
        "data": list(data),
        "first_id": data[0]["id"] if data else "",
        "last_id": data[-1]["id"] if data else "",
        "has_more": has_more,
    }


def _fields(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise RequestError(400, Code.INVALID_TYPE, f"The request body must be a JSON object, not {kind(body)}.")
    check_depth(body)
    return body


def _items(value: Any) -> list[Item]:
    if not isinstance(value, list):
        raise bad(Code.INVALID_TYPE, f"'items' must be an array of items, not {kind(value)}.", "items")
    if len(value) > MAX_ITEMS_AT_ONCE:
        text = f"'items' has {len(value)} entries; allowed are {MAX_ITEMS_AT_ONCE} at a time."
        raise bad(Code.INVALID_VALUE, text, "items")
    items = normalise(value, "items")
    for index, item in enumerate(items):
        if item["type"] == "item_reference":
            raise bad(Code.INVALID_VALUE, "An 'item_reference' cannot be kept; send the item.", f"items[{index}].type")
    return items


def _metadata(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    check_metadata(value, "metadata")
    return dict(value)
