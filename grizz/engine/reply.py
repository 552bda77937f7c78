"""Reply: the append-only log of one response's events. Cursor: a reader's position in it.

Nothing is pushed into a per-client buffer: a slow reader is a cursor that is behind, and costs nothing else. A resume,
a second tab, an SSE stream and a blocking `POST` are all the same thing, another cursor.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from grizz.engine.history import Scope, Turn
from grizz.protocol.compose import Composer
from grizz.protocol.events import Event, NewId
from grizz.protocol.items import Item
from grizz.protocol.requests import Request
from grizz.telemetry.traces import NO_ANSWER

# What an event costs beside its JSON: the header of the bytes, what the allocator rounds up and its place in the list.
EVENT_OVERHEAD_BYTES = 50
# The newest events stay at hand as objects, so many at most: whoever follows closely need not have them read again.
_AT_HAND = 64


class Reply:
    """One response's log. All methods are synchronous: they never wait.

    The log is the events' JSON alone. As objects they would be most of what a full garbage collection looks at, and it
    stands in the way of all streams: 40 to 120 ms with 200,000 events (measured; bytes are not looked at).

    Attributes:
        id: the response id.
        owner: whose it is.
        request: what was asked.
        request_id: of the request that it came by; "" when that is not known here.
        parent: the turn it continues, or None.
        scope: the connection that alone may continue it when it is not stored, or None.
        given: this turn's input, references resolved; emptied when the reply ends.
        bytes: what the log holds.
        ended_at: when its terminal event came, in seconds of the loop's clock; None before.
        attempt: which attempt its events are of; higher than 1 only when its first home died.
        losses: numbers of events from which another worker began anew, after one was lost here.
        left: how many items of the output those have left behind.
        revoked: another node speaks for it now: not one more of its events may go out.
        span: of its trace, while it runs here.
        told_at: when its last event came.
        logged_at: the same by `time.monotonic`, since the loop's clock is read once for each of its rounds.
        on_end: called once with the Response when it stops running here, however that comes.
        unwatched_since: when its last cursor went, or it was made; None while somebody watches.
    """

    __slots__ = (
        "_first",
        "_log",
        "_newest",
        "_wakers",
        "attempt",
        "bytes",
        "created_at",
        "ended_at",
        "given",
        "id",
        "left",
        "logged_at",
        "losses",
        "on_end",
        "owner",
        "parent",
        "request",
        "request_id",
        "response",
        "revoked",
        "scope",
        "span",
        "started",
        "told_at",
        "unwatched_since",
    )

    def __init__(
        self,
        response: dict[str, Any],
        owner: str,
        request: Request,
        *,
        parent: Turn | None,
        scope: Scope | None,
        given: Sequence[Item],
        size: int,
        now: float,
        request_id: str = "",
    ) -> None:
        self.request_id = request_id
        self.span = NO_ANSWER
        self.id: str = response["id"]
        self.owner = owner
        self.request = request
        self.response = response
        self.parent = parent
        self.scope = scope
        self.given = given
        self.bytes = size
        self.created_at = self.told_at = now
        self.logged_at = 0.0
        self.started = False
        self.attempt = 1
        self.losses: tuple[int, ...] = ()
        self.left = 0
        self.revoked = False
        self.on_end: Callable[[dict[str, Any]], None] | None = None
        self.ended_at: float | None = None
        self.unwatched_since: float | None = now
        self._log: list[bytes] = []
        self._newest: list[Event] = []
        self._first = 0
        self._wakers: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        watched = f"{len(self._wakers)} cursors" if self._wakers else "unwatched"
        return f"<Reply {self.id} {self.status}, last event {self.last_seq}, {self.bytes} bytes, {watched}>"

    @property
    def last_seq(self) -> int:
        """The number of the last event; -1 when there is none."""
        return self._first + len(self._log) - 1

    @property
    def first_seq(self) -> int:
        """The number of the first event that is kept."""
        return self._first

    @property
    def ended(self) -> bool:
        """Is the terminal event in the log?"""
        return self.ended_at is not None

    @property
    def status(self) -> str:
        """queued, in_progress, or how it ended."""
        return str(self.response["status"])

    def extend(self, events: Sequence[Event], now: float) -> None:
        """Append the next events and wake the readers. An event that is in the log already is dropped.

        Raises:
            ValueError: there is a gap before the first new one; nothing was appended.
        """
        fresh = [event for event in events if event.seq > self.last_seq] if events[0].seq <= self.last_seq else events
        if not fresh or self.ended:
            return
        if self._log and fresh[0].seq != self.last_seq + 1:
            raise ValueError(f"{self.id}: event {fresh[0].seq} after {self.last_seq}")
        if not self._log:
            self._first = fresh[0].seq
        if len(self._newest) + len(fresh) > _AT_HAND:
            self._newest = []
        self._newest.extend(fresh)
        self.told_at = now
        self.logged_at = time.monotonic()
        for event in fresh:
            self._log.append(event.data)
            self.bytes += len(event.data) + EVENT_OVERHEAD_BYTES
            if event.type == "response.in_progress":
                self.response["status"] = "in_progress"
        if fresh[-1].terminal:
            self.response = orjson.loads(fresh[-1].data)["response"]
            self.ended_at = now
            self._newest = []
        for wake in self._wakers:
            wake()

    def restart(self, events: Sequence[Event], attempt: int, now: float) -> None:
        """Its home died, and it begins anew under higher numbers: every reader goes on with the first of them."""
        self.bytes -= sum(len(data) + EVENT_OVERHEAD_BYTES for data in self._log)
        self._log, self._newest = [], []
        self._first = 0
        self.attempt = attempt
        self.ended_at, self.started = None, False
        self.extend(events, now)

    def revoke(self) -> None:
        """Another node speaks for it now; readers are woken to go away."""
        self.revoked = True
        for wake in self._wakers:
            wake()

    def snapshot(self, new_id: NewId) -> dict[str, Any]:
        """The Response as it stands, with what was produced so far."""
        if self.ended or not self._log:
            return self.response
        return self.composer(new_id).snapshot()

    def composer(self, new_id: NewId) -> Composer:
        """The composer that wrote this log, ready to go on after its last event."""
        return Composer.rebuild(self.after(-1, len(self._log)), new_id=new_id)

    def after(self, seq: int, limit: int) -> list[Event]:
        """Up to `limit` events numbered higher than `seq`."""
        start = max(0, seq + 1 - self._first)
        at_hand = start - len(self._log) + len(self._newest)
        if at_hand >= 0:
            return self._newest[at_hand : at_hand + limit]
        return [Event.read(self._first + i, self._log[i]) for i in range(start, min(start + limit, len(self._log)))]

    def newest_after(self, seq: int) -> Sequence[Event]:
        """All events numbered higher than `seq`, if they are at hand; else none."""
        count = self._first + len(self._log) - 1 - seq
        return self._newest[-count:] if 0 < count <= len(self._newest) else ()

    @property
    def readers(self) -> int:
        """How many cursors follow it."""
        return len(self._wakers)

    def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` whenever events come in."""
        self._wakers.append(wake)
        self.unwatched_since = None

    async def ends_within(self, seconds: float) -> bool:
        """Wait for its end, or until another node speaks for it; False when that took longer. Cancel-safe."""
        ended = asyncio.Event()

        def look() -> None:
            if self.ended or self.revoked:
                ended.set()

        self.watch(look)
        try:
            look()
            async with asyncio.timeout(seconds):
                await ended.wait()
        except TimeoutError:
            return False
        finally:
            self.unwatch(look, asyncio.get_running_loop().time())
        return True

    def unwatch(self, wake: Callable[[], None], now: float) -> None:
        """The opposite of `watch`; once for each."""
        self._wakers.remove(wake)
        if not self._wakers:
            self.unwatched_since = now


