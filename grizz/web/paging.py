"""Pages of a list, as OpenAI's clients ask for them: `limit`, `order`, `after`, `before`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grizz.errors import Code, RequestError
from grizz.protocol.items import Item, shown

_MOST = 100


def page(items: Sequence[Item], query: Mapping[str, str]) -> dict[str, Any]:
    """One page of items, newest first unless the query asks for `order=asc`.

    Raises:
        RequestError: 400, a value that is not allowed, or an item that is not there.
    """
    limit, newest_first = bounds(query)
    listed = list(reversed(items)) if newest_first else list(items)
    start = _position(listed, query, "after")
    end = _position(listed, query, "before")
    listed = listed[0 if start is None else start + 1 : end]
    # Before an item come those next to it, as after one.
    data = listed[-limit:] if end is not None and start is None else listed[:limit]
    return {
        "object": "list",
        "data": [shown(item) for item in data],
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(listed) > limit,
    }


def bounds(query: Mapping[str, str]) -> tuple[int, bool]:
    """How many to list at most, and whether the newest come first.

    Raises:
        RequestError: 400, a value that is not allowed.
    """
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise RequestError(400, Code.INVALID_VALUE, "'order' must be asc or desc.", param="order")
    text = query.get("limit", "20")
    if not (text.isascii() and text.isdecimal() and len(text) <= 3 and 1 <= int(text) <= _MOST):
        raise RequestError(400, Code.INVALID_VALUE, f"'limit' must be a whole number from 1 to {_MOST}.", param="limit")
    return int(text), order == "desc"


def _position(items: Sequence[Item], query: Mapping[str, str], name: str) -> int | None:
    wanted = query.get(name)
    if wanted is None:
        return None
    for index, item in enumerate(items):
        if item["id"] == wanted:
            return index
    raise RequestError(400, Code.ITEM_NOT_FOUND, f"Item with id '{wanted[:100]}' not found.", param=name)
