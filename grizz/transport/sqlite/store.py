"""All of the file's parts, put together, for one process."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from grizz.errors import HistoryUnusable
from grizz.telemetry.metrics import HistoryMetrics
from grizz.transport.redis.record import Codec
from grizz.transport.sqlite import file
from grizz.transport.sqlite.archive import SqliteArchive
from grizz.transport.sqlite.claims import SqliteClaims
from grizz.transport.sqlite.journal import Journal
from grizz.transport.sqlite.reader import Reader
from grizz.transport.sqlite.shelf import SqliteShelf
from grizz.transport.sqlite.upkeep import Erasure, Upkeep
from grizz.transport.sqlite.writer import Writer

log = logging.getLogger(__name__)

# A restart overlaps with the end of the process before: it has the lock until it has written everything.
_LOCK_WITHIN_S = 3.0
_LOCK_LOOK_S = 0.1
_CLOSE_WITHIN_S = 5.0

# Everything of one user's, in one step.
ERASE = (
    "DELETE FROM turns WHERE owner = ?",
    "DELETE FROM jobs WHERE owner = ?",
    "DELETE FROM conversations WHERE owner = ?",
)


class Store:
    """The file, opened by this process alone. Made by `open_store`.

    Attributes:
        archive: finished responses.
        journal: unfinished jobs.
        shelf: conversations.
        claims: idempotency keys, and the secret of compacted conversations.
        writer, reader: for whatever else stands in the file.
        erased: called on the event loop when a command has deleted what a user had; set before `start`.
    """

    def __init__(
        self,
        path: Path,
        lock: file.Lock,
        db: sqlite3.Connection,
        *,
        codec: Codec,
        metrics: HistoryMetrics,
        keep_s: float,
        max_bytes: int,
    ) -> None:
        self.path = path
        self._lock = lock
        self._loop = asyncio.get_running_loop()
        self.upkeep = Upkeep(keep_s=keep_s, max_bytes=max_bytes, erased=self._tell_erased)
        self.writer = Writer(db, metrics, self.upkeep)
        self.reader = Reader(path)
        self.journal = Journal(self.writer, self.reader, codec, metrics, keep_s=keep_s)
        self.archive = SqliteArchive(self.writer, self.reader, self.journal, metrics)
        self.shelf = SqliteShelf(self.writer, self.reader, keep_s=keep_s)
        self.claims = SqliteClaims(self.writer)
        self.erased: Callable[[Sequence[Erasure]], None] = lambda erasures: None
        metrics.up.set(1)

    def __repr__(self) -> str:
        return f"<Store {self.path}: {self.writer!r}, {self.upkeep!r}>"

    def start(self) -> None:
        """Begin to write."""
        self.writer.start()

    async def erase(self, owner: str, number: int) -> None:
        """Delete all of a user's, behind everything that was to be written, and that a command asked for it.

        Raises:
            sqlite3.Error: it could not be done.
        """

        def step(db: sqlite3.Connection) -> None:
            for statement in ERASE:
                db.execute(statement, (owner,))
            db.execute("DELETE FROM erasures WHERE id <= ? AND owner = ?", (number, owner))

        await asyncio.shield(self.writer.write(step))

    async def close(self) -> None:
        """Write what waits, close the file and give the lock back."""
        await self.reader.close()
        if not await self.writer.close(_CLOSE_WITHIN_S):
            log.error("the history was not written to its end", extra={"path": str(self.path)})
        self._lock.give_back()

    def _tell_erased(self, erasures: Sequence[Erasure]) -> None:
        self._loop.call_soon_threadsafe(self.erased, erasures)


async def open_store(path: Path, *, codec: Codec, metrics: HistoryMetrics, keep_s: float, max_bytes: int) -> Store:
    """Open the file, or make it.

    Raises:
        HistoryUnusable: another process has it, or it cannot be read or written.
    """
    lock = file.Lock(path)
    db = await asyncio.to_thread(_open, path, lock)
    return Store(path, lock, db, codec=codec, metrics=metrics, keep_s=keep_s, max_bytes=max_bytes)


def _open(path: Path, lock: file.Lock) -> sqlite3.Connection:
    try:
        file.prepare(path)
        until = time.monotonic() + _LOCK_WITHIN_S
        while not lock.take():
            if time.monotonic() > until:
                raise HistoryUnusable("is in use by another Grizz")
            time.sleep(_LOCK_LOOK_S)
    except OSError as error:
        raise HistoryUnusable(f"cannot be used: {error.strerror}") from error
    try:
        return file.open_database(path)
    except BaseException:
        lock.give_back()
        raise
