"""The words at the top of the status page."""

from __future__ import annotations

from typing import Any

import pytest

from grizz.telemetry.health import Facts, checks, nodes_check


def facts(**more: Any) -> Facts:
    lag = {"p50": 0.001, "p95": 0.002, "max": 0.003, "count": 600}
    now: dict[str, Any] = {"queued": 0, "oldest_s": 0.0, "latency": {"lag": lag}}
    now |= {name: {"last_5m": 0, "last_hour": 0} for name in ("errors", "answers", "refused")}
    lag |= more.pop("lag", {})
    found = Facts(now=now, slots=4, max_jobs=100, upstreams=[upstream("main")])
    for name, value in more.items():
        if hasattr(found, name):
            setattr(found, name, value)
        else:
            now[name] = {"last_5m": value, "last_hour": value} if isinstance(now[name], dict) else value
    return found


def upstream(name: str, state: str = "closed", paused_s: float = 0) -> dict[str, Any]:
    return {"name": name, "state": state, "paused_s": paused_s}


def redis(**more: Any) -> dict[str, Any]:
    return {"trouble": "", "thrift": 0, "share": None, **more}


@pytest.mark.parametrize(
    ("more", "level", "text"),
    [
        ({}, "good", ""),
        ({"queued": 3, "oldest_s": 9.0}, "good", ""),
        ({"queued": 3, "oldest_s": 11.0}, "warn", "the oldest of 3 jobs waits for 11 s"),
        ({"queued": 1, "oldest_s": 61.0}, "bad", "the oldest of 1 job waits for 61 s"),
        ({"queued": 90}, "warn", "nearly full"),
        ({"errors": 1, "answers": 100}, "warn", "1 error in 5 minutes"),
        ({"errors": 20, "answers": 100}, "bad", "20 errors in 5 minutes"),
        ({"refused": 2}, "warn", "2 requests were refused"),
        ({"lag": {"p95": 0.2}}, "bad", "late by 200 ms"),
        ({"lag": {"p95": 0.2, "count": 20}}, "good", ""),
        ({"lag": {"max": 2.0}}, "warn", "stood still for 2.0 s"),
        ({"draining": True}, "warn", "draining"),
        ({"slots": 0}, "bad", "runs no jobs"),
        ({"slots": 0, "redis": redis()}, "good", ""),
        ({"upstreams": [upstream("a", "open"), upstream("b")]}, "warn", "the breaker of a is open"),
        ({"upstreams": [upstream("a", "open"), upstream("b", "half_open")]}, "bad", "the breaker of a, b is open"),
        ({"upstreams": [upstream("a", paused_s=4)]}, "warn", "a asked to be left alone"),
        ({"redis": redis(trouble="down")}, "warn", "redis: down; this process works alone"),
        ({"redis": redis(trouble="down"), "slots": 0}, "bad", "cannot answer"),
        ({"redis": redis(thrift=1, share=0.85)}, "warn", "85% of the budget"),
        ({"redis": redis(thrift=3, share=1.2)}, "bad", "120% of the budget"),
    ],
)
def test_the_worst_comes_first_in_words(more: dict[str, Any], level: str, text: str) -> None:
    first = checks(facts(**more))[0]
    assert (first.level, bool(first.text)) == (level, bool(text))
    assert text in first.text


def test_a_silent_or_degraded_node_is_named() -> None:
    well = {"node": "a", "state": "answers", "degraded": ""}
    assert nodes_check([well, {**well, "node": "b"}]).level == "good"
    assert "1 of 2 processes do not answer: b" in nodes_check([well, {"node": "b", "state": "silent"}]).text
    assert "degraded is also b" in nodes_check([well, {**well, "node": "b", "degraded": "redis: down"}]).text
