"""Taking over from nodes that are gone: one winner, and nothing of theirs is lost or run twice without need.

When `finder.py` has found that a node is gone:

1. `SET heir:<node> <me> NX` marks it as taken over. Should it only have stood still, it finds this before it speaks.
2. `RENAMENX records:<node> records:<node>:<me>` has one winner, who begins these jobs anew.
3. What it had read from the stream, and what it had offered, is claimed from the group's pending entries; XCLAIM gives
   an entry to one claimant.
4. Its channel is subscribed, so that whoever speaks to it, tabs and workers alike, reaches its heir. So are those that
   the ids of its answers name: it may have inherited them itself.

Once it is marked nobody else finds it dead, for its heir listens: should Redis fail amid the rest, that is done again
until it is done, or the mark is forgotten.

All nodes are told of the beginning (`bereft`) and of the end (`settled`). In between the channel has a listener again,
while nobody knows yet what the dead node had: who is asked then has to wait before it says that something is unknown.
"""

from __future__ import annotations

import asyncio
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
from grizz.transport.redis.census import Census
from grizz.transport.redis.chores import Chores
from grizz.transport.redis.connection import pairs
from grizz.transport.redis.keys import GROUP, Keys
from grizz.transport.redis.link import Link
from grizz.transport.redis.record import Codec, UnreadableRecord
from grizz.transport.redis.transport import RedisTransport

log = logging.getLogger(__name__)

# How long the mark of a takeover stands: longer than any process stands still and is then woken.
_MARK_S = 86_400
# Between two looks at a channel that nobody listens on, in leases: who lost Redis for a moment is back by then.
TWICE = 0.7
# What workers get to say that they keep what they ran for a node that is gone.
_CLAIM_S = 0.3
_MAX_KEPT = 10_000
_MAX_HEARD_OF = 1000
_PAGE = 500
# Between two attempts to finish a takeover, at most.
_LONGEST_S = 60.0
# A field of a node's records that is no job: it is taking that node over.
_UNDER_WAY = "@"


