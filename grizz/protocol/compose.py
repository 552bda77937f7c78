"""The one writer of a response's events: every one numbered, in legal order, everything opened also closed (§8.1).

Text deltas wait for `flush`, so that many small upstream chunks become one event; the first of each part goes out at
once. The same state can be rebuilt from a log (`Composer.rebuild`): for a snapshot of a running response, and for going
on after an interrupted attempt.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from grizz.protocol.events import (
    ANNOTATION,
    BY_ADDED,
    BY_CLOSED,
    INLINE,
    ITEM_ADDED,
    ITEM_DONE,
    LIFECYCLE,
    PARTS,
    TERMINAL,
    Event,
    NewId,
    PartKind,
    part_kind,
)
from grizz.protocol.parts import TEXT, Item, Part, new_part


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
        self.raw_reasoning = raw_reasoning
        self._items = [Item(obj, index, closed=True) for index, obj in enumerate(output)]
        self._talk: Item | None = None  # the open message or reasoning item; calls may be open beside it
        self._calls: dict[int, Item] = {}
        self._dirty: list[Part] = []
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
        return tuple(item.standing() for item in self._items)

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
        self.emit(f"response.{name}", {"response": self.snapshot()})

    # What a model says

    def text(self, delta: str, logprobs: list[Any] | None = None) -> None:
        """Some text of the answer."""
        part = self._talk.part if self._talk else None
        if part is None or part.kind is not TEXT:
            part = self._speak("output_text")
        self.append(part, delta, logprobs)

    def refusal(self, delta: str) -> None:
        """Some text of a refusal."""
        part = self._talk.part if self._talk else None
        if part is None or part.kind is not _REFUSAL:
            part = self._speak("refusal")
        self.append(part, delta)

    def reasoning(self, delta: str) -> None:
        """Some text of the reasoning before an answer."""
        item = self._talk
        if item is None or item.part is None or item.obj["type"] != "reasoning":
            self._close_talk("completed")
            name = "reasoning_text" if self.raw_reasoning else "summary_text"
            obj: dict[str, Any] = {"id": self._new_id("rs"), "type": "reasoning", "summary": []}
            if self.raw_reasoning:
                obj["content"] = []
            item = self._talk = self.open(obj)
            self.begin(item, PARTS[name], {"type": name})
        assert item.part is not None
        self.append(item.part, delta)

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
        self._calls[index] = self.open(obj)

    def arguments(self, index: int, delta: str) -> None:
        """Some of the arguments of an open call."""
        part = self._calls[index].part
        assert part is not None
        self.append(part, delta)

    # The same in single steps, for whoever passes on another server's events

    def open(self, obj: dict[str, Any]) -> Item:
        """An item begins; it has an id that no other of the response has."""
        item = self._adopt(obj)
        self.emit(ITEM_ADDED, {"output_index": item.index, "item": obj})
        return item

    def begin(self, item: Item, kind: PartKind, given: dict[str, Any]) -> Part:
        """A part of an open item begins; the one before it is closed."""
        if item.part is not None:
            self.end(item.part)
        part = item.part = new_part(item, kind, given)
        assert kind.added is not None
        self.emit(kind.added, {**part.where, "part": part.obj})
        return part

    def append(
        self, part: Part, delta: str, logprobs: list[Any] | None = None, more: dict[str, Any] | None = None
    ) -> None:
        """Some text of an open part; `more` are further fields of its event, which then goes out by itself."""
        if more:
            self.flush()
        if not part.pending:
            self._dirty.append(part)
        part.pending.append(delta)
        if logprobs:
            part.pending_logprobs += logprobs
        if more or not part.pieces:
            self.flush(more)

    def announce(self, part: Part, more: dict[str, Any] | None = None) -> None:
        """All text of a part is there; `more` are further fields of the event."""
        body = {**part.where, part.kind.value: part.text()}
        if part.kind is TEXT:
            body["logprobs"] = part.logprobs + part.pending_logprobs
        elif part.kind is _ARGUMENTS:
            body["name"] = part.obj["name"]
        self.emit(part.kind.done, {**body, **more} if more else body)
        part.announced = True

    def end(self, part: Part, obj: dict[str, Any] | None = None) -> None:
        """A part is over; `obj` is it as a whole, when it is more than its text."""
        kind, item = part.kind, part.item
        # Not of what has no text, nor of a hosted tool whose text nobody has begun to tell.
        if not part.announced and kind.value and (part.spoken or kind.home is not None or kind is _ARGUMENTS):
            self.announce(part)
        item.part = None
        if kind.home is None:
            item.obj = part.whole()
            return
        closed = part.whole() if obj is None else obj
        item.obj = {**item.obj, kind.home: [*item.obj.get(kind.home, ()), closed]}
        assert kind.closed is not None
        self.emit(kind.closed, {**part.where, "part": closed})

    def close(self, item: Item, status: str, obj: dict[str, Any] | None = None) -> None:
        """An item is over; `obj` is it as a whole, when it is more than its parts. Nothing for a closed one."""
        if item.closed:
            return
        if item.part is not None:
            self.end(item.part)
        if obj is not None:
            item.obj = obj
        elif "status" in item.obj:
            item.obj = {**item.obj, "status": status}
        item.closed = True
        self.emit(ITEM_DONE, {"output_index": item.index, "item": item.obj})

    def emit(self, event_type: str, body: dict[str, Any]) -> None:
        """Any event, after the text that waits."""
        if self._dirty:
            self.flush()
        self._number(event_type, body)

    def flush(self, more: dict[str, Any] | None = None) -> None:
        """Send the deltas that wait, one event for each part; `more` are further fields of each."""
        dirty, self._dirty = self._dirty, []
        for part in dirty:
            text = "".join(part.pending)
            part.pieces.append(text)
            part.pending.clear()
            body = {**part.where, "delta": text}
            if part.kind is TEXT:
                body["logprobs"] = part.pending_logprobs
                part.logprobs += part.pending_logprobs
                part.pending_logprobs = []
            if more:
                body |= more
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
        self.emit(f"response.{name}", {"response": self.snapshot()})

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
        if event_type in LIFECYCLE:
            self.response = body["response"]
        elif event_type in TERMINAL:
            self.response = body["response"]
            self._items = [Item(obj, i, closed=True) for i, obj in enumerate(self.response["output"])]
        elif event_type == ITEM_ADDED:
            self._adopt(body["item"])
        elif "output_index" in body:
            self._replay_within(self._items[body["output_index"]], event_type, body)

    @staticmethod
    def _replay_within(item: Item, event_type: str, body: dict[str, Any]) -> None:
        part = item.part
        if event_type == ITEM_DONE:
            item.obj, item.part, item.closed = body["item"], None, True
        elif event_type in BY_ADDED:
            item.part = new_part(item, part_kind(event_type, body["part"].get("type")), body["part"])
        elif event_type in BY_CLOSED:
            home = BY_CLOSED[event_type].home
            assert home is not None
            item.obj = {**item.obj, home: [*item.obj.get(home, ()), body["part"]]}
            item.part = None
        elif part is None:
            return
        elif event_type == part.kind.delta:
            part.pieces.append(body["delta"])
            part.logprobs += body.get("logprobs") or []
        elif event_type == part.kind.done:
            part.announced = True
        elif event_type == ANNOTATION:
            part.annotate(body["annotation"])

    # Opening and closing

    def _speak(self, name: str) -> Part:
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
            item = self._talk = self.open(obj)
        return self.begin(item, PARTS[name], {"type": name})

    def _adopt(self, obj: dict[str, Any]) -> Item:
        item = Item(obj, len(self._items))
        if kind := INLINE.get(obj["type"]):
            item.part = new_part(item, kind, obj)
        self._items.append(item)
        return item

    def _close_talk(self, status: str) -> None:
        if self._talk is not None:
            self.close(self._talk, status)
            self._talk = None

    def _close_all(self, status: str) -> None:
        for item in self._items:
            self.close(item, status)
        self._talk = None
        self._calls.clear()

    def _number(self, event_type: str, body: dict[str, Any], key: object = None) -> None:
        # Copied, since what orjson returns keeps 4 KiB from other use however short it is (measured on 3.13).
        data = bytes(memoryview(orjson.dumps({"type": event_type, "sequence_number": self.next_seq, **body})))
        self._out.append(Event(self.next_seq, event_type, data, key))
        self.bytes += len(data)
        self.next_seq += 1


_REFUSAL = PARTS["refusal"]
_ARGUMENTS = PARTS["arguments"]
