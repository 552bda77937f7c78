"""Jobs of other homes that run here: their logs, kept until the home surely has them, and their signs of life."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence

from grizz.core.job import Delivery
from grizz.errors import LeaseLost
from grizz.protocol.events import Event
from grizz.transport.base import Bus, Haste, Part

log = logging.getLogger(__name__)

# How long the log of an ended errand is kept once its end was heard, for a home that missed it, and how many of them.
_KEEP_S = 60.0
_KEEP = 1000
_KEEP_BYTES = 64 << 20
# A home has stored what ended within this time.
_STORED_S = 5.0
# A message is cut between parts only.
_PART_BYTES = 128 << 10


class Errand:
    """One delivery of another home's job, running here. A `Source` of events for its home.

    Attributes:
        home: the node that gets its events.
        entry: the stream entry it came in.
        log: every event published, the first numbered `delivery.job.next_seq`.
        alive_at: when its worker last gave a sign of life.
        told_at: when its home was last told anything about it.
        ended_at: when its terminal event was published; None before.
        stopping: its worker was told to stop it.
        heard_at: when its end reached somebody; None before: its stream entry stays, and its log is all there is.
    """

    __slots__ = ("_sent", "alive_at", "delivery", "ended_at", "entry", "heard_at", "home", "log", "stopping", "told_at")

    def __init__(self, delivery: Delivery, home: str, entry: bytes, now: float) -> None:
        self.delivery = delivery
        self.home = home
        self.entry = entry
        self.log: list[Event] = []
        self.alive_at = now
        self.told_at = now
        self.ended_at: float | None = None
        self.heard_at: float | None = None
        self.stopping = False
        self._sent = 0

    def __repr__(self) -> str:
        return f"<Errand {self.delivery.job.id} for {self.home}, {len(self.log)} events, {self._sent} sent>"

    @property
    def last_seq(self) -> int:
        """The number of the last event; one less than the first when there is none."""
        return self.delivery.job.next_seq + len(self.log) - 1

    def collect(self) -> list[tuple[Part, Sequence[bytes]]]:
        """The events that were not sent yet."""
        parts: list[tuple[Part, Sequence[bytes]]] = []
        while self._sent < len(self.log):
            first, size, lines = self.delivery.job.next_seq + self._sent, 0, list[bytes]()
            for event in self.log[self._sent :]:
                size += len(event.data)
                if lines and size > _PART_BYTES:
                    break
                lines.append(event.data)
            self._sent += len(lines)
            part = {"k": "events", **self.name, "s": first, "n": len(lines)}
            parts.append((part, lines))
            self.told_at = asyncio.get_running_loop().time()
        return parts

    @property
    def name(self) -> Part:
        """Which job and attempt, and whom this node takes for its home."""
        return {"id": self.delivery.job.id, "t": self.delivery.token, "h": self.home}

    @property
    def bytes(self) -> int:
        """What its log holds."""
        return sum(len(event.data) for event in self.log)

    @property
    def all_sent(self) -> bool:
        """Did every event go out?"""
        return self._sent == len(self.log)

    def rewind(self, after: int) -> None:
        """Send again what is numbered higher than `after`."""
        self._sent = max(0, min(len(self.log), after + 1 - self.delivery.job.next_seq))


class Errands:
    """The errands of this node, by token.

    Args:
        lease_s: an errand whose worker was silent for longer is not vouched for.
        tell_every_s: a home hears of each running errand this often at least.

    Attributes:
        idle: set while none is running.
    """

    def __init__(self, bus: Bus, *, lease_s: float, tell_every_s: float) -> None:
        self._bus = bus
        self._lease_s = lease_s
        self._tell_every_s = tell_every_s
        self._running: dict[str, Errand] = {}
        self.idle = asyncio.Event()
        self.idle.set()
        self._ended: OrderedDict[str, Errand] = OrderedDict()
        self._ended_bytes = 0

    def __len__(self) -> int:
        return len(self._running)

    def __repr__(self) -> str:
        return f"<Errands: {len(self._running)} running, {len(self._ended)} ended>"

    def begin(self, errand: Errand) -> None:
        """A worker of this node is about to run it."""
        self._running[errand.delivery.token] = errand
        self.idle.clear()

    def running(self, token: str) -> Errand | None:
        """The running errand of that token."""
        return self._running.get(token)

    def known(self, token: str) -> Errand | None:
        """The errand of that token, also when it ended a short while ago."""
        return self._running.get(token) or self._ended.get(token)

    def of(self, home: str) -> list[Errand]:
        """The errands for a home that still needs to hear of them: running ones, and ends that reached nobody."""
        return [errand for errand in self.known_for(home) if errand.heard_at is None]

    @property
    def unheard(self) -> bool:
        """Did something end here of which nobody knows yet?"""
        return any(errand.heard_at is None for errand in self._ended.values())

    def known_for(self, home: str) -> list[Errand]:
        """Every errand for a home, those that ended a short while ago included."""
        return [e for e in (*self._running.values(), *self._ended.values()) if e.home == home]

    def left_by(self, home: str, now: float) -> list[Errand]:
        """A home died: what it needed to hear, and what was heard too short ago to have been stored.

        Perhaps not by that home: its heir listens before it says so, and has no use for what it does not know.
        """
        known = self.known_for(home)
        return [e for e in known if e.heard_at is None or now - e.heard_at < _STORED_S]

    def heard_by(self, home: str, now: float) -> list[Errand]:
        """A message reached that home: the errands that have ended for it by now, each named once."""
        done = [e for e in self._ended.values() if e.home == home and e.heard_at is None and e.all_sent]
        for errand in done:
            errand.heard_at = now
        return done

    def all(self) -> list[Errand]:
        """Every running errand."""
        return list(self._running.values())

    def held(self, delivery: Delivery) -> Errand:
        """The errand of a delivery.

        Raises:
            LeaseLost: its home gave it to somebody else, or it was settled.
        """
        errand = self._running.get(delivery.token)
        if errand is None:
            raise LeaseLost(f"attempt {delivery.attempt} of {delivery.job.id} is not current")
        return errand

    def publish(self, errand: Errand, events: Sequence[Event]) -> None:
        """Log the next events and see that they travel: the first words and the end at once, the rest at the tick."""
        first = not any(event.key is not None for event in errand.log)
        errand.log.extend(events)
        hurry = events[-1].terminal or (first and any(event.key is not None for event in events))
        self._bus.ready(errand.home, errand, haste=Haste.SOON if hurry else Haste.TICK)

    def settle(self, errand: Errand, now: float) -> None:
        """It has ended; its log stays for a while, should its home have missed something."""
        delivery = errand.delivery
        extra = {"response_id": delivery.job.id, "peer": errand.home, "attempt": delivery.attempt}
        log.info("response of another node ended here", extra={**extra, "events": len(errand.log)})
        self._stop(errand)
        errand.ended_at = now
        self._ended[errand.delivery.token] = errand
        self._ended_bytes += errand.bytes
        while len(self._ended) > _KEEP or (self._ended_bytes > _KEEP_BYTES and len(self._ended) > 1):
            self._forget(next(iter(self._ended.values())))

    def drop(self, errand: Errand) -> None:
        """It is not this node's business any more."""
        self._forget(errand)
        self._stop(errand)

    def _forget(self, errand: Errand) -> None:
        if self._ended.pop(errand.delivery.token, None) is not None:
            self._ended_bytes -= errand.bytes

    def _stop(self, errand: Errand) -> None:
        self._running.pop(errand.delivery.token, None)
        if not self._running:
            self.idle.set()

    def resend(self, token: str, after: int) -> bool:
        """Send a log again from a number on; False when it is not known here, or its worker is silent."""
        errand = self.known(token)
        if errand is None or not self._vouched(errand, asyncio.get_running_loop().time()):
            return False
        errand.rewind(after)
        if errand.last_seq > after:
            self._bus.ready(errand.home, errand, haste=Haste.NOW)
        else:  # nothing new, but it lives
            row = [errand.delivery.job.id, errand.delivery.token, errand.last_seq]
            self._bus.post(errand.home, {"k": "beat", "h": errand.home, "jobs": [row]})
        return True

    def beat(self, now: float, *, everybody: bool = False) -> None:
        """Tell homes of errands they have not heard of for a while; or of all, also the ended ones."""
        late = [e for e in self._running.values() if everybody or now - e.told_at >= self._tell_every_s]
        by_home: dict[str, list[list[object]]] = {}
        for errand in [*late, *(self._ended.values() if everybody else ())]:
            if self._vouched(errand, now):
                errand.told_at = now
                row = [errand.delivery.job.id, errand.delivery.token, errand.last_seq]
                by_home.setdefault(errand.home, []).append(row)
        for home, rows in by_home.items():
            self._bus.post(home, {"k": "beat", "h": home, "jobs": rows}, haste=Haste.SOON)
        for errand in list(self._ended.values()):
            if errand.ended_at is not None and now - errand.ended_at <= _KEEP_S:
                break
            if errand.heard_at is not None:
                self._forget(errand)

    def _vouched(self, errand: Errand, now: float) -> bool:
        return errand.ended_at is not None or now - errand.alive_at <= self._lease_s
