"""What is wrong, in words: one check for each tile of the status page. Pure, from the same figures that it shows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["good", "warn", "bad"]

# A job that waits longer makes a reader wonder, or leave.
_OLD_S, _TOO_OLD_S = 10.0, 60.0
# The tick is 100 ms: beyond these, streams are seen to stutter, or to stand.
_LATE_S, _TOO_LATE_S = 0.1, 1.0
# Fewer ticks, ten seconds of them, say little: a start is busy.
_TICKS = 100
# Parts of answers that failed, and of what there is room for.
_MANY_FAILED = 0.1
_NEARLY_FULL = 0.8


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        what: the tile it is about.
        text: what is wrong; empty when nothing is.
    """

    what: str
    level: Level
    text: str = ""


@dataclass(slots=True)
class Facts:
    """What the checks look at; see docs/operations.md for the fields."""

    now: Mapping[str, Any]
    slots: int
    max_jobs: int
    upstreams: Sequence[Mapping[str, Any]] = field(default_factory=list)
    redis: Mapping[str, Any] | None = None
    draining: bool = False


def checks(facts: Facts) -> list[Check]:
    """One for each tile, the worst first; good ones have no text."""
    found = [*_process(facts), *_queue(facts), *_errors(facts), *_lag(facts), *_upstreams(facts), *_redis(facts)]
    return worst_first(found)


def worst_first(found: Iterable[Check]) -> list[Check]:
    """In the order in which they are told."""
    return sorted(found, key=lambda check: ("bad", "warn", "good").index(check.level))


def nodes_check(rows: Sequence[Mapping[str, Any]]) -> Check:
    """Whether all nodes of the table answer, and none is degraded but this one, the first, which says so itself."""
    if silent := [str(row["node"]) for row in rows if row["state"] == "silent"]:
        return Check("nodes", "warn", f"{len(silent)} of {len(rows)} processes do not answer: {_names(silent)}")
    if degraded := [str(row["node"]) for row in rows[1:] if row.get("degraded")]:
        return Check("nodes", "warn", f"degraded is also {_names(degraded)}")
    return Check("nodes", "good")


def _process(facts: Facts) -> Iterator[Check]:
    if facts.draining:
        yield Check("process", "warn", "this process is draining: it finishes its answers and takes no new work")
    elif not facts.slots and facts.redis is None:
        yield Check("process", "bad", "this process runs no jobs (workers.concurrency = 0)")
    else:
        yield Check("process", "good")


def _queue(facts: Facts) -> Iterator[Check]:
    queued, oldest_s = facts.now["queued"], facts.now["oldest_s"]
    if queued and oldest_s > _TOO_OLD_S:
        yield Check("queue", "bad", f"the oldest of {_jobs(queued)} waits for {oldest_s:.0f} s")
    elif queued and oldest_s > _OLD_S:
        yield Check("queue", "warn", f"the oldest of {_jobs(queued)} waits for {oldest_s:.0f} s")
    elif queued > _NEARLY_FULL * facts.max_jobs:
        yield Check("queue", "warn", f"the queue is nearly full: {queued} of {facts.max_jobs}")
    else:
        yield Check("queue", "good")


def _errors(facts: Facts) -> Iterator[Check]:
    errors, answers = facts.now["errors"]["last_5m"], facts.now["answers"]["last_5m"]
    refused = facts.now["refused"]["last_5m"]
    if errors:
        many = errors > _MANY_FAILED * max(answers, 1)
        yield Check("errors", "bad" if many else "warn", f"{_errors_of(errors)} in 5 minutes, beside {answers} answers")
    elif refused:
        yield Check(
            "errors", "warn", f"{refused} requests were refused in 5 minutes, for want of room or beyond a limit"
        )
    else:
        yield Check("errors", "good")


def _lag(facts: Facts) -> Iterator[Check]:
    lag = facts.now["latency"]["lag"]
    p95, longest = lag["p95"] or 0.0, lag["max"] or 0.0
    if lag["count"] < _TICKS:
        yield Check("lag", "good")
    elif p95 > _LATE_S:
        yield Check("lag", "bad", f"the event loop is late by {p95 * 1000:.0f} ms and more: too much work for one core")
    elif longest > _TOO_LATE_S:
        yield Check("lag", "warn", f"the event loop stood still for {longest:.1f} s within the last minute")
    else:
        yield Check("lag", "good")


def _upstreams(facts: Facts) -> Iterator[Check]:
    away = [one["name"] for one in facts.upstreams if one["state"] != "closed"]
    paused = [one["name"] for one in facts.upstreams if one["paused_s"] > 0 and one["name"] not in away]
    if away:
        level: Level = "bad" if len(away) == len(facts.upstreams) else "warn"
        yield Check("upstreams", level, f"the breaker of {_names(away)} is open: it is asked for nothing but probes")
    elif paused:
        yield Check("upstreams", "warn", f"{_names(paused)} asked to be left alone for a while")
    else:
        yield Check("upstreams", "good")


def _redis(facts: Facts) -> Iterator[Check]:
    redis = facts.redis
    if redis is None:
        return
    if redis["trouble"]:
        alone = "works alone" if facts.slots else "cannot answer"
        yield Check("redis", "warn" if facts.slots else "bad", f"redis: {redis['trouble']}; this process {alone}")
    elif redis["thrift"]:
        level: Level = "bad" if redis["thrift"] > 2 else "warn"
        yield Check("redis", level, f"the month's commands come to {redis['share']:.0%} of the budget; less is sent")
    else:
        yield Check("redis", "good")


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"


def _errors_of(count: int) -> str:
    return "1 error" if count == 1 else f"{count} errors"
