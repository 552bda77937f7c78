"""The jobs of this node, wherever they run: the one place that counts their attempts and decides about the next.

Workers elsewhere speak of a job by its token; what carries another one than the ledger has is stale, and its sender is
told to stop. A worker that goes silent is asked; one that does not answer has lost the attempt.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from grizz.core.budget import Thrift
from grizz.core.job import Delivery, Job
from grizz.core.ledger import Ledger
from grizz.protocol.events import Event
from grizz.telemetry.metrics import RedisMetrics
from grizz.transport.base import Cause, Found, Home, Part, Workers
from grizz.transport.redis.bus import Bus
from grizz.transport.redis.chores import Chores
from grizz.transport.redis.keys import GROUP, Keys
from grizz.transport.redis.link import Link
from grizz.transport.redis.papers import MAX_RECORD_BYTES, Papers, Written
from grizz.transport.redis.places import Place, Places
from grizz.transport.redis.record import Codec

# What a silent worker gets to answer, once it is asked.
PROBE_S = 2.5
# A gap is asked for once in this time, however many messages show it.
_ASK_AGAIN_S = 1.0


class Dispatcher:
    """The home side of the transport.

    Args:
        local_slots: how many jobs this process can run; 0 for one that only serves clients.
        lease_s: seconds a delivery is held without a sign of life.
        max_attempts: deliveries of one job at most.
        max_wait_s: seconds a job may wait for a worker.
        job_s: seconds one attempt may take.
        thrift: how much the command budget asks to save.
        ready: called when a job may be there for a worker of this process.
        inherited: nodes that this one took over.
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
        max_jobs: int,
        max_bytes: int,
        local_slots: int,
        lease_s: float,
        max_attempts: int,
        max_wait_s: float,
        job_s: float,
        thrift: Callable[[], Thrift],
        ready: Callable[[], None],
        inherited: dict[str, None],
    ) -> None:
        self._keys = keys
        self._link = link
        self._bus = bus
        self._chores = chores
        self._metrics = metrics
        self._local_slots = local_slots
        # Offered jobs are first come, first served, whoever owns them; the fair queue keeps the rest back.
        self._window = local_slots or 32
        self._lease_s = lease_s
        self._max_attempts = max_attempts
        self._max_wait_s = max_wait_s
        self._thrift = thrift
        self._ready = ready
        self._inherited = inherited
        self._bounds = (max_jobs, max_bytes)
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
            life_s=max_wait_s + max_attempts * job_s,
        )
        self._echoed_at = -1.0
        self._looked_at = 0.0
        bus.watch(self._reached)
        for kind, handler in self._handlers().items():
            bus.on(kind, handler)

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
        self._ready()
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
            if len(data) > MAX_RECORD_BYTES and self._local_slots:
                self.ledger.take_back(delivery.job.id)  # it waits for a slot here, at the head of its line
                break
            shown[delivery.job.id] = self.papers.show(delivery, data)
        if self.ledger.waiting and not self.ledger.offered:
            self._ready()  # a slot here may have waited for what was offered first
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
            self._bus.post(place.worker, {"k": "stop", **_named(delivery), "c": ""})
            place.worker = ""
        self.papers.withdraw(job.id)
        if place is not None and place.cause is not None:
            self.ledger.bury(delivery)
            self.papers.settle(job.id)
            self.home.stopped(job.id, place.cause)
        elif delivery.attempt >= self._max_attempts:
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
        self._ready()
        if job.id not in self.offer() and self._link.writable:
            self.papers.write(Delivery(job, attempt, ""))

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
        if self._bus.post(place.worker, {"k": "stop", **_named(delivery), "c": str(cause)}):
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

    # What workers elsewhere say

    def _handlers(self) -> dict[str, Callable[[str, Part, Sequence[bytes]], None]]:
        return {
            "started": self._on_started,
            "events": self._on_events,
            "beat": self._on_beat,
            "back": self._on_back,
            "lost": self._on_lost,
            "gone": self._on_gone,
            "echo": self._on_echo,
        }

    def _current(self, sender: str, job_id: str, token: str, home: str) -> tuple[Delivery, Place] | None:
        """The delivery a worker speaks of, a sign of life noted; None when it is stale, and then it is told.

        Args:
            home: the node it takes for the job's home.
        """
        delivery = self.ledger.current(job_id)
        if delivery is None or delivery.token != token:
            self._metrics.stale.inc()
            # Its home was another node, whose heir this one is: the worker is the only one who has the log.
            orphan = delivery is None and home in self._inherited and not self.home.knows(job_id)
            self._bus.post(sender, {"k": "orphan" if orphan else "stop", "id": job_id, "t": token})
            return None
        place = self.places.place(delivery.job)
        if self.ledger.is_offered(job_id):
            self.ledger.start(delivery, _now())
            if place.recorded:  # its stream entry is its record now
                place.recorded = False
                self._chores.record(job_id)
            self.offer()
        else:
            self.ledger.renew(delivery, _now())
        place.worker, place.probed_at = sender, None
        if place.cause is not None:  # it should have stopped: it may not have heard
            self._bus.post(sender, {"k": "stop", **_named(delivery), "c": str(place.cause)})
        return delivery, place

    def _on_started(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        self._current(sender, part["id"], part["t"], part.get("h", ""))

    def _on_events(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        found = self._current(sender, part["id"], part["t"], part.get("h", ""))
        if found is None:
            return
        delivery, place = found
        first = int(part["s"])
        if first > place.next_seq:
            self._ask_again(sender, delivery, place)
            return
        fresh = lines[place.next_seq - first :]
        events = [Event.read(place.next_seq + index, line) for index, line in enumerate(fresh)]
        if not events:
            return
        place.next_seq, place.asked_at = events[-1].seq + 1, None
        if events[-1].terminal:
            self.ack(delivery)
        self.home.deliver(part["id"], events)

    def _on_beat(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        for job_id, token, last in part["jobs"]:
            found = self._current(sender, job_id, token, part.get("h", ""))
            if found is not None and last >= found[1].next_seq:
                self._ask_again(sender, *found)

    def _ask_again(self, sender: str, delivery: Delivery, place: Place) -> None:
        """Some events did not arrive: ask for them."""
        now = _now()
        if place.asked_at is not None and now - place.asked_at < _ASK_AGAIN_S:
            return
        place.asked_at = now
        self._metrics.replays.inc()
        self._bus.post(sender, {"k": "again", **_named(delivery), "after": place.next_seq - 1})

    def _on_back(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        delivery = self.ledger.current(part["id"])
        if delivery is not None and delivery.token == part["t"]:
            self.release(delivery)

    def _on_lost(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        delivery = self.ledger.holder(part["id"])
        if delivery is not None and delivery.token == part["t"]:
            self.lost(delivery)

    def _on_gone(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        """A worker that was asked does not run it (any more); or its heir says so."""
        place = self.places.get(part["id"])
        if place is not None and place.worker:
            self._on_lost(sender, part, lines)

    def heard_itself_since(self, moment: float) -> bool:
        """Did this node's own words come back to it, through Redis?"""
        return self._echoed_at >= moment

    def _on_echo(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        self._echoed_at = _now()

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
        for job in self.ledger.overdue(now - self._max_wait_s):
            self.ledger.withdraw(job.id)
            self.papers.settle(job.id)
            self.home.overdue(job)
        if self.ledger.offered and now - self._looked_at > self._lease_s:
            self._looked_at = now
            self._look_after_offers(now)
        self.offer()

    def _suspect(self, delivery: Delivery, now: float) -> None:
        place = self.places.get(delivery.job.id)
        if place is None or not place.worker or not self._link.is_up:
            self.lost(delivery)
        elif place.probed_at is None:
            place.probed_at = now
            self._bus.post(place.worker, {"k": "again", **_named(delivery), "after": place.next_seq - 1})
            self._bus.echo()
        elif now - place.probed_at <= min(PROBE_S, self._lease_s):
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
            if place.entry and now - place.since > self._lease_s and self.ledger.is_offered(place.job_id)
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
        idle_ms = int(self._lease_s * 1000)
        self._link.send("XPENDING", self._keys.jobs, GROUP, "IDLE", idle_ms, "-", "+", 1000, then=pending)
        self._link.send("XRANGE", self._keys.jobs, oldest, oldest, then=there)

    def _show_again(self, job_id: str) -> None:
        if self.ledger.is_offered(job_id):
            self.ledger.take_back(job_id)
            self.papers.withdraw(job_id)
            self._ready()
            self.offer()

    def _is_current(self, delivery: Delivery) -> bool:
        current = self.ledger.current(delivery.job.id)
        return current is not None and current.token == delivery.token

    def _refused(self, job_id: str) -> None:
        self.ledger.take_back(job_id)
        self._ready()

    def _new_ledger(self) -> Ledger:
        jobs, size = self._bounds
        return Ledger(max_jobs=jobs, max_bytes=size, lease_s=self._lease_s, new_token=lambda: secrets.token_hex(8))


def _named(delivery: Delivery) -> Part:
    return {"id": delivery.job.id, "t": delivery.token}


def _order(entry: bytes) -> tuple[int, int]:
    time_ms, _, count = entry.partition(b"-")
    return int(time_ms), int(count)


def _now() -> float:
    return asyncio.get_running_loop().time()
