"""Routes, the WebSocket handshake, health, metrics; and how all of it starts listening and stops."""

from __future__ import annotations

import logging
import ssl
from typing import Any

from aiohttp import WSCloseCode, web

from grizz import __version__, systemd
from grizz.config import Settings, is_loopback
from grizz.engine.engine import Engine
from grizz.engine.models import Models
from grizz.engine.vitals import Vitals
from grizz.errors import Code, RequestError
from grizz.tasks import OnError, TaskOwner
from grizz.telemetry.metrics import Metrics, total
from grizz.web.auth import Door
from grizz.web.auth.sessions import Sessions
from grizz.web.completions import Completions
from grizz.web.conversations import ConversationApi
from grizz.web.errors import NOWHERE, Answers, json_response, nowhere
from grizz.web.gate import Gate
from grizz.web.http import Api
from grizz.web.limits import Limits
from grizz.web.pages import Pages
from grizz.web.scraping import ScrapeSite
from grizz.web.seen import Seen
from grizz.web.sockets import Sockets
from grizz.web.status import StatusApi, Table
from grizz.web.tls import load_certificate
from grizz.web.watchdog import Watchdog

log = logging.getLogger(__name__)

# At a shutdown: how long a client may read nothing.
_LEAVE_STALL_S = 0.5
# An HTTP connection that asks for nothing more; above what proxies keep theirs (nginx: 60 s).
_KEEP_ALIVE_S = 75.0
_PROBED = frozenset(("/livez", "/healthz", "/readyz", "/metrics"))


