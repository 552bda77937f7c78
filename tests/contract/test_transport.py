"""Every promise of the transport port, for every adapter alike.

Three of them: one process's memory; one node on a Redis, whose own slots run the jobs; and two nodes on a Redis, a
home without slots and a worker. What one process says at once, two say some milliseconds later: tests await it with
`comes`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses

import pytest

from grizz.errors import LeaseLost, QueueFull, TransportClosed
from grizz.transport.base import Cause, Depth, Found, Transport
from tests.contract.cast import (
    END,
    KEYS,
    LEASE_S,
    Recorder,
    acknowledged,
    event,
    job,
    leased,
    until,
)


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


async def test_a_job_that_waits_begins_where_its_home_says_and_one_that_runs_is_its_workers_alone(
    transport: Transport, told: Recorder, comes
) -> None:
    told.free = 0
    await transport.put(job("a"))
    await transport.put(job("b"))
    begins = 0
    for number in (3, 4):
        # What is shown to other processes begins where they were told, whatever its home would like to say.
        begins = number if transport.advance("a", number) else begins
        await asyncio.sleep(0.1)
    assert not transport.advance("none", 3)
    assert transport.depth().queued == 2
    told.free = 2
    first, second = await leased(transport), await leased(transport)
    both = {one.job.id: one for one in (first, second)}
    assert {name: (one.job.next_seq, one.attempt) for name, one in both.items()} == {"a": (begins, 1), "b": (0, 1)}
    await comes(lambda: transport.depth().queued == 0)
    assert not transport.advance("a", 9)
    transport.publish(both["a"], [event(begins), event(begins + 1, END)])
    await transport.ack(both["a"])
    await comes(lambda: told.delivered == [("a", begins), ("a", begins + 1)])
    assert not transport.advance("a", 9)


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
            await transport.renew(delivery)
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
    assert {name: transport.positions().get(name) for name in places} == places
    assert transport.positions().get("nobody's") is None
    running = await leased(transport)
    await comes(lambda: transport.positions().get(running.job.id) is None)
    if kind != "redis-elsewhere":  # there the worker has read all three by now
        assert await transport.cancel("b1", Cause.CANCELLED) is Found.QUEUED
        assert (transport.positions().get("b1"), transport.positions().get("a2")) == (None, 0)


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
