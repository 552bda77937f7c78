"""The last look at the numbers of events, where they leave: a hole is a fault of Grizz, and is counted and logged."""

from __future__ import annotations

import logging

from grizz.core.job import RESTART_STEP
from grizz.protocol.events import Event
from grizz.telemetry.metrics import Metrics

log = logging.getLogger(__name__)


def missing_after(position: int, first: int) -> int:
    """How many events a reader of all up to `position` was not given, if `first` is the next that it is given.

    0, unless there is a fault. An answer that began anew has higher numbers on purpose.
    """
    return max(0, first - position - 1) if first % RESTART_STEP else 0


def check(metrics: Metrics, response_id: str, position: int, event: Event) -> None:
    """A reader of all up to `position` is given `event` next; called where that is not the very next one.

    Where a home died after an attempt was lost, all that is left of the log begins with a `response.created` of a
    higher number, on purpose.
    """
    if event.type != "response.created" and (missing := missing_after(position, event.seq)):
        metrics.events_lost.inc(missing)
        log.error("events lost", extra={"response_id": response_id, "after": position, "next": event.seq})
