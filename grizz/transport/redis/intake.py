"""What this node reads from the stream: its own offers, jobs of others that run here, what it cannot run after all."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from grizz.core.job import Delivery, Job
from grizz.tasks import TaskOwner
from grizz.telemetry.metrics import RedisMetrics
from grizz.transport.base import Haste, Home, Workers
from grizz.transport.redis import record
from grizz.transport.redis.bus import Bus
from grizz.transport.redis.chores import Chores
from grizz.transport.redis.dispatch import Dispatcher
from grizz.transport.redis.errands import Errand, Errands
from grizz.transport.redis.inbox import Inbox
from grizz.transport.redis.inheritance import Inheritance
from grizz.transport.redis.record import Codec, Record, UnreadableRecord, home_of

log = logging.getLogger(__name__)


class Intake:
    """Decides about each entry that was delivered to this node.

    Attributes:
        inbox: what a worker of this process shall run next.
        leaving: nothing more is run here.
        ready: called when there is something in the inbox.
        put: queues a job, after so many attempts, of which this node is the home from now on.
    """

    home: Home
    workers: Workers

    def __init__(
        self,
        *,
        bus: Bus,
        chores: Chores,
        codec: Codec,
        metrics: RedisMetrics,
        tasks: TaskOwner,
        dispatcher: Dispatcher,
        errands: Errands,
        inbox: Inbox,
        inheritance: Inheritance,
    ) -> None:
        self._bus = bus
        self._chores = chores
        self._codec = codec
        self._metrics = metrics
        self._tasks = tasks
        self._jobs = dispatcher
        self._errands = errands
        self.inbox = inbox
        self._inheritance = inheritance
        self.leaving = False
        self.ready: Callable[[], None] = lambda: None
        self.put: Callable[[Job, int], Coroutine[Any, Any, None]] = dispatcher.put

    def __repr__(self) -> str:
        return f"<Intake of {self._bus.node}: {self.inbox!r}>"

    @property
    def _has_room(self) -> bool:
        return not self.leaving and self.workers.free > len(self.inbox)

    def take(self, entry: bytes, fields: list[bytes] | None) -> None:
        """An entry was delivered to this node: run it, or say who shall."""
        if not fields:  # trimmed before it was read
            self._chores.entry(entry)
            return
        try:
            found = record.unpack(fields[1], self._codec)
        except UnreadableRecord as error:
            self._metrics.errors.labels("message").inc()
            log.warning("a job in the stream cannot be read", extra={"entry": entry.decode(), "err": str(error)})
            self._chores.bury(entry, f"unreadable: {error}")
            return
        delivery = found.delivery
        if (errand := self._errands.known(delivery.token)) is not None:
            if errand.ended_at is not None:
                self._chores.entry(entry)  # its removal was lost with the link
            return
        if found.home == self._bus.node:
            current = self._jobs.begin(delivery, entry, room=self._has_room)
            if current is not None:
                self._accept(current, "home")
        elif found.expires_at < time.time():
            self._chores.entry(entry)
        elif not found.home:
            self._take_requeued(entry, found)
        elif not self._has_room and found.home in self._inheritance:
            self._take_claimed(entry, found)
        elif not self._has_room:
            self._chores.entry(entry)
            self._bus.post(found.home, {"k": "back", "id": delivery.job.id, "t": delivery.token})
        else:
            errand = Errand(delivery, found.home, entry, asyncio.get_running_loop().time())
            self._errands.begin(errand)
            extra = {"response_id": delivery.job.id, "peer": found.home, "attempt": delivery.attempt}
            log.info("response of another node runs here", extra=extra)
            self._accept(delivery, "elsewhere")
            self._bus.post(found.home, {"k": "started", **errand.name}, haste=Haste.TICK)

    def _take_requeued(self, entry: bytes, found: Record) -> None:
        """A dead letter that was requeued has no home left; whoever reads it is its home."""
        job_id = found.delivery.job.id
        log.warning("dead letter begun anew here", extra={"response_id": job_id})
        self.home.forget(job_id, self._bus.node)
        self._bus.post(home_of(job_id), {"k": "requeued", "id": job_id})
        job = self.home.adopt(found.delivery.job, found.delivery.attempt + 1, None)
        self._chores.entry(entry)
        if job is not None:
            self._tasks.spawn(self.put(job, 0), name=f"put requeued {job.id}")

    def _take_claimed(self, entry: bytes, found: Record) -> None:
        """It was claimed from a node that is gone, and the link broke then: nobody else will see that it runs."""
        delivery = found.delivery
        job = self.home.adopt(delivery.job, delivery.attempt + 1, None)
        self._chores.entry(entry)
        if job is not None:
            self._tasks.spawn(self.put(job, delivery.attempt), name=f"put claimed {job.id}")

    def _accept(self, delivery: Delivery, place: str) -> None:
        self._metrics.placed.labels(place).inc()
        self.inbox.add(delivery)
        self.ready()
