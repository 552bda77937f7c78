"""Random histories of the breaker, against its promises: one probe at a time, waits that grow and are forgotten."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from grizz.core.breaker import Breaker, Circuit

FIRST_S, LONGEST_S, SETTLE_S, WINDOW_S = 1.0, 30.0, 60.0, 60.0


def breaker(threshold: int = 1, jitter: float = 1.0) -> Breaker:
    return Breaker(threshold=threshold, first_s=FIRST_S, longest_s=LONGEST_S, settle_s=SETTLE_S, jitter=lambda: jitter)


class Histories(RuleBasedStateMachine):
    """A caller that tries nothing it was not allowed to."""

    def __init__(self) -> None:
        super().__init__()
        self.jitter = 0.0
        self.breaker = Breaker(
            threshold=2, first_s=FIRST_S, longest_s=LONGEST_S, settle_s=SETTLE_S, jitter=lambda: self.jitter
        )
        self.now = 1000.0
        self.probing = False
        self.in_a_row = 0
        self.doublings = 0
        self.open_until: float | None = None
        self.closed_since = 0.0

    @rule(seconds=st.floats(0, 90))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def ask(self) -> None:
        allowed = self.breaker.allows(self.now)
        if self.open_until is None:
            assert allowed
        else:
            assert allowed == (not self.probing and self.now >= self.open_until)
            self.probing = self.probing or allowed

    def may_end(self) -> bool:
        return self.open_until is None or self.probing

    @precondition(may_end)
    @rule()
    def succeed(self) -> None:
        self.breaker.succeeded(self.now)
        if self.open_until is not None:
            self.closed_since = self.now
        self.open_until, self.probing, self.in_a_row = None, False, 0

    @precondition(may_end)
    @rule(jitter=st.floats(0, 1))
    def fail(self, jitter: float) -> None:
        self.jitter = jitter
        self.breaker.failed(self.now)
        self.in_a_row += 1
        if not self.probing and self.in_a_row < 2:
            return
        if not self.probing and self.now - self.closed_since >= SETTLE_S:
            self.doublings = 0
        span = min(LONGEST_S, FIRST_S * 2**self.doublings)
        self.doublings += 1
        wait_s = self.breaker.wait_s(self.now)
        assert wait_s == pytest.approx(span * (0.5 + 0.5 * jitter))
        assert FIRST_S / 2 <= wait_s + 1e-9 <= LONGEST_S + 1e-6
        self.open_until, self.probing = self.now + wait_s, False

    @precondition(lambda self: self.probing)
    @rule()
    def forgive(self) -> None:
        self.breaker.forgave()
        self.probing = False

    @invariant()
    def it_is_what_it_says(self) -> None:
        expected = Circuit.CLOSED if self.open_until is None else Circuit.OPEN
        assert self.breaker.state is (Circuit.HALF_OPEN if self.probing else expected)
        if self.breaker.state is not Circuit.OPEN:
            assert self.breaker.wait_s(self.now) == 0


class Crowds(RuleBasedStateMachine):
    """Many who try at the same time, and whose results come in any order, each with the era it was allowed in."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(
            threshold=3, first_s=FIRST_S, longest_s=LONGEST_S, settle_s=SETTLE_S, window_s=WINDOW_S, jitter=lambda: 0.5
        )
        self.now = 1000.0
        self.trying: list[int] = []
        self.probe: int | None = None  # the era of the probe under way
        self.failures: list[float] = []

    def state(self) -> tuple[object, ...]:
        return self.breaker.state, self.breaker.era, self.breaker.failures, self.breaker.wait_s(self.now)

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def ask(self) -> None:
        before = self.breaker.state
        if not self.breaker.allows(self.now):
            assert before is not Circuit.CLOSED
            return
        if before is not Circuit.CLOSED:
            assert self.probe is None, "a second probe beside the first"
            self.probe = self.breaker.era
        self.trying.append(self.breaker.era)

    @precondition(lambda self: self.trying)
    @rule(which=st.integers(0), how=st.sampled_from(["answered", "succeeded", "forgave", "failed"]))
    def result(self, which: int, how: str) -> None:
        era = self.trying[which % len(self.trying)]
        before, is_probe = self.state(), era == self.probe
        if how == "answered":  # it goes on, and may fail yet
            self.breaker.answered(self.now, era)
        else:
            self.trying.remove(era)
            self.breaker.forgave(era) if how == "forgave" else getattr(self.breaker, how)(self.now, era)
        if era != before[1]:
            assert self.state() == before, "a result of an older era says nothing"
        elif is_probe:
            self.probe = None
            expected = Circuit.CLOSED if how in ("answered", "succeeded") else Circuit.OPEN
            assert self.breaker.state is expected
            assert (how == "failed") == (self.breaker.era > era)
            self.failures = []
        elif how == "succeeded":
            self.failures = []
        elif how == "failed":
            self.failures = [at for at in self.failures if self.now - at <= WINDOW_S] + [self.now]
            assert (self.breaker.state is Circuit.OPEN) == (len(self.failures) >= 3)

    @invariant()
    def a_probe_is_under_way_exactly_while_half_open(self) -> None:
        assert (self.breaker.state is Circuit.HALF_OPEN) == (self.probe is not None)


