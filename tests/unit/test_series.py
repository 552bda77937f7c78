"""How many series there are, whatever the settings name, and what is folded into `other`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest

from grizz.telemetry import series
from grizz.telemetry.continuity import missing_after
from grizz.telemetry.metrics import Metrics


def names(count: int, kind: str) -> list[str]:
    return [f"{kind}-{number}" for number in range(count)]


def made(models: Sequence[str], upstreams: Sequence[str]) -> Metrics:
    metrics = Metrics(version="1", mode="redis", models=models, upstreams=upstreams)
    for name in upstreams:  # as the fleet does
        metrics.upstream_open.labels(metrics.upstream(name)).set(0)
        metrics.upstream_pause.labels(metrics.upstream(name)).set(0)
    return metrics


def count(metrics: Metrics) -> int:
    return sum(not line.startswith("#") for line in generate_latest(metrics.registry).decode().splitlines())


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


@pytest.mark.parametrize("models", [0, 1, 2, 3, 4, 5, 40])
@pytest.mark.parametrize("upstreams", [1, 2, 3, 4, 5, 40])
def test_there_are_never_more_series_than_there_is_room_for(models: int, upstreams: int) -> None:
    assert count(made(names(models, "model"), names(upstreams, "server"))) <= series.ROOM


def test_what_a_model_and_an_upstream_are_said_to_cost_is_what_they_cost() -> None:
    bare = count(made([], []))
    assert bare == series.BESIDE_THEM + series.OF_A_MODEL  # that of `other`
    assert count(made([], ["server"])) - bare == series.OF_AN_UPSTREAM
    assert count(made(["model"], [])) - bare == series.OF_A_MODEL


def test_four_models_at_two_upstreams_have_series_of_their_own() -> None:
    metrics = made(names(4, "model"), names(2, "server"))
    assert [metrics.model(name) for name in names(4, "model")] == names(4, "model")
    assert [metrics.upstream(name) for name in names(2, "server")] == names(2, "server")
    assert metrics.model("made-up") == "other"


@given(st.lists(st.text(max_size=5), max_size=20), st.lists(st.text(min_size=1, max_size=5), unique=True, max_size=12))
def test_the_first_names_are_kept_and_fit(models: list[str], upstreams: list[str]) -> None:
    own = series.own_names(models, upstreams)
    assert own.upstreams == tuple(upstreams[: len(own.upstreams)])
    distinct = [name for name in dict.fromkeys(models) if name != "other"]
    assert own.models == tuple(distinct[: len(own.models)])
    assert bool(own.models) == bool(distinct)
    labels = len(own.upstreams) + (len(own.upstreams) < len(upstreams))
    needed = series.BESIDE_THEM + (len(own.models) + 1) * series.OF_A_MODEL + labels * series.OF_AN_UPSTREAM
    assert needed <= series.ROOM


def test_the_breakers_of_folded_upstreams_show_each_state_that_one_is_in() -> None:
    metrics = made(["model"], names(6, "server"))
    assert value(metrics, "grizz_breaker_state", upstream="other", state="closed") == 1
    metrics.breaker("server-4", "open")
    assert value(metrics, "grizz_breaker_state", upstream="other", state="open") == 1
    assert value(metrics, "grizz_breaker_state", upstream="other", state="closed") == 1
    assert value(metrics, "grizz_breaker_state", upstream="server-0", state="open") == 0
    metrics.breaker("server-4", "closed")
    assert value(metrics, "grizz_breaker_state", upstream="other", state="open") == 0
    assert value(metrics, "grizz_breaker_transitions_total", upstream="other", to="open") == 1


def test_a_code_that_a_client_makes_up_is_other() -> None:
    metrics = made([], [])
    before = count(metrics)
    for code in (1000, 1001, 3000, 4999, 1006, 1013):
        for by in ("server", "client", "network"):
            metrics.closed(by, code)
    assert count(metrics) == before
    assert value(metrics, "grizz_connection_closes_total", by="client", code="other") == 4


def test_commands_per_reply_are_those_of_all_answers_that_ended() -> None:
    metrics = made(["model"], ["server"])
    for _ in range(9):
        metrics.redis.sent("hset")
    asyncio.run(metrics.render(""))
    assert value(metrics, "grizz_redis_commands_per_reply") == 9  # none has ended
    for _ in range(3):
        metrics.finished.labels("model", "ok").inc()
    asyncio.run(metrics.render(""))
    assert value(metrics, "grizz_redis_commands_per_reply") == 3


@pytest.mark.parametrize(
    ("position", "first", "missing"),
    [(-1, 0, 0), (4, 5, 0), (4, 7, 2), (-1, 3, 3), (57, 1_000_000, 0), (57, 1_000_001, 999_943)],
)
def test_a_reader_misses_what_lies_between_unless_the_answer_began_anew(
    position: int, first: int, missing: int
) -> None:
    assert missing_after(position, first) == missing
