"""The transport of one process: the ledger plus wake-ups. What survives the process stands in its journal, if any."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence

from grizz.core.job import Delivery, Job
from grizz.core.ledger import Ledger
from grizz.errors import TransportClosed
from grizz.protocol.events import Event
from grizz.tasks import TaskOwner
from grizz.transport.base import Cause, Depth, Found, Home, Journal, Workers


class MemoryTransport:
    """`Transport` without another service.

    Args:
        max_jobs: queued jobs at most.
        max_bytes: bytes of queued jobs at most.
        lease_s: seconds a delivery is held without renewal.
        max_attempts: deliveries of one job at most.
        max_wait_s: seconds a job may wait for a worker.
        tasks: owns the supervisor.
        journal: where jobs are written down for the next process, or None.
    """

    def __init__(
        self,
        *,
        max_jobs: int,
        max_bytes: int,
        lease_s: float,
        max_attempts: int,
        max_wait_s: float,
        tasks: TaskOwner,
        journal: Journal | None = None,
    ) -> None:
        self._ledger = Ledger(
            max_jobs=max_jobs, max_bytes=max_bytes, lease_s=lease_s, new_token=lambda: secrets.token_hex(8)
        )
        self._lease_s = lease_s
        self._max_attempts = max_attempts
        self._max_wait_s = max_wait_s
        self._tasks = tasks
        self._journal = journal
        self._ready = asyncio.Event()
        self._closed = False
        self._home: Home
        self._workers: Workers

    def __repr__(self) -> str:
        return f"<MemoryTransport {self._ledger!r}{', closed' if self._closed else ''}>"

    def connect(self, home: Home, workers: Workers) -> None:
        """See `Transport.connect`."""
        self._home = home
        self._workers = workers

    async def start(self) -> None:
        """See `Transport.start`."""
        self._tasks.spawn(self._supervise(), name="supervise leases")

    async def close(self) -> None:
        """See `Transport.close`."""
        self._closed = True
        self._ready.set()

    async def put(self, job: Job) -> None:
        """See `Transport.put`."""
        if self._closed:
            raise TransportClosed("the transport is closed")
        self._ledger.put(job)
        self._ready.set()
        if self._journal is not None:
            await self._journal.accepted(job, int(self._ledger.waiting <= self._workers.free))

    def resume(self, job: Job, attempt: int) -> None:
        """Queue a job that the process before left in the journal; it was accepted, so no bound refuses it now.

        Args:
            attempt: deliveries that it had.
        """
        self._ledger.put(job, attempt, bounded=False)
        self._ready.set()

    async def lease(self) -> Delivery:
        """See `Transport.lease`."""
        while True:
            if self._closed:
                raise TransportClosed("the transport is closed")
            delivery = self._ledger.lease(self._now())
            if delivery is not None:
                if self._journal is not None:
                    self._journal.begun(delivery)
                return delivery
            self._ready.clear()
            await self._ready.wait()

    async def renew(self, delivery: Delivery) -> None:
        """See `Transport.renew`."""
        self._ledger.renew(delivery, self._now())

    def publish(self, delivery: Delivery, events: Sequence[Event]) -> None:
        """See `Transport.publish`."""
        self._ledger.check(delivery)
        self._home.deliver(delivery.job.id, events)

    async def ack(self, delivery: Delivery) -> None:
        """See `Transport.ack`."""
        self._ledger.ack(delivery)
        self._over(delivery.job.id)

    async def nack(self, delivery: Delivery) -> None:
        """See `Transport.nack`."""
        self._ledger.check(delivery)
        self._lost(delivery)

    async def release(self, delivery: Delivery) -> None:
        """See `Transport.release`."""
        self._ledger.release(delivery, self._now())
        self._ready.set()

    async def cancel(self, job_id: str, cause: Cause) -> Found:
        """See `Transport.cancel`."""
        if self._ledger.withdraw(job_id) is not None:
            if not self._home.knows(job_id):  # no response will end with it, and so none be settled
                self._over(job_id)
            return Found.QUEUED
        delivery = self._ledger.holder(job_id)
        if delivery is None:
            return Found.UNKNOWN
        self._workers.stop(delivery, cause)
        return Found.RUNNING

    def advance(self, job_id: str, next_seq: int) -> bool:
        """See `Transport.advance`; in the journal the number stays: the next process begins far above it."""
        return self._ledger.advance(job_id, next_seq)

    def depth(self) -> Depth:
        """See `Transport.depth`."""
        return Depth(self._ledger.queued, self._ledger.leased, self._ledger.oldest_accepted_at())

    def queued_of(self, owner: str) -> int:
        """See `Transport.queued_of`."""
        return self._ledger.queued_of(owner)

    def positions(self) -> Mapping[str, int]:
        """See `Transport.positions`."""
        return self._ledger.positions()

    @property
    def trouble(self) -> str:
        """See `Transport.trouble`: memory has none."""
        return ""

    async def may_speak(self) -> bool:
        """See `Transport.may_speak`: nobody else could have spoken."""
        return True

    async def leave(self) -> None:
        """See `Transport.leave`: there are no others."""

    async def hand_over(self) -> list[str]:
        """See `Transport.hand_over`: what stands in the journal is for the next process; this is no attempt."""
        if self._journal is None:
            return []
        await self.close()  # nobody begins what is left
        jobs = [(job, attempt, self._ledger.holder(job.id)) for job, attempt in self._ledger.jobs()]
        left = self._journal.left([(job, attempt - (holder is not None)) for job, attempt, holder in jobs])
        safe = set(left)
        for job, _, holder in jobs:
            if holder is not None and job.id in safe:
                self._workers.abandon(holder)
        return left

    def sweep(self) -> None:
        """Take back what expired, end what waited too long. Called by the supervisor."""
        now = self._now()
        for delivery in self._ledger.expired(now):
            self._lost(delivery)
        for job in self._ledger.overdue(now - self._max_wait_s):
            self._ledger.withdraw(job.id)
            self._home.overdue(job)
            self._over(job.id)

    def _lost(self, delivery: Delivery) -> None:
        if delivery.attempt >= self._max_attempts:
            self._ledger.bury(delivery)
            self._home.buried(delivery)
            self._over(delivery.job.id)
        else:
            self._ledger.nack(delivery, self._home.interrupted(delivery), self._now())
            self._ready.set()

    def _over(self, job_id: str) -> None:
        """Its response has ended, and was settled with that; or nobody has it any more."""
        if self._journal is not None:
            self._journal.over(job_id)

    async def _supervise(self) -> None:
        every_s = min(self._lease_s / 4, 1.0)
        while True:
            due = self._now() + every_s
            await asyncio.sleep(every_s)
            # After a standstill of this process its workers are late because it was: they get to renew first.
            if self._now() - due < self._lease_s / 2:
                self.sweep()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
