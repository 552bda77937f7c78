"""One ticker for the deltas of all running answers: a timer per answer, or per token, would cost more than the work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Flusher:
    """Calls what was added, once, at the next tick; no tick while nothing waits.

    Args:
        interval_s: seconds a delta waits at most.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._waiting: dict[Callable[[], None], None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, flush: Callable[[], None]) -> None:
        """Call `flush` at the next tick; once, however often it is added."""
        self._waiting[flush] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        waiting, self._waiting = self._waiting, {}
        for flush in waiting:
            flush()
