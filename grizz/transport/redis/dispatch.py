"""The jobs of this node, wherever they run: the one place that counts their attempts and decides about the next.

What workers elsewhere say about them comes in by `reports.py`. A worker that goes silent is asked; one that does not
answer has lost the attempt.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from grizz.core.budget import Thrift
from grizz.core.job import Delivery, Job
from grizz.core.ledger import Ledger
from grizz.telemetry.metrics import RedisMetrics
from grizz.transport.base import Cause, Found, Home, Part, Workers
from grizz.transport.redis.bus import Bus
from grizz.transport.redis.chores import Chores
from grizz.transport.redis.keys import GROUP, Keys
from grizz.transport.redis.link import Link
from grizz.transport.redis.papers import MAX_RECORD_BYTES, Papers, Written
from grizz.transport.redis.places import Places
from grizz.transport.redis.record import Codec

# What a silent worker gets to answer, once it is asked.
PROBE_S = 2.5


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds the jobs of a node.

    Attributes:
        max_jobs: queued jobs at most.
        max_bytes: bytes of queued jobs at most.
        local_slots: how many jobs this process can run; 0 for one that only serves clients.
        lease_s: seconds a delivery is held without a sign of life.
        max_attempts: deliveries of one job at most.
        max_wait_s: seconds a job may wait for a worker.
        job_s: seconds one attempt may take.
    """

    max_jobs: int
    max_bytes: int
    local_slots: int
    lease_s: float
    max_attempts: int
    max_wait_s: float
    job_s: float


