"""Every promise of the transport port, for every adapter alike."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence

import pytest

from grizz.core.job import Delivery, Job
from grizz.errors import LeaseLost, QueueFull, TransportClosed
from grizz.protocol.events import Event
from grizz.tasks import TaskOwner
from grizz.transport.base import Cause, Found, Transport
from grizz.transport.memory import MemoryTransport

LEASE_S = 0.2


class Recorder:
    """A home and a pool that only write down what they are told."""

    def __init__(self) -> None:
        self.delivered: list[tuple[str, int]] = []
        self.lost: list[tuple[str, int]] = []
        self.dead: list[str] = []
        self.late: list[str] = []
        self.stopped: list[tuple[str, Cause]] = []

    def deliver(self, job_id: str, events: Sequence[Event]) -> None:
        self.delivered += [(job_id, event.seq) for event in events]

    def interrupted(self, delivery: Delivery) -> Job:
        self.lost.append((delivery.job.id, delivery.attempt))
        return dataclasses.replace(delivery.job, next_seq=delivery.job.next_seq + 10)

    def buried(self, delivery: Delivery) -> None:
        self.dead.append(delivery.job.id)

    def overdue(self, job: Job) -> None:
        self.late.append(job.id)

    def stop(self, delivery: Delivery, cause: Cause) -> None:
        self.stopped.append((delivery.job.id, cause))


@pytest.fixture
def told() -> Recorder:
    return Recorder()


@pytest.fixture(params=["memory"])
async def transport(request: pytest.FixtureRequest, told: Recorder) -> AsyncIterator[Transport]:
    tasks = TaskOwner("contract")
    adapter = MemoryTransport(max_jobs=3, max_bytes=1000, lease_s=LEASE_S, max_attempts=2, max_wait_s=0.6, tasks=tasks)
    adapter.connect(told, told)
    await adapter.start()
    yield adapter
    await adapter.close()
    assert await tasks.close(within_s=1) == []


def job(name: str, owner: str = "me", size: int = 1) -> Job:
    return Job(name, owner, {"ask": name}, size, asyncio.get_running_loop().time())


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_waiting_worker_gets_the_job_that_is_put(transport: Transport) -> None:
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(transport.lease())
        await asyncio.sleep(0)
        await transport.put(job("a"))
    assert (waiting.result().job.payload, waiting.result().attempt) == ({"ask": "a"}, 1)


async def test_a_cancelled_lease_has_taken_nothing(transport: Transport) -> None:
    waiting = asyncio.create_task(transport.lease())
    await asyncio.sleep(0)
    await transport.put(job("a"))
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    if waiting.cancelled():
        assert (await transport.lease()).job.id == "a"


async def test_a_full_queue_takes_nothing_and_says_so(transport: Transport) -> None:
    for name in "abc":
        await transport.put(job(name))
    with pytest.raises(QueueFull):
        await transport.put(job("d"))
    assert transport.depth().queued == 3
    assert await transport.cancel("d", Cause.CANCELLED) is Found.UNKNOWN


async def test_events_come_home_in_order_while_the_delivery_is_current(transport: Transport, told: Recorder) -> None:
    await transport.put(job("a"))
    delivery = await transport.lease()
    transport.publish(delivery, [Event(0, "x", b"{}"), Event(1, "y", b"{}")])
    await transport.ack(delivery)
    assert told.delivered == [("a", 0), ("a", 1)]
    with pytest.raises(LeaseLost):
        transport.publish(delivery, [Event(2, "z", b"{}")])
    assert told.delivered == [("a", 0), ("a", 1)]


async def test_a_stale_holder_can_neither_renew_nor_settle(transport: Transport) -> None:
    await transport.put(job("a"))
    stale = await transport.lease()
    await transport.nack(stale)
    current = await transport.lease()
    assert (current.job.id, current.attempt) == ("a", 2)
    for refused in (transport.renew, transport.ack, transport.nack, transport.release):
        with pytest.raises(LeaseLost):
            await refused(stale)
    await transport.ack(current)


async def test_a_renewed_lease_holds_and_a_silent_one_passes_to_the_next_attempt(
    transport: Transport, told: Recorder
) -> None:
    await transport.put(job("a"))
    first = await transport.lease()
    for _ in range(5):
        await asyncio.sleep(LEASE_S / 2)
        await transport.renew(first)
    assert told.lost == []
    second = await transport.lease()
    assert told.lost == [("a", 1)]
    assert (second.attempt, second.job.next_seq) == (2, 10)


async def test_the_last_lost_attempt_buries_the_job(transport: Transport, told: Recorder) -> None:
    await transport.put(job("a"))
    for _ in range(2):
        await transport.lease()
    await until(lambda: told.dead == ["a"])
    assert transport.depth().leased == 0


async def test_a_released_job_comes_back_as_if_never_delivered(transport: Transport, told: Recorder) -> None:
    await transport.put(job("a"))
    await transport.release(await transport.lease())
    assert (await transport.lease()).attempt == 1
    assert told.lost == []


async def test_a_cancel_withdraws_a_queued_job_stops_a_running_one_and_knows_no_other(
    transport: Transport, told: Recorder
) -> None:
    await transport.put(job("a"))
    running = await transport.lease()
    await transport.put(job("b"))
    assert await transport.cancel("b", Cause.CANCELLED) is Found.QUEUED
    assert await transport.cancel("a", Cause.ABANDONED) is Found.RUNNING
    assert told.stopped == [("a", Cause.ABANDONED)]
    await transport.ack(running)
    assert await transport.cancel("a", Cause.CANCELLED) is Found.UNKNOWN


async def test_a_job_that_waits_too_long_is_withdrawn_and_its_home_told(transport: Transport, told: Recorder) -> None:
    await transport.put(job("a"))
    await until(lambda: told.late == ["a"])
    assert transport.depth().queued == 0


async def test_owners_take_turns(transport: Transport) -> None:
    for name in ("a1", "a2"):
        await transport.put(job(name, "a"))
    await transport.put(job("b1", "b"))
    assert [(await transport.lease()).job.id for _ in range(3)] == ["a1", "b1", "a2"]


async def test_closing_wakes_those_who_wait_and_takes_nothing_new(transport: Transport) -> None:
    waiting = asyncio.create_task(transport.lease())
    await asyncio.sleep(0)
    await transport.close()
    with pytest.raises(TransportClosed):
        await waiting
    with pytest.raises(TransportClosed):
        await transport.put(job("a"))
