"""Circuit breaker: after enough failures nothing is tried for a while, then one probe alone decides.

                 fail (threshold reached)
    CLOSED ────────────────────────────▶ OPEN ◀──────────┐
       ▲                                  │ wait is over  │ fail: a longer wait
       │              succeed             ▼               │
       └────────────────────────────── HALF_OPEN ─────────┘

The wait doubles with each failure in a row, between two bounds, with jitter, so that many processes do not probe a
server that comes back in step (Brooker, "Exponential Backoff And Jitter", 2015). It starts small again only after
the breaker was closed for `settle_s`: a server that flaps, up a second and down a second, is not probed every second.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class Circuit(StrEnum):
    """What a breaker lets through."""

    CLOSED = "closed"  # everything
    OPEN = "open"  # nothing
    HALF_OPEN = "half_open"  # one probe


class Breaker:
    """One breaker. Times are seconds of any one clock.

    Args:
        threshold: failures in a row that open it.
        first_s: the shortest wait.
        longest_s: the longest wait.
        settle_s: seconds it must be closed before the next wait is the shortest again.
        jitter: a number from 0 to 1, anew for each wait; the wait is between a half and the whole of its span.
    """

    def __init__(
        self, *, threshold: int, first_s: float, longest_s: float, settle_s: float, jitter: Callable[[], float]
    ) -> None:
        self._threshold = threshold
        self._first_s = first_s
        self._longest_s = longest_s
        self._settle_s = settle_s
        self._jitter = jitter
        self._state = Circuit.CLOSED
        self._failures = 0
        self._waits = 0
        self._changed_at = 0.0
        self._until = 0.0

    def __repr__(self) -> str:
        return f"<Breaker {self._state}, {self._failures} failures, {self._waits} waits>"

    @property
    def state(self) -> Circuit:
        """What it lets through, as of the last call."""
        return self._state

    def allows(self, now: float) -> bool:
        """May one thing be tried? Half-open says yes once, until that one has succeeded or failed."""
        if self._state is Circuit.CLOSED:
            return True
        if self._state is Circuit.OPEN and now >= self._until:
            self._state = Circuit.HALF_OPEN
            return True
        return False

    def wait_s(self, now: float) -> float:
        """Seconds until a probe is allowed; 0 when something may be tried."""
        return max(0.0, self._until - now) if self._state is Circuit.OPEN else 0.0

    def succeeded(self, now: float) -> None:
        """What was tried went well."""
        self._failures = 0
        if self._state is not Circuit.CLOSED:
            self._state = Circuit.CLOSED
            self._changed_at = now

    def forgave(self) -> None:
        """What was tried says nothing (its user cancelled it): a probe may be tried again at once."""
        if self._state is Circuit.HALF_OPEN:
            self._state = Circuit.OPEN

    def failed(self, now: float) -> None:
        """What was tried failed."""
        self._failures += 1
        if self._state is Circuit.CLOSED:
            if self._failures < self._threshold:
                return
            if now - self._changed_at >= self._settle_s:
                self._waits = 0
        span = min(self._longest_s, self._first_s * 2.0**self._waits)
        self._waits += 1
        self._state = Circuit.OPEN
        self._changed_at = now
        self._until = now + span * (0.5 + 0.5 * self._jitter())
