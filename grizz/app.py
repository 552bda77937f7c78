"""The composition root: builds every part, runs, drains and stops them. The only place that knows all of them."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import secrets
import signal
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from grizz import __version__, systemd
from grizz.behind import Behind
from grizz.config import Settings, change
from grizz.config.place import kept_in
from grizz.durable import Durable
from grizz.engine.compaction import Compactions
from grizz.engine.engine import Engine
from grizz.engine.fleet import Fleet
from grizz.engine.flusher import Flusher
from grizz.engine.history import History
from grizz.engine.ids import ids_of
from grizz.engine.member import Member
from grizz.engine.models import Models
from grizz.engine.names import Names
from grizz.engine.once import Once
from grizz.engine.replies import Replies
from grizz.engine.vitals import Vitals
from grizz.engine.worker import Pool, Rules
from grizz.errors import ConfigError
from grizz.tasks import TaskOwner
from grizz.telemetry import logs
from grizz.telemetry.metrics import Metrics
from grizz.telemetry.traces import open_traces
from grizz.transport.base import Transport
from grizz.transport.memory import MemoryTransport
from grizz.transport.shelf import Shelf
from grizz.transport.shelf_memory import MemoryShelf
from grizz.upstream.local import SLOTS
from grizz.web.server import Server
from grizz.web.tls import tls_context

if TYPE_CHECKING:
    from grizz.scaled import Scaled

log = logging.getLogger(__name__)

_LAG_EVERY_S = 0.1


def serve(settings: Settings, read_again: Callable[[], Settings], started: Callable[[], None] = lambda: None) -> int:
    """Run until a signal; returns the exit status.

    Args:
        read_again: reads the settings anew, at a SIGHUP; raises ConfigError.
        started: called once, when it serves.
    """
    with logs.setup(settings.log.level, settings.log.format), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_run(settings, read_again, started))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not on every platform, and not needed
        return None
    return uvloop.new_event_loop


async def _run(settings: Settings, read_again: Callable[[], Settings], started: Callable[[], None]) -> int:
    app = App(settings)
    try:
        port = await app.start()
    except ConfigError as error:
        log.error("cannot start", extra={"err": str(error)})
        await app.stop()
        return 2
    except OSError as error:
        where = {"host": settings.server.host, "port": settings.server.port}
        log.error("cannot listen", extra={**where, "err": str(error)})
        await app.stop()
        return 1
    gc.collect()
    gc.enable()
    gc.freeze()  # a full collection over what never goes away takes 60 ms (measured)
    host = f"[{settings.server.host}]" if ":" in settings.server.host else settings.server.host
    url = f"{'https' if settings.server.tls_cert_file else 'http'}://{host}:{port}/"
    log.info("ready", extra={"url": url, "version": __version__, "model": app.model_name, "pid": os.getpid()})
    stopping = _on_signals()
    app.reload_on_signal(read_again)
    app.tell_systemd(f"Serves {url}")
    started()
    await stopping.wait()
    systemd.tell("STOPPING=1", "STATUS=Drains: running answers finish, then clients are sent away")
    await app.drain()
    await app.stop()
    log.info("stopped")
    return 0


def _on_signals() -> asyncio.Event:
    """The first SIGTERM or SIGINT asks for a drain, the second ends the process at once."""
    stopping = asyncio.Event()

    def ask(name: str) -> None:
        if stopping.is_set():
            log.warning("second signal, exiting at once", extra={"signal": name})
            logs.finish(0.5)
            os._exit(1)
        log.info("stopping", extra={"signal": name})
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask, number.name)
    return stopping


class App:
    """One process with all its parts."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tasks = TaskOwner("grizz", self._unhandled)
        self._runs = TaskOwner("worker", self._unhandled)
        self._ends: list[Callable[[], Coroutine[Any, Any, Any]]] = []
        self.model_name = ""

    async def start(self) -> int:
        """Build and start every part; returns the port.

        Raises:
            ConfigError: a file that the settings name cannot be used.
            OSError: the address cannot be bound.
        """
        settings = self._settings
        asyncio.get_running_loop().set_exception_handler(self._loop_error)
        self.traces = open_traces()
        self._ends.append(self.traces.close)
        self.behind = behind = Behind(settings, self._tasks, self._ends)
        members = await behind.open()
        self.names = Names(settings.models, settings.keys)
        self.models = Models(members, behind.default_model(), self.names)
        model = await self.models.default(waits=False)
        self.metrics = self._build_metrics(members, model)
        self.fleet = Fleet(members, self.metrics, self.names.resolve)
        self.scaled = self._build_scaled() if settings.redis.url else None
        self.durable = await self._open_history()
        memory = self._build_memory()
        self.transport: Transport = self.scaled.transport if self.scaled else memory
        self.pool = self._build_pool()
        self.engine = self._build_engine()
        self.traces.node = self.engine.node
        self.transport.connect(self.engine.home, self.pool)
        vitals = self._build_vitals()
        if self.scaled is not None:
            self.scaled.join(self.engine, self.pool, vitals)
        self._watch()
        await self.transport.start()
        if self.scaled is not None:
            self.scaled.start()
        if self.durable is not None:
            await self.durable.join(self.engine, memory, self.pool.free)
        self.engine.start()
        self.pool.start()
        self._tasks.spawn(self._measure_lag(), name="measure loop lag")
        self._tasks.spawn(vitals.keep(), name="keep the last hour")
        self.server = Server(
            settings=settings,
            engine=self.engine,
            models=self.models,
            metrics=self.metrics,
            vitals=vitals,
            nodes=self.scaled.nodes.table if self.scaled else None,
            tasks=self._tasks,
            on_error=self._unhandled,
            demo=behind.is_demo,
            upstream=", ".join(member.name for member in members),
            tls=tls_context(settings.server),
        )
        self.model_name = model
        return await self.server.start(model)

    def tell_systemd(self, status: str) -> None:
        """That it serves, and from now on that its loop is alive."""
        systemd.tell("READY=1", f"STATUS={status}")
        if every_s := systemd.beat_every_s():
            self._tasks.spawn(systemd.beat(every_s), name="tell systemd")

    def reload_on_signal(self, read_again: Callable[[], Settings]) -> None:
        """At each SIGHUP take over what may change without a restart."""

        async def reload() -> None:
            try:
                settings = await asyncio.to_thread(read_again)
                self.reload(settings)
            except ConfigError as error:
                log.error("settings not reloaded, the old ones stay", extra={"err": str(error)})

        if hasattr(signal, "SIGHUP"):  # Windows has none
            asyncio.get_running_loop().add_signal_handler(
                signal.SIGHUP, lambda: self._tasks.spawn(reload(), name="reload settings")
            )

    def reload(self, settings: Settings) -> None:
        """Take over what may change without a restart; what may not is named in the log.

        Raises:
            ConfigError: a file that they name cannot be used; nothing was taken over.
        """
        changed = change(self._settings, settings)
        self.server.reload(changed.settings)
        self.names.reload(changed.settings.models, changed.settings.keys)
        self.engine.readers_per_response = changed.settings.limits.readers_per_response
        logging.getLogger("grizz").setLevel(changed.settings.log.level.upper())
        self._settings = changed.settings
        log.info("settings reloaded", extra={"changed": list(changed.taken)})
        if changed.refused:
            log.warning("these settings need a restart", extra={"settings": list(changed.refused)})

    async def drain(self) -> None:
        """Leave without breaking a stream: see docs/architecture.md for the order."""
        server = self._settings.server
        self.server.set_ready(False)
        if server.drain_delay_s:
            await asyncio.sleep(server.drain_delay_s)
        await self.server.stop_listening()
        await self.engine.drain(server.drain_timeout_s)
        await self.server.close()

    async def stop(self) -> None:
        """Close every part that was opened, the last first."""
        if hasattr(self, "transport"):
            if self.scaled is not None:
                await self.scaled.stop()
            await self.transport.close()
        stuck = await self._runs.close(within_s=2.0) + await self._tasks.close(within_s=2.0)
        if stuck:
            log.error("tasks would not end", extra={"tasks": stuck})
        for end in reversed(self._ends):
            await end()

    async def _open_history(self) -> Durable | None:
        """The file of the history, if there is to be one."""
        if kept_in(self._settings) != "sqlite":
            return None
        durable = await Durable.open(self._settings, self.metrics, self._tasks)
        if durable is not None:
            self._ends.append(durable.store.close)
        self.metrics.history.missing.set(int(durable is None))
        return durable

    def _build_memory(self) -> MemoryTransport:
        settings = self._settings
        return MemoryTransport(
            max_jobs=settings.queue.max_jobs,
            max_bytes=settings.queue.max_bytes,
            lease_s=settings.workers.lease_s,
            max_attempts=settings.workers.max_attempts,
            max_wait_s=settings.queue.max_wait_s,
            tasks=self._tasks,
            journal=self.durable.store.journal if self.durable else None,
        )

    def _slots(self) -> int:
        """Jobs at a time; those that a local model has no place for wait here, where the queue is fair."""
        slots = self._settings.workers.concurrency
        return min(slots, SLOTS) if self._settings.local.enabled else slots

    def _build_metrics(self, members: Sequence[Member], model: str) -> Metrics:
        return Metrics(
            version=__version__,
            mode="redis" if self._settings.redis.url else "memory",
            models=[
                *([model] if model else []),
                *self.names.aliases,
                *(name for member in members for name in member.terms.models),
            ],
            upstreams=[member.name for member in sorted(members, key=lambda member: member.terms.priority)],
        )

    def _build_scaled(self) -> Scaled:
        from grizz.scaled import Scaled  # late: a process alone need not wait for the Redis client's import

        scaled = Scaled(self._settings, self.metrics, self._tasks)
        logs.say_node(lambda: scaled.bus.node)
        return scaled

    def _build_pool(self) -> Pool:
        settings = self._settings
        rules = Rules(
            concurrency=self._slots(),
            job_timeout_s=settings.workers.job_timeout_s,
            lease_s=settings.workers.lease_s,
            max_reply_bytes=settings.replies.max_reply_bytes,
        )
        return Pool(
            transport=self.transport,
            fleet=self.fleet,
            rules=rules,
            flusher=Flusher(settings.replies.flush_ms / 1000),
            metrics=self.metrics,
            ids_of=ids_of,
            tasks=self._runs,
            traces=self.traces,
        )

    def _build_engine(self) -> Engine:
        settings = self._settings
        node = secrets.token_hex(4)
        scaled, durable = self.scaled, self.durable
        claims = scaled.claims if scaled else durable.store.claims if durable else None
        return Engine(
            node=(lambda: scaled.bus.node) if scaled else lambda: node,
            transport=self.transport,
            replies=Replies(
                keep_s=settings.replies.keep_s, grace_s=settings.replies.grace_s, max_bytes=settings.replies.max_bytes
            ),
            history=History(keep_s=settings.history.keep_s, max_bytes=settings.history.max_bytes),
            metrics=self.metrics,
            tasks=self._tasks,
            free_slots=lambda: self.pool.free,
            readers_per_response=settings.limits.readers_per_response,
            lease_s=settings.workers.lease_s,
            keep_s=durable.use_counts_s if durable else settings.history.keep_s,
            max_chain_bytes=settings.server.max_message_bytes,
            compactions=Compactions(
                settings.history.compaction_secret,
                claims,
                foreign=any(member.terms.api == "responses" for member in self.fleet.members),
            ),
            once=Once(claims, settings.history.keep_s),
            archive=scaled.archive if scaled else durable.store.archive if durable else None,
            shelf=self._build_shelf(),
            traces=self.traces,
        )

    def _build_vitals(self) -> Vitals:
        return Vitals(
            engine=self.engine,
            pool=self.pool,
            fleet=self.fleet,
            metrics=self.metrics,
            depth=self.transport.depth,
            max_jobs=self._settings.queue.max_jobs,
            redis=self.scaled.facts if self.scaled else None,
        )

    def _build_shelf(self) -> Shelf:
        if self.scaled is not None:
            return self.scaled.shelf
        if self.durable is not None:
            return self.durable.store.shelf
        history = self._settings.history
        shelf = MemoryShelf(keep_s=history.keep_s, max_bytes=history.max_bytes)
        self.metrics.on_scrape(self.metrics.kept_bytes.labels("conversations"), lambda: shelf.bytes)
        return shelf

    def _watch(self) -> None:
        """Gauges that are read when they are scraped."""
        loop, metrics = asyncio.get_running_loop(), self.metrics

        def oldest_age() -> float:
            accepted_at = self.transport.depth().oldest_accepted_at
            return 0.0 if accepted_at is None else loop.time() - accepted_at

        metrics.slots.set(self._slots())
        metrics.on_scrape(metrics.running, lambda: self.pool.running)
        metrics.on_scrape(metrics.queue_depth, lambda: self.transport.depth().queued)
        metrics.on_scrape(metrics.queue_age, oldest_age)
        metrics.on_scrape(metrics.kept_bytes.labels("replies"), lambda: self.engine.replies.bytes)
        metrics.on_scrape(metrics.kept_bytes.labels("history"), lambda: self.engine.history.bytes)

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_EVERY_S
            await asyncio.sleep(_LAG_EVERY_S)
            self.metrics.late(max(0.0, loop.time() - due))

    def _unhandled(self, task: str, error: BaseException) -> None:
        if hasattr(self, "metrics"):
            self.metrics.unhandled_errors.labels("task").inc()

    def _loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        log.error(context["message"], exc_info=context.get("exception"))
        if hasattr(self, "metrics"):
            self.metrics.unhandled_errors.labels("loop").inc()
