"""What must happen in the Redis some time, and costs fewest commands when done together: settling, storing, burying.

Everything here is collected for a tenth of a second. What stands in the history is not begun again, whatever else is
left of it; an answer whose home is killed within that tenth of a second after its end runs once more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from redis.exceptions import RedisError

from grizz.core.budget import Thrift
from grizz.core.job import Job
from grizz.errors import RedisDown
from grizz.transport.redis.connection import Wire, pairs
from grizz.transport.redis.faults import Fault, fault_of
from grizz.transport.redis.keys import GROUP, Keys
from grizz.transport.redis.link import Link

log = logging.getLogger(__name__)

_TICK_S = 0.1
_HOUR_S = 3600
# A full Redis is asked again this often whether it takes what has ended.
_FULL_S = 5.0
# Dead letters beyond this push the oldest out.
_MAX_DEAD = 1000
# What waits while Redis is gone; beyond it the oldest history is given up, and settled entries are left to rot.
_MAX_WAITING_BYTES = 16 << 20
_MAX_WAITING = 10_000


class Chores:
    """Collects and sends. Every method but `prepare` returns at once.

    Args:
        thrift: how much the command budget asks to save; at the most, what ended is not stored for other nodes.
    """

    def __init__(
        self, keys: Keys, link: Link, node: Callable[[], str], thrift: Callable[[], Thrift] = lambda: Thrift.NONE
    ) -> None:
        self._keys = keys
        self._link = link
        self._node = node
        self._thrift = thrift
        self._entries: dict[bytes, None] = {}
        self._records: dict[str, None] = {}
        self._history: dict[str, dict[str, bytes]] = {}
        self._history_bytes = 0
        self._unstored: dict[str, str] = {}
        self._dated: dict[str, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._one_step = False
        self.keep_s = 0.0
        self.neighbours: list[str] = []
        self.version = ""
        self._counts_readers = False  # until the server has said its version

    def __repr__(self) -> str:
        return f"<Chores: {len(self._entries)} entries, {len(self._records)} records, {self._history_bytes} bytes>"

    async def prepare(self, cmd: Wire, *, reads: bool) -> None:
        """Learn what the server can do, and see that the stream and its group are there: two to four commands.

        Args:
            reads: this node will read the stream, which makes it a consumer; one that does not is made one here, since
                the group's consumers are how others know which nodes there are. Before Redis 7.2 a read that waits
                makes none, so that a node that had nothing to do yet could be nobody's heir.
        """
        info, group = await cmd.ask([("INFO",), ("XINFO", "CONSUMERS", self._keys.jobs, GROUP)])
        if isinstance(info, bytes):
            self._learn(info.decode(errors="replace"))
        elif fault_of(info) is not Fault.LOGIN:  # an account need not be allowed to ask
            raise info
        if isinstance(group, list):
            node = self._node()
            names = [pairs(consumer)["name"].decode() for consumer in group]
            self.neighbours = [name for name in names if name != node]
        else:
            await self._make_group(cmd, group)
        if not reads or not self._counts_readers:
            await cmd.ask([("XGROUP", "CREATECONSUMER", self._keys.jobs, GROUP, self._node())])

    async def _make_group(self, cmd: Wire, group: Exception) -> None:
        if fault_of(group) is not Fault.LOST:
            raise group
        made = (await cmd.ask([("XGROUP", "CREATE", self._keys.jobs, GROUP, "0", "MKSTREAM")]))[0]
        if isinstance(made, RedisError) and "BUSYGROUP" not in str(made):
            raise made
        self.neighbours = []

    def _learn(self, info: str) -> None:
        told = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
        self.version = told.get("valkey_version") or told.get("redis_version", "")
        numbers = tuple(int(part) for part in self.version.split(".")[:2] if part.isdigit())
        # XDELEX came with Redis 8.2; Valkey has none. (XACKDEL leaves entries that nobody has read.)
        self._one_step = "valkey_version" not in told and numbers >= (8, 2)
        self._counts_readers = "valkey_version" in told or numbers >= (7, 2)
        policy = told.get("maxmemory_policy", "")
        if policy.startswith("allkeys"):
            log.warning("redis may evict jobs when it is full; set maxmemory-policy noeviction", extra={"is": policy})

    def up(self) -> None:
        """The link is up again: send what waited."""
        self._dated.clear()
        self._soon()

    def entry(self, entry: bytes) -> None:
        """A stream entry is settled: acknowledge and delete it."""
        if len(self._entries) < _MAX_WAITING:
            self._entries[entry] = None
        self._soon()

    def record(self, job_id: str) -> None:
        """A job is over: remove its crash record."""
        if len(self._records) < _MAX_WAITING:
            self._records[job_id] = None
        self._soon()

    def store(self, bucket: str, response_id: str, data: bytes) -> None:
        """A response has ended: store it."""
        self._history.setdefault(bucket, {})[response_id] = data
        self._history_bytes += len(data)
        while self._history_bytes > _MAX_WAITING_BYTES:
            oldest = next(iter(self._history))
            lost = self._history.pop(oldest)
            self._history_bytes -= sum(map(len, lost.values()))
            log.warning("finished responses are not stored, redis is gone for too long", extra={"count": len(lost)})
        self._soon()

    def unstore(self, bucket: str, response_id: str) -> None:
        """Forget a stored response, and do not store it if that was about to happen."""
        self.drop(bucket, response_id)
        if len(self._unstored) < _MAX_WAITING:
            self._unstored[response_id] = bucket
        self._soon()

    def drop(self, bucket: str, response_id: str) -> None:
        """It was deleted elsewhere: do not store it any more."""
        data = self._history.get(bucket, {}).pop(response_id, b"")
        self._history_bytes -= len(data)

    def unsent(self, bucket: str, response_id: str) -> bytes | None:
        """What is about to be stored of a response, if it is."""
        return self._history.get(bucket, {}).get(response_id)

    def leaving(self, response_id: str) -> bool:
        """Is what is stored of a response about to be removed?"""
        return response_id in self._unstored

    def prolong(self, bucket: str, response_id: str) -> None:
        """It is in use: keep it, and what was stored with it, as if it were new."""
        self._link.send("EXPIRE", self._keys.history(bucket), int(self.keep_s) + _HOUR_S)
        self._link.send("EXPIRE", self._keys.turn(response_id), int(self.keep_s))

    def dead(self, job: Job, data: bytes, cause: str, attempts: int) -> None:
        """Keep a job that was given up among the dead letters; without `data` only that it was."""
        row = ("id", job.id, "owner", job.owner, "cause", cause, "attempts", attempts, "at", int(time.time()))
        self._link.send("XADD", self._keys.dead, "MAXLEN", "~", _MAX_DEAD, "*", *row, "job", data)

    def bury(self, entry: bytes, cause: str) -> None:
        """An entry that nobody can read leaves a dead letter, though not its words, which may not be for keeping."""
        row = ("id", "", "owner", "", "cause", cause[:200], "attempts", 0, "at", int(time.time()))
        self._link.send("XADD", self._keys.dead, "MAXLEN", "~", _MAX_DEAD, "*", *row, "job", b"")
        self.entry(entry)

    def flush(self) -> None:
        """Send what was collected, if there is a Redis to send it to."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._link.is_up:
            return
        if self._link.writable or self._thrift() is Thrift.LOCAL:
            for bucket, fields in self._history.items():
                self._store(bucket, fields)
            self._history, self._history_bytes = {}, 0
        elif self._history:
            self._timer = asyncio.get_running_loop().call_later(_FULL_S, self._due)
        if self._records:
            records, self._records = self._records, {}
            again = self._again(lambda: self._records.update(records))
            self._link.send("HDEL", self._keys.records(self._node()), *records, then=again)
        if self._entries:
            entries, self._entries = self._entries, {}
            again = self._again(lambda: self._entries.update(entries))
            if self._one_step:
                self._link.send("XDELEX", self._keys.jobs, "DELREF", "IDS", len(entries), *entries, then=again)
            else:
                self._link.send("XACK", self._keys.jobs, GROUP, *entries)
                self._link.send("XDEL", self._keys.jobs, *entries, then=again)
        if self._unstored:
            unstored, self._unstored = self._unstored, {}
            again = self._again(lambda: self._unstored.update(unstored))
            self._link.send("DEL", *map(self._keys.turn, unstored))
            for response_id, bucket in unstored.items():
                self._link.send("HDEL", self._keys.history(bucket), response_id, then=again)

    def _again(self, restore: Callable[[], None]) -> Callable[[Any], None]:
        """What Redis did not do before it went must be done when it is back."""

        def then(reply: Any) -> None:
            if isinstance(reply, RedisDown):
                restore()

        return then

    def _store(self, bucket: str, fields: dict[str, bytes]) -> None:
        if not fields or self._thrift() is Thrift.LOCAL:
            return

        def back() -> None:
            for one, data in fields.items():
                self.store(bucket, one, data)

        then = self._again(back)
        if len(fields) == 1:  # one command, where a hash that is new would need two
            ((response_id, data),) = fields.items()
            self._link.send("SET", self._keys.turn(response_id), data, "EX", int(self.keep_s), then=then)
            return
        key = self._keys.history(bucket)
        self._link.send("HSET", key, *(part for pair in fields.items() for part in pair), then=then)
        if bucket not in self._dated:
            self._dated[bucket] = None
            self._link.send("EXPIRE", key, int(self.keep_s) + _HOUR_S)
            while len(self._dated) > 100:
                del self._dated[next(iter(self._dated))]

    def _soon(self) -> None:
        if self._timer is None and self._link.is_up:
            self._timer = asyncio.get_running_loop().call_later(_TICK_S, self._due)

    def _due(self) -> None:
        self._timer = None
        self.flush()
