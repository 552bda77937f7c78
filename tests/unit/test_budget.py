from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grizz.core.budget import MONTH_H, Budget, Thrift

HOUR = 3600.0


def burning(monthly: int, commands_an_hour: int, processes: int = 1) -> Budget:
    """A budget whose process sent so much within the hour that ends at `HOUR`."""
    budget = Budget(monthly)
    budget.processes = processes
    budget.spent(commands_an_hour, HOUR)
    return budget


def test_the_burn_is_that_of_the_last_hour_and_no_other():
    budget = Budget(0)
    for minute in range(0, 180, 10):
        budget.spent(5, minute * 60.0)
    assert budget.used == 90
    assert budget.per_hour(179 * 60.0) == 30
    assert budget.per_hour(230 * 60.0) == 0
    assert budget.used == 90


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 300), st.integers(1, 5)), max_size=60))
def test_what_is_older_than_an_hour_is_never_in_the_burn_and_what_is_younger_than_59_minutes_always(sends):
    budget, now, log = Budget(0), 0.0, []
    for pause_s, commands in sends:
        now += pause_s
        budget.spent(commands, now)
        log.append((now, commands))
    least = sum(commands for at, commands in log if now - at < HOUR - 60)
    most = sum(commands for at, commands in log if now - at <= HOUR)
    assert least <= budget.per_hour(now) <= most
    assert budget.used == budget.unreported == sum(commands for _, commands in log)


def test_a_quiet_hour_ends_the_saving_that_a_busy_one_began():
    budget = burning(100_000, 1000)
    assert budget.thrift(HOUR, 100.0) is Thrift.LOCAL
    assert budget.thrift(3 * HOUR, 98.0) is Thrift.NONE


def test_the_projection_is_what_was_used_and_the_burn_of_every_process_until_the_month_ends():
    budget = burning(1_000_000, 100, processes=3)
    budget.told(5000, 100)
    assert budget.projected(HOUR, 10.0) == 5000 + 100 * 3 * 10


def test_at_the_end_of_the_month_nothing_more_is_projected():
    assert burning(1000, 500).projected(HOUR, 0.0) == 500


@pytest.mark.parametrize(
    ("share", "thrift"),
    [
        (0.0, Thrift.NONE),
        (0.80, Thrift.NONE),
        (0.81, Thrift.SLOW),
        (0.90, Thrift.SLOW),
        (0.91, Thrift.SLOWER),
        (0.95, Thrift.SLOWER),
        (0.96, Thrift.LOCAL),
        (5.0, Thrift.LOCAL),
    ],
)
def test_it_saves_in_steps_as_the_projection_comes_near_the_budget(share, thrift):
    budget = burning(100_000, 1000)
    assert budget.thrift(HOUR, (share * 100_000 - 1000) / 1000 if share else 0.0) is thrift


def test_a_budget_that_is_almost_gone_keeps_everything_local_even_when_nothing_is_sent_any_more():
    budget = Budget(1000)
    budget.told(950, 0)
    assert budget.per_hour(10 * HOUR) == 0
    assert budget.thrift(10 * HOUR, 1.0) is Thrift.LOCAL


@settings(deadline=None)
@given(st.integers(0, 10**12), st.integers(1, 1000), st.floats(0, MONTH_H))
def test_without_a_budget_nothing_is_ever_saved(commands, processes, left_h):
    budget = burning(0, commands, processes)
    assert budget.thrift(HOUR, left_h) is Thrift.NONE


@settings(deadline=None)
@given(st.floats(0, 1e6), st.floats(0, 120))
def test_a_process_that_just_started_does_not_take_its_first_commands_for_an_hours_pace(start, later_s):
    budget = Budget(500_000)
    budget.spent(60, start)
    now = start + later_s
    assert budget.projected(now, MONTH_H) == 60 + 60 * MONTH_H
    assert budget.thrift(now, MONTH_H) is Thrift.NONE


def test_a_process_that_sent_nothing_projects_nothing():
    budget = Budget(10)
    assert (budget.used, budget.projected(HOUR, MONTH_H), budget.thrift(HOUR, MONTH_H)) == (0, 0, Thrift.NONE)


def test_the_shared_tally_replaces_what_was_reported_and_keeps_what_was_sent_meanwhile():
    budget = Budget(1000)
    budget.spent(10, 0.0)
    reported = budget.unreported
    budget.spent(3, 1.0)  # while the report was on its way
    budget.told(200 + reported, reported)
    assert (budget.used, budget.unreported) == (213, 3)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 50), st.booleans()), max_size=40))
def test_processes_that_report_to_one_tally_count_each_command_once(steps):
    tally, budgets = 0, [Budget(1000) for _ in range(3)]
    for who, commands, reports in steps:
        budgets[who].spent(commands, 0.0)
        if reports:
            reported = budgets[who].unreported
            tally += reported
            budgets[who].told(tally, reported)
    for budget in budgets:
        reported = budget.unreported
        tally += reported
        budget.told(tally, reported)
    assert tally == sum(commands for _, commands, _ in steps)
    assert budgets[-1].used == tally
    assert all(budget.used <= tally and budget.unreported == 0 for budget in budgets)
