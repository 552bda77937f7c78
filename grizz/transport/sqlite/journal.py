"""Unfinished jobs in the file, each from its acceptance to the step that stores its answer.

A record's attempt is the number of deliveries that surely began. Where a slot is free that is written with the job; for
one that waits it rides along with what is written next, so that a crash may leave one delivery uncounted.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grizz.core.job import Delivery, Job
from grizz.telemetry.metrics import HistoryMetrics
from grizz.transport.redis import record
from grizz.transport.redis.record import Codec, UnreadableRecord
from grizz.transport.sqlite.reader import Reader
from grizz.transport.sqlite.writer import Writer

log = logging.getLogger(__name__)

_PUT = "INSERT OR REPLACE INTO jobs (id, owner, data, attempt, accepted_at) VALUES (?, ?, ?, ?, ?)"
_ALL = "SELECT id, data, attempt FROM jobs ORDER BY accepted_at, id"


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A job that the process before left behind.

    Attributes:
        attempt: deliveries that it had.
        expires_at: when it is too old to be begun again, seconds since the epoch.
    """

    job: Job
    attempt: int
    expires_at: float


class Journal:
    """Implements `transport.base.Journal`.

    Args:
        keep_s: seconds after a job's acceptance until it is too old to be begun by another process.
    """

    def __init__(self, writer: Writer, reader: Reader, codec: Codec, metrics: HistoryMetrics, *, keep_s: float) -> None:
        self._writer = writer
        self._reader = reader
        self._codec = codec
        self._metrics = metrics
        self._keep_s = keep_s
        self._recorded: dict[str, int] = {}  # each with its attempt in the file

    def __repr__(self) -> str:
        return f"<Journal: {len(self._recorded)} jobs>"

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._recorded

    async def accepted(self, job: Job, attempt: int) -> None:
        """See `Journal.accepted`. What nobody could come back for is not written down."""
        if not self._codec.outlives(job.payload):
            return
        if self._writer.full:
            self._metrics.errors.labels("overflow").inc()
            return
        self._recorded[job.id] = attempt
        row = self._row(job, attempt)
        try:
            await asyncio.shield(self._writer.write(lambda db: db.execute(_PUT, row), len(row[2])))
        except sqlite3.Error:  # the writer has said so
            self._recorded.pop(job.id, None)

    def begun(self, delivery: Delivery) -> None:
        """See `Journal.begun`."""
        self._count(delivery.job.id, delivery.attempt)

    def over(self, job_id: str) -> None:
        """See `Journal.over`."""
        self.remove(job_id)

    def left(self, jobs: Sequence[tuple[Job, int]]) -> list[str]:
        """See `Journal.left`."""
        kept = [(job.id, attempt) for job, attempt in jobs if job.id in self._recorded]
        for job_id, attempt in kept:
            self._count(job_id, attempt)
        return [job_id for job_id, _ in kept]

    def remove(self, job_id: str, behind: str | None = None) -> asyncio.Future[Any] | None:
        """A job is over and nothing of it is stored; None when it does not stand in the file.

        Args:
            behind: see `Writer.write`.
        """
        if not self.forget(job_id):
            return None
        return self._writer.write(lambda db: db.execute("DELETE FROM jobs WHERE id = ?", (job_id,)), behind=behind)

    def forget(self, job_id: str) -> bool:
        """Whoever asks removes it; was it there?"""
        known = job_id in self._recorded
        self._recorded.pop(job_id, None)
        return known

    async def unfinished(self) -> list[Unfinished]:
        """What the process before left behind, in the order it was accepted. What cannot be read is removed.

        It takes as long as it takes: what is not read now is not begun before the next start.

        Raises:
            sqlite3.Error: the file cannot be read.
        """
        found: list[Unfinished] = []
        rows = await self._reader.ask(lambda db: db.execute(_ALL).fetchall(), None)
        for job_id, data, attempt in rows:
            self._recorded[job_id] = attempt
            try:
                one = record.unpack(data, self._codec)
            except UnreadableRecord as error:
                log.error("an unfinished job cannot be read", extra={"response_id": job_id, "err": str(error)})
                self.remove(job_id)
                continue
            found.append(Unfinished(one.delivery.job, attempt, one.expires_at))
        return found

    async def begin_anew(self, jobs: Sequence[tuple[Job, int]]) -> None:
        """Write down where they continue, before anybody is told.

        Raises:
            sqlite3.Error: it could not be written.
        """
        self._recorded.update((job.id, attempt) for job, attempt in jobs)
        rows = [self._row(job, attempt) for job, attempt in jobs]
        size = sum(len(row[2]) for row in rows)
        await asyncio.shield(self._writer.write(lambda db: db.executemany(_PUT, rows), size))

    def _count(self, job_id: str, attempt: int) -> None:
        if self._recorded.get(job_id, attempt) != attempt:
            self._recorded[job_id] = attempt
            row = (attempt, job_id)
            self._writer.ride(lambda db: db.execute("UPDATE jobs SET attempt = ? WHERE id = ?", row))

    def _row(self, job: Job, attempt: int) -> tuple[str, str, bytes, int, float]:
        """Its record. The home is left out: there is one."""
        waited_s = asyncio.get_running_loop().time() - job.accepted_at
        accepted_at = time.time() - waited_s
        data = record.pack(Delivery(job, attempt, ""), "", accepted_at + self._keep_s, self._codec)
        return job.id, job.owner, data, attempt, accepted_at
