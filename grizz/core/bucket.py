"""Token bucket: how many per minute, with a burst of the same size."""

from __future__ import annotations

from collections import OrderedDict


class Buckets:
    """One bucket for each key; a key nobody used for a minute is full, and therefore forgotten.

    Args:
        per_minute: tokens added in a minute, and the size of a bucket; 0 refuses nothing.
    """

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels)

    def take(self, key: str, now: float) -> float:
        """Take one token: 0.0 when there was one, else the seconds until there is."""
        if not self._per_minute:
            return 0.0
        rate = self._per_minute / 60
        level, at = self._levels.get(key, (float(self._per_minute), now))
        level = min(float(self._per_minute), level + (now - at) * rate)
        wait = 0.0 if level >= 1 else (1 - level) / rate
        self._levels[key] = (level - 1 if wait == 0.0 else level, now)
        self._levels.move_to_end(key)
        self._forget(now)
        return wait

    def _forget(self, now: float) -> None:
        while self._levels:
            key, (_, at) = next(iter(self._levels.items()))
            if now - at <= 60:
                return
            del self._levels[key]