class Cursor:
    """A reader's position in a reply.

    Args:
        after: the last sequence number the reader has; -1 for none.
        wake: called when there may be something to read; once at the start too if there is.
    """

    __slots__ = ("_joined_at", "_open", "_reply", "_wake", "position")

    def __init__(self, reply: Reply, after: int, wake: Callable[[], None]) -> None:
        self._reply = reply
        self._wake = wake
        self.position = after
        self._joined_at = reply.last_seq
        self._open = True
        reply.watch(wake)
        if self.behind:
            wake()

    def __repr__(self) -> str:
        return f"<Cursor after {self.position} of {self._reply!r}>"

    @property
    def reply(self) -> Reply:
        """What it reads."""
        return self._reply

    @property
    def behind(self) -> bool:
        """Is there something to read?"""
        return self.position < self._reply.last_seq

    def peek(self) -> Sequence[Event]:
        """All that there is to read, if that is at hand; the position stays."""
        return self._reply.newest_after(self.position)

    @property
    def finished(self) -> bool:
        """Was the terminal event read (or known to the reader before)?"""
        return self._reply.ended and not self.behind

    @property
    def logged_at(self) -> float | None:
        """When the event at its position came into the log, by `time.monotonic`.

        None when newer ones are there, or when it was there before this reader: then it had nobody to wait for.
        """
        reply = self._reply
        if self.position < reply.last_seq or self.position <= self._joined_at:
            return None
        return reply.logged_at

    def read(self, limit: int = 256) -> list[Event]:
        """The next events, `limit` at most, and the position moves behind them."""
        events = self._reply.after(self.position, limit)
        if events:
            self.position = events[-1].seq
        return events

    def close(self) -> None:
        """Stop watching; from the last cursor on, the reply's grace runs. Safe to call twice."""
        if self._open:
            self._open = False
            self._reply.unwatch(self._wake, asyncio.get_running_loop().time())
