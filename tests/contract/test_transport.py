"""Every promise of the transport port, for every adapter alike.

Three of them: one process's memory; one node on a Redis, whose own slots run the jobs; and two nodes on a Redis, a
home without slots and a worker. What one process says at once, two say some milliseconds later: tests await it with
`comes`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from grizz.config.redis_url import parse_redis_url
from grizz.core.budget import Thrift
from grizz.core.job import Delivery, Job
from grizz.errors import LeaseLost, QueueFull, TransportClosed
from grizz.protocol.events import Event
from grizz.tasks import TaskOwner
from grizz.telemetry.metrics import Metrics
from grizz.transport.base import Cause, Depth, Found, Transport
from grizz.transport.memory import MemoryTransport
from grizz.transport.redis.archive import RedisArchive
from grizz.transport.redis.bus import Bus
from grizz.transport.redis.chores import Chores
from grizz.transport.redis.connection import Target
from grizz.transport.redis.keys import GROUP, Keys
from grizz.transport.redis.link import Link
from grizz.transport.redis.record import Codec
from grizz.transport.redis.transport import RedisTransport
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
        self.transport = RedisTransport(
            keys=KEYS,
            link=self.link,
            bus=self.bus,
            chores=self.chores,
            codec=Codec(pack=lambda p: p, unpack=lambda p: p, may_keep=lambda p: True),
            metrics=metrics,
            tasks=tasks,
            max_jobs=max_jobs,
            max_bytes=1000,
            local_slots=slots,
            lease_s=lease_s,
            max_attempts=2,
            max_wait_s=MAX_WAIT_S,
            job_s=10,
            thrift=lambda: Thrift.NONE,
        )


class Elsewhere:
    """Two nodes as one transport: its home side is a node without slots, its workers' side another node."""

    def __init__(self, home: Node, worker: Node) -> None:
        self.home, self.worker = home, worker
        # Nobody works where the jobs are made, and no jobs are made where they run.
        self.no_workers, self.no_home = Recorder(free=0), Recorder()
        self.put, self.cancel, self.position = home.transport.put, home.transport.cancel, home.transport.position
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


@pytest.fixture
def told() -> Recorder:
    return Recorder()