class Dispatcher:
    """The home side of the transport.

    Args:
        thrift: how much the command budget asks to save.

    Attributes:
        ready: called when a job may be there for a worker of this process.
        heard_itself_since: did this node's own words come back to it, through Redis, since that moment?
    """

    home: Home
    workers: Workers

    def __init__(
        self,
        *,
        keys: Keys,
        link: Link,
        bus: Bus,
        chores: Chores,
        codec: Codec,
        metrics: RedisMetrics,
        limits: Limits,
        thrift: Callable[[], Thrift],
    ) -> None:
        self._keys = keys
        self._link = link
        self._bus = bus
        self._chores = chores
        self._metrics = metrics
        self._limits = limits
        # Offered jobs are first come, first served, whoever owns them; the fair queue keeps the rest back.
        self._window = limits.local_slots or 32
        self._thrift = thrift
        self.ready: Callable[[], None] = lambda: None
        self.ledger = self._new_ledger()
        self.places = Places()
        self.papers = Papers(
            keys=keys,
            link=link,
            bus=bus,
            chores=chores,
            codec=codec,
            metrics=metrics,
            places=self.places,
            is_current=self._is_current,
            refused=self._refused,
            life_s=limits.max_wait_s + limits.max_attempts * limits.job_s,
        )
        self._looked_at = 0.0
        self.heard_itself_since: Callable[[float], bool] = lambda moment: False
        bus.watch(self._reached)

    def __repr__(self) -> str:
        return f"<Dispatcher of {self._bus.node}: {self.ledger!r}, {self.places!r}>"

    # New jobs

    async def put(self, job: Job, attempt: int = 0) -> None:
        """Queue a job; when this returns it is recorded or offered, or Redis cannot be had and that was counted.

        Raises:
            QueueFull: a bound is reached; nothing was taken.
        """
        self.ledger.put(job, attempt)
        local = self.workers.free >= self.ledger.waiting
        self.ready()
        thrifty = self._thrift() is Thrift.LOCAL
        if not self._link.writable or thrifty:
            self._metrics.unrecorded.labels("thrift" if thrifty else "degraded").inc()
            return
        written = None if local else self.offer().get(job.id)
        if written is None:
            written = self.papers.write(self.ledger.current(job.id) or Delivery(job, attempt + 1, ""))
        if written is not None:
            # No longer than the link ever takes; what went wrong was counted where it happened.
            await asyncio.wait({written}, timeout=2.0)

    def offer(self) -> dict[str, Written]:
        """Show workers elsewhere what no slot here will take soon; what was shown, and when it surely stands there."""
        shown: dict[str, Written] = {}
        window = 0 if self._thrift() is Thrift.LOCAL else self._window
        while self.ledger.offered < window and self.ledger.waiting > self.workers.free and self._link.writable:
            delivery = self.ledger.offer()
            if delivery is None:
                break
            data = self.papers.pack(delivery)
            if len(data) > MAX_RECORD_BYTES and self._limits.local_slots:
                self.ledger.take_back(delivery.job.id)  # it waits for a slot here, at the head of its line
                break
            shown[delivery.job.id] = self.papers.show(delivery, data)
        if self.ledger.waiting and not self.ledger.offered:
            self.ready()  # a slot here may have waited for what was offered first
        return shown

    def begin(self, delivery: Delivery, entry: bytes, *, room: bool) -> Delivery | None:
        """This node read its own offer: the delivery to run now, or None when there is nothing to run."""
        current = self.ledger.current(delivery.job.id)
        if current is None or current.token != delivery.token:
            self._chores.entry(entry)
            return None
        if not self.ledger.is_offered(delivery.job.id):
            return None  # it runs here already; this is the entry it was read from, read again after a reconnect
        place = self.places.place(delivery.job)
        place.entry = entry
        if not room:
            self.ledger.take_back(delivery.job.id)
            self.papers.withdraw(delivery.job.id)
            self.offer()
            return None
        self.ledger.start(current, _now())
        if place.recorded:
            self.papers.withdraw(delivery.job.id)  # one of the two is enough
        return current

    # How jobs end

    def ack(self, delivery: Delivery) -> None:
        """Its terminal event is out.

        Raises:
            LeaseLost: it is not current.
        """
        self.ledger.ack(delivery)
        self.papers.settle(delivery.job.id)

    def lost(self, delivery: Delivery) -> None:
        """An attempt is lost: the next one, or the end.

        Raises:
            LeaseLost: it is not current.
        """
        self.ledger.check(delivery)
        job = delivery.job
        place = self.places.get(job.id)
        if place is not None and place.worker:
            self._bus.post(place.worker, {"k": "stop", **named(delivery), "c": ""})
            place.worker = ""
        self.papers.withdraw(job.id)
        if place is not None and place.cause is not None:
            self.ledger.bury(delivery)
            self.papers.settle(job.id)
            self.home.stopped(job.id, place.cause)
        elif delivery.attempt >= self._limits.max_attempts:
            self.papers.bury(job, delivery.attempt, f"{delivery.attempt} attempts were lost")
            self.ledger.bury(delivery)
            self.papers.settle(job.id)
            self.home.buried(delivery)
        else:
            again = self.home.interrupted(delivery)
            self.ledger.nack(delivery, again, _now())
            self._next(again, delivery.attempt + 1)

    def release(self, delivery: Delivery) -> None:
        """Its worker leaves: as if it had never been delivered, though what it said stands.

        Raises:
            LeaseLost: it is not current.
        """
        job = delivery.job
        place = self.places.get(job.id)
        said = place is not None and place.next_seq > job.next_seq
        if self.ledger.is_offered(job.id):
            self.ledger.take_back(job.id)
        else:
            again = self.home.interrupted(delivery, drained=True) if said else job
            self.ledger.release(delivery, _now(), again)
            job = again
        if place is not None:
            self.papers.withdraw(job.id)
            place.rest()
        self._next(job, delivery.attempt)

    def _next(self, job: Job, attempt: int) -> None:
        """A job waits again: here, or on the stream."""
        self.ready()
        if job.id not in self.offer() and self._link.writable:
            self.papers.write(Delivery(job, attempt, ""))

    def advance(self, job_id: str, next_seq: int) -> bool:
        """See `Transport.advance`."""
        return self.ledger.advance(job_id, next_seq)

    def cancel(self, job_id: str, cause: Cause) -> Found:
        """See `Transport.cancel`."""
        if self.ledger.withdraw(job_id) is not None:
            self.papers.settle(job_id)
            self.offer()
            return Found.QUEUED
        delivery = self.ledger.holder(job_id)
        if delivery is None:
            return Found.UNKNOWN
        place = self.places.get(job_id)
        if place is None or not place.worker:
            self.workers.stop(delivery, cause)
            return Found.RUNNING
        place.cause = cause
        if self._bus.post(place.worker, {"k": "stop", **named(delivery), "c": str(cause)}):
            return Found.RUNNING
        # Its worker cannot be told; when it can be again, it learns that its attempt is not current.
        self.ledger.bury(delivery)
        self.papers.settle(job_id)
        return Found.QUEUED

    # The link

    def up(self) -> None:
        """Redis is back, perhaps empty: write down what runs, and offer what waits."""
        here: list[Delivery] = []
        for job, attempt in self.ledger.jobs():
            place = self.places.get(job.id)
            if place is None or not place.worker:
                here.append(self.ledger.current(job.id) or Delivery(job, attempt, ""))
        self.papers.write_all(here)
        self.offer()

    def down(self) -> None:
        """Redis is gone: nobody elsewhere can begin what was offered, as far as this node will ever hear."""
        for job_id in self.ledger.take_back_all():
            if (place := self.places.get(job_id)) is not None:
                place.rest()

    def settle_given(self, job_ids: set[str]) -> None:
        """These are another node's business now: nothing of them stays under this one's name."""
        for job_id in job_ids:
            self.papers.settle(job_id)

    def forget(self) -> list[Delivery]:
        """Another node speaks for all of it now; the deliveries that were under way."""
        held = self.ledger.held()
        self.ledger = self._new_ledger()
        self.places.clear()
        return held

    # Silence

    def _reached(self, node: str, count: int) -> None:
        """Where nobody listens, nobody lives, or not yet again; a worker that was asked already is given up."""
        if count:
            return
        for job_id in self.places.at(node):
            delivery, place = self.ledger.holder(job_id), self.places.get(job_id)
            if delivery is not None and place is not None and place.probed_at is not None:
                self.lost(delivery)

    def sweep(self, now: float) -> None:
        """Ask after what is silent, take back what is lost, end what waited too long."""
        for delivery in self.ledger.expired(now):
            self._suspect(delivery, now)
        for job in self.ledger.overdue(now - self._limits.max_wait_s):
            self.ledger.withdraw(job.id)
            self.papers.settle(job.id)
            self.home.overdue(job)
        if self.ledger.offered and now - self._looked_at > self._limits.lease_s:
            self._looked_at = now
            self._look_after_offers(now)
        self.offer()

    def _suspect(self, delivery: Delivery, now: float) -> None:
        place = self.places.get(delivery.job.id)
        if place is None or not place.worker or not self._link.is_up:
            self.lost(delivery)
        elif place.probed_at is None:
            place.probed_at = now
            self._bus.post(place.worker, {"k": "again", **named(delivery), "after": place.next_seq - 1})
            self._bus.echo()
        elif now - place.probed_at <= min(PROBE_S, self._limits.lease_s):
            return
        elif self.heard_itself_since(place.probed_at):
            self.lost(delivery)
        else:
            # Not even this node's own words come back: it is deaf, and the worker may well be alive.
            place.probed_at = None
            self.ledger.renew(delivery, now)
            self._link.fail(ConnectionError("the subscription is deaf"))

    def _look_after_offers(self, now: float) -> None:
        """A worker may have died between reading a job and saying so, and Redis may have lost the stream."""
        old = {
            place.entry: place
            for place in self.places
            if place.entry and now - place.since > self._limits.lease_s and self.ledger.is_offered(place.job_id)
        }
        if not old:
            return

        def pending(reply: Any) -> None:
            for entry, *_ in reply if isinstance(reply, list) else ():
                if entry in old:
                    self._show_again(old[entry].job_id)

        def there(reply: Any) -> None:
            if reply == []:
                for place in old.values():
                    self._show_again(place.job_id)

        oldest = min(old, key=_order)
        idle_ms = int(self._limits.lease_s * 1000)
        self._link.send("XPENDING", self._keys.jobs, GROUP, "IDLE", idle_ms, "-", "+", 1000, then=pending)
        self._link.send("XRANGE", self._keys.jobs, oldest, oldest, then=there)

    def _show_again(self, job_id: str) -> None:
        if self.ledger.is_offered(job_id):
            self.ledger.take_back(job_id)
            self.papers.withdraw(job_id)
            self._chores.flush()  # the old entry is gone before the new one comes, so that nobody begins both
            self.ready()
            self.offer()

    def _is_current(self, delivery: Delivery) -> bool:
        current = self.ledger.current(delivery.job.id)
        return current is not None and current.token == delivery.token

    def _refused(self, job_id: str) -> None:
        self.ledger.take_back(job_id)
        self.ready()

    def _new_ledger(self) -> Ledger:
        limits = self._limits
        return Ledger(
            max_jobs=limits.max_jobs,
            max_bytes=limits.max_bytes,
            lease_s=limits.lease_s,
            new_token=lambda: secrets.token_hex(8),
        )


def named(delivery: Delivery) -> Part:
    """Which job and attempt, as nodes name it to each other."""
    return {"id": delivery.job.id, "t": delivery.token}


def _order(entry: bytes) -> tuple[int, int]:
    time_ms, _, count = entry.partition(b"-")
    return int(time_ms), int(count)


def _now() -> float:
    return asyncio.get_running_loop().time()
