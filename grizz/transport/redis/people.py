"""What the Redis has of each user, for the operator's commands. There is no index by user, which would cost commands
at each reply: everything is walked through instead, some hundred keys at a time, beside the servers' own commands.

A deletion tells the nodes over the channel that all hear (`erase`); each stops and forgets what it has of the user,
sends what it had still to write, and answers (`erased`) on the command's own channel. What is deleted after that is
gone for good. A node that has no connection just then hears nothing, and may write what it has later: who is a consumer
of the group, and not gone, must have answered, or it is not done.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Self

import orjson
from redis.exceptions import ResponseError

from grizz.transport.people import Count
from grizz.transport.redis.connection import Target, pairs
from grizz.transport.redis.desk import Desk
from grizz.transport.redis.faults import Fault, fault_of
from grizz.transport.redis.keys import FORMAT, GROUP, Keys
from grizz.transport.redis.link import BLOCK_S
from grizz.transport.redis.shelf import RedisShelf

# Names at a time, and values: one may have megabytes.
_PAGE = 200
_VALUES = 20
# A node that lives reads the stream once in `BLOCK_S`; then it may wait for a quarter of an hour to connect again.
_GONE_S = BLOCK_S + 1200.0


@dataclass(frozen=True, slots=True)
class _Found:
    """One thing that is kept.

    Attributes:
        kind: "response", "unfinished" or "conversation".
        size: bytes of it.
        body: what it says, as JSON; None for a conversation.
        removal: the commands that remove it.
    """

    kind: str
    owner: str
    size: int
    body: dict[str, Any] | None
    removal: tuple[tuple[Any, ...], ...]


class RedisPeople:
    """Implements `transport.people.People`. Every method raises RedisError, OSError or TimeoutError when it cannot."""

    def __init__(self, target: Target, keys: Keys) -> None:
        self._target = target
        self._keys = keys
        self._runner = asyncio.Runner()
        self._desk = Desk(target)
        # It keeps nothing, so that how long it would is of no matter.
        self._shelf = RedisShelf(keys, self._desk, keep_s=0)

    def __enter__(self) -> Self:
        self._runner.run(self._desk.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._desk.__aexit__())
        self._runner.close()

    def counts(self) -> list[Count]:
        """See `People.counts`."""
        return self._runner.run(self._counts())

    def export(self, owner: str) -> Iterator[dict[str, Any]]:
        """See `People.export`."""
        each = self._export(owner)
        while (one := self._runner.run(_next(each))) is not None:
            yield one

    def delete(self, owner: str, within_s: float) -> tuple[int, bool]:
        """See `People.delete`."""
        return self._runner.run(self._delete(owner, within_s))

    async def _counts(self) -> list[Count]:
        sums: dict[str, list[int]] = {}
        async for found in self._all(conversations=True):
            row = sums.setdefault(found.owner, [0, 0, 0, 0])
            row[("response", "unfinished", "conversation").index(found.kind)] += 1
            row[3] += found.size
        return [Count(owner, *row) for owner, row in sorted(sums.items())]

    async def _export(self, owner: str) -> AsyncIterator[dict[str, Any]]:
        async for found in self._all():
            if found.owner != owner or found.body is None:
                continue
            body = found.body
            if found.kind == "unfinished":
                yield {"kind": "unfinished", "id": body["id"], "context": body["work"]["context"]}
            else:
                previous = body["lineage"][-1] if body["lineage"] else None
                yield {"kind": "response", "previous": previous, "input": body["input"], "response": body["response"]}
        async for conversation, items in self._shelf.export(owner):
            known = {"id": conversation.id, "created_at": conversation.created_at}
            known |= {"updated_at": conversation.updated_at, "metadata": dict(conversation.metadata)}
            yield {"kind": "conversation", **known, "items": items}

    async def _delete(self, owner: str, within_s: float) -> tuple[int, bool]:
        deleted = await self._remove(owner)
        done = await self._tell(owner, within_s)
        return deleted + await self._remove(owner), done

    async def _remove(self, owner: str) -> int:
        removed = await self._shelf.delete_all(owner)
        async for found in self._all():
            if found.owner == owner:
                for command in found.removal:
                    await self._desk.ask(*command)
                removed += 1
        return removed

    async def _tell(self, owner: str, within_s: float) -> bool:
        """Tell all nodes, and wait until each that hears it, or lives without hearing it, has said that it is done."""
        name = f"erase-{secrets.token_hex(8)}"
        wire = self._target.wire()
        done: set[str] = set()
        try:
            async with asyncio.timeout(within_s):
                await wire.open()
                await wire.subscribe([self._keys.channel(name)])
                part = {"k": "erase", "owner": owner}
                message = orjson.dumps({"v": FORMAT, "from": name, "parts": [part]})
                heard = await self._desk.ask("PUBLISH", self._keys.everybody, message)
                while len(done) < heard:
                    done |= _erased(await wire.next())
        except TimeoutError:
            return False
        finally:
            await wire.close()
        return not await self._deaf(done)

    async def _deaf(self, done: set[str]) -> list[str]:
        """The nodes that did not hear it and may live: they have no connection now, and will have one again.

        Gone is who was taken over, and whom nobody took over for want of another node, after a while.
        """
        try:
            rows = await self._desk.ask("XINFO", "CONSUMERS", self._keys.jobs, GROUP)
        except ResponseError as error:
            if fault_of(error) is Fault.LOST:  # no server ever was here
                return []
            raise
        idle_ms = {row["name"].decode(): int(row["idle"]) for row in map(pairs, rows)}
        silent = [node for node in idle_ms if node not in done]
        heirs = await self._desk.ask("MGET", *map(self._keys.heir, silent)) if silent else []
        left = [node for node, heir in zip(silent, heirs, strict=True) if heir is None]
        return [node for node in left if idle_ms[node] < _GONE_S * 1000]

    async def _all(self, *, conversations: bool = False) -> AsyncIterator[_Found]:
        """Every response and unfinished job that is kept, of everybody, once; and on demand the conversations."""
        async for names in self._names(self._keys.turn("*")):
            for start in range(0, len(names), _VALUES):
                some = names[start : start + _VALUES]
                for name, data in zip(some, await self._desk.ask("MGET", *some), strict=True):
                    if data is not None and (found := _read("response", data, ("DEL", name))):
                        yield found
        async for names in self._names(self._keys.history("*")):
            for name in names:
                async for field, data in self._fields(name):
                    if found := _read("response", data, ("HDEL", name, field)):
                        yield found
        async for names in self._names(self._keys.records("*")):
            for name in names:
                async for field, data in self._fields(name):
                    if found := _read("unfinished", data, ("HDEL", name, field)):
                        yield found
        for stream in (self._keys.jobs, self._keys.dead):
            async for entry, fields in self._entries(stream):
                removal = (("XACK", stream, GROUP, entry), ("XDEL", stream, entry))
                if found := _read("unfinished", fields.get("job", b""), *removal[stream == self._keys.dead :]):
                    yield found
        if not conversations:  # each costs a command, and those of one user are found without
            return
        async for names in self._names(self._keys.conversation("*")):
            for name in names:
                if not name.endswith((b":items", b":order")):
                    owner, size = await self._desk.ask("HMGET", name, "owner", "bytes")
                    if owner is not None:
                        yield _Found("conversation", owner.decode(), int(size or 0), None, ())

    async def _names(self, pattern: str) -> AsyncIterator[list[bytes]]:
        """Keys, some at a time, each once: a scan may name one that is there all the while more than once."""
        cursor: bytes | int = 0
        seen: set[bytes] = set()
        while True:
            cursor, names = await self._desk.ask("SCAN", cursor, "MATCH", pattern, "COUNT", _PAGE)
            if new := [name for name in dict.fromkeys(names) if name not in seen]:
                seen.update(new)
                yield new
            if int(cursor) == 0:
                return

    async def _fields(self, name: bytes) -> AsyncIterator[tuple[bytes, bytes]]:
        cursor: bytes | int = 0
        seen: set[bytes] = set()
        while True:
            cursor, flat = await self._desk.ask("HSCAN", name, cursor, "COUNT", _VALUES)
            for field, data in zip(flat[::2], flat[1::2], strict=True):
                if field not in seen:
                    seen.add(field)
                    yield field, data
            if int(cursor) == 0:
                return

    async def _entries(self, stream: str) -> AsyncIterator[tuple[bytes, dict[str, bytes]]]:
        since = b"-"
        while rows := await self._desk.ask("XRANGE", stream, since, "+", "COUNT", _VALUES):
            for entry, fields in rows:
                yield entry, pairs(fields)
            since = b"(" + rows[-1][0]


async def _next(each: AsyncIterator[dict[str, Any]]) -> dict[str, Any] | None:
    return await anext(each, None)


def _read(kind: str, data: bytes, *removal: tuple[Any, ...]) -> _Found | None:
    """What it is, unless it is another version's, which alone knows whose it is."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        body = orjson.loads(data)
        return _Found(kind, str(body["owner"]), len(data), body, removal)
    return None


def _erased(pushed: Any) -> set[str]:
    """The nodes that this message is from, if it says that they have forgotten the user."""
    with contextlib.suppress(ValueError, KeyError, TypeError, IndexError):
        message = orjson.loads(pushed[2].partition(b"\n")[0])
        if any(part["k"] == "erased" for part in message["parts"]):
            return {message["from"]}
    return set()
