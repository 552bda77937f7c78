"""The one sender of a connection: reads its cursors and writes, as fast as the socket takes it.

Its task lives while there is something to follow; an idle connection has none. Nothing is buffered for the client but
notices, of which there is a bound: what the client has not read yet is a cursor that is behind. There is no timeout
around a send: see `watchdog.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence

from grizz.engine.pulse import Pulse
from grizz.protocol.events import Event, merge, on_lane
from grizz.tasks import TaskOwner
from grizz.telemetry import continuity
from grizz.telemetry.metrics import Metrics
from grizz.web.lanes import Lane, Lanes
from grizz.web.socket import Socket
from grizz.web.watchdog import Guard

log = logging.getLogger(__name__)

# Answers to bad frames that wait for the socket; above it the connection is not read until some went out.
MAX_NOTICES = 64
# A send that took longer means the socket is full: from then on deltas are merged until it keeps up again.
_SLOW_S = 0.05
_HIDDEN_EVERY_S = 1.0
# Written at a time, or one event that is larger; a socket that takes no more holds so much beside what is in it.
_BATCH_BYTES = 16 * 1024


class _Revoked(Exception):
    """Another node speaks for one of the responses delivered here: the client shall come back and find it there."""


class Writer:
    """Sends what the lanes of one connection deliver.

    Args:
        done: a lane's response was delivered to its end.
        revoked: closes the connection, because another node speaks for one of its responses.

    Attributes:
        presence: visible, hidden (served once a second) or idle (served when an answer has ended).
    """

    __slots__ = (
        "_done",
        "_guard",
        "_lanes",
        "_last_round_at",
        "_lost",
        "_metrics",
        "_notices",
        "_parked",
        "_pulse",
        "_quiet",
        "_revoked",
        "_room",
        "_slow",
        "_task",
        "_tasks",
        "_wake",
        "_ws",
        "presence",
    )

    def __init__(
        self,
        ws: Socket,
        *,
        lanes: Lanes,
        guard: Guard,
        pulse: Pulse,
        metrics: Metrics,
        tasks: TaskOwner,
        done: Callable[[Lane], None],
        revoked: Callable[[], None],
    ) -> None:
        self._ws = ws
        self._lanes = lanes
        self._guard = guard
        self._pulse = pulse
        self._metrics = metrics
        self._tasks = tasks
        self._done = done
        self._revoked = revoked
        self.presence = "visible"
        # Events are made when they are needed: one holds 700 bytes, and most connections are idle (measured).
        self._notices: list[bytes] = []
        self._task: asyncio.Task[None] | None = None
        self._wake: asyncio.Event | None = None
        self._room: asyncio.Event | None = None
        self._quiet: asyncio.Event | None = None
        self._slow = False
        # The task waits for `wake`, and nothing is left to send.
        self._parked = False
        self._lost = False
        self._last_round_at = 0.0

    def __repr__(self) -> str:
        state = "lost" if self._lost else "idle" if self._task is None else self.presence
        return f"<Writer: {state}, {len(self._notices)} notices>"

    @property
    def waiting_bytes(self) -> int:
        """What waits for the client to take it. Events do not: they stay in the reply's log until there is room."""
        return self._ws.waiting_bytes + sum(map(len, self._notices))

    def notify(self, data: bytes) -> None:
        """Send a frame of the connection's own, before what its lanes deliver."""
        self._notices.append(data)
        self.wake()

    def push(self) -> None:
        """A reply has something new: send it at once where that is all there is to do, else wake the task.

        Half of what a frame costs is to wake a task for it, and with 500 tabs on an answer that is nearly all there is:
        41 to 43 µs a frame through the task, 20 to 26 so, 16 to 19 by aiohttp alone (measured).
        """
        try:
            if not (self._parked and self._deliver()):
                self.wake()
        except Exception as error:  # whoever tells of an event must not fail for one of those who read it
            self._failed(error)

    def wake(self) -> None:
        """There may be something to send."""
        if self._wake is not None:
            self._parked = False
            self._wake.set()
        elif not self._lost:
            self._wake = asyncio.Event()
            self._task = self._tasks.spawn(self._write(), name="writer")

    def stop(self) -> None:
        """The connection is over: start nothing any more."""
        self._lost = True

    async def room(self) -> None:
        """Wait until there is room for notices again, or the connection is lost."""
        while len(self._notices) >= MAX_NOTICES and not self._lost:
            self._room = asyncio.Event()
            await self._room.wait()

    async def quiet(self, within_s: float) -> None:
        """Wait until nothing is left to send, or the connection is lost; at most `within_s` seconds."""
        if self._lost or self._task is None:
            return
        self._quiet = asyncio.Event()
        self.wake()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._quiet.wait()

    async def _write(self) -> None:
        try:
            await self._serve()
            self._wake = self._task = None
        except _Revoked:
            self._lost = True
            self._revoked()
        except Exception as error:
            self._failed(error)
        except BaseException:
            self._lost = True
            raise
        finally:
            self._parked = False
            for event in (self._room, self._quiet):
                if event is not None:
                    event.set()

    def _failed(self, error: Exception) -> None:
        """Nothing more can be sent: the client shall come back and resume, instead of waiting for ever."""
        self._lost = True
        if isinstance(error, ConnectionError):
            log.debug("connection lost while sending", extra={"request_id": self._guard.name, "err": repr(error)})
        else:
            log.error("a writer failed", exc_info=error, extra={"request_id": self._guard.name})
            self._metrics.unhandled_errors.labels("handler").inc()
        self._guard.abort()

    async def _serve(self) -> None:
        """Send for as long as something is followed, or waits."""
        assert self._wake is not None
        while (pause_s := self._pause_s()) is not None:
            self._wake.clear()
            if pause_s <= 0:
                self._last_round_at = asyncio.get_running_loop().time()
                while await self._round():
                    pass
                self._slow = False
            elif pause_s < math.inf:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._wake.wait()
            elif self._ws.is_full:  # by events that were written without this task: here the watchdog sees for how long
                with self._guard:
                    await self._ws.drain()
            else:
                if self._quiet is not None:
                    self._quiet.set()
                self._parked = True
                await self._wake.wait()

    def _deliver(self) -> bool:
        """Write what came; False when nothing was written, or there is more to do that only the task can.

        Only while the task is parked: then all that came before is written.
        """
        if self.presence != "visible" or self._notices or not self._pulse.is_sure:
            return False
        written = False
        for lane in self._lanes.as_they_are:
            cursor = lane.cursor
            if cursor is None:
                continue
            if not (events := cursor.peek()):
                if cursor.behind:
                    return False
                continue
            reply, name = cursor.reply, lane.name
            messages = [on_lane(event.data, name) for event in events]
            if reply.ended or reply.revoked or not self._ws.write_now(messages, _BATCH_BYTES):
                return False
            if events[0].seq != cursor.position + 1:
                continuity.check(self._metrics, reply.id, cursor.position, events[0])
            cursor.position = events[-1].seq
            if (logged_at := cursor.logged_at) is not None:
                self._metrics.delivered(time.monotonic() - logged_at)
            written = True
        return written and not self._ws.is_full

    def _pause_s(self) -> float | None:
        """Seconds until the next round: a hidden tab is served once a second, an idle one when an answer has ended.

        None when there is nothing left to follow.
        """
        if self._notices:
            return 0.0
        followed = behind = False
        for lane in self._lanes:
            cursor = lane.cursor
            if cursor is None:
                continue
            if cursor.reply.ended or cursor.reply.revoked:
                return 0.0
            followed = True
            behind = behind or cursor.behind
        if not followed:
            return None
        if self.presence == "idle" or not behind:
            return math.inf
        if self.presence == "visible":
            return 0.0
        return self._last_round_at + _HIDDEN_EVERY_S - asyncio.get_running_loop().time()

    async def _round(self) -> bool:
        """One pass over all lanes; True when there is more."""
        while self._notices:
            await self._send([self._notices.pop(0)])
            if self._room is not None:
                self._room.set()
        more = False
        for lane in self._lanes:
            cursor = lane.cursor
            if cursor is None:
                continue
            before = cursor.position
            events = cursor.read()
            logged_at = cursor.logged_at if events else None
            if events and events[0].seq != before + 1:
                continuity.check(self._metrics, cursor.reply.id, before, events[0])
            if len(events) > 1 and (self._slow or self.presence != "visible"):
                events = merge(events)
            for batch in _batches(events):
                if not self._pulse.is_sure:
                    await self._pulse.sure()
                if cursor.reply.revoked:
                    raise _Revoked
                if lane.cursor is not cursor:
                    break  # detached meanwhile: the lane may be another response's already
                await self._send([on_lane(data, lane.name) for data in batch])
            if cursor.reply.revoked:
                raise _Revoked
            # A tab that nobody looks at is served late on purpose.
            if logged_at is not None and self.presence == "visible":
                self._metrics.delivered(time.monotonic() - logged_at)
            if cursor.finished and lane.cursor is cursor:
                self._done(lane)
            more = more or cursor.behind
        return more or bool(self._notices)

    async def _send(self, messages: Sequence[bytes]) -> None:
        with self._guard:
            await self._ws.send_texts(messages)
        if self._guard.last_s > _SLOW_S:
            self._slow = True


def _batches(events: Sequence[Event]) -> Iterator[list[bytes]]:
    """The events' JSON in order, in parts that are worth a write."""
    batch: list[bytes] = []
    size = 0
    for event in events:
        if batch and size + len(event.data) > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(event.data)
        size += len(event.data)
    if batch:
        yield batch
