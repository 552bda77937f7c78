"""How much slower everything is because others want the same processors."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

# Beyond that nothing could be said about waiting at all.
SLOWEST = 6.0
# Less work than this says nothing, in seconds.
ENOUGH_S = 0.2


class Slowness:
    """Measured on the processes themselves: the time they had to wait for a processor, beside what they used of one.

    1.0 is a machine of our own (and any machine but Linux); 3.0 means that everything takes three times as long.

    Args:
        processes: the ids of those that matter at the moment, beside this one.
    """

    def __init__(self, processes: Callable[[], Iterable[int]]) -> None:
        self._processes = processes
        self._before = self._read()

    def _read(self) -> dict[int, tuple[float, float]]:
        found = {}
        for pid in (os.getpid(), *self._processes()):
            with contextlib.suppress(OSError, ValueError):
                used, waited, *_ = Path(f"/proc/{pid}/schedstat").read_text().split()
                found[pid] = int(used) / 1e9, int(waited) / 1e9
        return found

    def factor(self) -> float:
        """Since it was made, for whom it is worst."""
        worst = 1.0
        for pid, (used, waited) in self._read().items():
            used_before, waited_before = self._before.get(pid, (0.0, 0.0))
            used, waited = used - used_before, waited - waited_before
            if used > ENOUGH_S:
                worst = max(worst, (used + waited) / used)
        return min(worst, SLOWEST)
