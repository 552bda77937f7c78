"""What all handlers of `/v1` share: who is let in, how a body is read, how an answer is written."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from grizz.errors import Code, RequestError
from grizz.web.auth import Door, Identity
from grizz.web.errors import REQUEST_ID
from grizz.web.limits import Limits
from grizz.web.watchdog import Watchdog

Handler = Callable[[web.Request, Identity], Awaitable[web.StreamResponse]]

# Seconds of silence after which a stream says that it is still there; what is in between may take it for dead.
PING_S = 15.0
_PIECE = 64 * 1024
_SSE_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx would hold events back
}


class Handlers:
    """Base of those that serve paths below `/v1`."""

    def __init__(self, *, door: Door, limits: Limits, watchdog: Watchdog, request_timeout_s: float) -> None:
        self._door = door
        self._limits = limits
        self._watchdog = watchdog
        self._request_timeout_s = request_timeout_s

    def _admitted(self, handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Serve whom the door and the limits let in; the place is held until the answer is out."""

        async def serve(request: web.Request) -> web.StreamResponse:
            if request.method != "GET":
                self._door.check_origin(request)
            with self._limits.connection(self._door.address_of(request)) as place:
                identity = await self._door.identify(request)
                self._limits.belongs_to(place, identity)
                response = await handler(request, identity)
                return response if response.prepared else await self._send(request, response)

        return serve

    async def _send(self, request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        """Write a whole answer while its place is held and a guard watches, in pieces, so that slow is not stuck."""
        assert isinstance(response, web.Response) and isinstance(response.body, bytes)
        response.headers["x-request-id"] = request[REQUEST_ID]
        stream = web.StreamResponse(status=response.status, headers=response.headers)
        stream.content_length = len(response.body)
        await stream.prepare(request)
        assert request.transport is not None
        guard = self._watchdog.guard(request.transport, request[REQUEST_ID])
        try:
            for start in range(0, len(response.body) if request.method != "HEAD" else 0, _PIECE):
                with guard:
                    await stream.write(response.body[start : start + _PIECE])
            with guard:
                await stream.write_eof()
        finally:
            guard.release()
        return stream

    def _sse(self, request: web.Request, headers: Mapping[str, str] | None = None) -> web.StreamResponse:
        """An event stream, not begun."""
        return web.StreamResponse(headers={**_SSE_HEADERS, **(headers or {}), "x-request-id": request[REQUEST_ID]})

    async def _json(self, request: web.Request) -> tuple[Any, int]:
        """The body, and how many bytes it had.

        Raises:
            RequestError: 400 or 408.
        """
        raw = await self._body(request)
        try:
            return orjson.loads(raw), len(raw)
        except orjson.JSONDecodeError as error:
            raise RequestError(400, Code.INVALID_JSON, f"The request body is not JSON: {error}.") from error

    async def _body(self, request: web.Request) -> bytes:
        try:
            async with asyncio.timeout(self._request_timeout_s):
                return await request.read()
        except web.RequestPayloadError as error:
            # What is left of such a body cannot be told from the next request.
            why = error.__cause__.message if isinstance(error.__cause__, HttpProcessingError) else str(error)
            text, close = f"The body cannot be read: {why}.", {"Connection": "close"}
            raise RequestError(400, Code.INVALID_REQUEST, text, headers=close) from error
        except TimeoutError:
            text = f"The body did not arrive within {self._request_timeout_s:g} s."
            raise RequestError(408, Code.REQUEST_TIMEOUT, text, headers={"Connection": "close"}) from None
