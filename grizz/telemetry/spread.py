"""A histogram that is counted in a list, fine enough to tell percentiles from, and cheap enough for every write.

Its edges are those of the E12 series of resistors, twelve a decade from 0.1 ms to 1000 s: a percentile that is read
between two edges is off by a tenth at most. `observe` takes some 0.3 µs, where `Histogram.observe` takes 2 to 3.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

_E12 = (1.0, 1.2, 1.5, 1.8, 2.2, 2.7, 3.3, 3.9, 4.7, 5.6, 6.8, 8.2)
EDGES = (*(round(step * 10.0**power, 6) for power in range(-4, 3) for step in _E12), 1000.0)
# What a scrape shows: three edges a decade, from 0.5 ms to 1 s.
_SHOWN = tuple(index for index, edge in enumerate(EDGES) if index % 4 == 0 and 0.0004 < edge <= 1)


class Spread:
    """Durations, counted by size.

    Attributes:
        counts: one for each of `EDGES` and one for what is beyond the last.
        sum: of all, in seconds.
    """

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(EDGES) + 1)
        self.sum = 0.0

    def __repr__(self) -> str:
        return (
            f"<Spread of {sum(self.counts)}: p50 {percentile(self.counts, 0.5)}, p95 {percentile(self.counts, 0.95)}>"
        )

    def observe(self, seconds: float) -> None:
        """Count one; not below 0."""
        self.counts[bisect_left(EDGES, seconds)] += 1
        self.sum += seconds


class SpreadCollector(Collector):
    """Shows a spread to scrapes, as a histogram without labels."""

    def __init__(self, name: str, help_text: str, spread: Spread) -> None:
        self._name = name
        self._help = help_text
        self._spread = spread

    def collect(self) -> Iterable[Metric]:
        """See `Collector.collect`."""
        counts = list(self._spread.counts)
        buckets = [(str(EDGES[index]), float(sum(counts[: index + 1]))) for index in _SHOWN]
        family = HistogramMetricFamily(self._name, self._help, labels=[])
        family.add_metric([], [*buckets, ("+Inf", float(sum(counts)))], self._spread.sum)
        yield family


def percentile(counts: Sequence[int], share: float, edges: Sequence[float] = EDGES) -> float | None:
    """The duration that `share` of the counted ones do not exceed, in seconds; None when none was counted.

    Read off between the edges of the bucket where it lies, as if that were filled evenly. What is beyond the last edge
    is told as that edge: it took at least so long.
    """
    total = sum(counts)
    if not total:
        return None
    rank, before = share * total, 0
    for index, count in enumerate(counts[: len(edges)]):
        if count and before + count >= rank:
            low = edges[index - 1] if index else 0.0
            return low + (edges[index] - low) * max(0.0, rank - before) / count
        before += count
    return edges[-1]
