"""The transport of several processes: this node's own jobs in a ledger, as in memory, and Redis for all the rest.

*Local first.* A job runs where its client is whenever a slot is free there; the Redis then only holds its crash record.
Otherwise it is offered on the shared stream, and whoever has a slot runs it and sends its events home.

*Without Redis* (a breaker is open) all of it goes on: offered jobs come back, new ones run here, and only the crash
records are missing until the way back writes them.

The home side is `dispatch.py`; here are the port, what the link calls, and the jobs of other homes that run here.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from redis.exceptions import RedisError

from grizz.core.budget import Thrift
from grizz.core.job import Delivery, Job
from grizz.errors import RedisDown, TransportClosed
from grizz.protocol.events import Event
from grizz.tasks import TaskOwner
from grizz.telemetry.metrics import Metrics
from grizz.transport.base import Cause, Depth, Found, Haste, Home, Part, Workers
from grizz.transport.redis import record
from grizz.transport.redis.bus import Bus
from grizz.transport.redis.chores import Chores
from grizz.transport.redis.connection import Command, Wire
from grizz.transport.redis.dispatch import Dispatcher
from grizz.transport.redis.errands import Errand, Errands
from grizz.transport.redis.keys import GROUP, Keys
from grizz.transport.redis.link import BLOCK_S, Link
from grizz.transport.redis.record import Codec, Record, UnreadableRecord, home_of

log = logging.getLogger(__name__)

# After so many leases a home that hears nothing is looked after; who lost Redis for a moment is back by then.
_SILENT = 0.7


class RedisTransport:
    """`Transport` over a `Link`. See `Dispatcher` for the arguments that are not here.

    Attributes:
        inherited: nodes that this one took over; what is said to them is said to this one too.
        orphaned: called with a home for which jobs run here, and which nobody hears of any more.
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
        codec: Codec,
        metrics: Metrics,
        tasks: TaskOwner,
        max_jobs: int,
        max_bytes: int,
        local_slots: int,
        lease_s: float,
        max_attempts: int,
        max_wait_s: float,
        job_s: float,
        thrift: Callable[[], Thrift],
    ) -> None:
        self._keys = keys
        self._link = link
        self._bus = bus
        self._chores = chores
        self._codec = codec
        self._metrics = metrics.redis
        self._tasks = tasks
        self._reads = bool(local_slots)
        self._lease_s = lease_s
        self.inherited: dict[str, None] = {}
        self.jobs = Dispatcher(
            keys=keys,
            link=link,
            bus=bus,
            chores=chores,
            codec=codec,
            metrics=metrics.redis,
            max_jobs=max_jobs,
            max_bytes=max_bytes,
            local_slots=local_slots,
            lease_s=lease_s,
            max_attempts=max_attempts,
            max_wait_s=max_wait_s,
            job_s=job_s,
            thrift=thrift,
            ready=self._wake,
            inherited=self.inherited,
        )
        self.errands = Errands(bus, lease_s=lease_s, tell_every_s=min(5.0, lease_s / 2))
        self._inbox: deque[Delivery] = deque()
        self._ready = asyncio.Event()
        self._hungry = asyncio.Event()
        self._closed = False
        self.leaving = False
        self._first = True
        self._unheard: dict[str, float] = {}
        self._home: Home
        self._workers: Workers
        self.orphaned: Callable[[str], None] = lambda home: None
        self.linked: Callable[[bool], None] = lambda first: None
        self.farewell: Callable[[], Coroutine[Any, Any, None]] = _silence
        self.handed_over: Callable[[], Coroutine[Any, Any, list[str]]] = _nothing
        link.serve(self)
        bus.watch(self._reached)
        bus.on("stop", self._on_stop)
        bus.on("again", self._on_again)
        bus.on("orphan", self._on_orphan)
        bus.on("bereft", lambda sender, part, lines: self.keep_errands(part["home"]))
        bus.on("requeued", lambda sender, part, lines: self._home.forget(part["id"], sender))

    def __repr__(self) -> str:
        return f"<RedisTransport of {self._bus.node}: {self.jobs!r}, {self.errands!r}, {self._link!r}>"

    # The port

    def connect(self, home: Home, workers: Workers) -> None:
        """See `Transport.connect`."""
        self._home = self.jobs.home = home
        self._workers = self.jobs.workers = workers

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
            if self._inbox:
                return self._inbox.popleft()
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
            self.hand_back(errand, "lost")

    async def release(self, delivery: Delivery) -> None:
        """See `Transport.release`."""
        errand = self.errands.running(delivery.token)
        if errand is None:
            self.jobs.ledger.check(delivery)
            self.jobs.release(delivery)
        else:
            self.hand_back(errand, "back")

    async def cancel(self, job_id: str, cause: Cause) -> Found:
        """See `Transport.cancel`."""
        delivery = self.jobs.ledger.holder(job_id)
        if delivery is not None and self._take_from_inbox(delivery):
            self.jobs.ledger.bury(delivery)
            self.jobs.papers.settle(job_id)
            return Found.QUEUED
        return self.jobs.cancel(job_id, cause)

    def depth(self) -> Depth:
        """See `Transport.depth`."""
        ledger = self.jobs.ledger
        return Depth(ledger.queued, ledger.leased, ledger.oldest_accepted_at())

    def queued_of(self, owner: str) -> int:
        """See `Transport.queued_of`."""
        return self.jobs.ledger.queued_of(owner)

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
        self.leaving = True
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
        channels = [self._keys.channel(name) for name in (node, *self.inherited)]
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
        if self.leaving:
            await asyncio.get_running_loop().create_future()
        count = max(1, self._workers.free - self.jobs.ledger.waiting)
        group = ("XREADGROUP", "GROUP", GROUP, self._bus.node, "COUNT", count, "BLOCK", int(BLOCK_S * 1000))
        return (*group, "STREAMS", self._keys.jobs, ">")

    def entries(self, reply: Any) -> None:
        """See `Session.entries`."""
        for _, entries in reply or ():
            for entry, fields in entries:
                self._take(entry, fields)

    # Jobs from the stream

    def _take(self, entry: bytes, fields: list[bytes] | None) -> None:
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
        if (errand := self.errands.known(delivery.token)) is not None:
            if errand.ended_at is not None:
                self._chores.entry(entry)  # its removal was lost with the link
            return
        if found.home == self._bus.node:
            current = self.jobs.begin(delivery, entry, room=self._has_room)
            if current is not None:
                self._accept(current, "home")
        elif found.expires_at < time.time():
            self._chores.entry(entry)
        elif not found.home:
            self._take_requeued(entry, found)
        elif not self._has_room:
            self._chores.entry(entry)
            self._bus.post(found.home, {"k": "back", "id": delivery.job.id, "t": delivery.token})
        else:
            errand = Errand(delivery, found.home, entry, _now())
            self.errands.begin(errand)
            self._accept(delivery, "elsewhere")
            self._bus.post(found.home, {"k": "started", **errand.name}, haste=Haste.TICK)

    @property
    def _has_room(self) -> bool:
        return not self.leaving and self._workers.free > len(self._inbox)

    def _take_requeued(self, entry: bytes, found: Record) -> None:
        """A dead letter that was requeued has no home left; whoever reads it is its home."""
        job_id = found.delivery.job.id
        self._home.forget(job_id, self._bus.node)
        self._bus.post(home_of(job_id), {"k": "requeued", "id": job_id})
        job = self._home.adopt(found.delivery.job, found.delivery.attempt + 1, None)
        self._chores.entry(entry)
        if job is not None:
            self._tasks.spawn(self.put(job), name=f"put requeued {job.id}")

    def _accept(self, delivery: Delivery, place: str) -> None:
        self._metrics.placed.labels(place).inc()
        self._inbox.append(delivery)
        self._wake()

    def _take_from_inbox(self, delivery: Delivery) -> bool:
        """Was it on its way to a worker, and is not any more?"""
        for waiting in self._inbox:
            if waiting.token == delivery.token:
                self._inbox.remove(waiting)
                return True
        return False

    def hand_back(self, errand: Errand, kind: str) -> None:
        """Tell its home that an errand ends here: "lost", or "back" as if it had never been delivered."""
        self.errands.drop(errand)
        self._chores.entry(errand.entry)
        delivery = errand.delivery
        self._bus.post(errand.home, {"k": kind, "id": delivery.job.id, "t": delivery.token})

    # What homes say about errands

    def _on_stop(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        errand = self.errands.running(part["t"])
        if errand is None:
            return
        waits = self._take_from_inbox(errand.delivery)
        if part.get("c"):
            if waits:
                self.hand_back(errand, "lost")  # nobody runs it who could end it; its home does
            elif not errand.stopping:
                errand.stopping = True
                self._workers.stop(errand.delivery, Cause(part["c"]))
            return
        self.errands.drop(errand)
        self._chores.entry(errand.entry)
        self._workers.abandon(errand.delivery)

    def _on_again(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        if not self.errands.resend(part["t"], int(part["after"])):
            self._bus.post(sender, {"k": "gone", "id": part["id"], "t": part["t"]})

    def _on_orphan(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        """The heir of a dead home knows nothing of this job: this node, which has its log, is its home."""
        errand = self.errands.running(part["t"])
        if errand is not None:
            self.become_home(errand)

    def _reached(self, node: str, count: int) -> None:
        if count:
            self._unheard.pop(node, None)
            for errand in self.errands.heard_by(node):
                self._chores.entry(errand.entry)
        elif self.errands.of(node):
            self._unheard.setdefault(node, _now())

    # Who is whose heir

    def keep_errands(self, home: str) -> None:
        """A home is gone, and what runs or has just ended here for it may have its log here alone."""
        errands = self.errands.left_by(home, _now())
        for errand in errands:
            self.become_home(errand)
        if errands:
            self._bus.shout({"k": "kept", "ids": [errand.delivery.job.id for errand in errands]})

    def become_home(self, errand: Errand, log: Sequence[Event] | None = None) -> None:
        """Keep an errand as one's own response, with the log its home had or else what was said here."""
        delivery = errand.delivery
        self.errands.drop(errand)
        job = self._home.adopt(delivery.job, delivery.attempt, errand.log if log is None else log)
        if job is None or errand.ended_at is not None:
            self._workers.abandon(delivery)
            if not errand.heard:
                self._chores.entry(errand.entry)
        if job is None:
            return
        self._metrics.adopted.inc()
        if errand.ended_at is None:
            self.jobs.ledger.adopt(delivery, _now())
            if self.jobs.papers.write(delivery) is None:
                self.jobs.places.place(job).entry = errand.entry
            else:
                self._chores.entry(errand.entry)  # its record says the same, and under the right name
        self._tasks.spawn(self.inherit(errand.home), name=f"listen for {errand.home}")

    async def inherit(self, node: str) -> None:
        """From now on, what is said to that node is said to this one too."""
        if node not in self.inherited:
            self.inherited[node] = None
            await self._link.subscribe(self._keys.channel(node))

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
        self.errands.beat(now)
        for home, since in list(self._unheard.items()):
            if not self.errands.of(home):
                del self._unheard[home]
            elif now - since > _SILENT * self._lease_s:
                self._unheard[home] = now
                self.orphaned(home)

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
