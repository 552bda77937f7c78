"""What only two nodes on a Redis promise, or a test can only do to them: whatever is lost on the way between them."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import pytest

from grizz.core.job import Delivery
from grizz.tasks import TaskOwner
from grizz.transport.base import Cause, Depth, Found
from tests.contract.cast import (
    END,
    KEYS,
    LEASE_S,
    Elsewhere,
    Node,
    Recorder,
    acknowledged,
    event,
    job,
    leased,
    stored,
    until,
)
from tests.redis_servers import RedisServer


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
                    elsewhere.home.archive.keep(delivery.job.id, "me", b"{}")
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


@pytest.mark.parametrize("heir", ["the worker itself", "another node"])
async def test_an_end_that_only_an_heir_could_hear_is_kept_where_it_was_said(
    redis_server: RedisServer, told: Recorder, tasks: TaskOwner, monkeypatch: pytest.MonkeyPatch, heir: str
) -> None:
    monkeypatch.setattr("grizz.transport.redis.errands._STORED_S", 0.2)
    home, worker, other = (Node(redis_server, tasks, slots, 100, 60) for slots in (0, 4, 0))
    pair = Elsewhere(home, worker)
    pair.connect(told, told)
    other.transport.connect(Recorder(), Recorder(free=0))
    await pair.start()
    await other.transport.start()
    try:
        await pair.put(job("a"))
        running = await leased(pair)
        gone = home.bus.node
        await home.link.close()  # as when it is killed: nobody listens there
        pair.publish(running, [event(0), event(1, END)])
        await pair.ack(running)
        await asyncio.sleep(0.5)
        assert worker.transport.errands.unheard
        # A takeover begins: its channel has a listener again, before anybody keeps what was said to it.
        await (worker if heir == "the worker itself" else other).transport.inheritance.add(gone)
        worker.bus.post(gone, {"k": "find", "id": "a"})
        await asyncio.sleep(0.1)
        worker.transport.keeper.keep_errands(gone)
        assert pair.no_home.adopted == ["a"]
    finally:
        await other.transport.close()
        await pair.close()
