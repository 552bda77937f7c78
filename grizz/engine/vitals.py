"""How this process is: read off what it counts anyway, for the status page and for other nodes that ask.

Every ten seconds a reading goes into the hour of `telemetry.status`; between two, only who looks costs anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from grizz import __version__
from grizz.core.breaker import Circuit
from grizz.engine.engine import Engine
from grizz.engine.fleet import Fleet
from grizz.engine.worker import Pool
from grizz.telemetry.gaps import GAP_EDGES
from grizz.telemetry.health import Facts, checks
from grizz.telemetry.metrics import REDIS_COMMANDS, Metrics, total
from grizz.telemetry.status import SAMPLE_S, Hour, Reading, rounded
from grizz.transport.base import Depth

# What is too large or wrong in itself says nothing about this process.
_REFUSED = ("queue_full", "rate_limited", "draining")
_FAILED = ("error", "timeout", "dead")
# Upstreams that are listed; those beyond are counted.
_MOST_UPSTREAMS = 100


class Vitals:
    """The vital signs of one process. Its calls belong to the event loop.

    Args:
        depth: what waits.
        max_jobs: how much may wait.
        redis: what is known of the Redis and its budget; None in a process alone.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        pool: Pool,
        fleet: Fleet,
        metrics: Metrics,
        depth: Callable[[], Depth],
        max_jobs: int,
        redis: Callable[[], dict[str, Any]] | None,
    ) -> None:
        self._engine = engine
        self._pool = pool
        self._fleet = fleet
        self._metrics = metrics
        self._depth = depth
        self._max_jobs = max_jobs
        self._redis = redis
        commands = REDIS_COMMANDS if redis is not None else ()
        self._started_at = _now()
        self._hour = Hour(self._reading(), edges={"gap": GAP_EDGES}, commands=commands)

    def __repr__(self) -> str:
        return f"<Vitals of {self.node}: {self._hour!r}>"

    @property
    def node(self) -> str:
        """The id of this process; a new one at each start."""
        return self._engine.node()

    async def keep(self) -> None:
        """Take a sample every ten seconds, for as long as the process runs."""
        due = self._started_at
        while True:
            due = max(due + SAMPLE_S, _now())
            await asyncio.sleep(due - _now())
            self._hour.add(self._reading())

    def row(self) -> dict[str, Any]:
        """In short, as other nodes show it in their table."""
        reading = self._reading()
        return {
            "version": __version__,
            "uptime_s": round(_now() - self._started_at),
            "connections": reading.connections,
            "running": reading.running,
            "slots": self._pool.rules.concurrency,
            "queued": reading.queued,
            "tokens_per_s": rounded(self._hour.rate(reading)),
            "degraded": f"redis: {trouble}" if (trouble := self._engine.trouble) else "",
            "draining": self._engine.draining,
        }

    def report(self, after: int = -1) -> dict[str, Any]:
        """All of it: what holds now, and the samples numbered higher than `after`."""
        now, reading = _now(), self._reading()
        upstreams = self._upstreams(now)
        redis = None
        if self._redis is not None:
            redis = {**self._redis(), "commands": self._hour.commands(reading)}
        report: dict[str, Any] = {
            "node": self.node,
            **self.row(),
            "covered_s": round(self._hour.covered_s(now)),
            "sample_s": SAMPLE_S,
            "max_jobs": self._max_jobs,
            "now": self._hour.now(reading),
            "upstreams": upstreams[:_MOST_UPSTREAMS],
            "upstreams_more": max(0, len(upstreams) - _MOST_UPSTREAMS),
            "redis": redis,
            "series": self._hour.series(after),
        }
        facts = Facts(now=report["now"], slots=report["slots"], max_jobs=self._max_jobs, upstreams=upstreams)
        facts.redis, facts.draining = redis, self._engine.draining
        report["checks"] = checks(facts)
        return report

    def _reading(self) -> Reading:
        now, metrics, depth, read = _now(), self._metrics, self._depth(), self._pool.read()
        spreads = {name: tuple(spread.counts) for name, spread in metrics.spreads.items()}
        oldest = depth.oldest_accepted_at
        return Reading(
            at=now,
            connections=total(metrics.connections),
            running=self._pool.running,
            queued=depth.queued,
            oldest_s=0.0 if oldest is None else max(0.0, now - oldest),
            breakers_open=sum(member.breaker.state is not Circuit.CLOSED for member in self._fleet.members),
            degraded=bool(self._engine.trouble),
            tokens=read.tokens,
            answers=total(metrics.finished),
            errors=total(metrics.finished, outcome=_FAILED) + total(metrics.unhandled_errors),
            refused=total(metrics.rejected, reason=_REFUSED),
            spreads={**spreads, "gap": tuple(read.counts)},
            commands=dict(metrics.redis.by_command) if self._redis is not None else {},
        )

    def _upstreams(self, now: float) -> list[dict[str, Any]]:
        return [
            {
                "name": member.name,
                "state": str(member.breaker.state),
                "probe_in_s": rounded(member.breaker.wait_s(now)),
                "failures": member.breaker.failures,
                "open_requests": int(member.upstream.busy),
                "paused_s": rounded(max(0.0, member.paused_until - now)),
            }
            for member in self._fleet.members
        ]


def _now() -> float:
    return asyncio.get_running_loop().time()
