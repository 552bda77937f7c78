"""Did this process stand still? A home that slept through its lease may have been taken over, and must ask first.

A suspended machine, a debugger or a blocked event loop all look the same from here: a ticker that comes late. Until it
is known that this node still speaks for its responses, nothing is sent to anybody.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

_EVERY_S = 0.5


class Pulse:
    """The beat of this process.

    Args:
        lease_s: seconds of standstill after which somebody may have taken over.
        may_speak: asks whether nobody did; waits two seconds at most.

    Attributes:
        after: called when it is known again.
    """

    def __init__(self, lease_s: float, may_speak: Callable[[], Awaitable[bool]]) -> None:
        self._lease_s = lease_s
        self._may_speak = may_speak
        self._beat_at = _clock()
        self._sure = asyncio.Event()
        self._sure.set()
        self.after: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        return f"<Pulse {_clock() - self._beat_at:.1f} s ago{'' if self._sure.is_set() else ', unsure'}>"

    @property
    def is_sure(self) -> bool:
        """May something be sent? The event loop's own clock is not asked: it is read once for each of its rounds."""
        return self._sure.is_set() and _clock() - self._beat_at <= self._lease_s

    async def sure(self) -> None:
        """Wait until it is known who speaks. Cancel-safe."""
        while not self.is_sure:  # noqa: ASYNC110  # before the late beat is noticed no event could tell
            await asyncio.sleep(0.02)

    async def beat(self) -> None:
        """Run for as long as the process does."""
        while True:
            gap = _clock() - self._beat_at
            if gap > self._lease_s:
                self._sure.clear()
                log.warning("this process stood still", extra={"gap_s": round(gap, 1)})
                try:
                    await self._may_speak()
                finally:
                    self._beat_at = _clock()
                    self._sure.set()
                    self.after()
            self._beat_at = _clock()
            await asyncio.sleep(_EVERY_S)


def _clock() -> float:
    """Seconds that also pass while the machine is suspended, where the system counts them (Linux: CLOCK_BOOTTIME)."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)
