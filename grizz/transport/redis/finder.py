"""Who is gone, and who has what they had: `transport.base.Finder` over the Redis.

A node is gone when messages to its channel reach nobody, twice and some time apart, or when it does not answer for a
lease. What follows then is `heir.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from redis.exceptions import RedisError

from grizz.errors import RedisDown
from grizz.tasks import TaskOwner
from grizz.transport.redis.bus import Bus
from grizz.transport.redis.census import Census
from grizz.transport.redis.heir import TWICE, Heir
from grizz.transport.redis.keys import Keys
from grizz.transport.redis.link import Link
from grizz.transport.redis.transport import RedisTransport

log = logging.getLogger(__name__)

# Once Redis is back, others come back later than this node, and must not be taken for dead meanwhile.
_RETURN_S = 40.0
_MAX_SILENT = 1000


class RedisFinder:
    """Implements `transport.base.Finder`.

    Args:
        lease_s: seconds a node may be silent.
    """

    def __init__(
        self,
        *,
        keys: Keys,
        link: Link,
        bus: Bus,
        census: Census,
        heir: Heir,
        transport: RedisTransport,
        tasks: TaskOwner,
        lease_s: float,
    ) -> None:
        self._keys = keys
        self._link = link
        self._bus = bus
        self._census = census
        self._heir = heir
        self._inheritance = transport.inheritance
        self._tasks = tasks
        self._twice_s = TWICE * lease_s
        self._patient_until = 0.0
        self._silent: dict[str, float] = {}
        self._looking = asyncio.Lock()
        self._all_alive_at = -1.0
        transport.keeper.orphaned = self._orphaned
        transport.linked = self._linked

    def __repr__(self) -> str:
        return f"<RedisFinder {self._bus.node}: {len(self._silent)} silent, {self._heir!r}>"

    @property
    def is_patient(self) -> bool:
        """Is it too early to take anybody for dead?"""
        return _now() < self._patient_until

    async def seek(self, node: str) -> bool:
        """See `Finder.seek`. Only what is silent at two calls some time apart is taken over."""
        if node == self._bus.node or self.is_patient:
            return False
        try:
            if await self._census.listeners(node):
                self._silent.pop(node, None)
                return False
        except (RedisDown, RedisError):
            return False
        now = _now()
        since = self._silent.setdefault(node, now)
        while len(self._silent) > _MAX_SILENT:
            del self._silent[next(iter(self._silent))]
        if now - since < self._twice_s:
            return False
        self._silent.pop(node, None)
        return await self._heir.relieve(node)

    async def unanswered(self, node: str) -> None:
        """A node did not answer for a lease, although somebody listens on its channel: it stands still."""
        if not self.is_patient and node != self._bus.node and node not in self._inheritance:
            await self._heir.relieve(node)

    def is_heir(self, node: str) -> bool:
        """See `Finder.is_heir`."""
        return node in self._inheritance

    @property
    def is_busy(self) -> bool:
        """See `Finder.is_busy`."""
        return self._heir.is_busy

    @property
    def is_behind(self) -> bool:
        """See `Finder.is_behind`."""
        return self._heir.is_behind

    async def settled(self, within_s: float) -> bool:
        """See `Finder.settled`."""
        return await self._heir.settled(within_s)

    async def anybody_dead(self, since: float) -> bool:
        """See `Finder.anybody_dead`."""
        # Who is being taken over has a listener already, and yet nobody has what it had.
        if self._heir.under_way_since(since):
            return True
        try:
            silent = await self._look(since)
        except (RedisDown, RedisError):
            return False
        for node in silent:
            await self.seek(node)
        return bool(silent) or self._heir.under_way_since(since)

    async def _look(self, since: float) -> list[str]:
        """The nodes that are silent; one look for all who ask meanwhile."""
        async with self._looking:
            if self._all_alive_at >= since:
                return []
            began = _now()
            nodes = await self._census.consumers()
            silent = await self._census.silent_among([name for name in nodes if name != self._bus.node])
            if not silent:
                self._all_alive_at = began
            return silent

    async def unknown(self, node: str) -> bool:
        """Is there no sign that such a node ever was? Nobody listens, nothing is recorded, nobody took it over."""
        try:
            if await self._census.listeners(node):
                return False
            keys = (self._keys.records(node), self._keys.heir(node))
            if await self._link.ask("EXISTS", *keys):
                return False
            return node not in await self._census.consumers()
        except (RedisDown, RedisError):
            return False

    def _linked(self, first: bool) -> None:
        if not first:
            self._patient_until = _now() + _RETURN_S

    def _orphaned(self, home: str) -> None:
        """Errands run here for a home that nobody hears of any more: take it over, and keep their logs."""
        if not self._heir.is_relieving(home) and not self.is_patient:
            self._tasks.spawn(self._relieve_silent(home), name=f"look after {home}")

    async def _relieve_silent(self, home: str) -> None:
        with contextlib.suppress(RedisDown, RedisError):
            # Where this node listens as an heir, what ended here for that home was not kept yet.
            if home in self._inheritance or not await self._census.listeners(home):
                await self._heir.relieve(home)


def _now() -> float:
    return asyncio.get_running_loop().time()
