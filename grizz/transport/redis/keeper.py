"""What becomes of errands: their homes stop them, ask for their logs again, or die, and then this node keeps them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from grizz.protocol.events import Event
from grizz.tasks import TaskOwner
from grizz.telemetry.metrics import RedisMetrics
from grizz.transport.base import Cause, Home, Part, Workers
from grizz.transport.redis.bus import Bus
from grizz.transport.redis.chores import Chores
from grizz.transport.redis.dispatch import Dispatcher
from grizz.transport.redis.errands import Errand, Errands
from grizz.transport.redis.inbox import Inbox
from grizz.transport.redis.inheritance import Inheritance
from grizz.transport.redis.record import home_of

log = logging.getLogger(__name__)

# After so many leases a home that hears nothing is looked after; who lost Redis for a moment is back by then.
_SILENT = 0.7


class Keeper:
    """The worker side, as homes see it.

    Args:
        lease_s: seconds a node may be silent.

    Attributes:
        orphaned: called with a home for which jobs run here, and which nobody hears of any more.
    """

    home: Home
    workers: Workers

    def __init__(
        self,
        *,
        bus: Bus,
        chores: Chores,
        metrics: RedisMetrics,
        tasks: TaskOwner,
        dispatcher: Dispatcher,
        errands: Errands,
        inbox: Inbox,
        inheritance: Inheritance,
        lease_s: float,
    ) -> None:
        self._bus = bus
        self._chores = chores
        self._metrics = metrics
        self._tasks = tasks
        self._jobs = dispatcher
        self._errands = errands
        self._inbox = inbox
        self._inheritance = inheritance
        self._lease_s = lease_s
        self._unheard: dict[str, float] = {}
        self.orphaned: Callable[[str], None] = lambda home: None
        bus.watch(self._reached)
        bus.on("stop", self._on_stop)
        bus.on("again", self._on_again)
        bus.on("orphan", self._on_orphan)

    def __repr__(self) -> str:
        return f"<Keeper of {self._bus.node}: {self._errands!r}>"

    def hand_back(self, errand: Errand, kind: str) -> None:
        """Tell its home that an errand ends here: "lost", or "back" as if it had never been delivered."""
        self._drop(errand)
        delivery = errand.delivery
        self._bus.post(errand.home, {"k": kind, "id": delivery.job.id, "t": delivery.token})

    def keep_errands(self, home: str) -> list[str]:
        """A home is gone, and what runs or has just ended here for it may have its log here alone; the ids of that."""
        errands = self._errands.left_by(home, _now())
        for errand in errands:
            self.become_home(errand)
        ids = [errand.delivery.job.id for errand in errands]
        if ids:
            self._bus.shout({"k": "kept", "ids": ids})
        return ids

    def become_home(self, errand: Errand, events: Sequence[Event] | None = None) -> None:
        """Keep an errand as one's own response, with the log its home had or else what was said here."""
        delivery = errand.delivery
        self._errands.drop(errand)
        job = self.home.adopt(delivery.job, delivery.attempt, errand.log if events is None else events)
        if job is None or errand.ended_at is not None:
            self.workers.abandon(delivery)
            if errand.heard_at is None:
                self._chores.entry(errand.entry)
        if job is None:
            return
        self._metrics.adopted.inc()
        extra = {"response_id": job.id, "peer": errand.home, "attempt": delivery.attempt}
        log.warning("response goes on here, its home is gone", extra=extra)
        if errand.ended_at is None:
            self._jobs.ledger.adopt(delivery, _now())
            if self._jobs.papers.write(delivery) is None:
                self._jobs.places.place(job).entry = errand.entry
            else:
                self._chores.entry(errand.entry)  # its record says the same, and under the right name
        # Whoever took the job over before may have had another name than the one that its id says.
        for node in {errand.home: None, home_of(job.id): None}:
            self._tasks.spawn(self._inheritance.add(node), name=f"listen for {node}")

    def sweep(self, now: float) -> None:
        """Tell homes of errands they have not heard of, and have those looked after that do not hear."""
        self._errands.beat(now)
        for home, since in list(self._unheard.items()):
            if not self._errands.of(home):
                del self._unheard[home]
            elif now - since > _SILENT * self._lease_s:
                self._unheard[home] = now
                self.orphaned(home)

    def _on_stop(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        errand = self._errands.running(part["t"])
        if errand is None:
            return
        waits = self._inbox.remove(errand.delivery)
        if part.get("c"):
            if waits:
                self.hand_back(errand, "lost")  # nobody runs it who could end it; its home does
            elif not errand.stopping:
                errand.stopping = True
                self.workers.stop(errand.delivery, Cause(part["c"]))
            return
        self._drop(errand)
        self.workers.abandon(errand.delivery)

    def _on_again(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        if not self._errands.resend(part["t"], int(part["after"])):
            self._bus.post(sender, {"k": "gone", "id": part["id"], "t": part["t"]})

    def _on_orphan(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        """The heir of a dead home knows nothing of this job: this node, which has its log, is its home."""
        errand = self._errands.known(part["t"])
        if errand is not None:
            self.become_home(errand)
            self._bus.shout({"k": "kept", "ids": [errand.delivery.job.id]})

    def _reached(self, node: str, count: int) -> None:
        # Where this node listens as an heir, it is itself whom that reached.
        if count and node not in self._inheritance:
            self._unheard.pop(node, None)
            for errand in self._errands.heard_by(node, _now()):
                self._chores.entry(errand.entry)
        elif self._errands.of(node):
            self._unheard.setdefault(node, _now())

    def _drop(self, errand: Errand) -> None:
        self._errands.drop(errand)
        self._chores.entry(errand.entry)


def _now() -> float:
    return asyncio.get_running_loop().time()