class Heir:
    """Takes over.

    Args:
        max_attempts: deliveries of one job at most.
        lease_s: seconds a node may be silent; no takeover is waited for any longer.
        archived: which of these responses have ended and are stored; raises when that cannot be known.
    """

    def __init__(
        self,
        *,
        keys: Keys,
        link: Link,
        bus: Bus,
        chores: Chores,
        census: Census,
        transport: RedisTransport,
        codec: Codec,
        home: Home,
        metrics: Metrics,
        tasks: TaskOwner,
        max_attempts: int,
        lease_s: float,
        archived: Callable[[Sequence[str]], Any],
    ) -> None:
        self._keys = keys
        self._link = link
        self._bus = bus
        self._chores = chores
        self._census = census
        self._transport = transport
        self._codec = codec
        self._home = home
        self._metrics = metrics
        self._tasks = tasks
        self._max_attempts = max_attempts
        self._lease_s = lease_s
        self._archived = archived
        self._kept: dict[str, str] = {}
        self._busy: dict[str, asyncio.Task[bool]] = {}
        # Whom it has marked, and what goes on here of theirs so far.
        self._unfinished: dict[str, set[str]] = {}
        # The takeovers of others by who does it and of whom, and when they began.
        self._elsewhere: dict[tuple[str, str], float] = {}
        self._changed_at = -1.0
        bus.on("bereft", self._on_bereft)
        bus.on("kept", self._on_kept)
        bus.on("settled", self._on_settled)

    def __repr__(self) -> str:
        return f"<Heir {self._bus.node}: {len(self._busy)} takeovers under way>"

    @property
    def is_busy(self) -> bool:
        """Is a takeover under way here?"""
        return bool(self._busy)

    @property
    def is_behind(self) -> bool:
        """Did a takeover break off, and is not finished yet?"""
        return bool(self._unfinished)

    def is_relieving(self, node: str) -> bool:
        """Is that node being taken over here?"""
        return node in self._busy

    async def settled(self, within_s: float) -> bool:
        """Wait until the takeovers under way here are done; False when they are not by then. Cancel-safe."""
        if self._busy:
            await asyncio.wait(set(self._busy.values()), timeout=within_s)
        return not self._busy

    def under_way_since(self, moment: float) -> bool:
        """Is a takeover under way, here or elsewhere, or did one begin or end since that moment?"""
        too_old = _now() - self._lease_s  # who did it died, or speaks an older version
        self._elsewhere = {which: at for which, at in self._elsewhere.items() if at > too_old}
        return bool(self._busy or self._unfinished or self._elsewhere) or self._changed_at >= moment

    async def relieve(self, node: str) -> bool:
        """Take a node over, once for all who ask at the same time; False when that did not succeed.

        Not cancel-safe in that the takeover goes on: it belongs to the process.
        """
        task = self._busy.get(node)
        if task is None:
            task = self._busy[node] = self._tasks.spawn(self._try(node), name=f"take over {node}")
            task.add_done_callback(lambda _: self._busy.pop(node, None))
        return await asyncio.shield(task)

    async def _try(self, node: str) -> bool:
        try:
            await self._take_over(node)
        except (RedisDown, RedisError) as error:
            log.warning("a takeover did not succeed", extra={"peer": node, "err": str(error)})
            return False
        except Exception:
            self._unfinished.pop(node, None)  # it would fail again
            raise
        finally:
            self._changed_at = _now()
        self._bus.shout({"k": "settled", "home": node})
        return True

    async def _finish(self, node: str) -> None:
        """Redis may fail amid a takeover: begin it again until it is done."""
        wait_s = self._lease_s
        while node in self._unfinished:
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, max(_LONGEST_S, self._lease_s))
            if node in self._unfinished and self._link.is_up:
                await self.relieve(node)

    async def _take_over(self, node: str) -> None:
        """Become the heir of a node that is gone, as far as nobody else is. May be done again when it broke off."""
        me = self._bus.node
        self._kept = {job_id: keeper for job_id, keeper in self._kept.items() if keeper != node}
        mine, theirs = self._keys.records(node, me), self._keys.records(node)
        again = node in self._unfinished
        if again and not await self._link.ask("EXISTS", self._keys.heir(node)):
            # The Redis has forgotten the mark, so that node may have come back: whoever finds it dead begins anew.
            if not self._unfinished.pop(node):
                await self._transport.inheritance.remove(node, sure=True)
            return
        first = not again and await self._mark(node)
        if not again:
            self._unfinished[node] = set()
            self._tasks.spawn(self._finish(node), name=f"finish the takeover of {node}")
        begun = self._unfinished[node]
        # Who ran something for it has the logs of that, and perhaps nobody else has: that goes on where it is. At once,
        # since who speaks to that node reaches its heir by now, and takes that for a sign that it was heard.
        begun.update(self._transport.keeper.keep_errands(node))
        await self._bus.tell_everybody({"k": "bereft", "home": node})
        # Should this node die in the middle, its own heir finds by this what it was about to begin.
        await self._link.ask("HSET", self._keys.records(me), _UNDER_WAY + node, "1")
        won = await self._rename(theirs, mine)
        if first or won:
            log.warning("another node is gone; its answers go on here", extra={"peer": node})
            self._metrics.redis.takeovers.inc()
        await asyncio.sleep(_CLAIM_S)
        if self._bus.node != me:  # taken over itself, and its heir goes on with this
            self._unfinished.pop(node, None)
            return
        await self._begin_all(mine, node, begun)
        await self._reclaim(node, begun)
        await self._link.ask("HDEL", self._keys.records(me), _UNDER_WAY + node)
        self._unfinished.pop(node, None)
        if not first and not again:
            heir = (await self._link.ask("GET", self._keys.heir(node)) or b"").decode()
            if heir not in ("", me, node) and heir not in self._busy and not await self._census.listeners(heir):
                await self.relieve(heir)  # somebody else took it over before, and is gone too

    async def _mark(self, node: str) -> bool:
        """Mark it as taken over; True when nobody had. Without an answer nothing has begun: it may live, after all."""
        inheritance = self._transport.inheritance
        await inheritance.add(node, sure=False)  # who asks from now on is told to wait, not that nobody knows
        try:
            first = await self._link.ask("SET", self._keys.heir(node), self._bus.node, "NX", "EX", _MARK_S)
        except (RedisDown, RedisError):
            await inheritance.remove(node)
            raise
        await inheritance.add(node)
        return bool(first)

    async def _begin_all(self, mine: str, node: str, begun: set[str]) -> None:
        """Run what stood in the records of a dead node, and what it had been about to take over itself."""
        records = pairs(await self._link.ask("HGETALL", mine))
        await self._begin_anew([data for name, data in records.items() if not name.startswith(_UNDER_WAY)], begun)
        for name in records:
            if name.startswith(_UNDER_WAY):
                older = name.removeprefix(_UNDER_WAY)
                inherited = self._keys.records(older, self._bus.node)
                await self._rename(self._keys.records(older, node), inherited)
                await self._transport.inheritance.add(older)
                await self._begin_all(inherited, older, begun)
        await self._link.ask("DEL", mine)

    def _on_bereft(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        """Another node takes that home over: what runs here for it stays here."""
        self._changed_at = self._elsewhere[sender, part["home"]] = _now()
        while len(self._elsewhere) > _MAX_HEARD_OF:
            del self._elsewhere[next(iter(self._elsewhere))]
        # What that node kept for others is its heir's now: should that one die too, it goes on with whoever comes next.
        self._kept |= {job_id: sender for job_id, keeper in self._kept.items() if keeper == part["home"]}
        self._transport.keeper.keep_errands(part["home"])

    def _on_settled(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        self._elsewhere.pop((sender, part["home"]), None)
        self._changed_at = _now()

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

    async def _begin_anew(self, records: Sequence[bytes], begun: set[str]) -> None:
        """Run again what a dead node was running, unless it had ended."""
        found: list[record.Record] = []
        for data in records:
            try:
                found.append(record.unpack(data, self._codec))
            except UnreadableRecord as error:
                log.error("a record of a node that is gone cannot be read", extra={"err": str(error)})
                self._metrics.redis.errors.labels("message").inc()
        over = {*self._kept, *begun, *await self._archived([one.delivery.job.id for one in found])}
        for one in found:
            if one.delivery.job.id not in over:
                begun.add(one.delivery.job.id)
                await self._adopt(one)

    async def _adopt(self, found: record.Record) -> None:
        delivery = found.delivery
        await self._transport.inheritance.add(record.home_of(delivery.job.id))
        spent = delivery.attempt >= self._max_attempts or found.expires_at < time.time()
        job = self._home.adopt(delivery.job, delivery.attempt + (not spent), None)
        if job is None:
            return
        self._metrics.redis.adopted.inc()
        peer = record.home_of(job.id)
        log.warning("response begun anew, its home is gone", extra={"response_id": job.id, "peer": found.home or peer})
        if spent:
            self._transport.jobs.papers.bury(job, delivery.attempt, f"{delivery.attempt} attempts were lost")
            self._home.buried(dataclasses.replace(delivery, job=job))
            return
        try:
            await self._transport.put(job, delivery.attempt)
        except QueueFull as error:
            log.error("an answer taken over finds no room", extra={"response_id": job.id, "err": str(error)})
            self._home.buried(Delivery(job, delivery.attempt, ""))

    async def _reclaim(self, node: str, begun: set[str]) -> None:
        """Take the stream entries that nobody alive answers for: read by, or offered by, nodes that are gone."""
        dead: dict[str, bool] = {node: True}
        start = "-"
        while rows := await self._link.ask("XPENDING", self._keys.jobs, GROUP, start, "+", _PAGE):
            for entry, consumer, *_ in rows:
                if await self._is_gone(consumer.decode(), dead):
                    await self._reclaim_entry(entry, dead, begun)
            start = "(" + rows[-1][0].decode()
        await self._forget(node)

    async def _reclaim_entry(self, entry: bytes, dead: dict[str, bool], begun: set[str]) -> None:
        found = await self._link.ask("XRANGE", self._keys.jobs, entry, entry)
        one = self._read(found[0][1][1]) if found and found[0][1] else None
        if one is not None and one.home and not await self._is_gone(one.home, dead):
            return  # its home lives, misses it and dispatches it again
        job_id = "" if one is None else one.delivery.job.id
        over = job_id in self._kept or job_id in begun or (job_id and await self._archived([job_id]))
        idle_ms = int(TWICE * self._lease_s * 500)
        if not await self._link.ask("XCLAIM", self._keys.jobs, GROUP, self._bus.node, idle_ms, entry):
            return
        # Redis is not asked between the claim and what comes of it: nobody else would ever see this entry.
        if one is not None and not over:
            begun.add(job_id)
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
            known[node] = not await self._census.listeners(node)
        return known[node]

    async def _is_gone(self, node: str, known: dict[str, bool]) -> bool:
        """Is a node dead? Where it listened its heirs may listen now."""
        if node == self._bus.node:
            return False
        if node in self._transport.inheritance or await self._is_dead(node, known):
            return True
        return bool(await self._link.ask("EXISTS", self._keys.heir(node)))


def _now() -> float:
    return asyncio.get_running_loop().time()
