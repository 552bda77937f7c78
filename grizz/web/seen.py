"""`GET /v1/seen`: what is believed of where a request comes from, for who wants to see what a proxy makes of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager

import orjson
from aiohttp import web

from grizz.protocol import sse
from grizz.web.auth import Door, Identity
from grizz.web.errors import REQUEST_ID
from grizz.web.handlers import Handlers
from grizz.web.limits import Limits
from grizz.web.watchdog import Watchdog

# Far above what a network takes: what holds events back until a stream ends brings them so much later.
_OPEN_S = 2.0


class Seen(Handlers):
    """The handler.

    Args:
        lost: calls back when the connection of a request is lost, while the block lasts that it gives.
    """

    def __init__(
        self,
        *,
        door: Door,
        limits: Limits,
        watchdog: Watchdog,
        lost: Callable[[web.Request, Callable[[], None]], AbstractContextManager[None]],
        request_timeout_s: float,
    ) -> None:
        super().__init__(door=door, limits=limits, watchdog=watchdog, request_timeout_s=request_timeout_s)
        self._lost = lost

    def routes(self) -> list[web.RouteDef]:
        """What to add to the router."""
        return [web.get("/v1/seen", self._admitted(self.seen), allow_head=False)]

    async def seen(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        """One event at once; the stream ends two seconds later, or with its client.

        It goes the way of an answer and costs no tokens: who gets the event together with the end is behind something
        that buffers.
        """
        response, gone = self._sse(request), asyncio.Event()
        await response.prepare(request)
        assert request.transport is not None
        guard = self._watchdog.guard(request.transport, request[REQUEST_ID])
        try:
            with guard:
                await response.write(sse.encode("grizz:seen", orjson.dumps(self._door.seen(request))))
            with self._lost(request, gone.set), contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_OPEN_S):
                    await gone.wait()
            if gone.is_set():
                return response
            with guard:
                await response.write(sse.DONE_FRAME)
                await response.write_eof()
        finally:
            guard.release()
        return response
