"""What workers elsewhere say about the jobs of this node, and what they are answered.

They speak of a job by its token; what carries another one than the ledger has is stale, and its sender is told to stop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from grizz.core.job import Delivery
from grizz.protocol.events import Event
from grizz.telemetry.metrics import RedisMetrics
from grizz.transport.base import Part
from grizz.transport.redis.bus import Bus
from grizz.transport.redis.chores import Chores
from grizz.transport.redis.dispatch import Dispatcher, named
from grizz.transport.redis.inheritance import Inheritance
from grizz.transport.redis.places import Place

log = logging.getLogger(__name__)

# A gap is asked for once in this time, however many messages show it.
_ASK_AGAIN_S = 1.0


class Reports:
    """Hears them, and tells the `Dispatcher`."""

    def __init__(
        self, *, bus: Bus, chores: Chores, metrics: RedisMetrics, dispatcher: Dispatcher, inheritance: Inheritance
    ) -> None:
        self._bus = bus
        self._chores = chores
        self._metrics = metrics
        self._jobs = dispatcher
        self._inheritance = inheritance
        self._echoed_at = -1.0
        dispatcher.heard_itself_since = self.heard_itself_since
        bus.on("started", self._on_started)
        bus.on("events", self._on_events)
        bus.on("beat", self._on_beat)
        bus.on("back", self._on_back)
        bus.on("lost", self._on_lost)
        bus.on("gone", self._on_gone)
        bus.on("echo", self._on_echo)

    def __repr__(self) -> str:
        return f"<Reports to {self._bus.node}>"

    def _current(self, sender: str, job_id: str, token: str, home: str) -> tuple[Delivery, Place] | None:
        """The delivery a worker speaks of, a sign of life noted; None when it is stale, and then it is told.

        Args:
            home: the node it takes for the job's home.
        """
        delivery = self._jobs.ledger.current(job_id)
        if delivery is None or delivery.token != token:
            self._metrics.stale.inc()
            # Its home was another node, whose heir this one is: the worker is the only one who has the log.
            orphan = delivery is None and home in self._inheritance and not self._jobs.home.knows(job_id)
            self._bus.post(sender, {"k": "orphan" if orphan else "stop", "id": job_id, "t": token})
            return None
        place = self._jobs.places.place(delivery.job)
        if self._jobs.ledger.is_offered(job_id):
            self._jobs.ledger.start(delivery, _now())
            extra = {"response_id": job_id, "peer": sender, "attempt": delivery.attempt}
            log.info("response runs on another node", extra=extra)
            if place.recorded:  # its stream entry is its record now
                place.recorded = False
                self._chores.record(job_id)
            self._jobs.offer()
        else:
            self._jobs.ledger.renew(delivery, _now())
        place.worker, place.probed_at = sender, None
        if place.cause is not None:  # it should have stopped: it may not have heard
            self._bus.post(sender, {"k": "stop", **named(delivery), "c": str(place.cause)})
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
            self._jobs.ack(delivery)
        self._jobs.home.deliver(part["id"], events)

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
        self._bus.post(sender, {"k": "again", **named(delivery), "after": place.next_seq - 1})

    def _on_back(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        delivery = self._jobs.ledger.current(part["id"])
        if delivery is not None and delivery.token == part["t"]:
            self._jobs.release(delivery)

    def _on_lost(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        delivery = self._jobs.ledger.holder(part["id"])
        if delivery is not None and delivery.token == part["t"]:
            self._jobs.lost(delivery)

    def _on_gone(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        """A worker that was asked does not run it (any more); or its heir says so."""
        place = self._jobs.places.get(part["id"])
        if place is not None and place.worker:
            self._on_lost(sender, part, lines)

    def heard_itself_since(self, moment: float) -> bool:
        """Did this node's own words come back to it, through Redis?"""
        return self._echoed_at >= moment

    def _on_echo(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        self._echoed_at = _now()


def _now() -> float:
    return asyncio.get_running_loop().time()
