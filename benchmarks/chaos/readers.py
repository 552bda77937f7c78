"""Clients: askers whose answers are known word for word, and crowds of them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import socket
import struct
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp

from benchmarks.chaos.fleet import Broken
from benchmarks.chaos.judge import DELTA, Event, Expected, Seen, words
from benchmarks.chaos.machine import Slowness
from grizz.web.auth.door import OWNER_COOKIE
from tests.nodes import Client, Node

# After that long even an answer that trickles must have ended; silence is noticed much earlier.
ANSWER_S = 60.0
_numbers = itertools.count()


def tag() -> str:
    """The next answer's own."""
    return f"a{next(_numbers)}"


class _Line:
    """Opens the sockets of one client, and can cut the one that is open."""

    def __init__(self, http: aiohttp.ClientSession, owner: str) -> None:
        self.http = http
        self._headers = {"Cookie": f"{OWNER_COOKIE}={owner}"} if owner else {}
        self._ws: aiohttp.ClientWebSocketResponse | None = None

    @contextlib.asynccontextmanager
    async def ws_connect(self, url: str, **options: Any) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        async with self.http.ws_connect(url, headers=self._headers, **options) as self._ws:
            yield self._ws

    def cut(self) -> None:
        connection = self._ws._response.connection if self._ws else None
        if connection is not None and connection.transport is not None:
            sock = connection.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.transport.abort()


class Asker(Client):
    """A client with one question, that resumes where it was, at any of its nodes, until it has the end.

    Args:
        nodes: the first is asked, the others in turn when that is gone.
        directives: what the model shall do beside saying `said`.
        said: what the model is told to say.
        expected: how it must end; by default exactly so.
        response_id: follow this one from its beginning instead of asking.
        owner: whose cookie it shows; by default nobody else's. Empty: none.
    """

    def __init__(
        self,
        http: aiohttp.ClientSession,
        nodes: Sequence[Node],
        said: str,
        *,
        directives: str = "",
        expected: Expected | None = None,
        patience_s: float = 10.0,
        response_id: str = "",
        owner: str | None = None,
    ) -> None:
        self.owner = secrets.token_urlsafe(32) if owner is None else owner
        self._line = _Line(http, self.owner)
        super().__init__(self._line, list(nodes))  # type: ignore[arg-type]  # it only opens sockets with it
        self.response_id = response_id
        self.turned_away = 0
        self._question = f"[[echo:{said}]] {directives}"
        self.seen = Seen(said.partition(".")[0], expected or Expected(said), patience_s, time.monotonic())
        self.task = asyncio.create_task(self._run())

    @property
    def streaming(self) -> bool:
        """Has it heard some, and not all?"""
        return not self.over and any(event["type"] == DELTA for event in self.events[-5:])

    @property
    def over(self) -> bool:
        """Is there nothing more to come?"""
        return self.task.done()

    @property
    def silent_s(self) -> float:
        """How long nothing came."""
        return time.monotonic() - (self.seen.times[-1] if self.seen.times else self.seen.began_at)

    def reconnect_with(self, http: aiohttp.ClientSession) -> None:
        """Use that from the next connection on."""
        self._line.http = http

    def cut(self) -> None:
        """Reset its connection, as a network does."""
        self._line.cut()

    async def _run(self) -> None:
        seen = self.seen
        seen.events = self.events
        try:
            await self.ask(self._question, within_s=ANSWER_S)
        except (TimeoutError, asyncio.CancelledError):
            pass  # the judge sees that it did not end
        finally:
            seen.over_at = time.monotonic()
            seen.name += f" ({self.response_id or 'no id'})"
            seen.denied, seen.cuts = len(self.denied), len(self.closes)
            if not seen.ended:
                seen.refused = [error["error"]["code"] for error in self.errors[-1:]]

    def _take(self, event: Event) -> bool:
        known = len(self.events)
        if event["type"] == "error" and event["status"] == 429 and self.response_id:
            # Many come back at once: this one is asked to come a little later, as our page does.
            self.turned_away += 1
            raise ConnectionError("turned away")
        over = super()._take(event)
        if len(self.events) > known:
            self.seen.times.append(time.monotonic())
        return over


class Crowd:
    """Askers that wait for their answers at the same time."""

    def __init__(self, patience_s: float, slowness: Slowness) -> None:
        self.patience_s, self._slowness = patience_s, slowness
        self.askers: list[Asker] = []

    def ask(
        self,
        http: aiohttp.ClientSession,
        nodes: Sequence[Node],
        count: int,
        length: int,
        rate: float,
        owner: str | None = None,
    ) -> list[Asker]:
        """That many more, each with `length` words of its own at `rate` words a second."""
        fresh = []
        for _ in range(count):
            said, pace = words(tag(), length), f"[[rate:{rate:g}]]"
            fresh.append(Asker(http, nodes, said, directives=pace, patience_s=self.patience_s, owner=owner))
        self.askers += fresh
        return fresh

    async def begun(self, within_s: float = 30.0) -> None:
        """Wait until each of them has heard its first words."""
        try:
            async with asyncio.timeout(within_s):
                while not all(asker.streaming or asker.over for asker in self.askers):  # noqa: ASYNC110  # of many
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise Broken(f"only {self.streaming} of {len(self.askers)} answers began to stream") from None

    @property
    def streaming(self) -> int:
        return sum(asker.streaming for asker in self.askers)

    async def end(self) -> None:
        """Wait for all of them; who hears nothing for longer than its patience is given up."""
        while waiting := [asker for asker in self.askers if not asker.over]:
            slowness = self._slowness.factor()
            for asker in waiting:
                if asker.silent_s > asker.seen.patience_s * slowness + 0.2:
                    asker.task.cancel()
            await asyncio.sleep(0.1)

    async def cancel(self) -> None:
        for asker in self.askers:
            asker.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*(asker.task for asker in self.askers), return_exceptions=True)
