"""Random histories of the ledger, against the promises: nothing lost, nothing held twice, stale holders refused."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from grizz.core.fairness import FairQueue
from grizz.core.job import Delivery, IllegalMove, Job, State, move
from grizz.core.ledger import Ledger
from grizz.errors import LeaseLost, QueueFull


class Histories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        tokens = itertools.count()
        self.ledger = Ledger(max_jobs=5, max_bytes=100, lease_s=10, new_token=lambda: str(next(tokens)))
        self.now = 0.0
        self.ids = itertools.count()
        self.alive: set[str] = set()
        self.held: dict[str, Delivery] = {}
        self.offered: dict[str, Delivery] = {}
        self.waiting_bytes: dict[str, int] = {}
        self.attempts: dict[str, int] = {}
        self.stale: list[Delivery] = []

    @rule(owner=st.sampled_from("abc"), size=st.integers(1, 60))
    def put(self, owner: str, size: int) -> None:
        job = Job(str(next(self.ids)), owner, None, size, self.now)
        queued = self.ledger.queued
        full = queued >= 5 or (queued > 0 and sum(self.waiting_bytes.values()) + size > 100)
        try:
            self.ledger.put(job)
            self.alive.add(job.id)
            self.waiting_bytes[job.id] = size
            self.attempts[job.id] = 0
            assert not full
        except QueueFull:
            assert full
            assert self.ledger.queued == queued

    @rule()
    def lease(self) -> None:
        delivery = self.ledger.lease(self.now)
        self.check_next(delivery)
        if delivery is not None:
            self.held[delivery.job.id] = delivery
            del self.waiting_bytes[delivery.job.id]

    @rule(data=st.data(), seq=st.integers(0, 9))
    def advance(self, data: st.DataObject, seq: int) -> None:
        if not self.alive:
            return
        job_id = data.draw(st.sampled_from(sorted(self.alive)))
        waits = job_id in self.waiting_bytes and job_id not in self.offered
        assert self.ledger.advance(job_id, seq) == waits
        if waits:
            job = next(job for job, _ in self.ledger.jobs() if job.id == job_id)
            assert job.next_seq == seq

    @rule()
    def offer(self) -> None:
        delivery = self.ledger.offer()
        self.check_next(delivery)
        if delivery is not None:
            self.offered[delivery.job.id] = delivery

    def check_next(self, delivery: Delivery | None) -> None:
        assert (delivery is None) == (len(self.held) + len(self.offered) == len(self.alive))
        if delivery is not None:
            assert delivery.job.id in self.alive
            assert delivery.job.id not in self.held.keys() | self.offered.keys()
            assert delivery.attempt == self.attempts[delivery.job.id] + 1

    @precondition(lambda self: self.offered)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        delivery = self.offered.pop(data.draw(st.sampled_from(sorted(self.offered))))
        self.ledger.start(delivery, self.now)
        self.held[delivery.job.id] = delivery
        del self.waiting_bytes[delivery.job.id]

    @precondition(lambda self: self.offered)
    @rule(data=st.data())
    def settle_what_is_only_offered(self, data: st.DataObject) -> None:
        delivery = self.offered[data.draw(st.sampled_from(sorted(self.offered)))]
        for attempt in (self.ledger.ack, self.ledger.bury, self.ledger.check):
            with pytest.raises(LeaseLost):
                attempt(delivery)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def take_back(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.alive)))
        self.ledger.take_back(job_id)
        if job_id in self.offered:
            self.stale.append(self.offered.pop(job_id))

    @rule()
    def take_back_all(self) -> None:
        assert self.ledger.take_back_all() == list(self.offered)
        self.stale += self.offered.values()
        self.offered.clear()

    @rule(owner=st.sampled_from("abc"), size=st.integers(1, 60), attempt=st.integers(1, 3))
    def adopt(self, owner: str, size: int, attempt: int) -> None:
        job = Job(str(next(self.ids)), owner, None, size, self.now)
        delivery = self.held[job.id] = Delivery(job, attempt, f"elsewhere {job.id}")
        self.ledger.adopt(delivery, self.now)
        self.alive.add(job.id)
        self.attempts[job.id] = attempt - 1

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def adopt_what_is_here(self, data: st.DataObject) -> None:
        job = Job(data.draw(st.sampled_from(sorted(self.alive))), "a", None, 1, self.now)
        with pytest.raises(ValueError, match="is in the ledger already"):
            self.ledger.adopt(Delivery(job, 1, "other"), self.now)
        with pytest.raises(ValueError, match="is in the ledger already"):
            self.ledger.put(job)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), how=st.sampled_from(["ack", "nack", "release", "bury"]))
    def settle(self, data: st.DataObject, how: str) -> None:
        delivery = self.held.pop(data.draw(st.sampled_from(sorted(self.held))))
        if how == "nack":
            self.ledger.nack(delivery, delivery.job, self.now)
        elif how == "release":
            self.ledger.release(delivery, self.now)
        else:
            getattr(self.ledger, how)(delivery)
        if how in ("ack", "bury"):
            self.alive.discard(delivery.job.id)
        else:
            self.waiting_bytes[delivery.job.id] = delivery.job.size
            self.attempts[delivery.job.id] = delivery.attempt - (how == "release")
        self.stale.append(delivery)

    @precondition(lambda self: self.stale)
    @rule(data=st.data())
    def speak_again(self, data: st.DataObject) -> None:
        delivery = data.draw(st.sampled_from(self.stale))
        for attempt in (
            lambda: self.ledger.ack(delivery),
            lambda: self.ledger.start(delivery, self.now),
            lambda: self.ledger.check(delivery),
            lambda: self.ledger.renew(delivery, self.now),
            lambda: self.ledger.nack(delivery, delivery.job, self.now),
            lambda: self.ledger.release(delivery, self.now),
        ):
            with pytest.raises(LeaseLost):
                attempt()

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.alive)))
        job = self.ledger.withdraw(job_id)
        assert (job is None) == (job_id in self.held)
        if job is not None:
            self.alive.discard(job_id)
            del self.waiting_bytes[job_id]
            if job_id in self.offered:
                self.stale.append(self.offered.pop(job_id))

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for delivery in self.ledger.expired(self.now):
            assert self.held[delivery.job.id] == delivery

    @invariant()
    def everything_is_queued_or_held(self) -> None:
        assert self.ledger.leased == len(self.held)
        assert self.ledger.queued == len(self.alive) - len(self.held)

    @invariant()
    def everybody_is_told_the_same(self) -> None:
        assert self.ledger.offered == len(self.offered)
        assert self.ledger.waiting == self.ledger.queued - len(self.offered)
        assert {d.job.id: d for d in self.ledger.held()} == self.held
        assert {job.id for job, _ in self.ledger.jobs()} == self.alive
        for job_id in self.alive:
            assert self.ledger.holds(job_id)
            assert self.ledger.is_offered(job_id) == (job_id in self.offered)
            assert self.ledger.holder(job_id) == self.held.get(job_id)
            assert self.ledger.current(job_id) == (self.held | self.offered).get(job_id)

    @invariant()
    def what_waits_has_its_place_and_nothing_else_has(self) -> None:
        places = {job_id: self.ledger.positions().get(job_id) for job_id in self.alive}
        assert {job_id for job_id, place in places.items() if place is None} == self.held.keys()
        assert all(places[job_id] == 0 for job_id in self.offered)
        waiting = sorted(places[job_id] for job_id in self.alive - self.held.keys() - self.offered.keys())
        assert waiting == list(range(len(self.offered), self.ledger.queued))


Histories.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLedgerHistories = Histories.TestCase


def test_an_owner_with_a_thousand_jobs_delays_anothers_by_one() -> None:
    queue: FairQueue[str] = FairQueue()
    for n in range(1000):
        queue.push("greedy", str(n), f"greedy {n}")
    queue.push("modest", "x", "modest")
    assert [queue.pop(), queue.pop()] == ["greedy 0", "modest"]


def test_a_released_job_counts_no_attempt_and_a_lost_one_does() -> None:
    ledger = Ledger(max_jobs=5, max_bytes=100, lease_s=10, new_token=iter("abc").__next__)
    ledger.put(Job("1", "me", None, 1, 0.0))
    first = ledger.lease(0.0)
    assert first is not None
    ledger.release(first, 0.0)
    second = ledger.lease(0.0)
    assert second is not None
    assert (first.attempt, second.attempt) == (1, 1)
    ledger.nack(second, second.job, 0.0)
    third = ledger.lease(0.0)
    assert third is not None
    assert third.attempt == 2


MOVES = st.tuples(st.sampled_from(["push", "front", "pop", "remove"]), st.sampled_from("abc"), st.integers(0, 20))


@settings(deadline=None, max_examples=300)
@given(st.lists(MOVES, max_size=60))
def test_the_place_of_an_item_is_how_many_are_popped_before_it(moves: list[tuple[str, str, int]]) -> None:
    queue: FairQueue[tuple[str, str]] = FairQueue()
    queued: set[tuple[str, str]] = set()
    for number, (move_, owner, which) in enumerate(moves):
        if move_ == "pop":
            queued.discard(queue.pop() or ("", ""))
        elif move_ == "remove":
            if mine := sorted(one for one in queued if one[0] == owner):
                gone = mine[which % len(mine)]
                assert queue.remove(*gone) == gone
                queued.remove(gone)
        else:
            queue.push(owner, str(number), (owner, str(number)), front=move_ == "front")
            queued.add((owner, str(number)))
    order = list(queue.order())
    assert [key for _, key in iter(queue.pop, None)] == order
    assert set(order) == {key for _, key in queued}
    assert list(queue.order()) == []


@settings(deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=12), st.integers(0, 12), st.integers(0, 3))
def test_jobs_are_leased_in_the_order_of_their_places(owners: list[str], shown: int, again: int) -> None:
    ledger = Ledger(max_jobs=20, max_bytes=100, lease_s=10, new_token=map(str, itertools.count()).__next__)
    for number, owner in enumerate(owners):
        ledger.put(Job(str(number), owner, None, 1, 0.0))
    held = [delivery for _ in range(again) if (delivery := ledger.lease(0.0)) is not None]
    for delivery in held:
        assert ledger.positions().get(delivery.job.id) is None
        ledger.nack(delivery, delivery.job, 0.0)
    offered = [delivery.job.id for _ in range(shown) if (delivery := ledger.offer()) is not None]
    places = {str(number): ledger.positions().get(str(number)) for number in range(len(owners))}
    assert [places[job_id] for job_id in offered] == [0] * len(offered)
    order = [delivery.job.id for delivery in iter(lambda: ledger.lease(0.0), None)]
    assert [places[job_id] for job_id in order] == list(range(len(offered), len(owners)))
    assert ledger.positions().get("unknown") is None


@settings(deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=12), st.integers(0, 12))
def test_what_was_offered_and_taken_back_is_handed_out_in_the_order_as_if_it_never_was(owners: str, shown: int) -> None:
    orders = []
    for offers in (0, shown):
        ledger = Ledger(max_jobs=20, max_bytes=100, lease_s=10, new_token=map(str, itertools.count()).__next__)
        for number, owner in enumerate(owners):
            ledger.put(Job(str(number), owner, None, 1, 0.0))
        for _ in range(offers):
            ledger.offer()
        ledger.take_back_all()
        orders.append([(d.job.id, d.attempt) for d in iter(lambda ledger=ledger: ledger.lease(0.0), None)])
    assert orders[0] == orders[1]


def test_an_offered_job_still_waits_and_is_overdue_like_any_other() -> None:
    ledger = Ledger(max_jobs=5, max_bytes=100, lease_s=10, new_token=iter("abc").__next__)
    ledger.put(Job("1", "me", None, 1, 5.0))
    assert ledger.offer() is not None
    assert ledger.oldest_accepted_at() == 5.0
    assert [job.id for job in ledger.overdue(6.0)] == ["1"]
    assert ledger.overdue(5.0) == []


def test_the_lease_of_a_job_that_began_elsewhere_counts_from_its_start() -> None:
    ledger = Ledger(max_jobs=5, max_bytes=100, lease_s=10, new_token=iter("abc").__next__)
    ledger.put(Job("1", "me", None, 1, 0.0))
    shown = ledger.offer()
    assert shown is not None
    assert ledger.expired(1000.0) == []
    ledger.start(shown, 1000.0)
    ledger.adopt(Delivery(Job("2", "me", None, 1, 0.0), 2, "elsewhere"), 1001.0)
    assert ledger.expired(1010.5) == [shown]
    assert [delivery.job.id for delivery in ledger.expired(1012.0)] == ["1", "2"]


def test_a_move_that_the_table_does_not_hold_is_a_bug() -> None:
    assert move(State.QUEUED, "lease") is State.LEASED
    with pytest.raises(IllegalMove, match="queued cannot ack"):
        move(State.QUEUED, "ack")
