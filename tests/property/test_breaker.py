"""Random histories of the breaker, against its promises: one probe at a time, waits that grow and are forgotten."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from grizz.core.breaker import Breaker, Circuit

FIRST_S, LONGEST_S, SETTLE_S = 1.0, 30.0, 60.0


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
