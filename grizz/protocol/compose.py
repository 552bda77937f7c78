"""The one writer of a response's events: every one numbered, in legal order, everything opened also closed (§8.1).

Text deltas wait for `flush`, so that many small upstream chunks become one event; the first of each part goes out at
once. The same state can be rebuilt from a log (`Composer.rebuild`): for a snapshot of a running response, and for going
on after an interrupted attempt.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from grizz.protocol.events import (
    BY_ADDED,
    BY_CLOSED,
    BY_DELTA,
    BY_DONE,
    PARTS,
    TERMINAL,
    Event,
    NewId,
    PartKind,
)


@dataclass(slots=True, eq=False)
class _Item:
    obj: dict[str, Any]
    index: int
    part: _Part | None = None
    closed: bool = False


@dataclass(slots=True, eq=False)
class _Part:
    """An open part: `pieces` went out, `pending` waits for the next flush."""

    kind: PartKind
    item: _Item
    obj: dict[str, Any]
    where: dict[str, Any]
    pieces: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    pending_logprobs: list[Any] = field(default_factory=list)
    announced: bool = False  # its `done` went out, its `closed` not yet

    def text(self) -> str:
        return "".join(self.pieces) + "".join(self.pending)


class Composer:
    """Turns what a model says into events.

    Args:
        response: the Response object, without output.
        new_id: makes an id from a prefix, unique within the response at least.
        next_seq: the number of the next event.
        output: items that earlier attempts left behind, all closed.
        raw_reasoning: reasoning under OpenAI's own event names instead of the portable summary form.
    """

    def __init__(
        self,
        response: dict[str, Any],
        *,
        new_id: NewId,
        next_seq: int = 0,
        output: Iterable[dict[str, Any]] = (),
        raw_reasoning: bool = False,
    ) -> None:
        self.response = response
        self.next_seq = next_seq
        self.bytes = 0
        self._new_id = new_id
        self._raw_reasoning = raw_reasoning
        self._items = [_Item(obj, index, closed=True) for index, obj in enumerate(output)]
        self._talk: _Item | None = None  # the open message or reasoning item; calls may be open beside it
        self._calls: dict[int, _Item] = {}
        self._dirty: list[_Part] = []
        self._out: list[Event] = []
        self._inherited = len(self._items)

    @property
    def dirty(self) -> bool:
        """Does a delta wait for `flush`?"""
        return bool(self._dirty)

    @property
    def produced(self) -> bool:
        """Has this attempt produced anything a client may have seen? Then it must not be tried again in silence."""
        return len(self._items) > self._inherited

    @property
    def output(self) -> tuple[dict[str, Any], ...]:
        """The items as they stand, open ones with what they hold so far."""
        return tuple(self._standing(item) for item in self._items)

    def snapshot(self) -> dict[str, Any]:
        """The Response as it stands."""
        return {**self.response, "output": list(self.output)}

    def take(self) -> list[Event]:
        """The events made since the last call."""
        events, self._out = self._out, []
        return events

    def lifecycle(self, name: str, status: str) -> None:
        """`response.created`, `.queued` or `.in_progress` with the Response as it stands."""
        self.response["status"] = status
        self._emit(f"response.{name}", {"response": self.snapshot()})

    # What a model says

    def text(self, delta: str, logprobs: list[Any] | None = None) -> None:
        """Some text of the answer."""
        part = self._talk.part if self._talk else None
        if part is None or part.kind is not _TEXT:
            part = self._speak("output_text")
        if logprobs:
            part.pending_logprobs += logprobs
        self._append(part, delta)

    def refusal(self, delta: str) -> None:
        """Some text of a refusal."""
        part = self._talk.part if self._talk else None
        if part is None or part.kind is not _REFUSAL:
            part = self._speak("refusal")
        self._append(part, delta)

    def reasoning(self, delta: str) -> None:
        """Some text of the reasoning before an answer."""
        item = self._talk
        if item is None or item.part is None or item.obj["type"] != "reasoning":
            self._close_talk("completed")
            name = "reasoning_text" if self._raw_reasoning else "summary_text"
            obj: dict[str, Any] = {"id": self._new_id("rs"), "type": "reasoning", "summary": []}
            if self._raw_reasoning:
                obj["content"] = []
            item = self._talk = self._open_item(obj)
            self._open_part(item, name)
        assert item.part is not None
        self._append(item.part, delta)

    def call(self, index: int, call_id: str, name: str) -> None:
        """A function call begins; `index` is the caller's name for it."""
        self._close_talk("completed")
        obj = {
            "id": self._new_id("fc"),
            "type": "function_call",
            "status": "in_progress",
            "call_id": call_id,
            "name": name,
            "arguments": "",
        }
        item = self._calls[index] = self._open_item(obj)
        item.part = self._arguments(item)

    def arguments(self, index: int, delta: str) -> None:
        """Some of the arguments of an open call."""
        part = self._calls[index].part
        assert part is not None
        self._append(part, delta)

    def flush(self) -> None:
        """Send the deltas that wait, one event for each part."""
        dirty, self._dirty = self._dirty, []
        for part in dirty:
            text = "".join(part.pending)
            part.pieces.append(text)
            part.pending.clear()
            body = {**part.where, "delta": text}
            if part.kind is _TEXT:
                body["logprobs"] = part.pending_logprobs
                part.logprobs += part.pending_logprobs
                part.pending_logprobs = []
            self._number(part.kind.delta, body, key=part)

    # How it ends

    def interrupt(self) -> None:
        """An attempt ended half-way: close what is open, honestly, as incomplete."""
        self._close_all("incomplete")

    def finish(
        self,
        status: str,
        *,
        completed_at: int | None = None,
        error: dict[str, str] | None = None,
        incomplete: str | None = None,
        usage: dict[str, Any] | None = None,
    ) -> None:
        """Close everything and send the terminal event.

        Args:
            status: completed, incomplete, cancelled or failed.
            completed_at: seconds since the epoch; only kept when completed.
            incomplete: the reason, when the status is incomplete.
        """
        self._close_all("completed" if status == "completed" else "incomplete")
        self.response.update(
            status=status,
            completed_at=completed_at if status == "completed" else None,
            error=error,
            incomplete_details={"reason": incomplete} if incomplete else None,
            usage=usage,
        )
        # There is no cancelled event in either dialect; a new terminal would hang every client (§8.3).
        name = status if status in ("completed", "failed") else "incomplete"
        self._emit(f"response.{name}", {"response": self.snapshot()})

    # Reading a log back

    @classmethod
    def rebuild(cls, events: Iterable[Event], *, new_id: NewId) -> Composer:
        """The composer that wrote this log, as it stood after the last event."""
        composer = cls({}, new_id=new_id)
        for event in events:
            composer._replay(event.type, orjson.loads(event.data))
            composer.next_seq = event.seq + 1
        return composer

    def _replay(self, event_type: str, body: dict[str, Any]) -> None:
        if "response" in body:
            self.response = body["response"]
            if event_type in TERMINAL:
                self._items = [_Item(obj, i, closed=True) for i, obj in enumerate(self.response["output"])]
            return
        if "output_index" not in body:
            return
        if event_type == "response.output_item.added":
            item = self._adopt(body["item"])
            if item.obj["type"] == "function_call":
                item.part = self._arguments(item)
            return
        self._replay_within(self._items[body["output_index"]], event_type, body)

    def _replay_within(self, item: _Item, event_type: str, body: dict[str, Any]) -> None:
        if event_type == "response.output_item.done":
            item.obj, item.part, item.closed = body["item"], None, True
        elif event_type in BY_ADDED:
            item.part = self._part(item, body["part"]["type"])
        elif event_type in BY_CLOSED:
            kind = BY_CLOSED[event_type]
            assert kind.home is not None
            item.obj.setdefault(kind.home, []).append(body["part"])
            item.part = None
        elif item.part is not None and event_type in BY_DELTA:
            item.part.pieces.append(body["delta"])
            item.part.logprobs += body.get("logprobs") or []
        elif item.part is not None and event_type in BY_DONE:
            item.part.announced = True

    # Opening and closing

    def _append(self, part: _Part, delta: str) -> None:
        if not part.pending:
            self._dirty.append(part)
        part.pending.append(delta)
        if not part.pieces:
            self.flush()

    def _speak(self, name: str) -> _Part:
        """Open a part in the open message, or a message first."""
        item = self._talk
        if item is None or item.obj["type"] != "message":
            self._close_talk("completed")
            obj = {
                "id": self._new_id("msg"),
                "type": "message",
                "status": "in_progress",
                "role": "assistant",
                "content": [],
            }
            item = self._talk = self._open_item(obj)
        elif item.part is not None:
            self._close_part(item.part)
        return self._open_part(item, name)

    def _adopt(self, obj: dict[str, Any]) -> _Item:
        item = _Item(obj, len(self._items))
        self._items.append(item)
        return item

    def _open_item(self, obj: dict[str, Any]) -> _Item:
        item = self._adopt(obj)
        self._emit("response.output_item.added", {"output_index": item.index, "item": obj})
        return item

    def _open_part(self, item: _Item, name: str) -> _Part:
        part = item.part = self._part(item, name)
        assert part.kind.added is not None
        self._emit(part.kind.added, {**part.where, "part": part.obj})
        return part

    def _part(self, item: _Item, name: str) -> _Part:
        kind = PARTS[name]
        assert kind.home is not None and kind.index is not None
        obj: dict[str, Any] = {"type": name, kind.value: ""}
        if kind is _TEXT:
            obj["annotations"] = []
        position = len(item.obj.setdefault(kind.home, []))
        where = {"item_id": item.obj["id"], "output_index": item.index, kind.index: position}
        return _Part(kind, item, obj, where)

    def _arguments(self, item: _Item) -> _Part:
        where = {"item_id": item.obj["id"], "output_index": item.index}
        return _Part(PARTS["arguments"], item, item.obj, where)

    def _close_part(self, part: _Part) -> None:
        self.flush()
        kind, item = part.kind, part.item
        whole = {kind.value: part.text()}
        closed = {**part.obj, **whole}
        if not part.announced:
            extra: dict[str, Any] = {}
            if kind is _TEXT:
                extra["logprobs"] = part.logprobs
            elif kind.home is None:
                extra["name"] = part.obj["name"]
            self._emit(kind.done, {**part.where, **whole, **extra})
        if part.logprobs:
            closed["logprobs"] = part.logprobs
        item.part = None
        if kind.home is None:
            item.obj = closed
        else:
            assert kind.closed is not None
            item.obj = {**item.obj, kind.home: [*item.obj.get(kind.home, ()), closed]}
            self._emit(kind.closed, {**part.where, "part": closed})

    def _close_item(self, item: _Item, status: str) -> None:
        if item.closed:
            return
        if item.part is not None:
            self._close_part(item.part)
        if "status" in item.obj:
            item.obj = {**item.obj, "status": status}
        item.closed = True
        self._emit("response.output_item.done", {"output_index": item.index, "item": item.obj})

    def _close_talk(self, status: str) -> None:
        if self._talk is not None:
            self._close_item(self._talk, status)
            self._talk = None

    def _close_all(self, status: str) -> None:
        for item in self._items:
            self._close_item(item, status)
        self._talk = None
        self._calls.clear()

    def _standing(self, item: _Item) -> dict[str, Any]:
        part = item.part
        if part is None:
            return item.obj
        whole = {**part.obj, part.kind.value: part.text()}
        if part.kind.home is None:
            return whole
        return {**item.obj, part.kind.home: [*item.obj.get(part.kind.home, ()), whole]}

    def _emit(self, event_type: str, body: dict[str, Any]) -> None:
        if self._dirty:
            self.flush()
        self._number(event_type, body)

    def _number(self, event_type: str, body: dict[str, Any], key: object = None) -> None:
        # Copied, since what orjson returns keeps 4 KiB from other use however short it is (measured on 3.13).
        data = bytes(memoryview(orjson.dumps({"type": event_type, "sequence_number": self.next_seq, **body})))
        self._out.append(Event(self.next_seq, event_type, data, key))
        self.bytes += len(data)
        self.next_seq += 1


_TEXT = PARTS["output_text"]
_REFUSAL = PARTS["refusal"]
