"""Routes, the WebSocket handshake, health, metrics; and how all of it starts listening and stops."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

from aiohttp import WSCloseCode, web

from grizz import __version__
from grizz.config import Settings
from grizz.engine.engine import Engine
from grizz.engine.models import Models
from grizz.errors import Code, RequestError
from grizz.tasks import OnError, TaskOwner
from grizz.telemetry.metrics import CLOSE_CODES, Metrics
from grizz.web.auth import Door
from grizz.web.auth.sessions import Sessions
from grizz.web.errors import REQUEST_ID, json_response, middleware
from grizz.web.http import Api
from grizz.web.limits import Limits
from grizz.web.pages import Pages
from grizz.web.watchdog import Watchdog
from grizz.web.websocket import Connection

log = logging.getLogger(__name__)

# The first is chosen and echoed; `grizz` only says that the client understands grizz:* events.
_PROTOCOLS = ("responses", "grizz")
# Together with the kernel's send buffer what a client that stops reading costs: about 0.3 MB (measured).
_WRITER_LIMIT = 16 * 1024
_SEND_BUFFER = 64 * 1024
# At a shutdown: what a client that still reads may take to get the rest, and how long one may read nothing.
_FLUSH_S = 5.0
_LEAVE_STALL_S = 1.0


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
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._models = models
        self._metrics = metrics
        self._on_error = on_error
        self._door = Door(settings)
        self._limits = Limits(settings.limits)
        self._watchdog = Watchdog(settings.server.stall_timeout_s, metrics)
        self._watchdog.start(tasks)
        self._tasks = tasks
        self._connections: set[Connection] = set()
        self._info: dict[str, Any] = {"version": __version__, "model": "", "demo": demo, "upstream": upstream}
        self._info["scaled"] = bool(settings.redis.url)
        self.ready = False
        self._runner = web.AppRunner(
            self._application(), handle_signals=False, access_log=None, shutdown_timeout=5, handler_cancellation=False
        )
        self._site: web.TCPSite | None = None

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
        self._site = web.TCPSite(self._runner, server.host, server.port, backlog=1024)
        await self._site.start()
        self.set_ready(True)
        sockets = self._site._server.sockets  # type: ignore[union-attr]  # started one line above
        return int(sockets[0].getsockname()[1])

    def _page_info(self) -> dict[str, Any]:
        trouble = self._engine.trouble
        return {**self._info, "degraded": f"redis: {trouble}" if trouble else ""}

    def set_ready(self, ready: bool) -> None:
        """What `/readyz` says from now on."""
        self.ready = ready
        self._metrics.ready.set(int(ready))

    async def stop_listening(self) -> None:
        """Take no new connections; those there are go on."""
        if self._site is not None:
            await self._site.stop()

    async def close(self) -> None:
        """Send every client away with 1012, so that it comes back and resumes; bounded, stalled ones are cut."""
        self._watchdog.hurry(_LEAVE_STALL_S)
        async with asyncio.TaskGroup() as group:
            for connection in list(self._connections):
                group.create_task(connection.leave(WSCloseCode.SERVICE_RESTART, _FLUSH_S), name="leave")
        self._watchdog.cut_stuck()
        await self._runner.cleanup()

    @web.middleware
    async def _check_host(self, request: web.Request, handler: Any) -> web.StreamResponse:
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
        except RequestError:
            self._metrics.connects.labels("origin").inc()
            raise
        owner, address = (await self._door.identify(request)).owner, self._door.address_of(request)
        try:
            place = self._limits.connection(owner, address)
            with place:
                return await self._serve(request, owner, address)
        except RequestError:
            self._metrics.connects.labels("capacity").inc()
            raise

    async def _serve(self, request: web.Request, owner: str, address: str) -> web.StreamResponse:
        server = self._settings.server
        ws = web.WebSocketResponse(
            heartbeat=server.heartbeat_s,
            compress=False,  # 1.5 to 2 times the CPU a frame and 90 KB a socket (measured)
            max_msg_size=server.max_message_bytes,
            writer_limit=_WRITER_LIMIT,
            timeout=5,
            protocols=_PROTOCOLS,
        )
        await ws.prepare(request)
        assert request.transport is not None
        _narrow(request.transport)
        guard = self._watchdog.guard(request.transport)
        connection = Connection(
            ws,
            owner=owner,
            extended="grizz" in request.headers.get("Sec-WebSocket-Protocol", ""),
            engine=self._engine,
            limits=self._limits,
            settings=self._settings,
            guard=guard,
            metrics=self._metrics,
            tasks=TaskOwner("connection", self._on_error),
            default_model=self._models.default,
        )
        log.info("connection opened", extra={"owner": owner, "address": address, "conn": request[REQUEST_ID]})
        self._metrics.connects.labels("accepted").inc()
        self._metrics.connections.inc()
        self._connections.add(connection)
        if response_id := request.query.get("response_id"):
            connection.attach(response_id, request.query.get("starting_after"))
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            self._metrics.connections.dec()
            guard.release()
            guard.abort()  # a sender may still be blocked in drain, until the kernel gives up after minutes
            self._closed(ws, connection, request[REQUEST_ID])
        return ws

    def _closed(self, ws: web.WebSocketResponse, connection: Connection, conn: str) -> None:
        code = ws.close_code or 1006
        refused = ws.exception() is not None  # aiohttp closed it: a frame too big, or not WebSocket at all
        by = "network" if code == 1006 else "server" if connection.leaving or refused else "client"
        self._metrics.closes.labels(by, str(code) if str(code) in CLOSE_CODES else "other").inc()
        log.info("connection closed", extra={"conn": conn, "code": code, "by": by})

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


def _narrow(transport: asyncio.Transport) -> None:
    """Small buffers: what a client has not read shall wait in the reply, not in the kernel."""
    transport.set_write_buffer_limits(high=2 * _WRITER_LIMIT)
    raw = transport.get_extra_info("socket")
    if raw is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
