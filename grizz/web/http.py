"""The HTTP side of the Responses API: each answer is a cursor into the same reply a WebSocket reads (protocol §1)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web

from grizz.engine.engine import Engine
from grizz.engine.history import Turn
from grizz.engine.reply import Cursor, Reply
from grizz.errors import Code, RequestError
from grizz.protocol import compaction, requests, sse
from grizz.web.auth import Door, Identity
from grizz.web.errors import REQUEST_ID, json_response
from grizz.web.limits import Limits, submit
from grizz.web.once import submit_once
from grizz.web.paging import page
from grizz.web.watchdog import Watchdog

Handler = Callable[[web.Request, Identity], Awaitable[web.StreamResponse]]

_PIECE = 64 * 1024
_PING_S = 15.0
_LOOK_S = 1.0
_SSE_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx would hold events back
}


class Api:
    """Handlers of `/v1`."""

    def __init__(
        self,
        *,
        engine: Engine,
        door: Door,
        limits: Limits,
        watchdog: Watchdog,
        default_model: Callable[[], Awaitable[str]],
        models: Callable[[], Awaitable[list[dict[str, Any]]]],
        request_timeout_s: float,
    ) -> None:
        self._engine = engine
        self._door = door
        self._limits = limits
        self._watchdog = watchdog
        self._default_model = default_model
        self._models = models
        self._request_timeout_s = request_timeout_s

    def routes(self) -> list[web.RouteDef]:
        """What to add to the router."""
        routes: list[tuple[str, str, Handler]] = [
            ("POST", "/v1/responses", self.create),
            ("POST", "/v1/responses/compact", self.compact),
            ("GET", "/v1/responses/{id}", self.retrieve),
            ("POST", "/v1/responses/{id}/cancel", self.cancel),
            ("DELETE", "/v1/responses/{id}", self.delete),
            ("GET", "/v1/responses/{id}/input_items", self.input_items),
            ("GET", "/v1/models", self.list_models),
            ("GET", "/v1/models/{id:.+}", self.get_model),
        ]
        return [web.route(method, path, self._admitted(handler)) for method, path, handler in routes]

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
        guard = self._watchdog.guard(request.transport)
        try:
            for start in range(0, len(response.body) if request.method != "HEAD" else 0, _PIECE):
                with guard:
                    await stream.write(response.body[start : start + _PIECE])
            with guard:
                await stream.write_eof()
        finally:
            guard.release()
        return stream

    async def create(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        """`POST /v1/responses`."""
        raw, body = await self._json(request)
        named = isinstance(body, dict) and body.get("model")
        asked = requests.parse(body, "" if named else await self._default_model())
        if asked.background and not asked.store:
            text = "'background' needs 'store': who comes back for the answer must find it."
            raise RequestError(400, Code.INVALID_VALUE, text, param="background")
        key = request.headers.get("Idempotency-Key")
        found: Reply | Turn
        replayed = False
        if key is None:
            found = await submit(self._engine, self._limits, identity, asked, len(raw), None)
        else:
            found, replayed = await submit_once(
                self._engine, self._limits, identity, asked, len(raw), key=key, body=body
            )
        headers = self._limits.headers(identity) | ({"Idempotent-Replayed": "true"} if replayed else {})
        if asked.stream:
            if replayed and isinstance(found, Reply):
                self._engine.check_readers(found)
            return await self._stream(request, found, -1, headers)
        if isinstance(found, Reply) and not asked.background:
            await self._ended(request, found)
        return json_response(self._engine.snapshot(found), headers=headers)

    async def compact(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        """`POST /v1/responses/compact`: the same conversation in few words, to be sent as `input`."""
        raw, body = await self._json(request)
        asked = requests.parse_compact(body)
        context = await self._engine.context(asked, identity.owner)
        if not context:
            raise RequestError(400, Code.MISSING_PARAMETER, "There is nothing to compact.", param="input")
        work = compaction.request(asked.model, context, asked.fields.get("instructions"))
        reply = await submit(self._engine, self._limits, identity, work, len(raw), None)
        await self._ended(request, reply)
        answer = await self._engine.compactions.compacted(identity.owner, reply.response, context)
        return json_response(answer, headers=self._limits.headers(identity))

    async def retrieve(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        """`GET /v1/responses/{id}`: as it stands, or its events from a number on."""
        found = await self._engine.find_stored(request.match_info["id"], identity.owner)
        if request.query.get("stream", "false").lower() not in ("true", "1"):
            return json_response(self._engine.snapshot(found))
        if isinstance(found, Reply):
            self._engine.check_readers(found)
        return await self._stream(request, found, requests.starting_after(request.query.get("starting_after")))

    async def cancel(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        """`POST /v1/responses/{id}/cancel`: idempotent."""
        found = await self._engine.cancel(request.match_info["id"], identity.owner)
        return json_response(self._engine.snapshot(found))

    async def delete(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        """`DELETE /v1/responses/{id}`."""
        response_id = request.match_info["id"]
        await self._engine.delete(response_id, identity.owner)
        return json_response({"id": response_id, "object": "response", "deleted": True})

    async def input_items(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        """`GET /v1/responses/{id}/input_items`: this turn's input, newest first by default."""
        found = await self._engine.find_stored(request.match_info["id"], identity.owner)
        items = found.input if isinstance(found, Turn) else found.request.input
        return json_response(page(items, request.query))

    async def list_models(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        """`GET /v1/models`."""
        return json_response({"object": "list", "data": await self._models()})

    async def get_model(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        """`GET /v1/models/{id}`."""
        name = request.match_info["id"]
        for model in await self._models():
            if model["id"] == name:
                return json_response(model)
        raise RequestError(404, Code.MODEL_NOT_FOUND, f"The model '{name}' does not exist.", param="model")

    async def _json(self, request: web.Request) -> tuple[bytes, Any]:
        raw = await self._body(request)
        try:
            return raw, orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise RequestError(400, Code.INVALID_JSON, f"The request body is not JSON: {error}.") from error

    async def _body(self, request: web.Request) -> bytes:
        try:
            async with asyncio.timeout(self._request_timeout_s):
                return await request.read()
        except web.RequestPayloadError as error:
            raise RequestError(400, Code.INVALID_REQUEST, f"The body cannot be read: {error}.") from error
        except TimeoutError:
            text = f"The body did not arrive within {self._request_timeout_s:g} s."
            raise RequestError(408, Code.REQUEST_TIMEOUT, text, headers={"Connection": "close"}) from None

    async def _ended(self, request: web.Request, reply: Reply) -> None:
        """Wait for the terminal event, as one more reader; a client that goes leaves the reply to its grace."""
        wake = asyncio.Event()
        cursor = Cursor(reply, -1, wake.set)
        try:
            while not reply.ended:
                if reply.revoked:
                    raise ConnectionResetError("the answer goes on at another node")
                wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await wake.wait()
                if request.transport is None:
                    raise ConnectionResetError("the client went away")
        finally:
            cursor.close()

    async def _stream(
        self, request: web.Request, found: Reply | Turn, after: int, headers: dict[str, str] | None = None
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={**_SSE_HEADERS, **(headers or {}), "x-request-id": request[REQUEST_ID]})
        await response.prepare(request)
        assert request.transport is not None
        guard = self._watchdog.guard(request.transport)
        try:
            if isinstance(found, Turn):
                event = found.last_event()
                if event.seq > after:
                    with guard:
                        await response.write(sse.encode(event.type, event.data))
            else:
                await self._follow(response, found, after, guard)
            with guard:
                await response.write(sse.DONE_FRAME)
                await response.write_eof()
        finally:
            guard.release()
        return response

    async def _follow(self, response: web.StreamResponse, reply: Reply, after: int, guard: Any) -> None:
        wake = asyncio.Event()
        cursor = Cursor(reply, after, wake.set)
        try:
            while not cursor.finished:
                if not self._engine.pulse.is_sure:
                    await self._engine.pulse.sure()
                if reply.revoked:
                    raise ConnectionResetError("the answer goes on at another node")
                for event in cursor.read():
                    with guard:
                        # One write for each: some readers lose an event that is split over two reads.
                        await response.write(sse.encode(event.type, event.data))
                if cursor.behind or cursor.finished:
                    continue
                wake.clear()
                try:
                    async with asyncio.timeout(_PING_S):
                        await wake.wait()
                except TimeoutError:
                    with guard:
                        await response.write(sse.PING_FRAME)
        finally:
            cursor.close()
