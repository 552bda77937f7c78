"""One ticker for the deltas of all running answers: a timer per answer, or per token, would cost more than the work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger(__name__)

# A tick flushes what was added in one part of the interval. If it flushed all at once, a hundred streams would hold
# the loop for as long as all their events and frames take, and the loop would be late for everything else.
_PARTS = 5


class Flusher:
    """Calls what was added, once, when it has waited; no tick while nothing waits.

    Args:
        interval_s: seconds a delta waits at most; it waits four fifths of them at least.
    """

    def __init__(self, interval_s: float) -> None:
        parts = _PARTS if interval_s else 1
        self.interval_s = interval_s
        self._tick_s = interval_s / parts
        # What is due at the next tick, the one after it, and so on round the wheel.
        self._wheel: list[list[Callable[[], None]]] = [[] for _ in range(parts)]
        self._next = 0
        self._waiting: set[Callable[[], None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, flush: Callable[[], None]) -> None:
        """Call `flush` when it has waited; once, however often it is added until then."""
        if flush in self._waiting:
            return
        self._waiting.add(flush)
        self._wheel[self._next - 1].append(flush)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._tick_s, self._tick)

    def _tick(self) -> None:
        due, self._wheel[self._next] = self._wheel[self._next], []
        self._next = (self._next + 1) % len(self._wheel)
        self._waiting.difference_update(due)
        self._timer = asyncio.get_running_loop().call_later(self._tick_s, self._tick) if self._waiting else None
        for flush in due:
            try:
                flush()
            except Exception:  # the others that are due shall not wait for ever
                log.exception("a flush failed")
