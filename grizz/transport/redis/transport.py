"""The transport of several processes: this node's own jobs in a ledger, as in memory, and Redis for all the rest.

*Local first.* A job runs where its client is whenever a slot is free there; the Redis then only holds its crash record.
Otherwise it is offered on the shared stream, and whoever has a slot runs it and sends its events home.

*Without Redis* (a breaker is open) all of it goes on: offered jobs come back, new ones run here, and only the crash
records are missing until the way back writes them.

Here are the port and what the link calls. The home side is `dispatch.py`; what becomes of jobs of other homes that run
here is `intake.py`, `errands.py` and `keeper.py`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from redis.exceptions import RedisError

from grizz.core.job import Delivery, Job
from grizz.errors import RedisDown, TransportClosed
from grizz.protocol.events import Event
from grizz.tasks import TaskOwner
from grizz.telemetry.metrics import RedisMetrics
from grizz.transport.base import Cause, Depth, Found, Home, Workers
from grizz.transport.redis.bus import Bus
from grizz.transport.redis.chores import Chores
from grizz.transport.redis.connection import Command, Wire
from grizz.transport.redis.dispatch import Dispatcher
from grizz.transport.redis.errands import Errands
from grizz.transport.redis.inheritance import Inheritance
from grizz.transport.redis.intake import Intake
from grizz.transport.redis.keeper import Keeper
from grizz.transport.redis.keys import GROUP, Keys
from grizz.transport.redis.link import BLOCK_S, Link

log = logging.getLogger(__name__)


class RedisTransport:
    """`Transport` over a `Link`.

    Args:
        dispatcher: the home side.
        errands, intake, keeper: the worker side.
        reads: this process has slots, and so reads jobs of others.
        lease_s: seconds a delivery is held without a sign of life.

    Attributes:
        jobs: the home side.
        inheritance: the nodes that this one took over.
        linked: called when the link is up, with whether it is for the first time.
        farewell: tells the others that this node leaves.
        handed_over: hands over what runs here; see `Handover.give`.
    """

    def __init__(
        self,
        *,
        keys: Keys,
        link: Link,
        bus: Bus,
        chores: Chores,
        metrics: RedisMetrics,
        tasks: TaskOwner,
        dispatcher: Dispatcher,
        errands: Errands,
        intake: Intake,
        keeper: Keeper,
        inheritance: Inheritance,
        reads: bool,
        lease_s: float,
    ) -> None:
        self._keys = keys
        self._link = link
        self._bus = bus
        self._chores = chores
        self._metrics = metrics
        self._tasks = tasks
        self.jobs = dispatcher
        self.errands = errands
        self.inheritance = inheritance
        self.keeper = keeper
        self._intake = intake
        self._reads = reads
        self._lease_s = lease_s
        self._ready = asyncio.Event()
        self._hungry = asyncio.Event()
        self._closed = False
        self._first = True
        self._home: Home
        self._workers: Workers
        self.linked: Callable[[bool], None] = lambda first: None
        self.farewell: Callable[[], Coroutine[Any, Any, None]] = _silence
        self.handed_over: Callable[[], Coroutine[Any, Any, list[str]]] = _nothing
        dispatcher.ready = intake.ready = self._wake
        intake.put = self.put
        link.serve(self)
        bus.on("requeued", lambda sender, part, lines: self._home.forget(part["id"], sender))

    def __repr__(self) -> str:
        return f"<RedisTransport of {self._bus.node}: {self.jobs!r}, {self.errands!r}, {self._link!r}>"

    # The port

    def connect(self, home: Home, workers: Workers) -> None:
        """See `Transport.connect`."""
        self._home = self.jobs.home = self.keeper.home = self._intake.home = home
        self._workers = self.jobs.workers = self.keeper.workers = self._intake.workers = workers

    async def start(self) -> None:
        """See `Transport.start`.

        Raises:
            ConfigError: the Redis refuses the login.
        """
        await self._link.start()
        self._tasks.spawn(self._supervise(), name="supervise leases")

    async def close(self) -> None:
        """See `Transport.close`."""
        if self._closed:
            return
        self._closed = True
        self._wake()
        self._bus.flush()
        self._chores.flush()
        if not (self.errands or self.errands.unheard or self.jobs.places):
            self._link.send("XGROUP", "DELCONSUMER", self._keys.jobs, GROUP, self._bus.node)
            await self.farewell()
        await self._link.close()

    async def put(self, job: Job, attempt: int = 0) -> None:
        """See `Transport.put`.

        Args:
            attempt: attempts it had before its home came here.
        """
        if self._closed:
            raise TransportClosed("the transport is closed")
        await self.jobs.put(job, attempt)

    async def lease(self) -> Delivery:
        """See `Transport.lease`."""
        while True:
            if self._closed:
                raise TransportClosed("the transport is closed")
            if (waiting := self._intake.inbox.take()) is not None:
                return waiting
            # What was offered came first: while some of it waits, a free slot reads the stream, not the ledger.
            if not self.jobs.ledger.offered:
                delivery = self.jobs.ledger.lease(_now())
                if delivery is not None:
                    self._metrics.placed.labels("home").inc()
                    return delivery
            self._ready.clear()
            self._hungry.set()
            try:
                await self._ready.wait()
            finally:
                self._hungry.clear()

    async def renew(self, delivery: Delivery) -> None:
        """See `Transport.renew`."""
        errand = self.errands.running(delivery.token)
        if errand is None:
            self.jobs.ledger.renew(delivery, _now())
        else:
            errand.alive_at = _now()

    def publish(self, delivery: Delivery, events: Sequence[Event]) -> None:
        """See `Transport.publish`."""
        errand = self.errands.running(delivery.token)
        if errand is not None:
            self.errands.publish(errand, events)
            return
        self.jobs.ledger.check(delivery)
        self._home.deliver(delivery.job.id, events)

    async def ack(self, delivery: Delivery) -> None:
        """See `Transport.ack`."""
        errand = self.errands.running(delivery.token)
        if errand is None:
            self.jobs.ack(delivery)
        else:
            self.errands.settle(errand, _now())  # its entry goes when its end was heard

    async def nack(self, delivery: Delivery) -> None:
        """See `Transport.nack`."""
        errand = self.errands.running(delivery.token)
        if errand is None:
            self.jobs.lost(delivery)
        else:
            self.keeper.hand_back(errand, "lost")

    async def release(self, delivery: Delivery) -> None:
        """See `Transport.release`."""
        errand = self.errands.running(delivery.token)
        if errand is None:
            self.jobs.ledger.check(delivery)
            self.jobs.release(delivery)
        else:
            self.keeper.hand_back(errand, "back")

    async def cancel(self, job_id: str, cause: Cause) -> Found:
        """See `Transport.cancel`."""
        delivery = self.jobs.ledger.holder(job_id)
        if delivery is not None and self._intake.inbox.remove(delivery):
            self.jobs.ledger.bury(delivery)
            self.jobs.papers.settle(job_id)
            return Found.QUEUED
        return self.jobs.cancel(job_id, cause)

    def depth(self) -> Depth:
        """See `Transport.depth`."""
        ledger = self.jobs.ledger
        return Depth(ledger.queued, ledger.leased, ledger.oldest_accepted_at())

    def advance(self, job_id: str, next_seq: int) -> bool:
        """See `Transport.advance`."""
        return self.jobs.advance(job_id, next_seq)

    def queued_of(self, owner: str) -> int:
        """See `Transport.queued_of`."""
        return self.jobs.ledger.queued_of(owner)

    def positions(self) -> Mapping[str, int]:
        """See `Transport.positions`."""
        return self.jobs.ledger.positions()

    @property
    def trouble(self) -> str:
        """See `Transport.trouble`."""
        return self._link.trouble

    async def may_speak(self) -> bool:
        """See `Transport.may_speak`. Without a Redis, which may come back meanwhile, the answers go on."""
        node = self._bus.node
        for _ in range(2):
            try:
                heir = await self._link.ask("GET", self._keys.heir(node))
            except (RedisDown, RedisError):
                # The standstill may have cost the connection as well; making it anew asks the same question.
                await self._link.up_within(2.0)
                continue
            if heir is not None and self._bus.node == node:
                self._deposed()
            break
        return self._bus.node == node

    async def leave(self) -> None:
        """See `Transport.leave`."""
        self._intake.leaving = True
        await self.errands.idle.wait()

    async def hand_over(self) -> list[str]:
        """See `Transport.hand_over`."""
        return await self.handed_over()

    # The session (see link.Session)

    async def establish(self, cmd: Wire, sub: Wire, *, first: bool) -> None:
        """See `Session.establish`. Few commands at the first time, so that start-up stays within eight."""
        if not first:
            heir = _checked(await cmd.ask([("GET", self._keys.heir(self._bus.node))]))
            if heir is not None:
                self._deposed()
        node = self._bus.node
        await self._chores.prepare(cmd, reads=self._reads)
        channels = [self._keys.channel(name) for name in (node, *self.inheritance)]
        await sub.subscribe([self._keys.everybody, *channels])
        if not first:
            # What was on its way to the old connection when that broke is ours, and nobody else will run it.
            command = ("XREADGROUP", "GROUP", GROUP, node, "COUNT", 1000, "STREAMS", self._keys.jobs, "0")
            self.entries(_checked(await cmd.ask([command])))

    def up(self) -> None:
        """See `Session.up`."""
        self.jobs.up()
        self._chores.up()
        self.errands.beat(_now(), everybody=True)
        self._wake()
        self.linked(self._first)
        self._first = False

    def down(self) -> None:
        """See `Session.down`."""
        self._bus.clear()
        self.jobs.down()
        self._wake()

    def message(self, payload: bytes) -> None:
        """See `Session.message`."""
        self._bus.receive(payload)

    async def appetite(self) -> Command:
        """See `Session.appetite`."""
        await self._hungry.wait()
        if self._intake.leaving:
            await asyncio.get_running_loop().create_future()
        count = max(1, self._workers.free - self.jobs.ledger.waiting)
        group = ("XREADGROUP", "GROUP", GROUP, self._bus.node, "COUNT", count, "BLOCK", int(BLOCK_S * 1000))
        return (*group, "STREAMS", self._keys.jobs, ">")

    def entries(self, reply: Any) -> None:
        """See `Session.entries`."""
        for _, entries in reply or ():
            for entry, fields in entries:
                self._intake.take(entry, fields)

    # Taken over

    def _deposed(self) -> None:
        """Somebody took this node over while it was silent: begin again as another, with nothing."""
        log.error("this process was silent for too long and was taken over; its answers go on elsewhere")
        self._metrics.deposed.inc()
        old, self._bus.node = self._bus.node, secrets.token_hex(4)
        for delivery in self.jobs.forget():
            self._workers.abandon(delivery)
        self._home.deposed()
        self._tasks.spawn(self._move(old), name="take a new id")

    async def _move(self, old: str) -> None:
        self._link.send("XGROUP", "CREATECONSUMER", self._keys.jobs, GROUP, self._bus.node)
        await self._link.subscribe(self._keys.channel(self._bus.node))
        await self._link.subscribe(self._keys.channel(old), on=False)

    async def _supervise(self) -> None:
        every_s = min(self._lease_s / 4, 1.0)
        while True:
            due = _now() + every_s
            await asyncio.sleep(every_s)
            # After a standstill of this process, others are late because it was.
            if _now() - due < self._lease_s / 2:
                self.sweep()

    def sweep(self) -> None:
        """Look after everything that may have gone silent. Called by the supervisor."""
        now = _now()
        self.jobs.sweep(now)
        self.keeper.sweep(now)

    def _wake(self) -> None:
        self._ready.set()


async def _silence() -> None:
    return None


async def _nothing() -> list[str]:
    return []


def _checked(replies: list[Any]) -> Any:
    if isinstance(replies[0], RedisError):
        raise replies[0]
    return replies[0]


def _now() -> float:
    return asyncio.get_running_loop().time()
