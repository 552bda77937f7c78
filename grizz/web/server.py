"""Routes, the WebSocket handshake, health, metrics; and how all of it starts listening and stops."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Any

from aiohttp import WSCloseCode, web

from grizz import __version__
from grizz.config import Settings
from grizz.engine.engine import Engine
from grizz.engine.models import Models
from grizz.errors import Code, RequestError
from grizz.tasks import OnError, TaskOwner
from grizz.telemetry.metrics import CLOSE_CODES, Metrics
from grizz.web.auth import Door, Identity
from grizz.web.auth.credentials import protocols
from grizz.web.auth.sessions import Sessions
from grizz.web.errors import REQUEST_ID, json_response, middleware
from grizz.web.gate import Gate
from grizz.web.http import Api
from grizz.web.limits import Limits
from grizz.web.pages import Pages
from grizz.web.socket import Socket
from grizz.web.stranger import introduction, reject
from grizz.web.tls import load_certificate
from grizz.web.watchdog import Guard, Watchdog
from grizz.web.websocket import Connection

log = logging.getLogger(__name__)

# At a shutdown: what a client that still reads may take to get the rest, and how long one may read nothing.
_FLUSH_S = 2.0
_LEAVE_STALL_S = 0.5
# How often connections are looked at; a shorter idle timeout makes it more often.
_TEND_S = 5.0
# A client hears that it is idle when a tenth of its time is left.
_WARN_PART = 0.1


class Server:
    """Everything that listens."""

    def __init__(
        self,
        *,
        settings: Settings,
        engine: Engine,
        models: Models,
        metrics: Metrics,
        tasks: TaskOwner,
        on_error: OnError,
        demo: bool,
        upstream: str,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._models = models
        self._metrics = metrics
        self._on_error = on_error
        self._door = Door(settings)
        self._limits = Limits(settings.limits, settings.keys, settings.queue.max_jobs)
        self._watchdog = Watchdog(settings.server.stall_timeout_s, metrics)
        self._watchdog.start(tasks)
        self._connections: set[Connection] = set()
        self._info: dict[str, Any] = {"version": __version__, "model": "", "demo": demo, "upstream": upstream}
        self._info["scaled"] = bool(settings.redis.url)
        self.ready = False
        self._tasks = tasks
        self._runner = web.AppRunner(
            self._application(), handle_signals=False, access_log=None, shutdown_timeout=1, handler_cancellation=False
        )
        self._tls = tls
        self._gate = Gate(
            # Requests that are not let in need room to be told so.
            max_connections=lambda: self._settings.limits.connections + 1000,
            patience_s=settings.server.request_timeout_s,
            tasks=tasks,
        )

    def _application(self) -> web.Application:
        app = web.Application(
            middlewares=[middleware(self._metrics), self._check_host],
            client_max_size=self._settings.server.max_message_bytes,
        )
        api = Api(
            engine=self._engine,
            door=self._door,
            limits=self._limits,
            watchdog=self._watchdog,
            default_model=self._models.default,
            models=self._models.list,
            request_timeout_s=self._settings.server.request_timeout_s,
        )
        app.add_routes([web.get("/v1/responses", self._websocket), *api.routes()])
        app.add_routes(Sessions(self._door).routes())
        app.add_routes(Pages(self._door, self._page_info).routes())
        app.add_routes(
            [
                web.get("/livez", self._livez),
                web.get("/healthz", self._livez),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics_page),
            ]
        )
        return app

    async def start(self, model: str) -> int:
        """Listen; returns the port.

        Args:
            model: what the pages say answers by default.

        Raises:
            OSError: the address cannot be bound.
        """
        self._info["model"] = model
        await self._door.start(self._tasks)
        await self._runner.setup()
        server = self._settings.server
        port = await self._gate.listen(self._runner, server.host, server.port, self._tls)
        self._tasks.spawn(self._tend(), name="tend connections")
        self.set_ready(True)
        return port

    def reload(self, settings: Settings) -> None:
        """Take over what may change while it runs: who may come in, and how much they may do.

        Raises:
            ConfigError: a file that they name cannot be used; nothing was taken over.
        """
        if self._tls is not None and settings.server.tls_cert_file:
            load_certificate(self._tls, settings.server)
        self._door.reload(settings)
        self._settings = settings
        self._limits.reload(settings.limits, settings.keys)

    def _page_info(self) -> dict[str, Any]:
        trouble = self._engine.trouble
        return {**self._info, "degraded": f"redis: {trouble}" if trouble else ""}

    def set_ready(self, ready: bool) -> None:
        """What `/readyz` says from now on."""
        self.ready = ready
        self._metrics.ready.set(int(ready))

    async def stop_listening(self) -> None:
        """Take no new connections; those there are go on."""
        await self._gate.close()

    async def close(self) -> None:
        """Send every client away with 1012, so that it comes back and resumes; bounded, stalled ones are cut."""
        self._watchdog.hurry(_LEAVE_STALL_S)
        async with asyncio.TaskGroup() as group:
            for connection in list(self._connections):
                if not connection.leaving:
                    group.create_task(connection.leave(WSCloseCode.SERVICE_RESTART, _FLUSH_S), name="leave")
        self._watchdog.cut_stuck()
        await self._runner.cleanup()

    @web.middleware
    async def _check_host(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self._gate.asked(request)
        self._door.check_host(request)
        await self._door.admit(request)
        response: web.StreamResponse = await handler(request)
        return response

    # Handlers

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() != "websocket":
            text = "GET /v1/responses speaks WebSocket: send 'Upgrade: websocket', or POST to create a response."
            raise RequestError(426, Code.UPGRADE_REQUIRED, text)
        try:
            self._door.check_origin(request)
            with self._limits.connection(self._door.address_of(request)):
                if self._door.may_introduce_itself(request):
                    return await self._welcome_stranger(request)
                identity = await self._door.identify(request)
                with self._limits.connection_of(identity):
                    ws = Socket(self._settings.server, known=True)
                    ws.headers.update(self._limits.headers(identity))
                    transport = await ws.open(request)
                    return await self._serve(request, ws, self._watchdog.guard(transport), identity)
        except RequestError as error:
            self._metrics.connects.labels(_REFUSED.get(error.status, "capacity")).inc()
            raise
        except web.HTTPBadRequest:
            self._metrics.connects.labels("bad").inc()
            raise

    async def _welcome_stranger(self, request: web.Request) -> web.StreamResponse:
        """Its first message says who it is; a refusal can only come as a frame, since it is a WebSocket by then."""
        with self._limits.unknown():
            ws = Socket(self._settings.server, known=False)
            guard = self._watchdog.guard(await ws.open(request))
            try:
                identity = await introduction(
                    ws, self._door, self._settings.auth.first_message_s, self._door.address_of(request)
                )
            except RequestError as error:
                self._metrics.connects.labels("auth").inc()
                await reject(ws, guard, error, WSCloseCode.POLICY_VIOLATION)
                return ws
        try:
            with self._limits.connection_of(identity):
                return await self._serve(request, ws, guard, identity, introduced=True)
        except RequestError as error:
            self._metrics.connects.labels("capacity").inc()
            await reject(ws, guard, error, WSCloseCode.TRY_AGAIN_LATER)
            return ws

    async def _serve(
        self, request: web.Request, ws: Socket, guard: Guard, identity: Identity, *, introduced: bool = False
    ) -> web.StreamResponse:
        connection = Connection(
            ws,
            identity=identity,
            extended=introduced or "grizz" in protocols(request),
            engine=self._engine,
            limits=self._limits,
            settings=self._settings,
            guard=guard,
            metrics=self._metrics,
            tasks=TaskOwner("connection", self._on_error),
            default_model=self._models.default,
        )
        conn = request[REQUEST_ID]
        address = self._door.address_of(request)
        log.info("connection opened", extra={"owner": identity.owner, "address": address, "conn": conn})
        self._metrics.connects.labels("accepted").inc()
        self._metrics.connections.inc()
        self._connections.add(connection)
        if introduced:
            connection.notify({"type": "grizz:authenticated", "sequence_number": 0})
        if response_id := request.query.get("response_id"):
            connection.attach(response_id, request.query.get("starting_after"))
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            self._metrics.connections.dec()
            guard.release()
            guard.abort()  # a sender may still be blocked in drain, until the kernel gives up after minutes
            self._closed(ws, connection, conn)
        return ws

    def _closed(self, ws: Socket, connection: Connection, conn: str) -> None:
        refused = connection.refused  # aiohttp closed it: a frame too big, or not WebSocket at all
        code = refused or connection.leaving or ws.close_code or 1006
        by = "server" if refused or connection.leaving else "network" if code == 1006 else "client"
        self._metrics.closes.labels(by, str(code) if str(code) in CLOSE_CODES else "other").inc()
        log.info("connection closed", extra={"conn": conn, "code": code, "by": by})

    async def _tend(self) -> None:
        """Look after connections: who is idle, too old, or no longer allowed."""
        server = self._settings.server
        loop = asyncio.get_running_loop()
        limits = [limit for limit in (server.idle_timeout_s, server.max_age_s) if limit]
        while True:
            await asyncio.sleep(min([_TEND_S, *(limit / 25 for limit in limits)]))
            for connection in list(self._connections):
                code = self._verdict(connection, loop.time())
                if code:
                    self._tasks.spawn(connection.leave(code, _FLUSH_S), name="leave")

    def _verdict(self, connection: Connection, now: float) -> int:
        """With which code this connection is to be closed; 0 to keep it."""
        server = self._settings.server
        if connection.leaving:
            return 0
        if not self._door.still_valid(connection.identity):
            return WSCloseCode.POLICY_VIOLATION
        if server.max_age_s and now - connection.opened_at > server.max_age_s:
            # What it waits for still comes, and only then it closes: the error on an idle socket crashes some clients.
            connection.retired = True
            return 0 if connection.busy else WSCloseCode.GOING_AWAY
        if not server.idle_timeout_s or connection.busy:
            connection.closes_at = 0.0
        elif connection.closes_at:
            return WSCloseCode.OK if now >= connection.closes_at else 0
        elif (left_s := connection.last_frame_at + server.idle_timeout_s - now) <= server.idle_timeout_s * _WARN_PART:
            connection.warn_idle(now, left_s)
        return 0

    async def _livez(self, request: web.Request) -> web.StreamResponse:
        return json_response({"status": "ok", "version": __version__})

    async def _readyz(self, request: web.Request) -> web.StreamResponse:
        if not self.ready:
            return json_response({"status": "draining"}, status=503)
        body: dict[str, Any] = {"status": "ready"}
        degraded = [f"redis: {trouble}"] if (trouble := self._engine.trouble) else []
        if not self._settings.workers.concurrency and not self._settings.redis.url:
            degraded.append("this process runs no jobs (workers.concurrency = 0)")
        if degraded:
            body["degraded"] = degraded
        return json_response(body)

    async def _metrics_page(self, request: web.Request) -> web.StreamResponse:
        body, content_type = await self._metrics.render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})


_REFUSED = {401: "auth", 403: "origin"}
