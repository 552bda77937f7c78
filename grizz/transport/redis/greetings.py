"""Greetings on the channel that all nodes hear: who is there, who leaves, and who should answer and does not.

One greeting each ten minutes is one command. Its reply says how many live, and its coming back that this node's
subscription is not deaf; everybody learns of new nodes from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from redis.exceptions import RedisError

from grizz.errors import RedisDown
from grizz.tasks import TaskOwner
from grizz.transport.base import Part
from grizz.transport.redis.bus import Bus
from grizz.transport.redis.census import Census
from grizz.transport.redis.chores import Chores
from grizz.transport.redis.finder import RedisFinder
from grizz.transport.redis.heir import TWICE, Heir
from grizz.transport.redis.link import Link
from grizz.transport.redis.transport import RedisTransport

log = logging.getLogger(__name__)

# What ran in the background at a node that is gone goes on within ten minutes; six greetings an hour cost little.
_EVERY_S = 590.0
_ECHO_S = 5.0
_MAX_KNOWN = 1000


class Greetings:
    """Looks around at the start and now and then.

    Args:
        lease_s: seconds a node may be silent.

    Attributes:
        known: the other nodes, as far as they were heard of.
    """

    def __init__(
        self,
        *,
        link: Link,
        bus: Bus,
        chores: Chores,
        census: Census,
        finder: RedisFinder,
        heir: Heir,
        transport: RedisTransport,
        tasks: TaskOwner,
        lease_s: float,
    ) -> None:
        self._link = link
        self._bus = bus
        self._chores = chores
        self._census = census
        self._finder = finder
        self._heir = heir
        self._tasks = tasks
        self._twice_s = TWICE * lease_s
        self._echoed_at = 0.0
        self.known: dict[str, None] = {}
        transport.farewell = self.farewell
        bus.on("hello", self._on_hello)
        bus.on("bye", self._on_bye)

    def __repr__(self) -> str:
        return f"<Greetings of {self._bus.node}: {len(self.known)} others known>"

    def start(self) -> None:
        """Begin to look around, now and then."""
        self._tasks.spawn(self._look_around(), name="look for nodes that are gone")

    async def farewell(self) -> None:
        """Tell the others that this node leaves, and that nobody needs to look after it."""
        with contextlib.suppress(RedisDown, RedisError):
            await self._bus.tell_everybody({"k": "bye"})

    def _on_hello(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        if sender == self._bus.node:
            self._echoed_at = _now()
        else:
            self.known[sender] = None
            while len(self.known) > _MAX_KNOWN:
                del self.known[next(iter(self.known))]

    def _on_bye(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        self.known.pop(sender, None)

    async def _look_around(self) -> None:
        """Greet the others: at the start, then six times an hour. When fewer hear it than there should be, see who."""
        self.known |= dict.fromkeys(self._chores.neighbours)
        if not self.known:  # nobody is there to be greeted, and a start shall cost eight commands at most
            await asyncio.sleep(_EVERY_S)
        while True:
            try:
                await self._greet()
            except (RedisDown, RedisError) as error:
                log.info("could not look for nodes that are gone", extra={"err": str(error)})
            await asyncio.sleep(_EVERY_S)

    async def _greet(self) -> None:
        if not self._link.is_up:
            return
        said_at = _now()
        reached = await self._bus.tell_everybody({"k": "hello"})
        if reached - 1 < len(self.known):
            await self._visit(list(self.known))
        await asyncio.sleep(_ECHO_S)
        if self._echoed_at < said_at and self._link.up_since < said_at:
            # Connected, and yet nothing comes: on a node that was demoted, say.
            self._link.fail(ConnectionError("the subscription is deaf"))

    async def _visit(self, nodes: Sequence[str]) -> None:
        if self._finder.is_patient:
            return
        silent = await self._census.silent_among(nodes)
        if silent:
            await asyncio.sleep(self._twice_s)
            for node in [] if self._finder.is_patient else await self._census.silent_among(silent):
                if await self._heir.relieve(node):
                    self.known.pop(node, None)


def _now() -> float:
    return asyncio.get_running_loop().time()