Crowds.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
TestBreakerCrowds = Crowds.TestCase
Histories.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestBreakerHistories = Histories.TestCase


@settings(deadline=None)
@given(st.integers(1, 10))
def test_it_opens_at_the_threshold_and_not_before(threshold: int) -> None:
    made = breaker(threshold)
    for _ in range(threshold - 1):
        made.failed(0.0)
    assert made.allows(0.0)
    made.failed(0.0)
    assert made.state is Circuit.OPEN
    assert not made.allows(0.0)


def test_a_success_between_failures_starts_the_count_anew() -> None:
    made = breaker(threshold=2)
    for _ in range(5):
        made.failed(0.0)
        made.succeeded(0.0)
    assert made.state is Circuit.CLOSED


def test_of_many_that_ask_at_once_one_alone_probes() -> None:
    made = breaker()
    made.failed(100.0)
    assert [made.allows(101.0) for _ in range(5)] == [True, False, False, False, False]


def test_a_failed_probe_waits_twice_as_long_up_to_the_longest_wait() -> None:
    made, now, waits = breaker(), 100.0, []
    for _ in range(8):
        made.failed(now)
        waits.append(made.wait_s(now))
        now += waits[-1]
        assert made.allows(now)
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]


@settings(deadline=None)
@given(st.floats(0, 1))
def test_jitter_shortens_a_wait_by_half_at_most(jitter: float) -> None:
    made = breaker(jitter=jitter)
    made.failed(100.0)
    assert 0.5 <= made.wait_s(100.0) <= 1.0


@pytest.mark.parametrize(("closed_s", "next_wait_s"), [(0.0, 16.0), (59.0, 16.0), (60.0, 1.0)])
def test_one_that_flaps_keeps_its_long_waits_until_it_was_closed_for_long_enough(
    closed_s: float, next_wait_s: float
) -> None:
    made, now = breaker(), 100.0
    for _ in range(4):
        made.failed(now)
        now += made.wait_s(now)
        assert made.allows(now)
    made.succeeded(now)
    made.succeeded(now + closed_s / 2)  # further successes do not begin the time anew
    made.failed(now + closed_s)
    assert made.wait_s(now + closed_s) == pytest.approx(next_wait_s)


def test_a_forgiven_probe_is_tried_again_at_once_and_costs_no_wait() -> None:
    made = breaker()
    made.failed(100.0)
    assert made.allows(101.0)
    made.forgave()
    assert made.wait_s(101.0) == 0
    assert made.allows(101.0)
    made.failed(101.0)
    assert made.wait_s(101.0) == 2


def test_forgiving_means_nothing_when_no_probe_is_under_way() -> None:
    made = breaker()
    made.forgave()
    assert made.state is Circuit.CLOSED
    made.failed(100.0)
    made.forgave()
    assert not made.allows(100.5)


def test_what_was_allowed_before_it_opened_neither_opens_it_again_nor_closes_it() -> None:
    made = breaker(threshold=2)
    assert all(made.allows(100.0) for _ in range(5))
    era = made.era
    for _ in range(5):
        made.failed(100.0, era)
    assert made.wait_s(100.0) == 1  # one opening, so the shortest wait
    made.succeeded(100.0, era)
    assert made.state is Circuit.OPEN
    assert made.allows(101.0)
    made.forgave(era)
    assert not made.allows(101.0), "the probe is still under way"


def test_failures_count_only_within_the_window() -> None:
    made = Breaker(
        threshold=3, first_s=FIRST_S, longest_s=LONGEST_S, settle_s=SETTLE_S, window_s=WINDOW_S, jitter=lambda: 1.0
    )
    for at in (0.0, 61.0, 122.0, 183.0, 184.0):
        made.failed(at)
        assert made.state is Circuit.CLOSED
    made.failed(185.0)
    assert made.state is Circuit.OPEN


def test_an_answer_that_only_begins_ends_a_probe_but_not_the_row_of_failures() -> None:
    made = breaker(threshold=2)
    made.failed(100.0)
    made.answered(100.0)
    made.failed(100.0)
    assert made.state is Circuit.OPEN
    assert made.allows(101.0)
    made.answered(101.0)
    assert made.state is Circuit.CLOSED


def test_it_may_fail_for_days() -> None:
    made, now = breaker(), 100.0
    for _ in range(3000):
        made.failed(now)
        now += made.wait_s(now)
        assert made.allows(now)
    assert now > 24 * 3600
