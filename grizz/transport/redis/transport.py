"""The transport of several processes: this node's own jobs in a ledger, as in memory, and Redis for all the rest.

*Local first.* A job runs where its client is whenever a slot is free there; the Redis then only holds its crash record.
Otherwise it is offered on the shared stream, and whoever has a slot runs it and sends its events home.

*Only the home dispatches.* The ledger here is the one truth about this node's jobs: attempts, tokens, leases. A worker
elsewhere that goes silent is asked, then replaced; its late events carry a token that is not current, and are dropped.

*Without Redis* (a breaker is open) all of it goes on: offered jobs come back, new ones run here, and only the crash
records are missing until the way back writes them.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import RedisError

from grizz.core.budget import Thrift
from grizz.core.job import Delivery, Job
from grizz.core.ledger import Ledger
from grizz.errors import LeaseLost, RedisDown, TransportClosed
from grizz.protocol.events import Event
from grizz.tasks import TaskOwner
from grizz.telemetry.metrics import Metrics
from grizz.transport.base import Cause, Depth, Found, Haste, Home, Part, Workers
from grizz.transport.redis import record
from grizz.transport.redis.bus import Bus
from grizz.transport.redis.chores import Chores
from grizz.transport.redis.connection import Command, Wire
from grizz.transport.redis.errands import Errand, Errands
from grizz.transport.redis.keys import GROUP, Keys
from grizz.transport.redis.link import BLOCK_S, Link
from grizz.transport.redis.places import Place, Places
from grizz.transport.redis.record import Codec, Record, UnreadableRecord, home_of

log = logging.getLogger(__name__)

# A larger record is not written: the job runs at home and a crash loses it (counted).
MAX_RECORD_BYTES = 256 << 10
# The stream cannot grow beyond this, whatever happens; far more than nodes ever offer at a time.
_MAX_STREAM = 100_000
# What a silent worker gets to answer, once it is asked.
_PROBE_S = 2.5
# A requeued dead letter has no home; the stream's own bound is its life.
_SOUND_SLEEP_S = 1.0


class RedisTransport:
    """`Transport` over a `Link`. The parts of it that other nodes speak to are its message handlers.

    Args:
        node: this node's id; see `rename`.
        local_slots: how many jobs this process can run; 0 for one that only serves clients.
        lease_s: seconds a delivery is held without a sign of life.
        max_attempts: deliveries of one job at most.
        max_wait_s: seconds a job may wait for a worker.
        job_s: seconds one attempt may take.
        thrift: how much the command budget asks to save.
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
        self._codec = codec
        self._metrics = metrics
        self._tasks = tasks
        self._new_ledger = lambda: Ledger(
            max_jobs=max_jobs, max_bytes=max_bytes, lease_s=lease_s, new_token=lambda: secrets.token_hex(8)
        )
        self._ledger = self._new_ledger()
        self._local_slots = local_slots
        self._window = local_slots or 32
        self._lease_s = lease_s
        self._max_attempts = max_attempts
        self._max_wait_s = max_wait_s
        self._job_s = job_s
        self._thrift = thrift
        self._places = Places()
        self._errands = Errands(bus, lease_s=lease_s, tell_every_s=min(5.0, lease_s / 2))
        self.chores = chores
        self._inbox: deque[Delivery] = deque()
        self._ready = asyncio.Event()
        self._hungry = asyncio.Event()
        self._closed = False
        self._first = True
        self._echoed_at = -1.0
        self._looked_at = 0.0
        self._unheard: dict[str, float] = {}
        self.inherited: dict[str, None] = {}
        self._home: Home
        self._workers: Workers
        self.orphaned: Callable[[str], None] = lambda home: None
        self.linked: Callable[[bool], None] = lambda first: None
        link.serve(self)
        bus.watch(self._reached)
        for kind, handler in self._handlers().items():
            bus.on(kind, handler)

    def __repr__(self) -> str:
        return f"<RedisTransport of {self._bus.node}: {self._ledger!r}, {self._errands!r}, {self._link!r}>"

    # The port

    def connect(self, home: Home, workers: Workers) -> None:
        """See `Transport.connect`."""
        self._home = home
        self._workers = workers

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
        self._ready.set()
        self._bus.flush()
        self.chores.flush()
        await self._link.close()

    async def put(self, job: Job, attempt: int = 0) -> None:
        """See `Transport.put`. It is recorded, or offered, when this returns; without a Redis it is not.

        Args:
            attempt: attempts it had before its home came here.
        """
        if self._closed:
            raise TransportClosed("the transport is closed")
        self._ledger.put(job, attempt)
        local = self._workers.free >= self._ledger.waiting
        self._ready.set()
        if not self._link.writable:
            self._metrics.redis.unrecorded.labels("degraded").inc()
            return
        if self._thrift() is Thrift.LOCAL:
            self._metrics.redis.unrecorded.labels("thrift").inc()
            return
        written = None if local else self._offer().get(job.id)
        await (self._record(job, attempt + 1) if written is None else _outcome(written))

    async def lease(self) -> Delivery:
        """See `Transport.lease`."""
        while True:
            if self._closed:
                raise TransportClosed("the transport is closed")
            if self._inbox:
                return self._inbox.popleft()
            # What was offered came first: while some of it waits, a free slot reads the stream, not the ledger.
            if not self._ledger.offered:
                delivery = self._ledger.lease(self._now())
                if delivery is not None:
                    self._metrics.redis.placed.labels("home").inc()
                    return delivery
            self._ready.clear()
            self._hungry.set()
            try:
                await self._ready.wait()
            finally:
                self._hungry.clear()

    async def renew(self, delivery: Delivery) -> None:
        """See `Transport.renew`."""
        errand = self._errands.running(delivery.token)
        if errand is None:
            self._ledger.renew(delivery, self._now())
        else:
            errand.alive_at = self._now()

    def publish(self, delivery: Delivery, events: Sequence[Event]) -> None:
        """See `Transport.publish`."""
        errand = self._errands.running(delivery.token)
        if errand is not None:
            self._errands.publish(errand, events)
            return
        self._ledger.check(delivery)
        self._home.deliver(delivery.job.id, events)

    async def ack(self, delivery: Delivery) -> None:
        """See `Transport.ack`."""
        errand = self._errands.running(delivery.token)
        if errand is None:
            self._ledger.ack(delivery)
            self._settle(delivery.job.id)
        else:
            self._errands.settle(errand, self._now())
            self.chores.entry(errand.entry)

    async def nack(self, delivery: Delivery) -> None:
        """See `Transport.nack`."""
        if self._errands.running(delivery.token) is not None:
            self._hand_back(delivery, "lost")
        else:
            self._ledger.check(delivery)
            self._lost(delivery)

    async def release(self, delivery: Delivery) -> None:
        """See `Transport.release`."""
        if self._errands.running(delivery.token) is not None:
            self._hand_back(delivery, "back")
        else:
            self._ledger.release(delivery, self._now())
            self._ready.set()
            self._offer()

    async def cancel(self, job_id: str, cause: Cause) -> Found:
        """See `Transport.cancel`."""
        if self._ledger.withdraw(job_id) is not None:
            self._settle(job_id)
            return Found.QUEUED
        delivery = self._ledger.holder(job_id)
        if delivery is None:
            return Found.UNKNOWN
        place = self._places.get(job_id)
        if place is None or not place.worker:
            self._workers.stop(delivery, cause)
            return Found.RUNNING
        place.cause = cause
        if self._bus.post(place.worker, {"k": "stop", "id": job_id, "t": delivery.token, "c": str(cause)}):
            return Found.RUNNING
        # Its worker cannot be told; when it can be again, it learns that its attempt is not current.
        self._ledger.bury(delivery)
        self._settle(job_id)
        return Found.QUEUED

    def depth(self) -> Depth:
        """See `Transport.depth`."""
        return Depth(self._ledger.queued, self._ledger.leased, self._ledger.oldest_accepted_at())

    @property
    def trouble(self) -> str:
        """See `Transport.trouble`."""
        return self._link.trouble

    async def may_speak(self) -> bool:
        """See `Transport.may_speak`. Without a Redis nobody can be asked, and the answers go on."""
        try:
            heir = await self._link.ask("GET", self._keys.heir(self._bus.node))
        except (RedisDown, RedisError):
            return True
        if heir is None:
            return True
        self._deposed()
        return False

    async def hand_over(self) -> list[str]:
        """See `Transport.hand_over`: what has a record, or stands in the stream, is found by whoever comes next."""
        safe: list[str] = []
        for job, _ in self._ledger.jobs():
            place = self._places.get(job.id)
            if self._link.is_up and place is not None and (place.recorded or place.entry):
                safe.append(job.id)
        return safe

    # The session (see link.Session)

    async def establish(self, cmd: Wire, sub: Wire, *, first: bool) -> None:
        """See `Session.establish`. At most five commands at the first time, so that start-up stays within eight."""
        node = self._bus.node
        if not first:
            _raise(heir := (await cmd.ask([("GET", self._keys.heir(node))]))[0])
            if heir is not None:
                self._deposed()
                node = self._bus.node
        await self.chores.prepare(cmd, reads=bool(self._local_slots))
        for channel in (node, *self.inherited):
            _raise((await sub.ask([("SUBSCRIBE", self._keys.channel(channel))]))[0])
        if not first:
            command = ("XREADGROUP", "GROUP", GROUP, node, "COUNT", 1000, "STREAMS", self._keys.jobs, "0")
            _raise(own := (await cmd.ask([command]))[0])
            self.entries(own)

    def up(self) -> None:
        """See `Session.up`."""
        for job, attempt in self._ledger.jobs():
            delivery = self._ledger.current(job.id) or Delivery(job, attempt, "")
            place = self._places.get(job.id)
            if place is None or not place.worker:
                self._write(delivery)
        self.chores.up()
        self._errands.beat(self._now(), everybody=True)
        self._offer()
        self._ready.set()
        self.linked(self._first)
        self._first = False

    def down(self) -> None:
        """See `Session.down`: nobody elsewhere can begin what was offered, as far as this node will ever hear."""
        self._bus.clear()
        for job_id in self._ledger.take_back_all():
            if (place := self._places.get(job_id)) is not None:
                place.rest()
        self._ready.set()

    def message(self, payload: bytes) -> None:
        """See `Session.message`."""
        self._bus.receive(payload)

    async def appetite(self) -> Command:
        """See `Session.appetite`."""
        while True:
            await self._hungry.wait()
            count = self._workers.free - self._ledger.waiting
            if count > 0 or self._ledger.offered:
                break
            await asyncio.sleep(0)
        block_ms = int(BLOCK_S * 1000)
        group = ("XREADGROUP", "GROUP", GROUP, self._bus.node, "COUNT", max(1, count), "BLOCK", block_ms)
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
            self.chores.entry(entry)
            return
        try:
            found = record.unpack(fields[1], self._codec)
        except UnreadableRecord as error:
            self._metrics.redis.errors.labels("message").inc()
            log.warning("a job in the stream cannot be read", extra={"entry": entry.decode(), "err": str(error)})
            self.chores.bury(entry, fields[1], f"unreadable: {error}")
            return
        delivery = found.delivery
        if self._errands.known(delivery.token) is not None:
            return
        if found.expires_at < time.time():
            self.chores.entry(entry)
        elif found.home == self._bus.node:
            self._take_own(entry, delivery)
        elif not found.home:
            self._take_requeued(entry, found)
        elif self._workers.free <= len(self._inbox):
            self.chores.entry(entry)
            self._bus.post(found.home, {"k": "back", "id": delivery.job.id, "t": delivery.token})
        else:
            self._errands.begin(Errand(delivery, found.home, entry, self._now()))
            self._accept(delivery)
            self._bus.post(found.home, {"k": "started", "id": delivery.job.id, "t": delivery.token}, haste=Haste.TICK)
            self._metrics.redis.placed.labels("elsewhere").inc()

    def _take_own(self, entry: bytes, delivery: Delivery) -> None:
        current = self._ledger.current(delivery.job.id)
        if current is None or current.token != delivery.token:
            self.chores.entry(entry)
        elif self._workers.free <= len(self._inbox):
            self._ledger.take_back(delivery.job.id)
            self._forget_entry(delivery.job.id)
            self._offer()
        else:
            self._ledger.start(current, self._now())
            self._accept(current)
            self._metrics.redis.placed.labels("home").inc()

    def _take_requeued(self, entry: bytes, found: Record) -> None:
        """A dead letter that was requeued has no home left; whoever reads it is its home."""
        job = self._home.adopt(found.delivery.job, 1, None)
        self.chores.entry(entry)
        if job is not None:
            self._tasks.spawn(self.put(job), name=f"put requeued {job.id}")

    def _accept(self, delivery: Delivery) -> None:
        self._inbox.append(delivery)
        self._ready.set()

    def _hand_back(self, delivery: Delivery, kind: str) -> None:
        errand = self._errands.held(delivery)
        self._errands.drop(errand)
        self.chores.entry(errand.entry)
        self._bus.post(errand.home, {"k": kind, "id": delivery.job.id, "t": delivery.token})

    # Jobs of this node

    def _offer(self) -> dict[str, asyncio.Future[Any]]:
        """Show workers elsewhere what no slot here will take soon; what was shown, and when it surely stands there."""
        shown: dict[str, asyncio.Future[Any]] = {}
        if self._closed or self._thrift() is Thrift.LOCAL:
            return shown
        while self._link.writable and self._ledger.offered < self._window:
            if self._ledger.waiting <= max(0, self._workers.free - len(self._inbox)):
                break
            delivery = self._ledger.offer()
            if delivery is None:
                break
            data = self._packed(delivery)
            if len(data) > MAX_RECORD_BYTES and self._local_slots:
                self._ledger.take_back(delivery.job.id)  # it waits for a slot here, at the head of the line
                break
            shown[delivery.job.id] = self._show(delivery, data)
        return shown

    def _show(self, delivery: Delivery, data: bytes) -> asyncio.Future[Any]:
        place = self._places.place(delivery.job)
        place.show(delivery.job, self._now())
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def then(reply: Any) -> None:
            if isinstance(reply, bytes):
                place.entry = reply
                current = self._ledger.current(delivery.job.id)
                if current is None or current.token != delivery.token:
                    self.chores.entry(reply)  # cancelled, or taken back, while it was on its way
            else:
                self._metrics.redis.unrecorded.labels("degraded").inc()
                current = self._ledger.current(delivery.job.id)
                if current is not None and current.token == delivery.token:
                    self._ledger.take_back(delivery.job.id)
                    self._ready.set()
            if not future.done():
                future.set_result(reply)

        command = ("XADD", self._keys.jobs, "MAXLEN", "~", _MAX_STREAM, "*", "job", data)
        if not self._link.send(*command, then=then):
            then(RedisDown("the link is busy"))
        return future

    async def _record(self, job: Job, attempt: int) -> None:
        """Write the crash record of a job that runs or waits here, and wait until it is there."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        current = self._ledger.current(job.id) or Delivery(job, attempt, "")
        if self._write(current, future):
            await _outcome(future)

    def _write(self, delivery: Delivery, written: asyncio.Future[Any] | None = None) -> bool:
        data = self._packed(delivery)
        if len(data) > MAX_RECORD_BYTES:
            self._metrics.redis.unrecorded.labels("size").inc()
            return False
        place = self._places.place(delivery.job)

        def then(reply: Any) -> None:
            place.recorded = place.recorded or not isinstance(reply, BaseException)
            if isinstance(reply, BaseException):
                self._metrics.redis.unrecorded.labels("degraded").inc()
            elif self._ledger.holds(delivery.job.id) is False:
                self.chores.record(delivery.job.id)  # it ended while its record was on its way
            if written is not None and not written.done():
                written.set_result(reply)

        return self._link.send("HSET", self._keys.records(self._bus.node), delivery.job.id, data, then=then)

    def _packed(self, delivery: Delivery) -> bytes:
        waited_s = self._now() - delivery.job.accepted_at
        expires_at = time.time() - waited_s + self._max_wait_s + self._max_attempts * self._job_s
        return record.pack(delivery, self._bus.node, expires_at, self._codec)

    def _settle(self, job_id: str) -> None:
        """A job of this node is over: nothing of it stays in the Redis."""
        place = self._places.pop(job_id)
        if place is None:
            return
        if place.recorded:
            self.chores.record(job_id)
        # A worker elsewhere removes its entry itself, unless it is gone; nobody read the entry of a waiting job.
        if place.entry is not None and not place.worker:
            self.chores.entry(place.entry)

    def _forget_entry(self, job_id: str) -> None:
        place = self._places.get(job_id)
        if place is not None and place.entry is not None:
            self.chores.entry(place.entry)
            place.entry = None

    def _lost(self, delivery: Delivery) -> None:
        """An attempt is lost: the next one, or the end."""
        job = delivery.job
        place = self._places.get(job.id)
        if place is not None and place.worker:
            self._bus.post(place.worker, {"k": "stop", "id": job.id, "t": delivery.token, "c": ""})
            place.worker = ""
            self._forget_entry(job.id)
        if place is not None and place.cause is not None:
            self._ledger.bury(delivery)
            self._settle(job.id)
            self._home.stopped(job.id, place.cause)
        elif delivery.attempt >= self._max_attempts:
            self.bury(delivery)
        else:
            again = self._home.interrupted(delivery)
            self._ledger.nack(delivery, again, self._now())
            self._ready.set()
            if again.id not in self._offer() and self._link.writable:
                self._write(Delivery(again, delivery.attempt + 1, ""))

    def bury(self, delivery: Delivery) -> None:
        """The attempts of a job of this node are spent: end the response, and keep it among the dead letters."""
        self._dead(delivery)
        self._ledger.bury(delivery)
        self._settle(delivery.job.id)
        self._home.buried(delivery)

    def _dead(self, delivery: Delivery) -> None:
        data = self._packed(delivery) if self._codec.may_keep(delivery.job.payload) else b""
        self.chores.dead(delivery.job, data, f"{delivery.attempt} attempts were lost", delivery.attempt)

    # What other nodes say about jobs of this one

    def _handlers(self) -> dict[str, Callable[[str, Part, Sequence[bytes]], None]]:
        return {
            "started": self._on_started,
            "events": self._on_events,
            "beat": self._on_beat,
            "back": self._on_back,
            "lost": self._on_lost,
            "gone": self._on_gone,
            "stop": self._on_stop,
            "again": self._on_again,
            "orphan": self._on_orphan,
            "echo": self._on_echo,
        }

    def _current(self, sender: str, job_id: str, token: str) -> tuple[Delivery, Place] | None:
        """The delivery a worker speaks of, a sign of life noted; None when it is stale, and then it is told."""
        delivery = self._ledger.current(job_id)
        if delivery is None or delivery.token != token:
            self._metrics.redis.stale.inc()
            # Its home was another node, whose heir this one is: the worker is the only one who has the log.
            orphan = delivery is None and home_of(job_id) in self.inherited and not self._home.knows(job_id)
            part = {"k": "orphan", "id": job_id, "t": token} if orphan else {"k": "stop", "id": job_id, "t": token}
            self._bus.post(sender, part)
            return None
        place = self._places.place(delivery.job)
        if self._ledger.holder(job_id) is None:
            self._ledger.start(delivery, self._now())
            self._offer()
        else:
            self._ledger.renew(delivery, self._now())
        place.worker, place.probed_at = sender, None
        return delivery, place

    def _on_started(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        self._current(sender, part["id"], part["t"])

    def _on_events(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        job_id, first = part["id"], int(part["s"])
        found = self._current(sender, job_id, part["t"])
        if found is None:
            return
        delivery, place = found
        if first > place.next_seq:
            self._ask_again(sender, delivery, place)
            return
        fresh = lines[place.next_seq - first :]
        events = [Event.read(place.next_seq + index, line) for index, line in enumerate(fresh)]
        if not events:
            return
        place.next_seq = events[-1].seq + 1
        place.asked_at = None
        if events[-1].terminal:
            self._ledger.ack(delivery)
            self._settle(job_id)
        self._home.deliver(job_id, events)

    def _on_beat(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        for job_id, token, last in part["jobs"]:
            found = self._current(sender, job_id, token)
            if found is not None and last >= found[1].next_seq:
                self._ask_again(sender, *found)

    def _ask_again(self, sender: str, delivery: Delivery, place: Place) -> None:
        """Some events did not arrive: ask for them, but not with every message that shows it."""
        now = self._now()
        if place.asked_at is not None and now - place.asked_at < _SOUND_SLEEP_S:
            return
        place.asked_at = now
        self._metrics.redis.replays.inc()
        part = {"k": "again", "id": delivery.job.id, "t": delivery.token, "after": place.next_seq - 1}
        self._bus.post(sender, part)

    def _on_back(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        """A worker elsewhere gives a job back as if it had never had it."""
        delivery = self._ledger.current(part["id"])
        if delivery is None or delivery.token != part["t"]:
            return
        if self._ledger.holder(part["id"]) is None:
            self._ledger.take_back(part["id"])
        else:
            self._ledger.release(delivery, self._now())
        self._places.place(delivery.job).rest()
        self._ready.set()
        self._offer()

    def _on_lost(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        delivery = self._ledger.holder(part["id"])
        if delivery is not None and delivery.token == part["t"]:
            self._lost(delivery)

    def _on_gone(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        """A worker that was asked does not run it (any more)."""
        place = self._places.get(part["id"])
        if place is not None and place.worker == sender:
            self._on_lost(sender, part, lines)

    def _on_echo(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        self._echoed_at = self._now()

    # What homes say about errands of this node

    def _on_stop(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        errand = self._errands.running(part["t"])
        if errand is None:
            return
        cause = part.get("c", "")
        if cause:
            self._workers.stop(errand.delivery, Cause(cause))
            return
        self._errands.drop(errand)
        self.chores.entry(errand.entry)
        self._workers.abandon(errand.delivery)

    def _on_again(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        if not self._errands.resend(part["t"], int(part["after"])):
            self._bus.post(sender, {"k": "gone", "id": part["id"], "t": part["t"]})

    def _on_orphan(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        """The heir of a dead home knows nothing of this job: this node, which has its log, is its home."""
        errand = self._errands.running(part["t"])
        if errand is not None:
            self.become_home(errand)

    # Silence

    def _reached(self, node: str, count: int) -> None:
        """A message to a node reached so many; where nobody listens, nobody lives, or not yet again."""
        if count:
            self._unheard.pop(node, None)
            return
        for job_id in self._places.at(node):
            delivery, place = self._ledger.holder(job_id), self._places.get(job_id)
            if delivery is not None and place is not None and place.probed_at is not None:
                self._lost(delivery)
        if self._errands.of(node):
            self._unheard.setdefault(node, self._now())

    def become_home(self, errand: Errand) -> None:
        """Nobody else will: keep the log of an errand as one's own response."""
        delivery = errand.delivery
        self._errands.drop(errand)
        job = self._home.adopt(delivery.job, delivery.attempt, errand.log)
        if job is None:
            self._workers.abandon(delivery)
            self.chores.entry(errand.entry)
            return
        self._metrics.redis.adopted.inc()
        self._ledger.adopt(delivery, self._now())
        self._places.place(job).entry = errand.entry
        self._tasks.spawn(self.inherit(errand.home), name=f"listen for {errand.home}")

    def keep_errands(self, home: str) -> None:
        """A home is gone, and what runs here for it has its log here alone."""
        for errand in self._errands.of(home):
            self.become_home(errand)

    def bury_adopted(self, delivery: Delivery) -> None:
        """A job that came here with its attempts spent."""
        self._dead(delivery)
        self._home.buried(delivery)

    async def inherit(self, node: str) -> None:
        """From now on, what is said to that node is said to this one too."""
        if node not in self.inherited:
            self.inherited[node] = None
            await self._link.subscribe(self._keys.channel(node))

    def _deposed(self) -> None:
        """Somebody took this node over while it was silent: begin again as another, with nothing."""
        log.error("this node was silent for too long and was taken over; its answers go on elsewhere")
        self._metrics.redis.deposed.inc()
        self._bus.node = secrets.token_hex(4)
        for delivery in self._ledger.held():
            self._workers.abandon(delivery)
        self._ledger = self._new_ledger()
        self._places = Places()
        self._home.deposed()

    async def _supervise(self) -> None:
        every_s = min(self._lease_s / 4, 1.0)
        while True:
            due = self._now() + every_s
            await asyncio.sleep(every_s)
            # After a standstill of this process, others are late because it was.
            if self._now() - due < self._lease_s / 2:
                self.sweep()

    def sweep(self) -> None:
        """Ask after what is silent, take back what is lost, end what waited too long. Called by the supervisor."""
        now = self._now()
        for delivery in self._ledger.expired(now):
            self._suspect(delivery, now)
        for job in self._ledger.overdue(now - self._max_wait_s):
            self._ledger.withdraw(job.id)
            self._settle(job.id)
            self._home.overdue(job)
        self._errands.beat(now)
        for home, since in list(self._unheard.items()):
            if not self._errands.of(home):
                del self._unheard[home]
            elif now - since > min(_PROBE_S, self._lease_s):
                self._unheard[home] = now
                self.orphaned(home)
        if self._ledger.offered and now - self._looked_at > self._lease_s:
            self._looked_at = now
            self._look_after_offers(now)
        self._offer()

    def _suspect(self, delivery: Delivery, now: float) -> None:
        place = self._places.get(delivery.job.id)
        if place is None or not place.worker or not self._link.is_up:
            self._lost(delivery)
            return
        if place.probed_at is None:
            place.probed_at = now
            self._bus.post(place.worker, {"k": "again", **_named(delivery), "after": place.next_seq - 1})
            self._bus.echo()
        elif now - place.probed_at > min(_PROBE_S, self._lease_s):
            if self._echoed_at < place.probed_at:
                # Not even this node's own words come back: it is deaf, and the worker may well be alive.
                place.probed_at = None
                self._ledger.renew(delivery, now)
                self._link.fail(ConnectionError("the subscription is deaf"))
            else:
                self._lost(delivery)

    def _look_after_offers(self, now: float) -> None:
        """A worker may have died between reading a job and saying so, and Redis may have lost the stream."""
        old = [
            place
            for place in self._places
            if place.entry and now - place.since > self._lease_s and self._ledger.is_offered(place.job_id)
        ]
        if not old:
            return
        by_entry = {place.entry: place for place in old}

        def pending(reply: Any) -> None:
            for entry, *_ in reply if isinstance(reply, list) else ():
                if (place := by_entry.get(entry)) is not None:
                    self._show_again(place)

        def there(reply: Any) -> None:
            if reply == []:
                for place in old:
                    self._show_again(place)

        idle_ms = int(self._lease_s * 1000)
        first = min(by_entry, key=_entry_order)
        assert first is not None
        self._link.send("XPENDING", self._keys.jobs, GROUP, "IDLE", idle_ms, "-", "+", 1000, then=pending)
        self._link.send("XRANGE", self._keys.jobs, first, first, then=there)

    def _show_again(self, place: Place) -> None:
        if self._ledger.is_offered(place.job_id):
            self._ledger.take_back(place.job_id)
            self._forget_entry(place.job_id)
            self._ready.set()
            self._offer()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


async def _outcome(future: asyncio.Future[Any]) -> None:
    """Wait for a write, no longer than a link ever takes; what went wrong was counted where it happened."""
    await asyncio.wait({future}, timeout=2.0)


def _named(delivery: Delivery) -> Part:
    return {"id": delivery.job.id, "t": delivery.token}


def _raise(reply: Any) -> None:
    if isinstance(reply, RedisError):
        raise reply


def _entry_order(entry: bytes | None) -> tuple[int, int]:
    assert entry is not None
    time_ms, _, count = entry.partition(b"-")
    return int(time_ms), int(count)


__all__ = ["LeaseLost", "RedisTransport"]
