"""Who plays in the contract's tests: a home and a pool that write down what they are told, and nodes as transports."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

from grizz.config.redis_url import parse_redis_url
from grizz.core.budget import Thrift
from grizz.core.job import Delivery, Job
from grizz.protocol.events import Event
from grizz.tasks import TaskOwner
from grizz.telemetry.metrics import Metrics
from grizz.transport.base import Cause, Depth, Transport
from grizz.transport.redis.archive import RedisArchive
from grizz.transport.redis.bus import Bus
from grizz.transport.redis.chores import Chores
from grizz.transport.redis.connection import Target
from grizz.transport.redis.dispatch import Limits
from grizz.transport.redis.keys import GROUP, Keys
from grizz.transport.redis.link import Link
from grizz.transport.redis.parts import transport_of
from grizz.transport.redis.record import Codec
from grizz.transport.sqlite.store import Store, open_store
from tests.redis_servers import RedisServer

LEASE_S = 0.2
MAX_WAIT_S = 0.6
KEYS = Keys("contract")
END = "response.completed"


class Recorder:
    """A home and a pool that only write down what they are told.

    Attributes:
        free: see `Workers.free`; more than any test leases, unless it says otherwise.
    """

    def __init__(self, free: int = 4) -> None:
        self.free = free
        self.delivered: list[tuple[str, int]] = []
        self.lost: list[tuple[str, int]] = []
        self.drained: list[tuple[str, int]] = []
        self.dead: list[str] = []
        self.late: list[str] = []
        self.ended: list[tuple[str, Cause]] = []
        self.adopted: list[str] = []
        self.deposals: list[str] = []
        self.forgotten: list[str] = []
        self.stops: list[tuple[Delivery, Cause]] = []
        self.abandoned: list[Delivery] = []

    @property
    def heard(self) -> dict[str, object]:
        """All that it was told."""
        return {name: said for name, said in vars(self).items() if name != "free" and said}

    def deliver(self, job_id: str, events: Sequence[Event]) -> None:
        self.delivered += [(job_id, event.seq) for event in events]

    def interrupted(self, delivery: Delivery, *, drained: bool = False) -> Job:
        (self.drained if drained else self.lost).append((delivery.job.id, delivery.attempt))
        output = (*delivery.job.output, {"left by": delivery.attempt})
        return dataclasses.replace(delivery.job, next_seq=delivery.job.next_seq + 10, output=output)

    def buried(self, delivery: Delivery) -> None:
        self.dead.append(delivery.job.id)

    def overdue(self, job: Job) -> None:
        self.late.append(job.id)

    def stopped(self, job_id: str, cause: Cause) -> None:
        self.ended.append((job_id, cause))

    def adopt(self, job: Job, attempt: int, log: Sequence[Event] | None) -> Job | None:
        self.adopted.append(job.id)
        return job

    def knows(self, job_id: str) -> bool:
        return True

    def log_of(self, job_id: str) -> Sequence[Event]:
        return ()

    def forget(self, job_id: str) -> None:
        self.forgotten.append(job_id)

    def deposed(self) -> None:
        self.deposals.append("deposed")

    def stop(self, delivery: Delivery, cause: Cause) -> None:
        self.stops.append((delivery, cause))

    def abandon(self, delivery: Delivery) -> None:
        self.abandoned.append(delivery)


class Node:
    """The parts of one node, put together as `grizz.scaled` does."""

    def __init__(self, server: RedisServer, tasks: TaskOwner, slots: int, max_jobs: int, lease_s: float) -> None:
        metrics = Metrics(version="test", mode="redis", models=[], upstreams=["test"])
        self.link = Link(Target(url=parse_redis_url(server.url), slot_key=KEYS.jobs), metrics.redis, tasks)
        self.bus = Bus(secrets.token_hex(4), KEYS, self.link, metrics.redis, interval_s=lambda: 0.02)
        self.chores = Chores(KEYS, self.link, lambda: self.bus.node)
        self.archive = RedisArchive(KEYS, self.link, self.chores, keep_s=60)
        limits = Limits(
            max_jobs=max_jobs,
            max_bytes=1000,
            local_slots=slots,
            lease_s=lease_s,
            max_attempts=2,
            max_wait_s=MAX_WAIT_S,
            job_s=10,
        )
        self.transport = transport_of(
            limits,
            keys=KEYS,
            link=self.link,
            bus=self.bus,
            chores=self.chores,
            codec=Codec(pack=lambda p: p, unpack=lambda p: p, may_keep=lambda p: True),
            metrics=metrics.redis,
            tasks=tasks,
            thrift=lambda: Thrift.NONE,
        )


class Elsewhere:
    """Two nodes as one transport: its home side is a node without slots, its workers' side another node."""

    def __init__(self, home: Node, worker: Node) -> None:
        self.home, self.worker = home, worker
        # Nobody works where the jobs are made, and no jobs are made where they run.
        self.no_workers, self.no_home = Recorder(free=0), Recorder()
        self.put, self.cancel, self.positions = home.transport.put, home.transport.cancel, home.transport.positions
        self.advance = home.transport.advance
        self.lease, self.renew, self.publish = worker.transport.lease, worker.transport.renew, worker.transport.publish
        self.ack, self.nack, self.release = worker.transport.ack, worker.transport.nack, worker.transport.release

    def connect(self, home: Recorder, workers: Recorder) -> None:
        self.home.transport.connect(home, self.no_workers)
        self.worker.transport.connect(self.no_home, workers)

    async def start(self) -> None:
        await self.home.transport.start()
        await self.worker.transport.start()

    async def close(self) -> None:
        await self.worker.transport.close()
        await self.home.transport.close()

    def depth(self) -> Depth:
        return self.home.transport.depth()


async def a_store(directory: Path, *, keep_s: float = 60.0, max_bytes: int = 64 << 20) -> Store:
    """A store on a file in that directory, which writes; the caller closes it."""
    metrics = Metrics(version="test", mode="memory", models=[], upstreams=["test"]).history
    codec = Codec(pack=lambda p: p, unpack=lambda p: p, may_keep=lambda p: True)
    path = directory / "state" / "grizz.db"
    store = await open_store(path, codec=codec, metrics=metrics, keep_s=keep_s, max_bytes=max_bytes)
    store.start()
    return store


def stored(server: RedisServer) -> dict[str, object]:
    """What stands in the Redis besides the empty stream and its group."""
    found: dict[str, object] = {key: "stored" for key in server.command("KEYS", "*") if key != KEYS.jobs}
    if entries := server.command("XLEN", KEYS.jobs):
        found["entries"] = entries
    if pending := server.command("XPENDING", KEYS.jobs, GROUP)[0]:
        found["pending"] = pending
    return found


def job(name: str, owner: str = "me", size: int = 1) -> Job:
    return Job(name, owner, {"ask": name}, size, asyncio.get_running_loop().time())


def event(seq: int, kind: str = "response.in_progress") -> Event:
    return Event(seq, kind, b'{"type":"%s","sequence_number":%d,"text":"\xc3\xa4"}' % (kind.encode(), seq))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.02)


async def leased(transport: Transport) -> Delivery:
    """A job, that must be there or come soon."""
    async with asyncio.timeout(5):
        return await transport.lease()


async def acknowledged(transport: Transport, told: Recorder) -> None:
    delivery = await leased(transport)
    transport.publish(delivery, [event(0, END)])
    await transport.ack(delivery)
