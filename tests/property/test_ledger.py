"""Random histories of the ledger, against the promises: nothing lost, nothing held twice, stale holders refused."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import settings
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
        self.stale: list[Delivery] = []

    @rule(owner=st.sampled_from("abc"), size=st.integers(1, 60))
    def put(self, owner: str, size: int) -> None:
        job = Job(str(next(self.ids)), owner, None, size, self.now)
        queued = self.ledger.queued
        try:
            self.ledger.put(job)
            self.alive.add(job.id)
        except QueueFull:
            assert queued > 0
            assert self.ledger.queued == queued

    @rule()
    def lease(self) -> None:
        delivery = self.ledger.lease(self.now)
        assert (delivery is None) == (len(self.held) == len(self.alive))
        if delivery is not None:
            assert delivery.job.id in self.alive
            assert delivery.job.id not in self.held
            self.held[delivery.job.id] = delivery

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
        self.stale.append(delivery)

    @precondition(lambda self: self.stale)
    @rule(data=st.data())
    def speak_again(self, data: st.DataObject) -> None:
        delivery = data.draw(st.sampled_from(self.stale))
        for attempt in (
            lambda: self.ledger.ack(delivery),
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

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for delivery in self.ledger.expired(self.now):
            assert self.held[delivery.job.id] == delivery

    @invariant()
    def everything_is_queued_or_held(self) -> None:
        assert self.ledger.leased == len(self.held)
        assert self.ledger.queued == len(self.alive) - len(self.held)


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


def test_a_move_that_the_table_does_not_hold_is_a_bug() -> None:
    assert move(State.QUEUED, "lease") is State.LEASED
    with pytest.raises(IllegalMove, match="queued cannot ack"):
        move(State.QUEUED, "ack")
