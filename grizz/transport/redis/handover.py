"""Leaving without a loss: what did not end within the drain moves, log and all, to a node that stays.

For each response the leaving node sends its record and its whole log. The other becomes its home under the same
numbers: clients resume where they were. A worker elsewhere that runs it notices nothing; what ran here begins its
attempt again, and that is none more. Without another node the records stay in the Redis, for whoever starts next.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
from collections.abc import Callable, Sequence

from redis.exceptions import RedisError

from grizz.core.job import Delivery, Job
from grizz.errors import QueueFull, RedisDown, TransportClosed
from grizz.protocol.events import Event
from grizz.tasks import TaskOwner
from grizz.transport.base import Bus, Home, Part, Workers
from grizz.transport.redis import record
from grizz.transport.redis.chores import Chores
from grizz.transport.redis.connection import pairs
from grizz.transport.redis.keys import GROUP, Keys
from grizz.transport.redis.link import Link
from grizz.transport.redis.record import Codec, UnreadableRecord
from grizz.transport.redis.transport import RedisTransport

log = logging.getLogger(__name__)

_MARK_S = 86_400
_ANSWER_S = 2.0


class Handover:
    """Both sides of it."""

    def __init__(
        self,
        *,
        keys: Keys,
        link: Link,
        bus: Bus,
        chores: Chores,
        transport: RedisTransport,
        codec: Codec,
        home: Home,
        workers: Workers,
        tasks: TaskOwner,
    ) -> None:
        self._keys = keys
        self._link = link
        self._bus = bus
        self._chores = chores
        self._transport = transport
        self._codec = codec
        self._home = home
        self._workers = workers
        self._tasks = tasks
        self._taken: set[str] = set()
        self._answered: Callable[[], None] = lambda: None
        bus.on("inherit", self._on_inherit)
        bus.on("inherited", self._on_inherited)

    def __repr__(self) -> str:
        return f"<Handover of {self._bus.node}>"

    # The one that leaves

    async def give(self) -> list[str]:
        """Hand over what runs; the ids of what is in good hands. Waits a few seconds at most. Not cancel-safe."""
        for errand in self._transport.errands.all():
            self._transport.keeper.hand_back(errand, "back")
            self._workers.abandon(errand.delivery)
        jobs = self._transport.jobs
        if not jobs.ledger.jobs() or not self._link.is_up:
            return []
        try:
            heir = await self._somebody()
            if heir is None:
                return [place.job_id for place in jobs.places if place.recorded or place.entry]
            await self._link.ask("SET", self._keys.heir(self._bus.node), heir, "EX", _MARK_S)
            return await self._send_all(heir)
        except (RedisDown, RedisError) as error:
            log.warning("answers could not be handed over", extra={"err": str(error)})
            return [place.job_id for place in jobs.places if place.recorded or place.entry]

    async def _somebody(self) -> str | None:
        """A node that stays, as far as one can tell."""
        rows = await self._link.ask("XINFO", "CONSUMERS", self._keys.jobs, GROUP)
        nodes = [name for row in rows if (name := pairs(row)["name"].decode()) != self._bus.node]
        if not nodes:
            return None
        counts = await self._link.ask("PUBSUB", "NUMSUB", *map(self._keys.channel, nodes))
        alive = [node for node, count in zip(nodes, counts[1::2], strict=True) if count]
        return random.choice(alive) if alive else None

    async def _send_all(self, heir: str) -> list[str]:
        jobs = self._transport.jobs
        answered = asyncio.Event()
        self._answered = answered.set
        sent: dict[str, Delivery] = {}
        for job, attempt in jobs.ledger.jobs():
            self._send(heir, job, attempt, sent)
        try:
            async with asyncio.timeout(_ANSWER_S):
                while not self._taken.issuperset(sent):
                    answered.clear()
                    await answered.wait()
        except TimeoutError:
            log.warning("not every answer was taken over in time", extra={"count": len(sent.keys() - self._taken)})
        kept = [place.job_id for place in jobs.places if place.recorded and place.job_id not in self._taken]
        jobs.settle_given(self._taken)
        return [*self._taken, *kept]

    def _send(self, heir: str, job: Job, attempt: int, sent: dict[str, Delivery]) -> None:
        jobs = self._transport.jobs
        if jobs.ledger.is_offered(job.id):
            jobs.ledger.take_back(job.id)
            jobs.papers.withdraw(job.id)
            attempt -= 1
        delivery = jobs.ledger.holder(job.id)
        place = jobs.places.get(job.id)
        worker = place.worker if place is not None else ""
        if delivery is not None and not worker:
            self._workers.abandon(delivery)  # not one event more: the log that travels is all there is
            attempt -= 1
        events = self._home.log_of(job.id)
        if not events:
            return
        sent[job.id] = delivery or Delivery(job, attempt, "")
        data = jobs.papers.pack(Delivery(job, attempt, delivery.token if delivery and worker else ""))
        part = {"k": "inherit", "id": job.id, "w": worker, "s": events[0].seq}
        self._bus.post(heir, part, [data, *(event.data for event in events)])

    def _on_inherited(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        log.info("response handed over", extra={"response_id": part["id"], "peer": sender})
        self._taken.add(part["id"])
        self._answered()

    # The one that stays

    def _on_inherit(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        try:
            delivery = record.unpack(lines[0], self._codec).delivery
        except UnreadableRecord as error:
            log.warning("an answer of a leaving node cannot be read", extra={"peer": sender, "err": str(error)})
            return
        events = [Event.read(int(part["s"]) + index, line) for index, line in enumerate(lines[1:])]
        self._tasks.spawn(self._take(sender, delivery, part["w"], events), name=f"inherit {delivery.job.id}")

    async def _take(self, sender: str, delivery: Delivery, worker: str, events: list[Event]) -> None:
        jobs = self._transport.jobs
        errand = self._transport.errands.running(delivery.token) if worker == self._bus.node else None
        if errand is not None:  # it runs right here, and may be ahead of what its home has seen
            self._transport.keeper.become_home(
                errand, [*events, *errand.log[events[-1].seq + 1 - delivery.job.next_seq :]]
            )
        else:
            job = self._home.adopt(delivery.job, delivery.attempt, events)
            if job is None:
                return
            if worker:
                jobs.ledger.adopt(delivery, asyncio.get_running_loop().time())
                place = jobs.places.place(job)
                place.worker, place.next_seq = worker, events[-1].seq + 1
                jobs.papers.write(delivery)
            else:
                await self._put(dataclasses.replace(delivery, job=job))
        log.info("response taken over, its home leaves", extra={"response_id": delivery.job.id, "peer": sender})
        for node in (sender, record.home_of(delivery.job.id)):
            await self._transport.inheritance.add(node)
        self._bus.post(sender, {"k": "inherited", "id": delivery.job.id})

    async def _put(self, delivery: Delivery) -> None:
        """Run it here or elsewhere, from where its log ends."""
        again = self._home.interrupted(delivery, drained=True)
        try:
            await self._transport.put(again, delivery.attempt)
        except (QueueFull, TransportClosed) as error:
            log.error("an answer taken over finds no room", extra={"response_id": again.id, "err": str(error)})
            self._home.buried(delivery)
