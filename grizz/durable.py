"""One process with a file, composed: what it keeps, and goes on with, across a restart."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from grizz.config import Settings
from grizz.config.place import path_of
from grizz.engine.engine import Engine
from grizz.engine.erase import forget_owner
from grizz.engine.worker import Work
from grizz.errors import ConfigError, HistoryUnusable, RequestError
from grizz.tasks import TaskOwner
from grizz.telemetry.metrics import Metrics
from grizz.transport.memory import MemoryTransport
from grizz.transport.redis.record import Codec
from grizz.transport.sqlite.revival import Revival
from grizz.transport.sqlite.store import Store, open_store
from grizz.transport.sqlite.upkeep import Erasure

log = logging.getLogger(__name__)

_USE_COUNTS_S = 600.0
CODEC = Codec(Work.to_wire, Work.from_wire, lambda work: work.may_keep, lambda work: not work.request.fleeting)


class Durable:
    """The parts of it.

    Attributes:
        store: the open file.
        use_counts_s: a conversation that is in use is told so twice within that time, since at a full file the least
            recently used goes first; a row that rides along costs nothing that another process would wait for.
    """

    def __init__(self, settings: Settings, store: Store, metrics: Metrics, tasks: TaskOwner) -> None:
        self._settings = settings
        self._metrics = metrics
        self._tasks = tasks
        self._engine: Engine | None = None
        self.store = store
        self.use_counts_s = min(settings.history.keep_s, _USE_COUNTS_S)
        metrics.on_scrape(metrics.history.bytes, lambda: store.upkeep.bytes)
        metrics.on_scrape(metrics.history.waiting, lambda: store.writer.waiting_bytes)

    @classmethod
    async def open(cls, settings: Settings, metrics: Metrics, tasks: TaskOwner) -> Durable | None:
        """Open the file; None when it cannot be used and need not be: then all is in memory, and the log says so.

        Raises:
            ConfigError: it cannot be used, and the settings ask for it.
        """
        path = ""
        try:
            path = str(path_of(settings, os.environ))
            store = await open_store(
                Path(path),
                codec=CODEC,
                metrics=metrics.history,
                keep_s=settings.history.keep_s,
                max_bytes=settings.history.max_file_bytes,
            )
        except HistoryUnusable as error:
            if settings.history.store == "sqlite":
                raise ConfigError(f"history.store = sqlite: {path} {error}".replace("  ", " ")) from error
            log.warning(
                "the history is in memory alone, a restart loses it: its file cannot be used",
                extra={"path": path, "err": str(error)},
            )
            return None
        log.info("the history is kept in a file", extra={"path": path})
        return cls(settings, store, metrics, tasks)

    async def join(self, engine: Engine, transport: MemoryTransport, free: int) -> None:
        """Before the workers start and anybody can ask: go on with what the process before left.

        Args:
            free: how many workers there will be.
        """
        self._engine = engine
        self.store.erased = self._on_erased
        self.store.start()
        revival = Revival(
            self.store.journal,
            transport,
            engine.home,
            max_attempts=self._settings.workers.max_attempts,
            free=free,
            adopted=self._metrics.redis.adopted.inc,
        )
        if await revival.begin():
            self._tasks.spawn(self._find_parents(engine), name="find what came before")

    async def _find_parents(self, engine: Engine) -> None:
        """What goes on carries all that was said before it; where its parent is stored, let it be a turn of its own."""
        for reply in engine.replies.all_running():
            previous = reply.request.previous_response_id
            if previous is None:
                continue
            try:
                parent = await engine.lookup.turn(previous, reply.owner, None)
            except RequestError:  # too many look-ups of this user's are under way
                continue
            said = parent.context() if parent is not None and parent.continuable else []
            if said and not reply.ended and list(reply.given[: len(said)]) == said:
                reply.parent, reply.given = parent, reply.given[len(said) :]

    def _on_erased(self, erasures: Sequence[Erasure]) -> None:
        for number, owner in erasures:
            self._tasks.spawn(self._erase(number, owner), name=f"erase the history of {owner}")

    async def _erase(self, number: int, owner: str) -> None:
        """A command has deleted what a user had: forget it here, too, and what was written meanwhile."""
        if self._engine is None:
            return
        count = await forget_owner(self._engine, owner)
        try:
            await self.store.erase(owner, number)
        except sqlite3.Error as error:
            log.error("a user's history cannot be deleted", extra={"owner": owner, "err": str(error)})
            return
        log.warning("a user's history was deleted by a command", extra={"owner": owner, "in_memory": count})