@pytest.fixture(params=["memory", "redis", "redis-elsewhere"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def tasks() -> AsyncIterator[TaskOwner]:
    owner = TaskOwner("contract")
    yield owner
    assert await owner.close(within_s=1) == []


@pytest.fixture
async def transport(
    request: pytest.FixtureRequest, kind: str, told: Recorder, tasks: TaskOwner
) -> AsyncIterator[Transport]:
    if kind == "memory":
        adapter: Any = MemoryTransport(
            max_jobs=3, max_bytes=1000, lease_s=LEASE_S, max_attempts=2, max_wait_s=MAX_WAIT_S, tasks=tasks
        )
    elif kind == "redis":
        adapter = Node(request.getfixturevalue("redis_server"), tasks, 4, 3, LEASE_S).transport
    else:
        server = request.getfixturevalue("redis_server")
        adapter = Elsewhere(Node(server, tasks, 0, 3, LEASE_S), Node(server, tasks, 4, 3, LEASE_S))
    adapter.connect(told, told)
    await adapter.start()
    yield adapter
    await adapter.close()
    if kind == "redis-elsewhere":
        assert adapter.no_workers.heard == adapter.no_home.heard == {}


@pytest.fixture
async def elsewhere(redis_server: RedisServer, told: Recorder, tasks: TaskOwner) -> AsyncIterator[Elsewhere]:
    """The two nodes, for what only they promise, or a test can only do to them; with room for many jobs."""
    pair = Elsewhere(Node(redis_server, tasks, 0, 100, LEASE_S), Node(redis_server, tasks, 4, 100, LEASE_S))
    pair.connect(told, told)
    await pair.start()
    yield pair
    await pair.close()


@pytest.fixture
def comes(kind: str) -> Callable[[Callable[[], object]], Awaitable[None]]:
    """What is so at once in one process is so soon between two."""

    async def check(condition: Callable[[], object]) -> None:
        if kind == "redis-elsewhere":
            await until(condition)
        assert condition()

    return check


@pytest.fixture
def left(request: pytest.FixtureRequest, kind: str, transport: Transport) -> Callable[[], dict[str, object]]:
    """What there still is of any job, wherever."""

    def look() -> dict[str, object]:
        depth = transport.depth()
        here = {"queued": depth.queued, "leased": depth.leased}
        found: dict[str, object] = {name: number for name, number in here.items() if number}
        return found if kind == "memory" else found | stored(request.getfixturevalue("redis_server"))

    return look


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


async def test_a_waiting_worker_gets_the_job_that_is_put(transport: Transport) -> None:
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(transport.lease())
        await asyncio.sleep(0)
        await transport.put(job("a"))
    assert (waiting.result().job.payload, waiting.result().attempt) == ({"ask": "a"}, 1)


async def test_a_job_arrives_as_it_was_put(transport: Transport) -> None:
    put = dataclasses.replace(job("ä", "some\nbody", 7), next_seq=3, output=({"type": "message"},))
    await transport.put(put)
    got = (await leased(transport)).job
    assert abs(got.accepted_at - put.accepted_at) < 0.1  # each node has its own clock
    assert dataclasses.replace(got, accepted_at=put.accepted_at) == put


async def test_a_cancelled_lease_has_taken_nothing(transport: Transport) -> None:
    waiting = asyncio.create_task(transport.lease())
    await asyncio.sleep(0)
    await transport.put(job("a"))
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    if waiting.cancelled():
        assert (await leased(transport)).job.id == "a"


async def test_a_job_waits_until_somebody_can_run_it(transport: Transport, told: Recorder) -> None:
    told.free = 0
    waiting = job("a")
    await transport.put(waiting)
    await asyncio.sleep(LEASE_S * 1.5)
    assert transport.depth() == Depth(1, 0, waiting.accepted_at)
    told.free = 1
    delivery = await leased(transport)
    assert (delivery.job.id, delivery.attempt) == ("a", 1)
    assert told.heard == {}


async def test_a_full_queue_takes_nothing_and_says_so(transport: Transport) -> None:
    for name in "abc":
        await transport.put(job(name))
    with pytest.raises(QueueFull):
        await transport.put(job("d"))
    assert transport.depth().queued == 3
    assert await transport.cancel("d", Cause.CANCELLED) is Found.UNKNOWN


async def test_events_come_home_in_order_while_the_delivery_is_current(
    transport: Transport, told: Recorder, comes
) -> None:
    await transport.put(job("a"))
    delivery = await leased(transport)
    transport.publish(delivery, [event(0), event(1, END)])
    await transport.ack(delivery)
    await comes(lambda: told.delivered == [("a", 0), ("a", 1)])
    with pytest.raises(LeaseLost):
        transport.publish(delivery, [event(2)])
    assert told.delivered == [("a", 0), ("a", 1)]


async def test_many_events_of_several_jobs_keep_their_order(transport: Transport, told: Recorder, comes) -> None:
    for name in "abc":
        await transport.put(job(name))
    deliveries = [await leased(transport) for _ in "abc"]
    for seq in range(0, 60, 3):
        for delivery in deliveries:
            transport.publish(delivery, [event(seq + index) for index in range(3)])
        await asyncio.sleep(0.005)
    for delivery in deliveries:
        transport.publish(delivery, [event(60, END)])
        await transport.ack(delivery)
    await comes(lambda: len(told.delivered) == 3 * 61)
    for name in "abc":
        assert [seq for id, seq in told.delivered if id == name] == list(range(61))


async def test_events_of_an_attempt_that_is_not_current_never_come_home(
    transport: Transport, told: Recorder, comes
) -> None:
    await transport.put(job("a"))
    silent = await leased(transport)
    current = await leased(transport)
    # A worker elsewhere may learn a little later that it was replaced: until then it speaks in vain.
    with contextlib.suppress(LeaseLost):
        transport.publish(silent, [event(0), event(1, END)])
    transport.publish(current, [event(10), event(11, END)])
    await transport.ack(current)
    await comes(lambda: told.delivered == [("a", 10), ("a", 11)])
    await asyncio.sleep(0.1)
    assert told.delivered == [("a", 10), ("a", 11)]
    for refused in (transport.renew, transport.ack, transport.nack, transport.release):
        with pytest.raises(LeaseLost):
            await refused(silent)


async def test_a_stale_holder_can_neither_renew_nor_settle(transport: Transport) -> None:
    await transport.put(job("a"))
    stale = await leased(transport)
    await transport.nack(stale)
    current = await leased(transport)
    assert (current.job.id, current.attempt) == ("a", 2)
    for refused in (transport.renew, transport.ack, transport.nack, transport.release):
        with pytest.raises(LeaseLost):
            await refused(stale)
    await transport.ack(current)


async def test_a_renewed_lease_holds_and_a_silent_one_passes_to_the_next_attempt(
    transport: Transport, told: Recorder
) -> None:
    await transport.put(job("a"))
    first = await leased(transport)
    for _ in range(5):
        await asyncio.sleep(LEASE_S / 2)
        await transport.renew(first)
    assert told.lost == []
    second = await leased(transport)
    assert told.lost == [("a", 1)]
    assert (second.attempt, second.job.next_seq, second.job.output) == (2, 10, ({"left by": 1},))


async def test_the_last_lost_attempt_buries_the_job(transport: Transport, told: Recorder) -> None:
    await transport.put(job("a"))
    for _ in range(2):
        await leased(transport)
    await until(lambda: told.dead == ["a"])
    assert transport.depth().leased == 0


async def test_a_released_job_comes_back_as_if_never_delivered(transport: Transport, told: Recorder) -> None:
    await transport.put(job("a"))
    await transport.release(await leased(transport))
    assert (await leased(transport)).attempt == 1
    assert told.lost == []


async def test_a_released_attempt_keeps_its_number(transport: Transport, told: Recorder) -> None:
    await transport.put(job("a"))
    await transport.nack(await leased(transport))
    for _ in range(3):  # more often than there are attempts
        second = await leased(transport)
        assert (second.attempt, second.job.next_seq) == (2, 10)
        await transport.release(second)
    assert told.heard == {"lost": [("a", 1)]}


async def test_a_cancel_withdraws_a_queued_job_stops_a_running_one_and_knows_no_other(
    transport: Transport, told: Recorder, comes
) -> None:
    await transport.put(job("a"))
    running = await leased(transport)
    # A worker elsewhere says that it has begun. See the next test for a cancel before that.
    await comes(lambda: transport.depth().leased == 1)
    await transport.put(job("b"))
    assert await transport.cancel("b", Cause.CANCELLED) is Found.QUEUED
    assert await transport.cancel("a", Cause.ABANDONED) is Found.RUNNING
    await comes(lambda: told.stops == [(running, Cause.ABANDONED)])
    transport.publish(running, [event(0, END)])
    await transport.ack(running)
    await comes(lambda: told.delivered == [("a", 0)])
    assert await transport.cancel("a", Cause.CANCELLED) is Found.UNKNOWN


async def test_a_cancel_right_after_a_lease_leaves_one_to_end_the_response(
    transport: Transport, kind: str, told: Recorder, comes
) -> None:
    await transport.put(job("a"))
    running = await leased(transport)
    found = await transport.cancel("a", Cause.CANCELLED)
    if kind != "redis-elsewhere":
        assert (found, told.heard) == (Found.RUNNING, {"stops": [(running, Cause.CANCELLED)]})
        return
    # Its home has not heard yet that a worker has begun: it ends the response itself, and the worker shall be silent.
    assert found is Found.QUEUED
    with contextlib.suppress(LeaseLost):
        transport.publish(running, [event(0), event(1, END)])
    await comes(lambda: told.heard == {"abandoned": [running]})
    with pytest.raises(LeaseLost):
        await transport.ack(running)
    assert told.delivered == []


@pytest.mark.parametrize("cause", Cause)
async def test_a_running_job_is_stopped_with_the_cause(
    transport: Transport, told: Recorder, comes, cause: Cause
) -> None:
    await transport.put(job("a"))
    running = await leased(transport)
    await comes(lambda: transport.depth().leased == 1)
    assert await transport.cancel("a", cause) is Found.RUNNING
    await comes(lambda: told.heard == {"stops": [(running, cause)]})


async def test_a_job_that_waits_too_long_is_withdrawn_and_its_home_told(transport: Transport, told: Recorder) -> None:
    await transport.put(job("a"))
    await until(lambda: told.late == ["a"])
    assert transport.depth().queued == 0


async def test_owners_take_turns(transport: Transport, kind: str) -> None:
    for name in ("a1", "a2"):
        await transport.put(job(name, "a"))
    await transport.put(job("b1", "b"))
    # Workers elsewhere are shown each job as it comes, up to a window of 32: turns are taken behind it (see below).
    order = ["a1", "a2", "b1"] if kind == "redis-elsewhere" else ["a1", "b1", "a2"]
    assert [(await leased(transport)).job.id for _ in range(3)] == order


async def test_a_job_that_waits_knows_how_many_are_handed_out_before_it(transport: Transport, kind: str, comes) -> None:
    for name in ("a1", "a2"):
        await transport.put(job(name, "a"))
    await transport.put(job("b1", "b"))
    # What is shown to workers elsewhere may be begun next, each of it.
    places = {"a1": 0, "a2": 0, "b1": 0} if kind == "redis-elsewhere" else {"a1": 0, "b1": 1, "a2": 2}
    assert {name: transport.position(name) for name in places} == places
    assert transport.position("nobody's") is None
    running = await leased(transport)
    await comes(lambda: transport.position(running.job.id) is None)
    if kind != "redis-elsewhere":  # there the worker has read all three by now
        assert await transport.cancel("b1", Cause.CANCELLED) is Found.QUEUED
        assert (transport.position("b1"), transport.position("a2")) == (None, 0)


async def test_closing_wakes_those_who_wait_and_takes_nothing_new(transport: Transport) -> None:
    waiting = asyncio.create_task(transport.lease())
    await asyncio.sleep(0)
    await transport.close()
    with pytest.raises(TransportClosed):
        await waiting
    with pytest.raises(TransportClosed):
        await transport.put(job("a"))


async def test_a_free_slot_takes_the_next_job_when_the_one_before_it_is_withdrawn(
    transport: Transport, kind: str, told: Recorder
) -> None:
    told.free = 0
    await transport.put(job("a"))  # a node on a Redis offers it, having no slot
    told.free = 1
    await transport.put(job("b"))
    waiting = asyncio.create_task(leased(transport))
    if kind != "memory":
        await asyncio.sleep(0)  # it is about to read what was offered
    assert await transport.cancel("a", Cause.CANCELLED) is Found.QUEUED
    if kind != "redis-elsewhere":
        assert (await waiting).job.id == "b"
        return
    # Between two nodes the entry may have been read before it was removed; the worker is then told to be silent.
    got = [await waiting]
    if got[0].job.id == "a":
        await until(lambda: told.abandoned == got)
        got.append(await leased(transport))
    assert got[-1].job.id == "b"


async def acknowledged(transport: Transport, told: Recorder) -> None:
    delivery = await leased(transport)
    transport.publish(delivery, [event(0, END)])
    await transport.ack(delivery)


async def tried_twice(transport: Transport, told: Recorder) -> None:
    await transport.nack(await leased(transport))
    delivery = await leased(transport)
    transport.publish(delivery, [event(10, END)])
    await transport.ack(delivery)


async def tried_again_while_no_slot_is_free(transport: Transport, told: Recorder) -> None:
    first = await leased(transport)
    told.free = 0  # a run counts until it has settled: its slot is not free yet
    await transport.nack(first)
    told.free = 4
    await tried_last(transport)


async def released_while_no_slot_is_free(transport: Transport, told: Recorder) -> None:
    first = await leased(transport)
    told.free = 0
    await transport.release(first)
    told.free = 4
    await acknowledged(transport, told)


async def released_and_withdrawn(transport: Transport, told: Recorder) -> None:
    await transport.release(await leased(transport))
    await until(lambda: transport.depth().queued == 1)
    assert await transport.cancel("a", Cause.CANCELLED) is Found.QUEUED


async def silent_and_overtaken(transport: Transport, told: Recorder) -> None:
    await leased(transport)
    await tried_last(transport)


async def tried_last(transport: Transport) -> None:
    delivery = await leased(transport)
    assert delivery.attempt == 2
    transport.publish(delivery, [event(10, END)])
    await transport.ack(delivery)


async def withdrawn_at_once(transport: Transport, told: Recorder) -> None:
    assert await transport.cancel("a", Cause.CANCELLED) is Found.QUEUED


async def overdue(transport: Transport, told: Recorder) -> None:
    await until(lambda: told.late == ["a"])


ENDS = [
    acknowledged,
    tried_twice,
    tried_again_while_no_slot_is_free,
    released_while_no_slot_is_free,
    released_and_withdrawn,
    silent_and_overtaken,
    withdrawn_at_once,
    overdue,
]


@pytest.mark.parametrize("free", [4, 0], ids=["a slot is free", "none is free at first"])
@pytest.mark.parametrize("end", ENDS, ids=[end.__name__ for end in ENDS])
async def test_nothing_is_left_of_a_job_that_is_over(transport: Transport, told: Recorder, left, end, free) -> None:
    told.free = free
    await transport.put(job("a"))
    told.free = 4
    await end(transport, told)
    await until(lambda: left() == {})
    await asyncio.sleep(0.15)  # whatever is collected for later was sent by now
    assert left() == {}


async def test_of_a_buried_job_a_dead_letter_is_left(transport: Transport, kind: str, told: Recorder, left) -> None:
    await transport.put(job("a"))
    for _ in range(2):
        await transport.nack(await leased(transport))
    await until(lambda: told.dead == ["a"])
    remains = {} if kind == "memory" else {KEYS.dead: "stored"}
    await until(lambda: left() == remains)


# Between two nodes


async def test_owners_take_turns_behind_the_window(redis_server: RedisServer, told: Recorder, tasks: TaskOwner) -> None:
    pair = Elsewhere(Node(redis_server, tasks, 1, 9, LEASE_S), Node(redis_server, tasks, 4, 9, LEASE_S))
    pair.connect(told, told)
    await pair.start()
    try:
        for name in ("a0", "a1", "a2", "b1"):  # one is shown at a time: as many as the home has slots
            await pair.put(job(name, name[0]))
        assert [(await leased(pair)).job.id for _ in range(4)] == ["a0", "a1", "b1", "a2"]
    finally:
        await pair.close()


async def test_a_free_slot_takes_the_next_job_when_the_one_before_it_is_begun_elsewhere(
    redis_server: RedisServer, told: Recorder, tasks: TaskOwner
) -> None:
    home, worker = Node(redis_server, tasks, 1, 9, 60), Node(redis_server, tasks, 1, 9, 60)
    slot, busy = Recorder(free=0), Recorder(free=1)
    home.transport.connect(told, slot)
    worker.transport.connect(told, busy)
    await home.transport.start()
    await worker.transport.start()
    try:
        await home.transport.put(job("a"))  # offered: no slot is free here
        assert (await leased(worker.transport)).job.id == "a"
        slot.free = 1
        waiting = asyncio.create_task(leased(home.transport))
        await home.transport.put(job("b"))  # the slot here shall take it
        assert (await waiting).job.id == "b"
    finally:
        await home.transport.close()
        await worker.transport.close()


async def test_a_worker_that_is_asked_says_that_it_lives_when_it_has_nothing_new_to_say(
    redis_server: RedisServer, told: Recorder, tasks: TaskOwner
) -> None:
    # The worker would speak only every five seconds by itself, as if its words had been lost.
    pair = Elsewhere(Node(redis_server, tasks, 0, 9, LEASE_S), Node(redis_server, tasks, 4, 9, 60))
    pair.connect(told, told)
    await pair.start()
    try:
        await pair.put(job("a"))
        running = await leased(pair)
        pair.publish(running, [event(0)])
        await asyncio.sleep(LEASE_S * 5)
        assert told.heard == {"delivered": [("a", 0)]}
    finally:
        await pair.close()


async def test_events_lost_on_the_way_are_sent_again(elsewhere: Elsewhere, told: Recorder) -> None:
    receive, swallowed = elsewhere.home.bus.receive, []

    def lossy(payload: bytes) -> None:
        if len(swallowed) < 2 and b'"k":"events"' in payload:
            swallowed.append(payload)
        else:
            receive(payload)

    elsewhere.home.bus.receive = lossy
    await elsewhere.put(job("a"))
    running = await leased(elsewhere)
    for seq in range(10):
        elsewhere.publish(running, [event(seq)])
        await asyncio.sleep(0.03)
        await elsewhere.renew(running)
    elsewhere.publish(running, [event(10, END)])
    await elsewhere.ack(running)
    await until(lambda: told.delivered == [("a", seq) for seq in range(11)])
    assert len(swallowed) == 2


async def test_a_lost_end_is_sent_again(elsewhere: Elsewhere, told: Recorder) -> None:
    receive, swallowed = elsewhere.home.bus.receive, []

    def lossy(payload: bytes) -> None:
        if not swallowed and END.encode() in payload:
            swallowed.append(payload)
        else:
            receive(payload)

    elsewhere.home.bus.receive = lossy
    await elsewhere.put(job("a"))
    running = await leased(elsewhere)
    await until(lambda: elsewhere.depth().leased == 1)
    elsewhere.publish(running, [event(0), event(1, END)])
    await elsewhere.ack(running)
    await until(lambda: told.delivered)
    assert told.heard == {"delivered": [("a", 0), ("a", 1)]}
    assert swallowed


async def test_a_job_of_which_nothing_was_heard_is_run_again(elsewhere: Elsewhere, told: Recorder) -> None:
    receive = elsewhere.home.bus.receive
    elsewhere.home.bus.receive = lambda payload: None
    await elsewhere.put(job("a"))
    unheard = await leased(elsewhere)
    elsewhere.publish(unheard, [event(0, END)])
    await elsewhere.ack(unheard)
    again = await leased(elsewhere)
    elsewhere.home.bus.receive = receive
    elsewhere.publish(again, [event(0), event(1, END)])
    await elsewhere.ack(again)
    await until(lambda: told.delivered)
    assert told.heard == {"delivered": [("a", 0), ("a", 1)]}


async def test_a_drained_attempt_is_none_though_what_it_said_stands(elsewhere: Elsewhere, told: Recorder) -> None:
    await elsewhere.put(job("a"))
    leaving = await leased(elsewhere)
    elsewhere.publish(leaving, [event(0)])
    await until(lambda: told.delivered)
    await elsewhere.release(leaving)
    again = await leased(elsewhere)
    assert (again.attempt, again.job.next_seq, again.job.output) == (1, 10, ({"left by": 1},))
    assert told.heard == {"delivered": [("a", 0)], "drained": [("a", 1)]}


async def test_a_node_that_leaves_finishes_what_it_has_and_takes_nothing_more(
    elsewhere: Elsewhere, redis_server: RedisServer, told: Recorder
) -> None:
    await elsewhere.put(job("a"))
    running = await leased(elsewhere)
    leaving = asyncio.create_task(elsewhere.worker.transport.leave())
    waiting = asyncio.create_task(elsewhere.lease())
    await asyncio.sleep(0)
    redis_server.reset()
    await elsewhere.put(job("b"))
    await asyncio.sleep(LEASE_S / 2)
    await elsewhere.renew(running)
    await asyncio.sleep(LEASE_S / 2)
    assert not leaving.done()
    elsewhere.publish(running, [event(0, END)])
    await elsewhere.ack(running)
    await leaving
    await until(lambda: told.delivered == [("a", 0)])
    assert not waiting.done()
    assert elsewhere.depth().queued == 1
    assert redis_server.calls()["xadd"] <= 2  # it may have been asked for already, but is not offered in circles
    waiting.cancel()


async def test_what_a_stranger_says_of_a_job_is_dropped_and_he_is_told(elsewhere: Elsewhere, told: Recorder) -> None:
    await elsewhere.put(job("a"))
    running = await leased(elsewhere)
    answers = []
    elsewhere.worker.bus.on("stop", lambda sender, part, lines: answers.append(part))
    for part in ({"k": "events", "s": 0}, {"k": "lost"}, {"k": "back"}, {"k": "started"}):
        lines = [event(0, END).data] if part["k"] == "events" else []
        elsewhere.worker.bus.post(elsewhere.home.bus.node, {**part, "id": "a", "t": "stale"}, lines)
    elsewhere.publish(running, [event(0, END)])
    await until(lambda: told.delivered)
    assert told.heard == {"delivered": [("a", 0)]}
    assert answers == [{"k": "stop", "id": "a", "t": "stale"}] * 2


async def test_a_stopped_job_whose_worker_falls_silent_ends_with_its_cause(
    elsewhere: Elsewhere, told: Recorder
) -> None:
    await elsewhere.put(job("a"))
    running = await leased(elsewhere)
    await until(lambda: elsewhere.depth().leased == 1)
    assert await elsewhere.cancel("a", Cause.DELETED) is Found.RUNNING
    await until(lambda: told.ended == [("a", Cause.DELETED)])
    await until(lambda: told.abandoned)
    assert told.heard == {
        "stops": [(running, Cause.DELETED)],
        "ended": [("a", Cause.DELETED)],
        "abandoned": [running],
    }


async def test_an_entry_whose_removal_was_lost_with_the_link_is_removed_later(
    elsewhere: Elsewhere, redis_server: RedisServer, told: Recorder
) -> None:
    send, link = elsewhere.worker.link.send, elsewhere.worker.link

    def lossy(*command: Any, then: Callable[[Any], None] | None = None) -> bool:
        if command[0] not in ("XACK", "XDEL", "XDELEX"):
            return send(*command, then=then)
        link.fail(ConnectionError("the test breaks it"))
        return True

    link.send = lossy
    await elsewhere.put(job("a"))
    await acknowledged(elsewhere, told)
    await until(lambda: not link.is_up)
    link.send = send
    await until(lambda: link.is_up)
    await until(lambda: stored(redis_server) == {})
    assert told.heard == {"delivered": [("a", 0)]}


async def test_thirty_jobs_leave_nothing_but_their_history(
    elsewhere: Elsewhere, redis_server: RedisServer, told: Recorder
) -> None:
    bucket = f"{elsewhere.home.bus.node}0123"
    names = [f"resp_{bucket}{number:02}" for number in range(30)]
    cancelled = set(names[::10])
    released: set[str] = set()

    def said(delivery: Delivery) -> bool:
        return (delivery.job.id, delivery.job.next_seq) in told.delivered

    def stopped(delivery: Delivery) -> bool:
        return (delivery, Cause.CANCELLED) in told.stops

    async def work() -> None:
        while True:
            delivery = await elsewhere.lease()
            number, first = int(delivery.job.id[-2:]), delivery.job.next_seq
            told.free -= 1
            try:
                if delivery.attempt == 1 and number % 5 == 1:
                    await elsewhere.nack(delivery)
                elif number % 5 == 2 and delivery.job.id not in released:
                    released.add(delivery.job.id)
                    await elsewhere.release(delivery)
                elif delivery.attempt == 1 and number % 10 == 3:
                    elsewhere.publish(delivery, [event(first)])  # and not another word
                elif delivery.job.id in cancelled:
                    elsewhere.publish(delivery, [event(first)])
                    await until(functools.partial(said, delivery))
                    assert await elsewhere.cancel(delivery.job.id, Cause.CANCELLED) is Found.RUNNING
                    await until(functools.partial(stopped, delivery))
                    elsewhere.publish(delivery, [event(first + 1, END)])
                    await elsewhere.ack(delivery)
                else:
                    elsewhere.publish(delivery, [event(first)])
                    await asyncio.sleep(0.01)
                    elsewhere.publish(delivery, [event(first + 1, END)])
                    await elsewhere.ack(delivery)
                    elsewhere.home.archive.keep(delivery.job.id, b"{}")
            finally:
                told.free += 1

    workers = [asyncio.create_task(work()) for _ in range(4)]
    for name in names:
        await elsewhere.put(job(name, f"owner{name[-1]}"))
    for name in names[-3:]:
        assert await elsewhere.cancel(name, Cause.CANCELLED) is Found.QUEUED
    await until(lambda: elsewhere.depth() == Depth(0, 0, None))
    for worker in workers:
        worker.cancel()
    ends = await asyncio.gather(*workers, return_exceptions=True)
    assert [type(end) for end in ends] == [asyncio.CancelledError] * 4, ends
    assert len(told.stops) == len(cancelled)

    def besides_history() -> dict[str, object]:
        kept = (KEYS.history(bucket), KEYS.turn(""))
        return {key: what for key, what in stored(redis_server).items() if not key.startswith(kept)}

    await until(lambda: besides_history() == {})
    await asyncio.sleep(0.15)
    assert besides_history() == {}
    assert await elsewhere.home.archive.fetch(names) == {name: b"{}" for name in names[:-3] if name not in cancelled}
    assert (told.dead, told.late) == ([], [])
    assert {name for name, _ in told.lost} == {name for name in names[:-3] if int(name[-2:]) % 10 in (1, 3, 6)}
