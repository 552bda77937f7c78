"""`truncation: auto`: what may be left out of a conversation that is too long for a model, in a legal way.

Whole turns go first, the oldest before the others; then, of the last turn alone, its oldest calls together with their
outputs. What the system said, the user's last message and what came last stay.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from grizz.protocol.items import Item

# Each time a quarter goes; ten times leave 6%.
MOST_TIMES = 10
_KEEP = 0.75


def shorter(context: Sequence[Item]) -> list[Item] | None:
    """The conversation with about a quarter less; None when nothing may be left out any more."""
    start = next((index for index, item in enumerate(context) if not _is_system(item)), len(context))
    units = _units(context[start:])
    turns = _turns(units)
    if len(turns) > 1:
        head, middle, tail = [], turns[:-1], turns[-1]
    else:
        asked = next((index for index, unit in enumerate(units) if not _is_users(unit)), len(units))
        head, middle, tail = (
            [item for unit in units[:asked] for item in unit],
            units[asked:-1],
            units[-1] if units[asked:] else [],
        )
    if not middle:
        return None
    left = sum(map(_size, context[start:]))
    wanted = left * _KEEP
    gone = 0
    while gone < len(middle) and (not gone or left > wanted):
        left -= sum(map(_size, middle[gone]))
        gone += 1
    return [*context[:start], *head, *(item for unit in middle[gone:] for item in unit), *tail]


def _units(items: Sequence[Item]) -> list[list[Item]]:
    """What must stay or go together: a message alone; calls, what was thought before them, and their outputs."""
    units: list[list[Item]] = []
    waiting: set[str] = set()
    thought = False
    for item in items:
        kind = item["type"]
        if units and (waiting or (thought and item.get("role") != "user")):
            units[-1].append(item)
        else:
            units.append([item])
        if kind == "function_call":
            waiting.add(item["call_id"])
        elif kind == "function_call_output":
            waiting.discard(item["call_id"])
        thought = kind == "reasoning"
    return units


def _turns(units: Sequence[list[Item]]) -> list[list[Item]]:
    """What a user said and all that followed; several messages of theirs in a row begin one turn."""
    turns: list[list[Item]] = []
    before = False
    for unit in units:
        users = _is_users(unit)
        if not turns or (users and not before):
            turns.append([])
        turns[-1] += unit
        before = users
    return turns


def _is_users(unit: Sequence[Item]) -> bool:
    return unit[0].get("role") == "user"


def _size(item: Item) -> int:
    return len(orjson.dumps(item))


def _is_system(item: Item) -> bool:
    return item["type"] == "message" and item["role"] in ("system", "developer")
