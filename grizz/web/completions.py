"""`POST /v1/chat/completions`: the same replies as the Responses API gives, in the older dialect (docs/protocol.md).

Nobody can come back to such an answer, so it ends with its connection: a client that goes away cancels it at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

from aiohttp import web

from grizz.engine.engine import Engine
from grizz.engine.reply import Reply
from grizz.engine.worker import STOPPED
from grizz.errors import Code, RequestError
from grizz.protocol import choices, completions, sse
from grizz.protocol.choices import Choice
from grizz.protocol.completions import Asked
from grizz.transport.base import Cause
from grizz.web.auth import Door, Identity
from grizz.web.errors import REQUEST_ID, call_of, json_response
from grizz.web.handlers import PING_S, Handlers
from grizz.web.limits import Limits, submit
from grizz.web.reading import Elsewhere, Reading
from grizz.web.watchdog import Guard, Watchdog

# A lost connection is told; this is how long a wait lasts when nothing is.
_LOOK_S = 60.0
_RETRY_S = 1.0
# Failures of this server rather than of a model's.
_OURS = [STOPPED[cause][1]["error"]["message"] for cause in (Cause.OVERDUE, Cause.SHUTDOWN)]
_RESTARTING = RequestError(503, Code.OVERLOADED, "The server is restarting; try again.", retry_after_s=_RETRY_S)

Lost = Callable[[web.Request, Callable[[], None]], AbstractContextManager[None]]


class Completions(Handlers):
    """Handlers of `/v1/chat`.

    Args:
        lost: calls back when the connection of a request is lost, while the block lasts that it gives.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        door: Door,
        limits: Limits,
        watchdog: Watchdog,
        default_model: Callable[[str], Awaitable[str]],
        lost: Lost,
        request_timeout_s: float,
    ) -> None:
        super().__init__(door=door, limits=limits, watchdog=watchdog, request_timeout_s=request_timeout_s)
        self._engine = engine
        self._default_model = default_model
        self._lost = lost

    def routes(self) -> list[web.RouteDef]:
        """What to add to the router."""
        return [web.post("/v1/chat/completions", self._admitted(self.create))]

    async def create(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        """`POST /v1/chat/completions`, streaming or not."""
        body, size = await self._json(request)
        named = isinstance(body, dict) and body.get("model")
        asked = completions.parse(body, "" if named else await self._default_model(identity.key))
        reply = await submit(self._engine, self._limits, identity, asked.request, size, None, call_of(request))
        headers = self._limits.headers(identity)
        reading = Reading(self._engine, request, reply, -1)
        try:
            with self._lost(request, reading.look):
                if asked.request.stream:
                    return await self._stream(request, reading, asked, headers)
                return json_response(await self._whole(reading, asked, headers), headers=headers)
        finally:
            reading.close()
            await self._leave(reply)

    async def _whole(self, reading: Reading, asked: Asked, headers: dict[str, str]) -> dict[str, Any]:
        """The answer once it has ended; raises RequestError when there is none."""
        try:
            await reading.end(_LOOK_S)
            return choices.completion(reading.reply.response, asked, reading.reply.left)
        except Elsewhere:
            raise _refused(_RESTARTING, headers) from None
        except RequestError as failure:
            raise _refused(failure, headers) from failure

    async def _stream(
        self, request: web.Request, reading: Reading, asked: Asked, headers: dict[str, str]
    ) -> web.StreamResponse:
        if request.transport is None:
            raise ConnectionResetError("the client went away")
        response, guard = self._sse(request, headers), self._watchdog.guard(request.transport, request[REQUEST_ID])
        try:
            try:
                failure = await self._chunks(request, response, guard, reading, asked)
            except Elsewhere:
                failure = _RESTARTING
            if failure is not None:
                refusal = _refused(failure, headers)
                if not response.prepared:
                    raise refusal
                with guard:
                    await response.write(choices.error_frame(refusal))
            with guard:
                await response.write_eof()
        finally:
            guard.release()
        return response

    async def _chunks(
        self, request: web.Request, response: web.StreamResponse, guard: Guard, reading: Reading, asked: Asked
    ) -> RequestError | None:
        """Send chunks as they come, to the last one or the failure that is returned.

        While nothing is known, not even the status is sent, so that a failure can still have its own; but something is
        sent each `PING_S`.
        """
        loop = asyncio.get_running_loop()
        choice = Choice(reading.reply.response, asked)
        sent_at = loop.time()
        while not reading.finished:
            events = await reading.next(sent_at + PING_S)
            choice.losses = reading.reply.losses
            data = choice.read(events)
            if choice.failure is not None and not response.prepared:
                return choice.failure
            if data or loop.time() >= sent_at + PING_S:
                if not response.prepared:
                    await response.prepare(request)
                with guard:
                    await response.write(data or sse.PING_FRAME)
                reading.sent()
                sent_at = loop.time()
            if choice.failure is not None:
                return choice.failure
        return None

    async def _leave(self, reply: Reply) -> None:
        """Nobody can come back to it: stop it if it runs, and forget it if it was not to be stored."""
        if not reply.ended and not reply.revoked:
            await self._engine.cancel(reply.id, reply.owner)
        if reply.ended and not reply.request.store:
            self._engine.replies.remove(reply)


def _refused(failure: RequestError, headers: dict[str, str]) -> RequestError:
    """A failed answer as a refusal with the headers of every answer, and the status that it deserves."""
    ours = failure.message in _OURS
    return RequestError(
        503 if ours else failure.status,
        failure.code,
        failure.message,
        param=failure.param,
        retry_after_s=_RETRY_S if ours else failure.retry_after_s,
        headers={**headers, **failure.headers},
    )
