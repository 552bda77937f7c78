"""The HTTP side of the Responses API: each answer is a cursor into the same reply a WebSocket reads (protocol §1)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from grizz.engine.engine import Engine
from grizz.engine.history import Turn
from grizz.engine.reply import Reply
from grizz.errors import Code, RequestError
from grizz.protocol import compaction, requests, sse
from grizz.telemetry.metrics import Metrics
from grizz.web.auth import Door, Identity
from grizz.web.errors import REQUEST_ID, call_of, json_response
from grizz.web.handlers import PING_S, Handler, Handlers
from grizz.web.limits import Limits, submit
from grizz.web.once import submit_once
from grizz.web.paging import page
from grizz.web.reading import Reading
from grizz.web.resumes import resumed
from grizz.web.watchdog import Guard, Watchdog

log = logging.getLogger(__name__)

_LOOK_S = 1.0


class Api(Handlers):
    """Handlers of `/v1`."""

    def __init__(
        self,
        *,
        engine: Engine,
        door: Door,
        limits: Limits,
        watchdog: Watchdog,
        metrics: Metrics,
        default_model: Callable[[str], Awaitable[str]],
        models: Callable[[str], Awaitable[list[dict[str, Any]]]],
        request_timeout_s: float,
    ) -> None:
        super().__init__(door=door, limits=limits, watchdog=watchdog, request_timeout_s=request_timeout_s)
        self._engine = engine
        self._metrics = metrics
        self._default_model = default_model
        self._models = models

    def routes(self) -> list[web.RouteDef]:
        """What to add to the router."""
        routes: list[tuple[str, str, Handler]] = [
            ("POST", "/v1/responses", self.create),
            ("POST", "/v1/responses/compact", self.compact),
            ("POST", "/v1/responses/{id}/cancel", self.cancel),
            ("DELETE", "/v1/responses/{id}", self.delete),
            ("GET", "/v1/responses/{id}/input_items", self.input_items),
            ("GET", "/v1/models", self.list_models),
            ("GET", "/v1/models/{id:.+}", self.get_model),
        ]
        # A stream has no length, so that a HEAD of it would be answered with a body.
        stream = web.get("/v1/responses/{id}", self._admitted(self.retrieve), allow_head=False)
        return [stream, *(web.route(method, path, self._admitted(handler)) for method, path, handler in routes)]

    async def create(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        """`POST /v1/responses`."""
        body, size = await self._json(request)
        named = isinstance(body, dict) and body.get("model")
        asked = requests.parse(body, "" if named else await self._default_model(identity.key))
        if asked.background and not asked.store:
            text = "'background' needs 'store': who comes back for the answer must find it."
            raise RequestError(400, Code.INVALID_VALUE, text, param="background")
        key, call = request.headers.get("Idempotency-Key"), call_of(request)
        found: Reply | Turn
        replayed = False
        if key is None:
            found = await submit(self._engine, self._limits, identity, asked, size, None, call)
        else:
            once = submit_once(self._engine, self._limits, identity, asked, size, call, key=key, body=body)
            found, replayed = await once
        headers = self._limits.headers(identity) | ({"Idempotent-Replayed": "true"} if replayed else {})
        if replayed:
            log.info("response asked for again", extra={"response_id": found.id, "request_id": call.request_id})
        if asked.stream:
            if replayed and isinstance(found, Reply):
                self._engine.check_readers(found)
            return await self._stream(request, found, -1, headers)
        if isinstance(found, Reply) and not asked.background:
            await self._ended(request, found)
        return json_response(self._engine.snapshot(found), headers=headers)

    async def compact(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        """`POST /v1/responses/compact`: the same conversation in few words, to be sent as `input`."""
        body, size = await self._json(request)
        asked = requests.parse_compact(body)
        context = await self._engine.context(asked, identity.owner)
        if not context:
            raise RequestError(400, Code.MISSING_PARAMETER, "There is nothing to compact.", param="input")
        await self._engine.compactions.agree()
        work = compaction.request(asked.model, context, asked.fields.get("instructions"))
        # What the model is asked counts, not the request: that may hold no more than an id.
        size = max(size, len(work.input[0]["content"][0]["text"]))
        reply = await submit(self._engine, self._limits, identity, work, size, None, call_of(request))
        await self._ended(request, reply)
        answer = await self._engine.compactions.compacted(identity.owner, reply.response, context)
        return json_response(answer, headers=self._limits.headers(identity))

    async def retrieve(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        """`GET /v1/responses/{id}`: as it stands, or its events from a number on."""
        streams = request.query.get("stream", "false").lower() in ("true", "1")
        try:
            found = await self._engine.find_stored(request.match_info["id"], identity.owner)
        except RequestError as error:
            if streams and error.code is Code.RESPONSE_NOT_FOUND:
                self._metrics.resumes.labels("unknown").inc()
            raise
        if not streams:
            return json_response(self._engine.snapshot(found))
        if isinstance(found, Reply):
            self._engine.check_readers(found)
        after = requests.starting_after(request.query.get("starting_after"))
        resumed(self._metrics, found, after)
        log.info("response resumed", extra={"response_id": found.id, "request_id": request[REQUEST_ID], "after": after})
        return await self._stream(request, found, after)

    async def cancel(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        """`POST /v1/responses/{id}/cancel`: idempotent."""
        found = await self._engine.cancel(request.match_info["id"], identity.owner)
        log.info("response cancelled", extra={"response_id": found.id, "request_id": request[REQUEST_ID]})
        return json_response(self._engine.snapshot(found))

    async def delete(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        """`DELETE /v1/responses/{id}`."""
        response_id = request.match_info["id"]
        await self._engine.delete(response_id, identity.owner)
        log.info("response deleted", extra={"response_id": response_id, "request_id": request[REQUEST_ID]})
        return json_response({"id": response_id, "object": "response", "deleted": True})

    async def input_items(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        """`GET /v1/responses/{id}/input_items`: this turn's input, newest first by default."""
        found = await self._engine.find_stored(request.match_info["id"], identity.owner)
        items = found.input if isinstance(found, Turn) else found.request.input
        return json_response(page(items, request.query))

    async def list_models(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        """`GET /v1/models`."""
        return json_response({"object": "list", "data": await self._models(identity.key)})

    async def get_model(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        """`GET /v1/models/{id}`."""
        name = request.match_info["id"]
        for model in await self._models(identity.key):
            if model["id"] == name:
                return json_response(model)
        raise RequestError(404, Code.MODEL_NOT_FOUND, f"The model '{name}' does not exist.", param="model")

    async def _ended(self, request: web.Request, reply: Reply) -> None:
        """Wait for the terminal event, as one more reader; a client that goes leaves the reply to its grace."""
        reading = Reading(self._engine, request, reply, -1)
        try:
            await reading.end(_LOOK_S)
        finally:
            reading.close()

    async def _stream(
        self, request: web.Request, found: Reply | Turn, after: int, headers: dict[str, str] | None = None
    ) -> web.StreamResponse:
        response = self._sse(request, headers)
        await response.prepare(request)
        assert request.transport is not None
        guard = self._watchdog.guard(request.transport, request[REQUEST_ID])
        try:
            if isinstance(found, Turn):
                event = found.last_event()
                if event.seq > after:
                    with guard:
                        await response.write(sse.encode(event.type, event.data))
            else:
                await self._follow(response, Reading(self._engine, request, found, after), guard)
            with guard:
                await response.write(sse.DONE_FRAME)
                await response.write_eof()
        finally:
            guard.release()
        return response

    async def _follow(self, response: web.StreamResponse, reading: Reading, guard: Guard) -> None:
        loop = asyncio.get_running_loop()
        try:
            while not reading.finished:
                events = await reading.next(loop.time() + PING_S)
                for event in events:
                    with guard:
                        # One write for each: some readers lose an event that is split over two reads.
                        await response.write(sse.encode(event.type, event.data))
                reading.sent()
                if not events and not reading.finished:
                    with guard:
                        await response.write(sse.PING_FRAME)
        finally:
            reading.close()
