"""What stands in the Redis about this node's jobs: crash records of those that run here, stream entries of the rest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from grizz.core.job import Delivery, Job
from grizz.errors import RedisDown
from grizz.telemetry.metrics import RedisMetrics
from grizz.transport.redis import record
from grizz.transport.redis.bus import Bus
from grizz.transport.redis.chores import Chores
from grizz.transport.redis.keys import Keys
from grizz.transport.redis.link import Link
from grizz.transport.redis.places import Place, Places
from grizz.transport.redis.record import Codec

# A larger record is not written: the job runs at home and a crash loses it (counted).
MAX_RECORD_BYTES = 256 << 10
# The stream cannot grow beyond this, whatever happens; far more than nodes ever offer at a time.
_MAX_STREAM = 100_000
# Sixteen of the largest make a command of four megabytes.
_RECORDS_AT_ONCE = 16

Written = asyncio.Future[Any]


class Papers:
    """Writes and removes them.

    Args:
        places: which of them each job has.
        is_current: is that delivery still the one of its job?
        refused: called when an offer could not be written; the job still waits.
        life_s: seconds from a job's acceptance after which no attempt of it may begin.
    """

    def __init__(
        self,
        *,
        keys: Keys,
        link: Link,
        bus: Bus,
        chores: Chores,
        codec: Codec,
        metrics: RedisMetrics,
        places: Places,
        is_current: Callable[[Delivery], bool],
        refused: Callable[[str], None],
        life_s: float,
    ) -> None:
        self._keys = keys
        self._link = link
        self._bus = bus
        self._chores = chores
        self._codec = codec
        self._metrics = metrics
        self._places = places
        self._is_current = is_current
        self._refused = refused
        self._life_s = life_s

    def __repr__(self) -> str:
        return f"<Papers of {self._bus.node}: {self._places!r}>"

    def pack(self, delivery: Delivery) -> bytes:
        """The record of a delivery."""
        waited_s = asyncio.get_running_loop().time() - delivery.job.accepted_at
        return record.pack(delivery, self._bus.node, time.time() - waited_s + self._life_s, self._codec)

    def show(self, delivery: Delivery, data: bytes) -> Written:
        """Offer it on the stream; the future has a result once it stands there, or could not be written."""
        place = self._places.place(delivery.job)
        place.show(delivery.job, asyncio.get_running_loop().time())
        written: Written = asyncio.get_running_loop().create_future()

        def then(reply: Any) -> None:
            if not isinstance(reply, bytes):
                self._metrics.unrecorded.labels("degraded").inc()
                if self._is_current(delivery):
                    self._refused(delivery.job.id)
            elif self._is_current(delivery):
                place.entry = reply
            else:
                self._chores.entry(reply)  # cancelled, or taken back, while it was on its way
            if not written.done():
                written.set_result(reply)

        command = ("XADD", self._keys.jobs, "MAXLEN", "~", _MAX_STREAM, "*", "job", data)
        if not self._link.send(*command, then=then):
            then(RedisDown("the link is busy"))
        return written

    def write(self, delivery: Delivery) -> Written | None:
        """Write its crash record; None when there will be none."""
        return self._hset([delivery])

    def write_all(self, deliveries: Sequence[Delivery]) -> None:
        """Write many, few commands for all of them."""
        for start in range(0, len(deliveries), _RECORDS_AT_ONCE):
            self._hset(deliveries[start : start + _RECORDS_AT_ONCE])

    def _hset(self, deliveries: Sequence[Delivery]) -> Written | None:
        fields: list[str | bytes] = []
        written_places: list[Place] = []
        for delivery in deliveries:
            data = self.pack(delivery)
            if len(data) > MAX_RECORD_BYTES:
                self._metrics.unrecorded.labels("size").inc()
                continue
            fields += [delivery.job.id, data]
            written_places.append(self._places.place(delivery.job))
        if not fields:
            return None
        written: Written = asyncio.get_running_loop().create_future()

        def then(reply: Any) -> None:
            if isinstance(reply, BaseException):
                self._metrics.unrecorded.labels("degraded").inc(len(written_places))
            else:
                self._are_there(written_places)
            if not written.done():
                written.set_result(reply)

        sent = self._link.send("HSET", self._keys.records(self._bus.node), *fields, then=then)
        return written if sent else None

    def _are_there(self, places: Sequence[Place]) -> None:
        for place in places:
            if self._places.get(place.job_id) is place:
                place.recorded = True
            else:
                self._chores.record(place.job_id)  # it ended while its record was on its way

    def settle(self, job_id: str) -> None:
        """A job is over: nothing of it stays."""
        place = self._places.pop(job_id)
        if place is None:
            return
        if place.recorded:
            self._chores.record(job_id)
        # A worker elsewhere removes the entry it read itself.
        if place.entry is not None and not place.worker:
            self._chores.entry(place.entry)

    def withdraw(self, job_id: str) -> None:
        """It is offered no more."""
        place = self._places.get(job_id)
        if place is not None and place.entry is not None:
            self._chores.entry(place.entry)
            place.entry = None

    def bury(self, job: Job, attempts: int, cause: str) -> None:
        """Keep it among the dead letters; of what must not be stored, only that it was."""
        delivery = Delivery(job, attempts, "")
        data = self.pack(delivery) if self._codec.may_keep(job.payload) else b""
        self._chores.dead(job, data, cause, attempts)
