"""Finished responses in the file: `transport.base.Archive`. A response's end and its job's are one step."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Sequence
from typing import Any

import orjson

from grizz.telemetry.metrics import HistoryMetrics
from grizz.transport.sqlite.journal import Journal
from grizz.transport.sqlite.reader import Reader
from grizz.transport.sqlite.writer import Writer

log = logging.getLogger(__name__)

_KEEP = """
    INSERT INTO turns (id, owner, data, created_at, used_at) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET data = excluded.data, used_at = excluded.used_at
"""
_FETCH = "SELECT id, data FROM turns WHERE id IN (SELECT value FROM json_each(?))"
_TOUCH = "UPDATE turns SET used_at = ? WHERE id IN (SELECT value FROM json_each(?))"


class SqliteArchive:
    """Implements `transport.base.Archive`.

    Args:
        journal: knows which jobs stand in the file.
    """

    def __init__(self, writer: Writer, reader: Reader, journal: Journal, metrics: HistoryMetrics) -> None:
        self._writer = writer
        self._reader = reader
        self._journal = journal
        self._metrics = metrics

    def keep(self, response_id: str, owner: str, record: bytes) -> None:
        """See `Archive.keep`."""
        self._store(response_id, owner, record)

    def settle(
        self, response_id: str, owner: str, record: bytes | None, *, in_conversation: bool = False
    ) -> asyncio.Future[Any] | None:
        """See `Archive.settle`; with its turn in its conversation it is one transaction."""
        behind = response_id if in_conversation else None
        if record is not None:
            return self._store(response_id, owner, record, behind)
        return self._journal.remove(response_id, behind)

    async def fetch(self, response_ids: Sequence[str]) -> dict[str, bytes]:
        """See `Archive.fetch`."""
        wanted = orjson.dumps(list(response_ids)).decode()
        try:
            return dict(await self._reader.ask(lambda db: db.execute(_FETCH, (wanted,)).fetchall()))
        except (sqlite3.Error, TimeoutError) as error:
            self._metrics.errors.labels("read").inc()
            log.warning("the history cannot be read", extra={"err": str(error) or "timeout"})
            return {}

    def touch(self, response_ids: Sequence[str]) -> None:
        """See `Archive.touch`."""
        ids, now = orjson.dumps(list(response_ids)).decode(), time.time()
        self._writer.ride(lambda db: db.execute(_TOUCH, (now, ids)))

    def discard(self, response_id: str, *, stored: bool = True) -> asyncio.Future[Any]:
        """See `Archive.discard`; there is no other process."""
        return self._writer.write(lambda db: db.execute("DELETE FROM turns WHERE id = ?", (response_id,)))

    def _store(self, response_id: str, owner: str, record: bytes, behind: str | None = None) -> asyncio.Future[Any]:
        """Store it, its job being over; when there is no room for more to be written, only that."""
        self._journal.forget(response_id)
        kept = None if self._writer.full else record
        if kept is None:  # nor may it wait in memory, with the step
            self._metrics.errors.labels("overflow").inc()
        now = time.time()

        def step(db: sqlite3.Connection) -> None:
            if kept is not None:
                db.execute(_KEEP, (response_id, owner, kept, now, now))
            db.execute("DELETE FROM jobs WHERE id = ?", (response_id,))

        return self._writer.write(step, len(kept or b""), behind=behind)
