"""The order every stream of events obeys, as a checker."""

from __future__ import annotations

from typing import Any

TERMINAL = {"completed": "response.completed", "failed": "response.failed"}


def check(events: list[dict[str, Any]]) -> None:
    """Numbers without gaps, created first, one terminal last, and everything opened is closed before it."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    types = [event["type"] for event in events]
    assert types[0] == "response.created"
    assert types.count("response.in_progress") <= 1
    ends = [kind for kind in types if kind in ("response.completed", "response.incomplete", "response.failed")]
    assert ends == [types[-1]], f"exactly one terminal, at the end: {ends}"
    last = events[-1]["response"]
    assert types[-1] == TERMINAL.get(last["status"], "response.incomplete")
    assert len({event["response"]["id"] for event in events if "response" in event}) == 1
    added: dict[int, dict[str, Any]] = {}
    done: dict[int, dict[str, Any]] = {}
    texts: dict[tuple[Any, ...], str] = {}
    for event in events:
        _one(event, added, done, texts)
    assert sorted(added) == sorted(done) == list(range(len(added))), "items are numbered in order, each closed once"
    assert [done[index] for index in sorted(done)] == last["output"]


def _one(event: dict[str, Any], added: dict[int, Any], done: dict[int, Any], texts: dict[tuple[Any, ...], str]) -> None:
    if "output_index" not in event:
        return
    index, kind = event["output_index"], event["type"]
    if kind == "response.output_item.added":
        assert index not in added
        added[index] = event["item"]
        return
    assert index in added, f"{kind} for an item that was not added"
    assert index not in done, f"{kind} after the item was done"
    if kind == "response.output_item.done":
        assert event["item"]["id"] == added[index]["id"]
        done[index] = event["item"]
        return
    assert event["item_id"] == added[index]["id"]
    place = (index, kind.rsplit(".", 1)[0], event.get("content_index"), event.get("summary_index"))
    if kind.endswith(".delta"):
        texts[place] = texts.get(place, "") + event["delta"]
    elif kind.endswith(("text.done", "refusal.done", "arguments.done")):
        whole = event.get("text", event.get("refusal", event.get("arguments")))
        assert texts.get(place, "") == whole
