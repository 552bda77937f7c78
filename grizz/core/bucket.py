"""Token buckets: how much per minute, with a burst of the same size."""

from __future__ import annotations

import itertools
from collections import OrderedDict

# What adding up fractions may be off by: who waited as long as was said shall not be told to wait again.
_ROUNDING = 1e-6


class Buckets:
    """A bucket for each key, full when it is first asked for; one that is full again is forgotten.

    What something costs may be known only later: `take` takes an estimate, and `settle` corrects it. A bucket may be
    in debt by that; then it refuses until the debt is paid off.
    """

    def __init__(self) -> None:
        self._levels: OrderedDict[str, tuple[float, float, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels)

    def level(self, key: str, per_minute: int, now: float) -> float:
        """What is left, at most `per_minute`."""
        level, at, _ = self._levels.get(key, (float(per_minute), now, per_minute))
        return min(float(per_minute), level + (now - at) * per_minute / 60)

    def wait_s(self, key: str, per_minute: int, now: float, cost: float = 1.0) -> float:
        """Seconds until `cost` may be taken; 0.0 when it may be now. What costs more than a whole bucket needs a
        full one.
        """
        missing = min(cost, per_minute) - self.level(key, per_minute, now)
        return missing * 60 / per_minute if missing > _ROUNDING else 0.0

    def take(self, key: str, per_minute: int, now: float, cost: float = 1.0) -> None:
        """Take `cost` whether it is there or not; a negative one gives back."""
        self._levels[key] = (self.level(key, per_minute, now) - cost, now, per_minute)
        self._forget(now)

    def _forget(self, now: float) -> None:
        # The two that were looked at longest ago: full ones go, the others come to the end. So each use makes up for
        # the key it may have brought, whatever the others owe.
        for key in list(itertools.islice(self._levels, 2)):
            level, at, per_minute = self._levels[key]
            if level + (now - at) * per_minute / 60 >= per_minute:
                del self._levels[key]
            else:
                self._levels.move_to_end(key)
