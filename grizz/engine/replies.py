"""The replies this process keeps, within two bounds: time after their end, and bytes in all.

A running reply is never dropped (running ones are bounded by the workers, the queue and the size of one answer); when
the byte bound needs room, the replies that ended first go first.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from grizz.engine.reply import Reply
from grizz.protocol.events import Event
from grizz.telemetry.traces import NO_ANSWER

# Grace of what nobody can come back to: until its own client reads it may still wait for its place in the queue.
_FLEETING_S = 5.0


class Replies:
    """Replies by response id.

    Args:
        keep_s: seconds a reply is kept after its end.
        grace_s: seconds a running reply may have no reader, unless it runs in the background.
        max_bytes: what all replies may hold together.

    Attributes:
        bytes: what all replies hold together.
        idle: set while no reply is running.
    """

    def __init__(self, *, keep_s: float, grace_s: float, max_bytes: int) -> None:
        self._keep_s = keep_s
        self._grace_s = grace_s
        self._max_bytes = max_bytes
        self._running: dict[str, Reply] = {}
        self._ended: OrderedDict[str, Reply] = OrderedDict()
        self.bytes = 0
        self.idle = asyncio.Event()
        self.idle.set()

    def __len__(self) -> int:
        return len(self._running) + len(self._ended)

    def __repr__(self) -> str:
        return f"<Replies: {len(self._running)} running, {len(self._ended)} ended, {self.bytes} bytes>"

    @property
    def running(self) -> int:
        """Replies without a terminal event, queued ones included."""
        return len(self._running)

    def add(self, reply: Reply) -> None:
        """Keep a new reply."""
        self._running[reply.id] = reply
        self.idle.clear()
        self.bytes += reply.bytes

    def get(self, response_id: str) -> Reply | None:
        """The reply, whoever it belongs to."""
        return self._running.get(response_id) or self._ended.get(response_id)

    def extend(self, reply: Reply, events: Sequence[Event], now: float) -> None:
        """Append events, and make room when the byte bound asks for it."""
        before, was_running = reply.bytes, not reply.ended
        reply.extend(events, now)
        self.bytes += reply.bytes - before
        if was_running and reply.ended:
            self._stopped_running(reply)
            self._ended[reply.id] = reply
        while self.bytes > self._max_bytes and self._ended:
            self.remove(next(iter(self._ended.values())))

    def restart(self, reply: Reply, events: Sequence[Event], attempt: int, now: float) -> None:
        """See `Reply.restart`."""
        before = reply.bytes
        reply.restart(events, attempt, now)
        self.bytes += reply.bytes - before

    def remove(self, reply: Reply) -> None:
        """Forget a reply; whoever reads it still does."""
        if self._ended.pop(reply.id, None) is None:
            if self._running.get(reply.id) is not reply:
                return
            self._stopped_running(reply)
        self.bytes -= reply.bytes

    def expire(self, now: float) -> None:
        """Forget what ended too long ago."""
        while self._ended:
            reply = next(iter(self._ended.values()))
            if reply.ended_at is None or now - reply.ended_at <= self._keep_s:
                return
            self.remove(reply)

    def abandoned(self, now: float) -> list[Reply]:
        """Running replies whose grace is over."""
        return [
            reply
            for reply in self._running.values()
            # Most that wait unwatched are background jobs, and there may be 100,000 of them.
            if reply.unwatched_since is not None
            and not reply.request.background
            and now - reply.unwatched_since > (_FLEETING_S if reply.request.fleeting else self._grace_s)
        ]

    def all_running(self) -> Iterator[Reply]:
        """Every reply without a terminal event, as of now."""
        return iter(list(self._running.values()))

    def of(self, owner: str) -> list[Reply]:
        """All of one owner's, as of now."""
        return [reply for kept in (self._running, self._ended) for reply in kept.values() if reply.owner == owner]

    def _stopped_running(self, reply: Reply) -> None:
        del self._running[reply.id]
        if not self._running:
            self.idle.set()
        reply.span.ended(reply.response)
        reply.span = NO_ANSWER
        if reply.on_end is not None:
            reply.on_end(reply.response)
            reply.on_end = None
