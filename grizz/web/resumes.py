"""Who comes back for a response, and whether all that they had not seen yet is still there."""

from __future__ import annotations

from grizz.engine.history import Turn
from grizz.engine.reply import Reply
from grizz.telemetry.metrics import Metrics


def resumed(metrics: Metrics, found: Reply | Turn, after: int) -> str:
    """Count somebody who has all events up to that number; as what.

    Returns:
        `ok`: the rest is there. `gap`: it was begun anew since, its home and its log are gone. `expired`: it has ended,
        and its log is no longer kept.
    """
    if isinstance(found, Turn):
        result = "expired" if after < found.last_seq else "ok"
    else:
        result = "ok" if found.first_seq <= after + 1 and after <= found.last_seq else "gap"
        metrics.replayed.observe(max(0, found.last_seq - max(after, found.first_seq - 1)))
    metrics.resumes.labels(result).inc()
    return result