class Server:
    """Everything that listens."""

    def __init__(
        self,
        *,
        settings: Settings,
        engine: Engine,
        models: Models,
        metrics: Metrics,
        vitals: Vitals,
        nodes: Table | None,
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
        self._door = Door(settings)
        self._limits = Limits(settings.limits, settings.keys, settings.queue.max_jobs, settings.workers.concurrency)
        self._limits.check_model = models.names.check
        self._watchdog = Watchdog(settings.server.stall_timeout_s, metrics)
        self._watchdog.start(tasks)
        self._answers = Answers(metrics, self._check, self._door.admit)
        self._sockets = Sockets(
            settings=settings,
            answers=self._answers,
            engine=engine,
            door=self._door,
            limits=self._limits,
            watchdog=self._watchdog,
            metrics=metrics,
            tasks=tasks,
            on_error=on_error,
            default_model=models.default,
        )
        self._info: dict[str, Any] = {"version": __version__, "model": "", "demo": demo, "upstream": upstream}
        self._info["scaled"] = bool(settings.redis.url)
        self.ready = False
        shares_port = settings.server.reuse_port
        self._status = StatusApi(vitals, nodes, is_ready=lambda: self.ready, shares_port=shares_port)
        self._tasks = tasks
        self._runner = web.AppRunner(
            self._application(),
            handle_signals=False,
            access_log=None,
            shutdown_timeout=1,
            handler_cancellation=False,
            keepalive_timeout=_KEEP_ALIVE_S,
        )
        self._tls = tls
        self._scraping: ScrapeSite | None = None
        self._gate = self._build_gate()

    def _build_gate(self) -> Gate:
        return Gate(
            # Requests that are not let in need room to be told so.
            max_connections=lambda: self._settings.limits.connections + 1000,
            # A WebSocket and the connections kept alive for HTTP beside it.
            max_of_address=lambda: 2 * self._settings.limits.connections_per_address,
            is_counted=lambda address: not is_loopback(address) and not self._door.is_proxy(address),
            patience_s=self._settings.server.request_timeout_s,
            tasks=self._tasks,
        )

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=self._settings.server.max_message_bytes)
        api = Api(
            engine=self._engine,
            door=self._door,
            limits=self._limits,
            watchdog=self._watchdog,
            metrics=self._metrics,
            default_model=self._models.default,
            models=self._models.list,
            request_timeout_s=self._settings.server.request_timeout_s,
        )
        completions = Completions(
            engine=self._engine,
            door=self._door,
            limits=self._limits,
            watchdog=self._watchdog,
            default_model=self._models.default,
            lost=lambda request, tell: self._gate.lost(request, tell),
            request_timeout_s=self._settings.server.request_timeout_s,
        )
        conversations = ConversationApi(
            self._engine.conversations,
            self._engine.compactions,
            door=self._door,
            limits=self._limits,
            watchdog=self._watchdog,
            request_timeout_s=self._settings.server.request_timeout_s,
        )
        seen = Seen(
            door=self._door,
            limits=self._limits,
            watchdog=self._watchdog,
            lost=lambda request, tell: self._gate.lost(request, tell),
            request_timeout_s=self._settings.server.request_timeout_s,
        )
        routes = [
            *api.routes(),
            *completions.routes(),
            *conversations.routes(),
            *seen.routes(),
            *Sessions(self._door).routes(),
            *Pages(self._door, self._page_info).routes(),
            *self._status.routes(),
            web.get("/livez", self._livez),
            web.get("/healthz", self._livez),
            web.get("/readyz", self._readyz),
            web.get("/metrics", self._metrics_elsewhere if self._counts_elsewhere else self._metrics_page),
            web.route("*", NOWHERE, nowhere),
        ]
        app.add_routes([web.get("/v1/responses", self._sockets.serve), *self._answers.wrap(routes)])
        return app

    async def start(self, model: str) -> int:
        """Listen; returns the port.

        Args:
            model: what the pages say answers by default.

        Raises:
            OSError: the address cannot be bound.
            ConfigError: that of the metrics cannot, or systemd has another socket than the settings say.
        """
        self._info["model"] = model
        await self._door.start(self._tasks)
        await self._runner.setup()
        server = self._settings.server
        if server.metrics_listen:
            health = {"/livez": self._livez, "/healthz": self._livez, "/readyz": self._readyz}
            self._scraping = ScrapeSite({**health, "/metrics": self._metrics_page})
            await self._scraping.start(server.metrics_listen)
        port = await self._gate.listen(
            self._runner,
            server.host,
            server.port,
            self._tls,
            reuse_port=server.reuse_port,
            held=systemd.inherited(server.host, server.port),
        )
        self._tasks.spawn(self._sockets.tend(), name="tend connections")
        self._tasks.spawn(self._sockets.tell_positions(), name="tell positions")
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
        self._limits.reload(settings.limits, settings.keys)
        self._sockets.reload(settings)

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
        if self._scraping is not None:
            await self._scraping.stop_listening()

    async def close(self) -> None:
        """Send every client away with 1012, so that it comes back and resumes; bounded, stalled ones are cut."""
        self._watchdog.hurry(_LEAVE_STALL_S)
        await self._sockets.leave(WSCloseCode.SERVICE_RESTART)
        self._watchdog.cut_stuck()
        await self._runner.cleanup()
        if self._scraping is not None:
            await self._scraping.close()

    def _check(self, request: web.Request) -> None:
        self._gate.asked(request)
        # Balancers and Prometheus ask by the address of the machine.
        if request.path not in _PROBED or is_loopback(self._settings.server.host):
            self._door.check_host(request)

    # Handlers

    async def _livez(self, request: web.Request) -> web.StreamResponse:
        return json_response({"status": "ok", "version": __version__})

    async def _readyz(self, request: web.Request) -> web.StreamResponse:
        if not self.ready:
            return json_response({"status": "draining"}, status=503)
        body: dict[str, Any] = {"status": "ready"}
        degraded = [f"redis: {trouble}"] if (trouble := self._engine.trouble) else []
        if total(self._metrics.history.missing):
            degraded.append("history: its file cannot be used, and memory alone has it; the log says why")
        if not self._settings.workers.concurrency and not self._settings.redis.url:
            degraded.append("this process runs no jobs (workers.concurrency = 0)")
        if degraded:
            body["degraded"] = degraded
        return json_response(body)

    @property
    def _counts_elsewhere(self) -> bool:
        """Is a scrape of the port of no use: any process would answer, each with counts of its own?"""
        return bool(self._settings.server.metrics_listen) or self._settings.server.reuse_port

    async def _metrics_elsewhere(self, request: web.Request) -> web.StreamResponse:
        server = self._settings.server
        why = "they are at server.metrics_listen" if server.metrics_listen else "set server.metrics_listen for them"
        raise RequestError(404, Code.NOT_FOUND, f"No metrics on this port, which several processes may share: {why}.")

    async def _metrics_page(self, request: web.Request) -> web.StreamResponse:
        body, content_type = await self._metrics.render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})
