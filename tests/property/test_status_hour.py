"""The ring of the last hour and its percentiles, for whatever is counted."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from grizz.telemetry.metrics import REDIS_COMMANDS
from grizz.telemetry.spread import EDGES, Spread, percentile
from grizz.telemetry.status import KEPT, LATENCIES, Hour, Reading

seconds = st.floats(0, 900, allow_nan=False)


def reading(at: float, *, total: int = 0, delays: Sequence[float] = (), **values: int) -> Reading:
    spread = Spread()
    for delay in delays:
        spread.observe(delay)
    gauges = {"connections": 0, "running": 0, "queued": 0, "breakers_open": 0} | values
    return Reading(
        at=at,
        oldest_s=0.0,
        degraded=False,
        tokens=total * 10,
        answers=total,
        errors=total,
        refused=total,
        spreads=dict.fromkeys(LATENCIES, tuple(spread.counts)),
        commands={"set": total},
        **gauges,
    )


@given(st.lists(seconds, min_size=1, max_size=200), st.floats(0.01, 1))
def test_a_percentile_lies_in_the_bucket_of_the_true_one(durations: list[float], share: float) -> None:
    spread = Spread()
    for duration in durations:
        spread.observe(duration)
    found = percentile(spread.counts, share)
    assert found is not None
    rank = max(0, -int(-share * len(durations) // 1) - 1)
    true = sorted(durations)[rank]
    low = max((edge for edge in (0.0, *EDGES) if edge < true), default=0.0)
    high = min(edge for edge in EDGES if edge >= true)
    assert low <= found <= high
    assert high <= max(1.25 * low, EDGES[0]) * (1 + 1e-9), "a bucket is no wider than a quarter of its edge"


@given(st.lists(seconds, max_size=50))
def test_percentiles_never_fall_with_their_share(durations: list[float]) -> None:
    spread = Spread()
    for duration in durations:
        spread.observe(duration)
    found = [percentile(spread.counts, share / 20) for share in range(1, 21)]
    assert found == [None] * 20 if not durations else found == sorted(found)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=KEPT + 60))
def test_the_ring_keeps_the_last_hour_and_sums_it(grown: list[int]) -> None:
    total, hour = 0, Hour(reading(0.0), commands=("set",))
    for number, more in enumerate(grown):
        total += more
        hour.add(reading(10.0 * (number + 1), total=total, connections=more))
    series = hour.series()
    assert series["columns"]["connections"] == grown[-KEPT:]
    assert series["columns"]["tokens_per_s"] == grown[-KEPT:]
    assert (series["first"], series["next"]) == (max(0, len(grown) - KEPT), len(grown))
    last = reading(10.0 * len(grown) + 3, total=total + 7)
    lately = hour.now(last)["answers"]
    assert lately == {"last_5m": sum(grown[-30:]) + 7, "last_hour": sum(grown[-KEPT:]) + 7}
    assert hour.commands(last) == {"set": sum(grown[-KEPT:]) + 7}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, KEPT + 50), st.integers(-5, KEPT + 100))
def test_only_what_came_after_a_sample_is_told(samples: int, after: int) -> None:
    hour = Hour(reading(0.0))
    for number in range(samples):
        hour.add(reading(10.0 * (number + 1), connections=number))
    told = hour.series(after)["columns"]["connections"]
    assert told == [number for number in range(max(0, samples - KEPT), samples) if number > after]


def test_percentiles_are_of_the_last_minute_and_none_when_nothing_came_in_it() -> None:
    hour = Hour(reading(0.0))
    hour.add(reading(10.0, delays=[0.1] * 10))
    now = hour.now(reading(12.0, delays=[0.1] * 10))["latency"]["queue"]
    assert now["count"] == 10
    assert 0.082 <= now["p50"] <= now["p95"] <= 0.1
    for number in range(2, 9):
        hour.add(reading(10.0 * number, delays=[0.1] * 10))
    assert hour.now(reading(82.0, delays=[0.1] * 10))["latency"]["queue"] == {"p50": None, "p95": None, "count": 0}
    column = hour.series()["columns"]["queue_p50"]
    assert [value == value for value in column] == [True] * 6 + [False] * 2  # NaN, which JSON tells as null


def test_an_hour_takes_less_than_a_mebibyte_however_long_it_is_kept() -> None:
    tracemalloc.start()
    try:
        hour = Hour(reading(0.0), commands=REDIS_COMMANDS)
        for number in range(3 * KEPT):
            hour.add(reading(10.0 * (number + 1), total=number, delays=[0.01 * number]))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1 << 20
    assert hour.bytes < 256 << 10
