"""The last look at the numbers of events, where they leave: a hole is a fault of Grizz, and is counted and logged."""

from __future__ import annotations

import logging

from grizz.core.job import RESTART_STEP
from grizz.telemetry.metrics import Metrics

log = logging.getLogger(__name__)


def missing_after(position: int, first: int) -> int:
    """How many events a reader of all up to `position` was not given, if `first` is the next that it is given.

    0, unless there is a fault. An answer that began anew has higher numbers on purpose.
    """
    return max(0, first - position - 1) if first % RESTART_STEP else 0


def check(metrics: Metrics, response_id: str, position: int, first: int) -> None:
    """A reader of all up to `position` is given `first` next; called where that is not the very next number."""
    if missing := missing_after(position, first):
        metrics.events_lost.inc(missing)
        log.error("events lost", extra={"response_id": response_id, "after": position, "next": first})
