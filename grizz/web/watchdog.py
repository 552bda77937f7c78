"""Cuts off clients whose socket takes nothing any more.

There is no timeout around a send, ever: all senders of an aiohttp connection await one shared drain future, and
cancelling it poisons every later send (measured on 3.14.5). So a writer notes when a send began, one sweeper looks at
all of them, and a stuck one ends by `transport.abort()`, which needs no cancellation.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from grizz.tasks import TaskOwner, bounded
from grizz.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

CLOSE_WITHIN_S = 1.5


class Guard:
    """Watches the sends of one connection; use as `with guard:` around each.

    Attributes:
        name: the request, or the handshake of the WebSocket, in the log.
        began_at: when the send under way began, None between sends.
        ended_at: when the last send ended; when the guard was made before the first.
        last_s: seconds the last send took.
    """

    __slots__ = ("_dog", "_now", "_transport", "began_at", "ended_at", "last_s", "name")

    def __init__(self, dog: Watchdog, transport: asyncio.Transport, name: str) -> None:
        self.name = name
        self._dog = dog
        self._now = dog.now
        self._transport = transport
        self.began_at: float | None = None
        self.ended_at = dog.now()
        self.last_s = 0.0

    def __enter__(self) -> None:
        self.began_at = self._now()

    def __exit__(self, *exc: object) -> None:
        self.ended_at = self._now()
        self.last_s = self.ended_at - (self.began_at or 0.0)
        self.began_at = None

    def release(self) -> None:
        """The connection is done; call once at its end."""
        self._dog.guards.discard(self)

    def abort(self) -> None:
        """Cut the connection now; a blocked send ends with a connection error."""
        self._transport.abort()

    async def close(self, closing: Coroutine[Any, Any, Any]) -> None:
        """Close politely, but within `CLOSE_WITHIN_S`: a stalled peer would hold `ws.close()` for ever."""
        if not await bounded(closing, within_s=CLOSE_WITHIN_S, name="close a connection"):
            self.abort()


class Watchdog:
    """One sweeper for the sends of all connections.

    Args:
        stall_s: seconds a send may be stuck.
    """

    def __init__(self, stall_s: float, metrics: Metrics) -> None:
        self._stall_s = stall_s
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self.guards: set[Guard] = set()

    def guard(self, transport: asyncio.Transport, name: str) -> Guard:
        """A guard for a connection, which is called `name` in the log."""
        guard = Guard(self, transport, name)
        self.guards.add(guard)
        return guard

    def start(self, tasks: TaskOwner) -> None:
        """Begin to sweep."""
        tasks.spawn(self._sweep(), name="watch for stalled clients")

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(0.5, self._stall_s / 5))
            now = self.now()
            for guard in list(self.guards):
                if guard.began_at is not None and now - guard.began_at > self._stall_s:
                    self._cut(guard, now)

    def hurry(self, stall_s: float) -> None:
        """The process is leaving: from now on a send may be stuck for `stall_s` seconds only."""
        self._stall_s = min(self._stall_s, stall_s)

    def cut_stuck(self) -> None:
        """Cut every client that is stuck in a send right now: nobody waits for them at a shutdown."""
        for guard in list(self.guards):
            if guard.began_at is not None:
                self._cut(guard, self.now())

    def _cut(self, guard: Guard, now: float) -> None:
        stalled_s = round(now - (guard.began_at or now), 1)
        log.warning("client takes nothing any more, cut off", extra={"request_id": guard.name, "stalled_s": stalled_s})
        self._metrics.drops.labels("write_stall").inc()
        guard.abort()
        self.guards.discard(guard)
