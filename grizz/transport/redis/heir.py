"""Taking over from nodes that are gone: one winner, and nothing of theirs is lost or run twice without need.

A node is gone when messages to its channel reach nobody, twice and some time apart, or when it does not answer for a
lease. Then:

1. `SET heir:<node> <me> NX` marks it as taken over. Should it only have stood still, it finds this before it speaks.
2. `RENAMENX records:<node> records:<node>:<me>` has one winner, who begins these jobs anew.
3. What it had read from the stream, and what it had offered, is claimed from the group's pending entries; XCLAIM gives
   an entry to one claimant.
4. Its channel is subscribed, so that whoever speaks to it, tabs and workers alike, reaches its heir.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import RedisError

from grizz.core.job import Delivery
from grizz.errors import QueueFull, RedisDown
from grizz.tasks import TaskOwner
from grizz.telemetry.metrics import Metrics
from grizz.transport.base import Home, Part
from grizz.transport.redis import record
from grizz.transport.redis.bus import Bus
from grizz.transport.redis.chores import Chores
from grizz.transport.redis.connection import pairs
from grizz.transport.redis.keys import GROUP, Keys
from grizz.transport.redis.link import Link
from grizz.transport.redis.record import Codec, UnreadableRecord
from grizz.transport.redis.transport import RedisTransport

log = logging.getLogger(__name__)

# How long the mark of a takeover stands: longer than any process stands still and is then woken.
_MARK_S = 86_400
# Once Redis is back, others come back later than this node, and must not be taken for dead meanwhile.
_RETURN_S = 40.0
# What ran in the background at a node that is gone goes on within ten minutes; six greetings an hour cost little.
_LOOK_EVERY_S = 590.0
_ECHO_S = 5.0
_MAX_KNOWN = 1000
# Between two looks at a channel that nobody listens on, in leases: who lost Redis for a moment is back by then.
_TWICE = 0.7
# What workers get to say that they keep what they ran for a node that is gone.
_CLAIM_S = 0.3
_MAX_KEPT = 10_000
# When nobody was dead, that is believed for so long.
_ALIVE_S = 1.0
_PAGE = 500
# A field of a node's records that is no job: it is taking that node over.
_UNDER_WAY = "@"


class Heir:
    """Implements `transport.base.Finder`, and looks around at the start and now and then.

    Args:
        max_attempts: deliveries of one job at most.
        lease_s: seconds a node may be silent.
        archived: which of these responses have ended and are stored; raises when that cannot be known.

    Attributes:
        known: the other nodes, as far as they were heard of.
    """

    def __init__(
        self,
        *,
        keys: Keys,
        link: Link,
        chores: Chores,
        transport: RedisTransport,
        codec: Codec,
        home: Home,
        metrics: Metrics,
        tasks: TaskOwner,
        max_attempts: int,
        lease_s: float,
        archived: Callable[[Sequence[str]], Any],
        bus: Bus,
    ) -> None:
        self._keys = keys
        self._link = link
        self._chores = chores
        self._transport = transport
        self._codec = codec
        self._home = home
        self._metrics = metrics
        self._tasks = tasks
        self._max_attempts = max_attempts
        self._twice_s = _TWICE * lease_s
        self._archived = archived
        self._bus = bus
        self._patient_until = 0.0
        self._silent: dict[str, float] = {}
        self._all_alive_until = 0.0
        self._kept: dict[str, str] = {}
        self._echoed_at = 0.0
        self.known: dict[str, None] = {}
        self._busy: dict[str, asyncio.Task[Any]] = {}
        transport.orphaned = self._orphaned
        transport.farewell = self.farewell
        bus.on("hello", self._on_hello)
        bus.on("bye", self._on_bye)
        bus.on("kept", self._on_kept)
        transport.linked = self._linked

    def __repr__(self) -> str:
        return f"<Heir {self._bus.node}: {len(self._busy)} takeovers under way>"

    def start(self) -> None:
        """Begin to look around, now and then."""
        self._tasks.spawn(self._look_around(), name="look for nodes that are gone")

    async def seek(self, node: str) -> bool:
        """See `Finder.seek`. Only what is silent at two calls some time apart is taken over."""
        now = _now()
        if node == self._bus.node or now < self._patient_until:
            return False
        try:
            if await self._listeners(node):
                self._silent.pop(node, None)
                return False
        except (RedisDown, RedisError):
            return False
        since = self._silent.setdefault(node, now)
        while len(self._silent) > _MAX_KNOWN:
            del self._silent[next(iter(self._silent))]
        if now - since < self._twice_s:
            return False
        del self._silent[node]
        return await self._relieve(node)

    async def unanswered(self, node: str) -> None:
        """A node did not answer for a lease, although somebody listens on its channel: it stands still."""
        if _now() >= self._patient_until and node != self._bus.node and node not in self._transport.inherited:
            await self._relieve(node)

    def is_heir(self, node: str) -> bool:
        """See `Finder.is_heir`."""
        return node in self._transport.inherited

    def is_busy(self, node: str) -> bool:
        """See `Finder.is_busy`."""
        return node in self._busy

    async def settled(self, node: str) -> None:
        """See `Finder.settled`."""
        if (task := self._busy.get(node)) is not None:
            await asyncio.wait({task})

    async def anybody_dead(self) -> bool:
        """See `Finder.anybody_dead`."""
        if _now() < self._all_alive_until:
            return False
        try:
            silent = await self._silent_among([name for name in await self._consumers() if name != self._bus.node])
        except (RedisDown, RedisError):
            return False
        for node in silent:
            await self.seek(node)
        if not silent:
            self._all_alive_until = _now() + _ALIVE_S
        return bool(silent)

    async def unknown(self, node: str) -> bool:
        """Is there no sign that such a node ever was? Nobody listens, nothing is recorded, nobody took it over."""
        try:
            if await self._listeners(node):
                return False
            keys = (self._keys.records(node), self._keys.heir(node))
            if await self._link.ask("EXISTS", *keys):
                return False
            return node not in await self._consumers()
        except (RedisDown, RedisError):
            return False

    def _linked(self, first: bool) -> None:
        if not first:
            self._patient_until = _now() + _RETURN_S

    def _orphaned(self, home: str) -> None:
        """Errands run here for a home that nobody hears of any more: take it over, and keep their logs."""
        if home not in self._busy and _now() >= self._patient_until:
            self._tasks.spawn(self._relieve_silent(home), name=f"look after {home}")

    async def _relieve_silent(self, home: str) -> None:
        with contextlib.suppress(RedisDown, RedisError):
            if not await self._listeners(home):
                await self._relieve(home)

    async def _relieve(self, node: str) -> bool:
        """Take a node over, once for all who ask at the same time; False when that did not succeed."""
        task = self._busy.get(node)
        if task is None:
            task = self._busy[node] = self._tasks.spawn(self._take_over(node), name=f"take over {node}")
            task.add_done_callback(lambda _: self._busy.pop(node, None))
        try:
            await asyncio.shield(task)
        except (RedisDown, RedisError) as error:
            log.warning("a takeover did not succeed", extra={"node": node, "err": str(error)})
            return False
        return True

    async def _listeners(self, node: str) -> int:
        reply = await self._link.ask("PUBSUB", "NUMSUB", self._keys.channel(node))
        return int(reply[1])

    async def _consumers(self) -> list[str]:
        rows = await self._link.ask("XINFO", "CONSUMERS", self._keys.jobs, GROUP)
        return [pairs(row)["name"].decode() for row in rows]

    async def _take_over(self, node: str) -> None:
        """Become the heir of a node that is gone, as far as nobody else is. May be done again when it broke off."""
        me = self._bus.node
        self._kept = {job_id: keeper for job_id, keeper in self._kept.items() if keeper != node}
        mine, theirs = self._keys.records(node, me), self._keys.records(node)
        await self._transport.inherit(node)  # who asks from now on is told to wait, not that nobody knows
        first = await self._link.ask("SET", self._keys.heir(node), me, "NX", "EX", _MARK_S)
        # Should this node die in the middle, its own heir finds by this what it was about to begin.
        await self._link.ask("HSET", self._keys.records(me), _UNDER_WAY + node, "1")
        won = await self._rename(theirs, mine)
        if first or won:
            log.warning("another node is gone; its answers go on here", extra={"node": node})
            self._metrics.redis.takeovers.inc()
        # Who ran something for it has the logs of that, and perhaps nobody else has: that goes on where it is.
        self._transport.keep_errands(node)
        await self._bus.tell_everybody({"k": "bereft", "home": node})
        await asyncio.sleep(_CLAIM_S)
        await self._begin_all(mine, node)
        await self._reclaim(node)
        await self._link.ask("HDEL", self._keys.records(me), _UNDER_WAY + node)
        if not first:
            heir = (await self._link.ask("GET", self._keys.heir(node)) or b"").decode()
            if heir not in ("", me, node) and heir not in self._busy and not await self._listeners(heir):
                await self._relieve(heir)  # somebody else took it over before, and is gone too

    async def _begin_all(self, mine: str, node: str) -> None:
        """Run what stood in the records of a dead node, and what it had been about to take over itself."""
        records = pairs(await self._link.ask("HGETALL", mine))
        await self._begin_anew([data for name, data in records.items() if not name.startswith(_UNDER_WAY)])
        for name in records:
            if name.startswith(_UNDER_WAY):
                older = name.removeprefix(_UNDER_WAY)
                inherited = self._keys.records(older, self._bus.node)
                await self._rename(self._keys.records(older, node), inherited)
                await self._transport.inherit(older)
                await self._begin_all(inherited, older)
        await self._link.ask("DEL", mine)

    def _on_kept(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        """Another node keeps these, which it ran for a home that is gone."""
        for job_id in part["ids"]:
            self._kept[job_id] = sender
        while len(self._kept) > _MAX_KEPT:
            del self._kept[next(iter(self._kept))]

    async def _rename(self, theirs: str, mine: str) -> bool:
        try:
            return bool(await self._link.ask("RENAMENX", theirs, mine))
        except RedisError as error:
            if "no such key" in str(error):
                return False
            raise

    async def _begin_anew(self, records: Sequence[bytes]) -> None:
        """Run again what a dead node was running, unless it had ended."""
        found: list[record.Record] = []
        for data in records:
            try:
                found.append(record.unpack(data, self._codec))
            except UnreadableRecord as error:
                log.error("a record of a node that is gone cannot be read", extra={"err": str(error)})
                self._metrics.redis.errors.labels("message").inc()
        over = {*self._kept, *await self._archived([one.delivery.job.id for one in found])}
        for one in found:
            if one.delivery.job.id not in over:
                await self._adopt(one)

    async def _adopt(self, found: record.Record) -> None:
        delivery = found.delivery
        spent = delivery.attempt >= self._max_attempts or found.expires_at < time.time()
        job = self._home.adopt(delivery.job, delivery.attempt + (not spent), None)
        if job is None:
            return
        self._metrics.redis.adopted.inc()
        if spent:
            self._transport.jobs.papers.bury(job, delivery.attempt, f"{delivery.attempt} attempts were lost")
            self._home.buried(dataclasses.replace(delivery, job=job))
            return
        try:
            await self._transport.put(job, delivery.attempt)
        except QueueFull as error:
            log.error("an answer taken over finds no room", extra={"response": job.id, "err": str(error)})
            self._home.buried(Delivery(job, delivery.attempt, ""))

    async def _reclaim(self, node: str) -> None:
        """Take the stream entries that nobody alive answers for: read by, or offered by, nodes that are gone."""
        dead: dict[str, bool] = {node: True}
        start = "-"
        while rows := await self._link.ask("XPENDING", self._keys.jobs, GROUP, start, "+", _PAGE):
            for entry, consumer, *_ in rows:
                if await self._is_gone(consumer.decode(), dead):
                    await self._reclaim_entry(entry, dead)
            start = "(" + rows[-1][0].decode()
        await self._forget(node)

    async def _reclaim_entry(self, entry: bytes, dead: dict[str, bool]) -> None:
        found = await self._link.ask("XRANGE", self._keys.jobs, entry, entry)
        one = self._read(found[0][1][1]) if found and found[0][1] else None
        if one is not None and one.home and not await self._is_gone(one.home, dead):
            return  # its home lives, misses it and dispatches it again
        idle_ms = int(self._twice_s * 500)
        if not await self._link.ask("XCLAIM", self._keys.jobs, GROUP, self._bus.node, idle_ms, entry):
            return
        if one is not None:
            job_id = one.delivery.job.id
            if job_id not in self._kept and not await self._archived([job_id]):
                await self._adopt(one)
        self._chores.entry(entry)

    async def _forget(self, node: str) -> None:
        """A consumer without pending entries leaves no trace."""
        rows = await self._link.ask("XPENDING", self._keys.jobs, GROUP, "-", "+", 1, node)
        if not rows:
            await self._link.ask("XGROUP", "DELCONSUMER", self._keys.jobs, GROUP, node)

    def _read(self, data: bytes) -> record.Record | None:
        try:
            return record.unpack(data, self._codec)
        except UnreadableRecord:
            return None

    async def _is_dead(self, node: str, known: dict[str, bool]) -> bool:
        """Does nobody listen where a node should?"""
        if node not in known:
            known[node] = not await self._listeners(node)
        return known[node]

    async def _is_gone(self, node: str, known: dict[str, bool]) -> bool:
        """Is a node dead? Where it listened its heirs may listen now."""
        if node == self._bus.node:
            return False
        if node in self._transport.inherited or await self._is_dead(node, known):
            return True
        return bool(await self._link.ask("EXISTS", self._keys.heir(node)))

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
            await asyncio.sleep(_LOOK_EVERY_S)
        while True:
            try:
                await self._greet()
            except (RedisDown, RedisError) as error:
                log.info("could not look for nodes that are gone", extra={"err": str(error)})
            await asyncio.sleep(_LOOK_EVERY_S)

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
        silent = await self._silent_among(nodes)
        if silent:
            await asyncio.sleep(self._twice_s)
            for node in await self._silent_among(silent):
                if await self._relieve(node):
                    self.known.pop(node, None)

    async def _silent_among(self, nodes: Sequence[str]) -> list[str]:
        if not nodes or _now() < self._patient_until:
            return []
        reply = await self._link.ask("PUBSUB", "NUMSUB", *map(self._keys.channel, nodes))
        return [node for node, count in zip(nodes, reply[1::2], strict=True) if not count]


def _now() -> float:
    return asyncio.get_running_loop().time()
