"""One HTTP client's way through a reply: what to send next, when to say that one is still there, when to leave."""

from __future__ import annotations

import asyncio
import contextlib
import time

from aiohttp import web

from grizz.engine.engine import Engine
from grizz.engine.reply import Cursor, Reply
from grizz.protocol.events import Event


class Elsewhere(ConnectionResetError):
    """The answer goes on at another node, and here not one more word of it may be said."""


class Reading:
    """A cursor that waits. `close` it at the end.

    Args:
        after: the last sequence number the client has; -1 for none.

    Attributes:
        reply: what it reads.
    """

    def __init__(self, engine: Engine, request: web.Request, reply: Reply, after: int) -> None:
        self.reply = reply
        self._engine = engine
        self._request = request
        self._wake = asyncio.Event()
        self._cursor = Cursor(reply, after, self._wake.set)
        self._logged_at: float | None = None

    @property
    def finished(self) -> bool:
        """Was everything read, up to the terminal event?"""
        return self._cursor.finished

    def look(self) -> None:
        """Let who waits look again, now."""
        self._wake.set()

    async def next(self, until: float) -> list[Event]:
        """The next events; none when none came until then, in seconds of the loop's clock, or all were read.

        Raises:
            Elsewhere: another node speaks for the answer now.
            ConnectionResetError: the client is gone.
        """
        while True:
            if not self._engine.pulse.is_sure:
                await self._engine.pulse.sure()
            self._check()
            before = self._cursor.position
            if events := self._cursor.read():
                self._logged_at = self._cursor.logged_at
                if events[0].seq != before + 1:
                    self._engine.check_continuity(self.reply.id, before, events[0])
                return events
            if self._cursor.finished or not await self._woken(until):
                return []

    def sent(self) -> None:
        """What `next` gave was written: count how long it took from the log to here."""
        if self._logged_at is not None:
            self._engine.delivered(time.monotonic() - self._logged_at)
            self._logged_at = None

    async def end(self, look_s: float) -> None:
        """Wait for the terminal event, and look each `look_s` seconds whether the client is still there.

        Raises:
            Elsewhere: another node speaks for the answer now.
            ConnectionResetError: the client is gone.
        """
        while not self.reply.ended:
            self._check()
            await self._woken(asyncio.get_running_loop().time() + look_s)

    def close(self) -> None:
        """Read no more."""
        self._cursor.close()

    def _check(self) -> None:
        if self.reply.revoked:
            raise Elsewhere("the answer goes on at another node")
        if self._request.transport is None:
            raise ConnectionResetError("the client went away")

    async def _woken(self, until: float) -> bool:
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                return await self._wake.wait()
        return False
