"""The order every stream of events obeys, as a checker: from `response.created` to the one terminal event."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

Event = dict[str, Any]

TERMINAL = {"completed": "response.completed", "failed": "response.failed"}
_LIFE = re.compile(r"created( queued)*( in_progress)?( item)* (completed|incomplete|failed)")
_LIFECYCLE = {"created", "queued", "in_progress", "completed", "incomplete", "failed"}
# What a part of each type says, under which name, and where in its item it ends up.
_PARTS = {
    "output_text": ("output_text", "text", "content"),
    "refusal": ("refusal", "refusal", "content"),
    "reasoning_text": ("reasoning_text", "text", "content"),
    "summary_text": ("reasoning_summary_text", "text", "summary"),
}
_EMPTY = {"message": {"content": []}, "function_call": {"arguments": ""}, "reasoning": {"summary": []}}


@dataclass
class _Item:
    """An announced item; `part` is the open one, `parts` are the closed ones by their list."""

    added: dict[str, Any]
    part: dict[str, Any] | None = None
    where: tuple[str, int] = ("", 0)
    text: str = ""
    whole: str | None = None
    parts: dict[str, list[Any]] = field(default_factory=dict)
    done: dict[str, Any] | None = None


def check(events: list[Event]) -> None:
    """Numbers without gaps, created first, one terminal last, and everything opened is closed before it."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"].removeprefix("response.") for event in events]
    life = " ".join(kind if kind in _LIFECYCLE else "item" for kind in kinds)
    assert _LIFE.fullmatch(life), life
    assert "item" not in life or "in_progress" in life, "something is said before it is in progress"
    last = events[-1]["response"]
    assert events[-1]["type"] == TERMINAL.get(last["status"], "response.incomplete")
    assert len({event["response"]["id"] for event in events if "response" in event}) == 1
    items: list[_Item] = []
    for event in events:
        if "output_index" in event:
            _within(event, items)
    assert all(item.done is not None for item in items), "every item is closed"
    assert [item.done for item in items] == last["output"]
    assert len({item["id"] for item in last["output"]}) == len(items), "item ids are unique"


def _within(event: Event, items: list[_Item]) -> None:
    index, kind = event["output_index"], event["type"].removeprefix("response.")
    if kind == "output_item.added":
        assert index == len(items), "items are numbered in order"
        empty = _EMPTY.get(event["item"]["type"], {})
        assert {key: event["item"].get(key) for key in empty} == empty, "an item is announced empty"
        items.append(_Item(event["item"]))
        return
    assert index < len(items), f"{kind} for an item that was not added"
    item = items[index]
    assert item.done is None, f"{kind} after the item was done"
    if kind == "output_item.done":
        _close(item, event["item"])
        return
    assert event["item_id"] == item.added["id"]
    if kind in ("content_part.added", "reasoning_summary_part.added"):
        _open_part(item, event)
    elif kind in ("content_part.done", "reasoning_summary_part.done"):
        _close_part(item, event)
    elif kind.endswith((".delta", ".done")):
        _say(item, kind, event)


def _place(event: Event) -> tuple[str, int]:
    return ("content", event["content_index"]) if "content_index" in event else ("summary", event["summary_index"])


def _open_part(item: _Item, event: Event) -> None:
    home, position = _place(event)
    _, value, expected = _PARTS[event["part"]["type"]]
    assert item.part is None, "one part at a time"
    assert home == expected and position == len(item.parts.get(home, ())), "parts are appended"
    assert event["part"][value] == ""
    item.part, item.where, item.text, item.whole = event["part"], (home, position), "", None


def _close_part(item: _Item, event: Event) -> None:
    assert item.part is not None and _place(event) == item.where and event["part"]["type"] == item.part["type"]
    _, value, home = _PARTS[item.part["type"]]
    assert event["part"][value] == item.whole, "a part is closed with what was said, after its text was"
    item.parts.setdefault(home, []).append(event["part"])
    item.part = None


def _say(item: _Item, kind: str, event: Event) -> None:
    if item.added["type"] not in _EMPTY:
        return
    name, _, ending = kind.rpartition(".")
    if item.added["type"] == "function_call":
        assert name == "function_call_arguments"
        value = "arguments"
    else:
        assert item.part is not None and name == _PARTS[item.part["type"]][0], f"{kind} outside of its part"
        assert _place(event) == item.where
        value = _PARTS[item.part["type"]][1]
    assert item.whole is None, f"{kind} after its end"
    if ending == "delta":
        item.text += event["delta"]
    else:
        item.whole = event[value]
        assert item.text == item.whole, "the deltas make the whole"


def _close(item: _Item, done: dict[str, Any]) -> None:
    assert (done["id"], done["type"]) == (item.added["id"], item.added["type"])
    assert done.get("call_id") == item.added.get("call_id")
    assert item.part is None, "an item is closed after its parts"
    if done["type"] == "function_call":
        assert done["arguments"] == item.whole
    for home in item.parts:
        assert done[home] == item.parts[home]
    item.done = done
