"""Conversations in the Redis, where every node finds them: `transport.shelf.Shelf`.

A turn costs three commands: what is known of the conversation, the lock with all items, the new items with the lock
given back. The scripts are sent whole, a kilobyte or two: so there is nothing to load, and nothing to miss after
a failover.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

import orjson
from redis.exceptions import RedisError

from grizz.errors import ConversationLocked, RedisDown, ShelfDown
from grizz.protocol.items import Item
from grizz.transport.redis import shelf_scripts as scripts
from grizz.transport.redis.keys import Keys
from grizz.transport.shelf import MAX_OF_OWNER, Conversation, Wanted

# Conversations that one command looks at or removes: a script holds up everybody else's commands while it runs.
_AT_ONCE = 200


class Asks(Protocol):
    """A way to the Redis."""

    async def ask(self, *command: Any) -> Any:
        """The reply to a command. Raises RedisDown or RedisError."""
        ...


class RedisShelf:
    """Implements `transport.shelf.Shelf`.

    Args:
        keep_s: seconds a conversation is kept after it was last written to, give or take a twentieth.

    Attributes:
        largest: see `Shelf.largest`; all of it must come in one reply within the two seconds that a call may take.
    """

    largest = 4 << 20

    def __init__(self, keys: Keys, link: Asks, *, keep_s: float) -> None:
        self._keys = keys
        self._link = link
        self._keep_ms = int(keep_s * 1000)

    def __repr__(self) -> str:
        return f"<RedisShelf on {self._link!r}>"

    async def create(self, conversation: Conversation, items: Sequence[Item]) -> None:
        """See `Shelf.create`."""
        conv = self._keys.conversation(conversation.id)
        await self._run(
            scripts.CREATE,
            (*_keys_of(conv), self._index(conversation.owner)),
            self._keep_ms,
            conversation.id,
            conversation.owner,
            conversation.created_at,
            orjson.dumps(dict(conversation.metadata)),
            conversation.opening,
            MAX_OF_OWNER,
            self._keys.conversation(""),
            *_flat(items),
        )

    async def get(self, conversation_id: str) -> Conversation | None:
        """See `Shelf.get`."""
        return _known(conversation_id, await self._ask("HMGET", self._keys.conversation(conversation_id), *_FIELDS))

    async def update(self, conversation_id: str, metadata: Mapping[str, str]) -> Conversation | None:
        """See `Shelf.update`."""
        conv = self._keys.conversation(conversation_id)
        return _known(
            conversation_id, await self._run(scripts.UPDATE, (conv,), conversation_id, orjson.dumps(dict(metadata)))
        )

    async def delete(self, conversation_id: str) -> bool:
        """See `Shelf.delete`."""
        return bool(await self._run(scripts.DELETE, (self._keys.conversation(conversation_id),), conversation_id))

    async def append(
        self, conversation_id: str, items: Sequence[Item], *, opening: str = "", turn: str | None = None
    ) -> Conversation | None:
        """See `Shelf.append`."""
        keys = _keys_of(self._keys.conversation(conversation_id))
        reply = await self._run(
            scripts.APPEND, keys, self._keep_ms, conversation_id, turn or "", opening, *_flat(items)
        )
        return _known(conversation_id, reply)

    async def page(
        self, conversation_id: str, *, after: str | None, limit: int, newest_first: bool
    ) -> tuple[list[Item], bool] | None:
        """See `Shelf.page`."""
        conv, items, order = _keys_of(self._keys.conversation(conversation_id))
        there, found = await asyncio.gather(
            self._ask("EXISTS", conv),
            self._run(scripts.PAGE, (items, order), after or "", limit + 1, int(newest_first)),
        )
        if not there or found is None:
            return None
        page = [_item(data) for data in found if data is not None]
        return page[:limit], len(page) > limit

    async def item(self, conversation_id: str, item_id: str) -> Item | None:
        """See `Shelf.item`."""
        data = await self._ask("HGET", _keys_of(self._keys.conversation(conversation_id))[1], item_id)
        return None if data is None else _item(data)

    async def remove(self, conversation_id: str, item_id: str) -> Conversation | None:
        """See `Shelf.remove`."""
        keys = _keys_of(self._keys.conversation(conversation_id))
        return _known(conversation_id, await self._run(scripts.REMOVE, keys, conversation_id, item_id))

    async def listing(
        self, owner: str, *, after: str | None, limit: int, newest_first: bool, wanted: Wanted
    ) -> tuple[list[Conversation], bool] | None:
        """See `Shelf.listing`. A search reads until it has enough, 200 conversations at a time."""
        found: list[Conversation] = []
        at_once = limit + 1 if wanted.everything else _AT_ONCE
        while len(found) <= limit:
            reply = await self._listed(owner, after, at_once, newest_first)
            if reply is None:
                return None
            seen, some = reply
            found += filter(wanted.matches, some)
            if seen < at_once:
                break
            after = some[-1].id if some else after
        return found[:limit], len(found) > limit

    async def begin(self, conversation_id: str, turn: str, hold_s: float) -> list[Item] | None:
        """See `Shelf.begin`."""
        keys = _keys_of(self._keys.conversation(conversation_id))[:2]
        reply = await self._run(scripts.BEGIN, keys, turn, int(hold_s * 1000))
        if reply == 0:
            raise ConversationLocked(conversation_id)
        return None if reply is None else _in_order(reply)

    async def renew(self, conversation_id: str, turn: str, hold_s: float) -> bool:
        """See `Shelf.renew`."""
        conv = self._keys.conversation(conversation_id)
        return bool(await self._run(scripts.RENEW, (conv,), turn, int(hold_s * 1000)))

    async def release(self, conversation_id: str, turn: str) -> None:
        """See `Shelf.release`."""
        await self._run(scripts.RELEASE, (self._keys.conversation(conversation_id),), turn)

    async def read(self, conversation_id: str) -> list[Item] | None:
        """See `Shelf.read`."""
        conv, items, _ = _keys_of(self._keys.conversation(conversation_id))
        there, values = await asyncio.gather(self._ask("EXISTS", conv), self._ask("HVALS", items))
        return _in_order(values) if there else None

    async def delete_all(self, owner: str) -> int:
        """See `Shelf.delete_all`."""
        deleted = 0
        while True:
            arguments = (self._keys.conversation(""), _AT_ONCE)
            seen, there = await self._run(scripts.DELETE_SOME, (self._index(owner),), *arguments)
            deleted += there
            if seen < _AT_ONCE:
                return int(deleted)

    async def export(self, owner: str) -> AsyncIterator[tuple[Conversation, list[Item]]]:
        """See `Shelf.export`."""
        for conversation_id in await self._ask("ZRANGE", self._index(owner), 0, -1):
            name = conversation_id.decode()
            known, items = await asyncio.gather(self.get(name), self.read(name))
            if known is not None and items is not None:
                yield known, items

    def sweep(self) -> None:
        """See `Shelf.sweep`: the Redis does it."""

    async def _listed(
        self, owner: str, after: str | None, limit: int, newest_first: bool
    ) -> tuple[int, list[Conversation]] | None:
        arguments = (self._keys.conversation(""), after or "", limit, int(newest_first))
        reply = await self._run(scripts.LISTING, (self._index(owner),), *arguments)
        if reply is None:
            return None
        seen, *rows = reply
        return seen, [known for row in rows if (known := _known(row[0].decode(), row[1:])) is not None]

    def _index(self, owner: str) -> str:
        """An owner may be called anything, at any length."""
        return self._keys.conversations(hashlib.sha256(owner.encode()).hexdigest()[:40])

    async def _run(self, script: str, keys: Sequence[str], *arguments: Any) -> Any:
        return await self._ask("EVAL", script, len(keys), *keys, *arguments)

    async def _ask(self, *command: Any) -> Any:
        try:
            return await self._link.ask(*command)
        except (RedisDown, RedisError) as error:
            raise ShelfDown(str(error)) from error


_FIELDS = ("owner", "created", "updated", "metadata", "opening", "version", "items", "bytes", "lock")


def _keys_of(conv: str) -> tuple[str, str, str]:
    return conv, f"{conv}:items", f"{conv}:order"


def _flat(items: Sequence[Item]) -> list[str | bytes]:
    return [part for item in items for part in (item["id"], orjson.dumps(item))]


def _known(conversation_id: str, row: list[bytes | None] | None) -> Conversation | None:
    if row is None or row[0] is None:
        return None
    owner, created, updated, metadata, opening, version, items, size, lock = (value or b"" for value in row)
    return Conversation(
        id=conversation_id,
        owner=owner.decode(),
        created_at=int(created),
        updated_at=int(updated) / 1000,
        metadata=orjson.loads(metadata),
        opening=opening.decode(),
        version=int(version),
        items=int(items),
        bytes=int(size),
        running=lock.decode(),
    )


def _in_order(values: list[bytes]) -> list[Item]:
    """Items by the numbers that stand before them."""
    numbered = sorted((int(number), data) for number, _, data in (value.partition(b" ") for value in values))
    items: list[Item] = orjson.loads(b"[" + b",".join(data for _, data in numbered) + b"]")
    return items


def _item(value: bytes) -> Item:
    item: Item = orjson.loads(value.partition(b" ")[2])
    return item
