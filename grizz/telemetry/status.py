"""The last hour of one process, for its status page: samples in a ring, and what they say about now.

Pure: a `Reading` is what all counters show at one time, and whoever takes it says when. The columns of the ring are
made once, at their full length, so that an hour takes the same memory from the first sample on: 8 bytes a figure.
"""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grizz.telemetry.spread import EDGES, percentile

SAMPLE_S = 10.0
KEPT = 360  # an hour of samples
# Percentiles are of the last minute: in ten seconds there may be no more than a handful of answers.
_WINDOW = 6
_FIVE_MINUTES = 30
LATENCIES = ("first_token", "queue", "upstream", "gap", "delivery", "lag")
_GAUGES = ("connections", "running", "queued", "oldest_s", "breakers_open", "degraded")
_COUNTERS = ("answers", "errors", "refused", "commands")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the process shows at one time. Counters and counts are since its start.

    Attributes:
        at: seconds of any one clock.
        oldest_s: how long the longest waiting job has waited.
        breakers_open: upstreams that are not asked now.
        tokens: tokens that were read from upstreams.
        answers: responses that ended, however that was.
        errors: those that failed, and errors that nobody expected.
        refused: work that was not taken, for want of room or beyond a limit.
        spreads: for each of `LATENCIES`, how many took how long.
        commands: commands sent to Redis, by name.
    """

    at: float
    connections: int
    running: int
    queued: int
    oldest_s: float
    breakers_open: int
    degraded: bool
    tokens: int
    answers: int
    errors: int
    refused: int
    spreads: Mapping[str, Sequence[int]]
    commands: Mapping[str, int]


class Hour:
    """One hour of readings.

    Args:
        started: the reading at the start.
        edges: of the buckets of those spreads that do not have `spread.EDGES`.
        commands: names of the commands that are counted one by one.

    Attributes:
        next: the number of the next sample; the first was 0.
    """

    def __init__(
        self, started: Reading, *, edges: Mapping[str, Sequence[float]] | None = None, commands: Sequence[str] = ()
    ) -> None:
        self._edges = edges or {}
        self._started_at = started.at
        percentiles = [f"{name}_{which}" for name in LATENCIES for which in ("p50", "p95")]
        names = [*_GAUGES, *_COUNTERS, "tokens_per_s", "lag_max", *percentiles]
        if not commands:
            names.remove("commands")
        self._columns = {name: _column() for name in names}
        self._commands = {name: _column() for name in commands}
        self._recent: deque[Reading] = deque([started], maxlen=_WINDOW + 1)
        self.next = 0

    def __repr__(self) -> str:
        return f"<Hour of {len(self)} samples>"

    def __len__(self) -> int:
        return min(self.next, KEPT)

    @property
    def bytes(self) -> int:
        """What the columns hold."""
        return sum(column.itemsize * len(column) for column in (*self._columns.values(), *self._commands.values()))

    def add(self, reading: Reading) -> None:
        """Take a sample; call it every `SAMPLE_S` seconds."""
        last, slot = self._recent[-1], self.next % KEPT
        row: dict[str, float | None] = {name: float(getattr(reading, name)) for name in _GAUGES}
        row |= {name: float(_since(last, reading, name)) for name in ("answers", "errors", "refused")}
        row["commands"] = float(sum(reading.commands.values()) - sum(last.commands.values()))
        row["tokens_per_s"] = _rate(last, reading)
        for name in LATENCIES:
            row |= {f"{name}_{which}": value for which, value in self._percentiles(reading, name).items()}
        row["lag_max"] = self._percentile(last, reading, "lag", 1.0)
        for name, column in self._columns.items():
            value = row[name]
            column[slot] = math.nan if value is None else rounded(value)
        for name, column in self._commands.items():
            column[slot] = reading.commands.get(name, 0) - last.commands.get(name, 0)
        self._recent.append(reading)
        self.next += 1

    def series(self, after: int = -1) -> dict[str, Any]:
        """The samples numbered higher than `after`, oldest first; null where there was nothing to measure."""
        first = max(self.next - len(self), after + 1)
        slots = [number % KEPT for number in range(first, self.next)]
        columns = {name: [column[slot] for slot in slots] for name, column in self._columns.items()}
        return {"first": first, "next": self.next, "columns": columns}

    def now(self, reading: Reading) -> dict[str, Any]:
        """What holds at this moment, which need not be that of a sample."""
        latency = {
            name: {**{which: _told(value) for which, value in self._percentiles(reading, name).items()}, "count": count}
            for name in LATENCIES
            for count in [sum(self._counts(self._minute_ago(reading), reading, name))]
        }
        latency["lag"]["max"] = _told(self._percentile(self._minute_ago(reading), reading, "lag", 1.0))
        return {
            "connections": reading.connections,
            "running": reading.running,
            "queued": reading.queued,
            "oldest_s": rounded(reading.oldest_s),
            "tokens_per_s": rounded(self.rate(reading)),
            **{name: self.lately(reading, name) for name in ("answers", "errors", "refused")},
            "latency": latency,
        }

    def rate(self, reading: Reading) -> float:
        """Tokens a second, over the last ten to twenty seconds."""
        return _rate(self._recent[max(0, len(self._recent) - 2)], reading)

    def lately(self, reading: Reading, counter: str) -> dict[str, int]:
        """How much a counter grew in the last five minutes, and in the last hour."""
        column, since = self._columns[counter], _since(self._recent[-1], reading, counter)
        return {
            "last_5m": since + int(sum(column[slot] for slot in self._last(_FIVE_MINUTES))),
            "last_hour": since + int(sum(column[slot] for slot in self._last(KEPT))),
        }

    def commands(self, reading: Reading) -> dict[str, int]:
        """The commands of the last hour by name, those that were sent at all; most frequent first."""
        last = self._recent[-1].commands
        slots = self._last(KEPT)
        sums = {
            name: reading.commands.get(name, 0) - last.get(name, 0) + int(sum(column[slot] for slot in slots))
            for name, column in self._commands.items()
        }
        return {name: count for name, count in sorted(sums.items(), key=lambda row: (-row[1], row[0])) if count}

    def covered_s(self, now: float) -> float:
        """Seconds that "the last hour" reaches back: less than an hour after a start."""
        return min(KEPT * SAMPLE_S, now - self._started_at)

    def _last(self, count: int) -> list[int]:
        return [number % KEPT for number in range(max(0, self.next - min(count, KEPT)), self.next)]

    def _percentiles(self, reading: Reading, name: str) -> dict[str, float | None]:
        since = self._minute_ago(reading)
        return {
            "p50": self._percentile(since, reading, name, 0.5),
            "p95": self._percentile(since, reading, name, 0.95),
        }

    def _minute_ago(self, reading: Reading) -> Reading:
        long_ago = (one for one in reversed(self._recent) if reading.at - one.at >= _WINDOW * SAMPLE_S - 0.5)
        return next(long_ago, self._recent[0])

    def _percentile(self, since: Reading, reading: Reading, name: str, share: float) -> float | None:
        return percentile(self._counts(since, reading, name), share, self._edges.get(name, EDGES))

    def _counts(self, since: Reading, reading: Reading, name: str) -> list[int]:
        return [max(0, now - then) for now, then in zip(reading.spreads[name], since.spreads[name], strict=True)]


def rounded(value: float) -> float:
    """Four digits: more of them would be noise, and more bytes."""
    return float(f"{value:.4g}") if abs(value) < 1000 else round(value, 1)


def _told(value: float | None) -> float | None:
    return None if value is None else rounded(value)


def _column() -> array[float]:
    return array("d", bytes(8 * KEPT))


def _since(last: Reading, reading: Reading, counter: str) -> int:
    return max(0, int(getattr(reading, counter)) - int(getattr(last, counter)))


def _rate(last: Reading, reading: Reading) -> float:
    elapsed = reading.at - last.at
    return max(0, reading.tokens - last.tokens) / elapsed if elapsed > 0 else 0.0
