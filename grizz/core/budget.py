"""How many commands a metered Redis may still get: the burn of a month, projected, and what to do about it.

Providers that bill by the command stop at a quota, or send a bill. So the projection of the month decides how much is
sent: first events travel less often, then work stays on this process alone, and the tally alone goes out.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum

MONTH_H = 730.0
_HOUR_S = 3600.0
_SLOTS = 60


class Thrift(IntEnum):
    """How much is saved."""

    NONE = 0  # events travel every flush interval
    SLOW = 1  # every second
    SLOWER = 2  # every two seconds
    LOCAL = 3  # nothing travels: new work runs where it was asked for


_STEPS = ((0.95, Thrift.LOCAL), (0.9, Thrift.SLOWER), (0.8, Thrift.SLOW))


class Budget:
    """Commands of the installation against its monthly budget.

    Args:
        monthly: commands a month may cost; 0 saves nothing, ever.
    """

    def __init__(self, monthly: int) -> None:
        self._monthly = monthly
        self._minutes: deque[tuple[int, int]] = deque()
        self._known_used = 0  # by all processes, when it was last told
        self._own_since = 0
        self.processes = 1

    def __repr__(self) -> str:
        return f"<Budget {self._monthly} a month, {self.used} used>"

    @property
    def monthly(self) -> int:
        """Commands a month may cost; 0 for no bound."""
        return self._monthly

    @property
    def used(self) -> int:
        """Commands used this month: what all processes had used when last told, and this one's since."""
        return self._known_used + self._own_since

    @property
    def unreported(self) -> int:
        """This process's commands since the last `told`."""
        return self._own_since

    def spent(self, commands: int, now: float) -> None:
        """This process sent commands."""
        self._own_since += commands
        minute = int(now // 60)
        if self._minutes and self._minutes[-1][0] == minute:
            commands += self._minutes.pop()[1]
        self._minutes.append((minute, commands))
        self._forget(minute)

    def told(self, used_by_all: int, reported: int) -> None:
        """The shared tally of the month, after this process added `reported` commands to it."""
        self._known_used = used_by_all
        self._own_since = max(0, self._own_since - reported)

    def per_hour(self, now: float) -> int:
        """This process's commands within the last hour."""
        self._forget(int(now // 60))
        return sum(count for _, count in self._minutes)

    def projected(self, now: float, left_h: float) -> float:
        """Commands of the whole month, if every process goes on as this one did in the last hour.

        Args:
            left_h: hours until the month ends.
        """
        return self.used + self.per_hour(now) * self.processes * left_h

    def thrift(self, now: float, left_h: float) -> Thrift:
        """What the projection asks for; when the month's budget itself is almost gone, everything stays local."""
        if not self._monthly:
            return Thrift.NONE
        if self.used >= 0.95 * self._monthly:
            return Thrift.LOCAL
        share = self.projected(now, left_h) / self._monthly
        return next((step for edge, step in _STEPS if share > edge), Thrift.NONE)

    def _forget(self, minute: int) -> None:
        while self._minutes and self._minutes[0][0] <= minute - _SLOTS:
            self._minutes.popleft()
