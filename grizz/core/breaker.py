"""Circuit breaker: after enough failures nothing is tried for a while, then one probe alone decides.

                 fail (threshold reached)
    CLOSED ────────────────────────────▶ OPEN ◀──────────┐
       ▲                                  │ wait is over  │ fail: a longer wait
       │              succeed             ▼               │
       └────────────────────────────── HALF_OPEN ─────────┘

The wait doubles with each failure in a row, between two bounds, with jitter, so that many processes do not probe a
server that comes back in step (Brooker, "Exponential Backoff And Jitter", 2015). It starts small again only after
the breaker was closed for `settle_s`: a server that flaps, up a second and down a second, is not probed every second.

What is tried at the same time does not end in the order in which it began. So each opening begins a new *era*, and a
result that names an older one says nothing any more: it neither opens the breaker again nor closes it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from enum import StrEnum


class Circuit(StrEnum):
    """What a breaker lets through."""

    CLOSED = "closed"  # everything
    OPEN = "open"  # nothing
    HALF_OPEN = "half_open"  # one probe


class Breaker:
    """One breaker. Times are seconds of any one clock.

    The results take the era in which what they speak of was allowed; without one they are of the present era.

    Args:
        threshold: failures in a row that open it.
        first_s: the shortest wait.
        longest_s: the longest wait.
        settle_s: seconds it must be closed before the next wait is the shortest again.
        jitter: a number from 0 to 1, anew for each wait; the wait is between a half and the whole of its span.
        window_s: failures that are longer ago do not count.
    """

    def __init__(
        self,
        *,
        threshold: int,
        first_s: float,
        longest_s: float,
        settle_s: float,
        jitter: Callable[[], float],
        window_s: float = math.inf,
    ) -> None:
        self._threshold = threshold
        self._first_s = first_s
        self._longest_s = longest_s
        self._settle_s = settle_s
        self._jitter = jitter
        self._window_s = window_s
        self._state = Circuit.CLOSED
        self._era = 0
        self._failed_at: deque[float] = deque(maxlen=threshold)
        self._waits = 0
        self._changed_at = 0.0
        self._until = 0.0

    def __repr__(self) -> str:
        return f"<Breaker {self._state}, era {self._era}, {self.failures} failures, {self._waits} waits>"

    @property
    def state(self) -> Circuit:
        """What it lets through, as of the last call."""
        return self._state

    @property
    def era(self) -> int:
        """How often it has opened: ask for it right after `allows`, and hand it in with the result."""
        return self._era

    @property
    def failures(self) -> int:
        """Failures in a row, as far as they count; never more than the threshold."""
        return len(self._failed_at)

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

    def answered(self, now: float, era: int | None = None) -> None:
        """What was tried goes well so far: enough for a probe, not enough to forget the failures in a row.

        For what takes long and may break off: a server whose streams all begin and none ends must not count as well.
        """
        if self._concerns(era) and self._state is not Circuit.CLOSED:
            self._failed_at.clear()
            self._state = Circuit.CLOSED
            self._changed_at = now

    def succeeded(self, now: float, era: int | None = None) -> None:
        """What was tried went well to its end."""
        if self._concerns(era):
            self.answered(now)
            self._failed_at.clear()

    def forgave(self, era: int | None = None) -> None:
        """What was tried says nothing (its user cancelled it): a probe may be tried again at once."""
        if self._concerns(era) and self._state is Circuit.HALF_OPEN:
            self._state = Circuit.OPEN

    def failed(self, now: float, era: int | None = None, *, at_most_s: float = math.inf) -> None:
        """What was tried failed.

        Args:
            at_most_s: the longest wait for a failure that costs nobody anything; such waits do not grow others.
        """
        if not self._concerns(era):
            return
        self._failed_at.append(now)
        if self._state is Circuit.CLOSED:
            while now - self._failed_at[0] > self._window_s:
                self._failed_at.popleft()
            if self.failures < self._threshold:
                return
            if now - self._changed_at >= self._settle_s:
                self._waits = 0
        # A float has no room for 2 to the power of 1024: the waits of some hours.
        span = min(self._longest_s, self._first_s * 2.0 ** min(self._waits, 64), max(at_most_s, self._first_s))
        self._waits += at_most_s == math.inf
        self._state = Circuit.OPEN
        self._era += 1
        self._changed_at = now
        self._until = now + span * (0.5 + 0.5 * self._jitter())

    def _concerns(self, era: int | None) -> bool:
        return era is None or era == self._era
