"""Leases: who holds what until when. The whole truth of the memory transport, and the model the Redis one is tested on.

A delivery is named by its token; a worker that lost its lease holds an old token and gets `LeaseLost`, whatever it
tries (fencing). A lease that runs out is not moved by itself: `expired` names it, and the job's home decides between
`nack` (next attempt, continuing where the log ends) and `bury` (attempts spent).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from grizz.core.fairness import FairQueue
from grizz.core.job import Delivery, Job, State, move
from grizz.errors import LeaseLost, QueueFull


@dataclass(slots=True)
class _Entry:
    job: Job
    state: State = State.QUEUED
    attempt: int = 0
    token: str = ""
    until: float = 0.0
    queued_at: float = 0.0

    @property
    def delivery(self) -> Delivery:
        return Delivery(self.job, self.attempt, self.token)


class Ledger:
    """Queued and leased jobs under three bounds.

    Args:
        max_jobs: queued jobs at most; one more is refused.
        max_bytes: sum of `Job.size` over queued jobs at most.
        lease_s: seconds a delivery is held without renewal.
        new_token: makes a token that was never used before.
    """

    def __init__(self, *, max_jobs: int, max_bytes: int, lease_s: float, new_token: Callable[[], str]) -> None:
        self._max_jobs = max_jobs
        self._max_bytes = max_bytes
        self._lease_s = lease_s
        self._new_token = new_token
        self._entries: dict[str, _Entry] = {}
        self._queue: FairQueue[_Entry] = FairQueue()
        self._leased: dict[str, _Entry] = {}
        self._offered: dict[str, _Entry] = {}
        self._queued_bytes = 0

    def __repr__(self) -> str:
        return f"<Ledger: {self.queued} queued ({self._queued_bytes} bytes), {self.leased} leased>"

    @property
    def queued(self) -> int:
        """Jobs waiting for a worker, offered ones included."""
        return len(self._queue) + len(self._offered)

    def queued_of(self, owner: str) -> int:
        """This owner's jobs that wait for a worker, offered ones included."""
        return self._queue.count(owner) + sum(entry.job.owner == owner for entry in self._offered.values())

    @property
    def waiting(self) -> int:
        """Jobs waiting for a worker of this process, or for being offered."""
        return len(self._queue)

    @property
    def offered(self) -> int:
        """Jobs shown to workers elsewhere that none has begun."""
        return len(self._offered)

    @property
    def leased(self) -> int:
        """Jobs a worker holds."""
        return len(self._leased)

    def put(self, job: Job, attempt: int = 0, *, bounded: bool = True) -> None:
        """Queue a new job.

        Args:
            attempt: attempts it had before it came here.
            bounded: else it is taken whatever waits already.

        Raises:
            QueueFull: a bound is reached; nothing was taken.
            ValueError: the id is in the ledger already.
        """
        if job.id in self._entries:
            raise ValueError(f"job {job.id} is in the ledger already")
        if bounded and self.queued >= self._max_jobs:
            raise QueueFull(f"{self.queued} jobs are waiting, which is the bound")
        if bounded and self.queued and self._queued_bytes + job.size > self._max_bytes:
            raise QueueFull(f"the waiting jobs hold {self._queued_bytes} bytes; the bound is {self._max_bytes}")
        entry = _Entry(job, attempt=attempt, queued_at=job.accepted_at)
        self._entries[job.id] = entry
        self._enqueue(entry)

    def lease(self, now: float) -> Delivery | None:
        """Hand over the next job in fair order, or None when nothing is queued."""
        entry = self._next("lease")
        if entry is None:
            return None
        self._queued_bytes -= entry.job.size
        entry.until = now + self._lease_s
        self._leased[entry.job.id] = entry
        return entry.delivery

    def offer(self) -> Delivery | None:
        """Show the next job in fair order to workers elsewhere; it still waits. None when nothing is queued."""
        entry = self._next("offer")
        if entry is None:
            return None
        self._offered[entry.job.id] = entry
        return entry.delivery

    def start(self, delivery: Delivery, now: float) -> None:
        """A worker elsewhere runs an offered job.

        Raises:
            LeaseLost: the delivery is not current.
        """
        entry = self._offered.get(delivery.job.id)
        if entry is None or entry.token != delivery.token:
            raise _stale(delivery)
        entry.state = move(entry.state, "start")
        del self._offered[delivery.job.id]
        self._queued_bytes -= entry.job.size
        entry.until = now + self._lease_s
        self._leased[delivery.job.id] = entry

    def advance(self, job_id: str, next_seq: int) -> bool:
        """A job that waits here begins at another number: more was said about it. False: it does not.

        An offered one begins where its offer says: another offer would stand behind all newer ones.
        """
        entry = self._entries.get(job_id)
        if entry is None or entry.state is not State.QUEUED:
            return False
        entry.job = dataclasses.replace(entry.job, next_seq=next_seq)
        return True

    def adopt(self, delivery: Delivery, now: float) -> None:
        """A delivery that is running already becomes this ledger's.

        Raises:
            ValueError: the job is in the ledger.
        """
        if delivery.job.id in self._entries:
            raise ValueError(f"job {delivery.job.id} is in the ledger already")
        entry = _Entry(delivery.job, State.LEASED, delivery.attempt, delivery.token, until=now + self._lease_s)
        self._entries[delivery.job.id] = self._leased[delivery.job.id] = entry

    def take_back(self, job_id: str) -> None:
        """An offered job is offered no more, and goes first in its owner's line; nothing when it is not offered."""
        entry = self._offered.pop(job_id, None)
        if entry is None:
            return
        entry.state = move(entry.state, "take_back")
        entry.attempt -= 1
        entry.token = ""
        self._queue.push(entry.job.owner, job_id, entry, front=True)

    def check(self, delivery: Delivery) -> None:
        """Is this delivery the current one?

        Raises:
            LeaseLost: it is not.
        """
        self._held(delivery)

    def renew(self, delivery: Delivery, now: float) -> None:
        """Hold it for another lease from `now`.

        Raises:
            LeaseLost: the delivery is not current.
        """
        self._held(delivery).until = now + self._lease_s

    def ack(self, delivery: Delivery) -> None:
        """The job's terminal event is out: forget it.

        Raises:
            LeaseLost: the delivery is not current.
        """
        self._settle(delivery, "ack")

    def bury(self, delivery: Delivery) -> None:
        """The job's attempts are spent: forget it (its home ends the response).

        Raises:
            LeaseLost: the delivery is not current.
        """
        self._settle(delivery, "bury")

    def nack(self, delivery: Delivery, job: Job, now: float) -> None:
        """Queue the next attempt, first in its owner's line; `job` says where it continues.

        Raises:
            LeaseLost: the delivery is not current.
        """
        self._requeue(delivery, job, now, "nack")

    def release(self, delivery: Delivery, now: float, job: Job | None = None) -> None:
        """Give it back as if never delivered: a drain is no attempt; `job` says where it continues.

        Raises:
            LeaseLost: the delivery is not current.
        """
        entry = self._requeue(delivery, job or delivery.job, now, "release")
        entry.attempt -= 1

    def take_back_all(self) -> list[str]:
        """Nothing is offered any more; the ids of what was."""
        ids = list(self._offered)
        for job_id in reversed(ids):
            self.take_back(job_id)
        return ids

    def withdraw(self, job_id: str) -> Job | None:
        """Take a queued job out; None when it is not queued (running, finished or unknown)."""
        entry = self._entries.get(job_id)
        if entry is None or entry.state not in (State.QUEUED, State.OFFERED):
            return None
        entry.state = move(entry.state, "withdraw")
        if self._offered.pop(job_id, None) is None:
            self._queue.remove(entry.job.owner, job_id)
        self._queued_bytes -= entry.job.size
        del self._entries[job_id]
        return entry.job

    def holder(self, job_id: str) -> Delivery | None:
        """The current delivery of a leased job."""
        entry = self._leased.get(job_id)
        return None if entry is None else entry.delivery

    def current(self, job_id: str) -> Delivery | None:
        """The current delivery of a leased or offered job."""
        entry = self._leased.get(job_id) or self._offered.get(job_id)
        return None if entry is None else entry.delivery

    def positions(self) -> dict[str, int]:
        """How many jobs are handed out before each one that waits, by the fair order; 0 for those that are offered."""
        offered = len(self._offered)
        places = {job_id: offered + number for number, job_id in enumerate(self._queue.order())}
        return places | dict.fromkeys(self._offered, 0)

    def is_offered(self, job_id: str) -> bool:
        """Is it shown to workers elsewhere, and has none begun?"""
        return job_id in self._offered

    def holds(self, job_id: str) -> bool:
        """Is it here, in whatever state?"""
        return job_id in self._entries

    def held(self) -> list[Delivery]:
        """Every current delivery of a leased job."""
        return [entry.delivery for entry in self._leased.values()]

    def jobs(self) -> list[tuple[Job, int]]:
        """Every job here and its attempts so far."""
        return [(entry.job, entry.attempt) for entry in self._entries.values()]

    def expired(self, now: float) -> list[Delivery]:
        """Deliveries whose lease ran out before `now`; none is moved."""
        return [e.delivery for e in self._leased.values() if e.until < now]

    def overdue(self, queued_before: float) -> list[Job]:
        """Jobs at the head of their owner's line, and offered ones, that wait since before that time; none is moved."""
        return [e.job for e in self._first() if e.queued_at < queued_before]

    def oldest_accepted_at(self) -> float | None:
        """When the longest waiting job was accepted; None when nothing waits."""
        return min((e.job.accepted_at for e in self._first()), default=None)

    def _first(self) -> Iterator[_Entry]:
        yield from self._queue.heads()
        yield from self._offered.values()

    def _next(self, event: str) -> _Entry | None:
        entry = self._queue.pop()
        if entry is not None:
            entry.state = move(entry.state, event)
            entry.attempt += 1
            entry.token = self._new_token()
        return entry

    def _held(self, delivery: Delivery) -> _Entry:
        entry = self._leased.get(delivery.job.id)
        if entry is None or entry.token != delivery.token:
            raise _stale(delivery)
        return entry

    def _settle(self, delivery: Delivery, event: str) -> None:
        entry = self._held(delivery)
        entry.state = move(entry.state, event)
        del self._leased[delivery.job.id]
        del self._entries[delivery.job.id]

    def _requeue(self, delivery: Delivery, job: Job, now: float, event: str) -> _Entry:
        entry = self._held(delivery)
        entry.state = move(entry.state, event)
        entry.job = job
        entry.token = ""
        entry.queued_at = now
        del self._leased[job.id]
        self._enqueue(entry, front=True)
        return entry

    def _enqueue(self, entry: _Entry, *, front: bool = False) -> None:
        self._queue.push(entry.job.owner, entry.job.id, entry, front=front)
        self._queued_bytes += entry.job.size


def _stale(delivery: Delivery) -> LeaseLost:
    return LeaseLost(f"attempt {delivery.attempt} of {delivery.job.id} is not current")
