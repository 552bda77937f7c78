"""Conversations in this process's memory: `transport.shelf.Shelf`. Nothing here survives the process."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import orjson

from grizz.errors import ConversationLocked
from grizz.protocol.items import Item
from grizz.transport.shelf import MAX_OF_OWNER, Conversation, Wanted

# What a conversation, an item and the memory of a turn cost beside the JSON; together a tenth above what 300
# conversations of fifty turns took (tracemalloc, 3.11).
CONVERSATION_OVERHEAD_BYTES = 1000
ITEM_OVERHEAD_BYTES = 150
TURN_OVERHEAD_BYTES = 150
# Conversations that a search looks at before others get their turn: all of an owner's would take 40 ms (measured).
_AT_ONCE = 200


class Locks:
    """The locks of conversations, for an adapter that no other process shares.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._held: dict[str, tuple[str, float]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def take(self, conversation_id: str, turn: str, hold_s: float) -> bool:
        """Take or prolong a lock; False when another turn has it."""
        holder, until = self._held.get(conversation_id, ("", 0.0))
        now = self._clock()
        if holder != turn and now < until:
            return False
        self._held[conversation_id] = (turn, now + hold_s)
        return True

    def named(self, conversation: Conversation) -> Conversation:
        """The conversation, with the turn that has its lock."""
        turn, until = self._held.get(conversation.id, ("", 0.0))
        return dataclasses.replace(conversation, running=turn) if self._clock() < until else conversation

    def release(self, conversation_id: str, turn: str) -> None:
        """Give a lock back, if this turn has it."""
        if self._held.get(conversation_id, ("", 0.0))[0] == turn:
            del self._held[conversation_id]

    def forget(self, conversation_id: str) -> None:
        """The conversation is gone."""
        self._held.pop(conversation_id, None)

    def sweep(self) -> None:
        """Drop the locks that ran out."""
        now = self._clock()
        for conversation_id, (_, until) in list(self._held.items()):
            if until <= now:
                del self._held[conversation_id]


class _Kept:
    """One conversation: what is known of it, its items as JSON in order, the turns that were appended."""

    __slots__ = ("items", "known", "turns")

    def __init__(self, known: Conversation) -> None:
        self.known = known
        self.items: dict[str, bytes] = {}
        self.turns: dict[str, None] = {}

    @property
    def size(self) -> int:
        """Bytes it holds."""
        fixed = CONVERSATION_OVERHEAD_BYTES + len(orjson.dumps(dict(self.known.metadata)))
        return fixed + self.known.bytes + ITEM_OVERHEAD_BYTES * len(self.items) + TURN_OVERHEAD_BYTES * len(self.turns)

    def add(self, items: Sequence[Item]) -> None:
        """Append items, those aside that are here."""
        for item in items:
            if item["id"] not in self.items:
                # A copy: what orjson gives holds on to the 4 KiB it was written in (measured).
                self.items[item["id"]] = bytes(memoryview(orjson.dumps(item)))

    def read(self) -> list[Item]:
        """Every item."""
        return _read(self.items.values())


class MemoryShelf:
    """Implements `transport.shelf.Shelf` within two bounds: time since the last write, and bytes in all.

    Args:
        keep_s: seconds a conversation is kept after it was last written to.
        max_bytes: what all conversations may hold together; the least recently used go first.
        clock: seconds since the epoch.

    Attributes:
        bytes: what all conversations hold together.
        largest: see `Shelf.largest`; as much as one request may bring.
    """

    largest = 16 << 20

    def __init__(self, *, keep_s: float, max_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self._keep_s = keep_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._owners: dict[str, OrderedDict[str, None]] = {}
        self._locks = Locks(clock)
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __repr__(self) -> str:
        return f"<MemoryShelf: {len(self._kept)} conversations, {self.bytes} bytes>"

    async def create(self, conversation: Conversation, items: Sequence[Item]) -> None:
        """See `Shelf.create`."""
        kept = self._kept[conversation.id] = _Kept(dataclasses.replace(conversation, version=0))
        self.bytes += kept.size
        self._owners.setdefault(conversation.owner, OrderedDict())
        self._write(kept, items)
        if len(mine := self._owners.get(conversation.owner, ())) > MAX_OF_OWNER:
            self._drop(next(iter(mine)))

    async def get(self, conversation_id: str) -> Conversation | None:
        """See `Shelf.get`."""
        kept = self._find(conversation_id)
        return None if kept is None else self._locks.named(kept.known)

    async def update(self, conversation_id: str, metadata: Mapping[str, str]) -> Conversation | None:
        """See `Shelf.update`."""
        kept = self._find(conversation_id)
        return None if kept is None else self._write(kept, (), metadata=dict(metadata))

    async def delete(self, conversation_id: str) -> bool:
        """See `Shelf.delete`."""
        if self._find(conversation_id) is None:
            return False
        self._drop(conversation_id)
        return True

    async def append(
        self, conversation_id: str, items: Sequence[Item], *, opening: str = "", turn: str | None = None
    ) -> Conversation | None:
        """See `Shelf.append`."""
        kept = self._find(conversation_id)
        if turn is not None:
            self._locks.release(conversation_id, turn)
            if kept is not None and turn in kept.turns:
                return kept.known
        if kept is None:
            return None
        return self._write(kept, items, turn=turn, opening=kept.known.opening or opening)

    async def page(
        self, conversation_id: str, *, after: str | None, limit: int, newest_first: bool
    ) -> tuple[list[Item], bool] | None:
        """See `Shelf.page`."""
        kept = self._find(conversation_id)
        ids = None if kept is None else _slice(kept.items, after, limit, newest_first)
        if kept is None or ids is None:
            return None
        return _read(kept.items[item_id] for item_id in ids[:limit]), len(ids) > limit

    async def item(self, conversation_id: str, item_id: str) -> Item | None:
        """See `Shelf.item`."""
        kept = self._find(conversation_id)
        data = None if kept is None else kept.items.get(item_id)
        return None if data is None else orjson.loads(data)

    async def remove(self, conversation_id: str, item_id: str) -> Conversation | None:
        """See `Shelf.remove`."""
        kept = self._find(conversation_id)
        if kept is None or item_id not in kept.items:
            return None
        return self._write(kept, (), without=item_id)

    async def listing(
        self, owner: str, *, after: str | None, limit: int, newest_first: bool, wanted: Wanted
    ) -> tuple[list[Conversation], bool] | None:
        """See `Shelf.listing`."""
        self.sweep()
        ids = _slice(self._owners.get(owner, {}), after, MAX_OF_OWNER, newest_first)
        if ids is None:
            return None
        found: list[Conversation] = []
        for start in range(0, len(ids), _AT_ONCE):
            if start:
                await asyncio.sleep(0)
            some = (self._kept[one].known for one in ids[start : start + _AT_ONCE] if one in self._kept)
            found += filter(wanted.matches, some)
            if len(found) > limit:
                break
        return list(map(self._locks.named, found[:limit])), len(found) > limit

    async def begin(self, conversation_id: str, turn: str, hold_s: float) -> list[Item] | None:
        """See `Shelf.begin`."""
        kept = self._find(conversation_id)
        if kept is None:
            return None
        if not self._locks.take(conversation_id, turn, hold_s):
            raise ConversationLocked(conversation_id)
        return kept.read()

    async def renew(self, conversation_id: str, turn: str, hold_s: float) -> bool:
        """See `Shelf.renew`."""
        return self._locks.take(conversation_id, turn, hold_s)

    async def release(self, conversation_id: str, turn: str) -> None:
        """See `Shelf.release`."""
        self._locks.release(conversation_id, turn)

    async def read(self, conversation_id: str) -> list[Item] | None:
        """See `Shelf.read`."""
        kept = self._find(conversation_id)
        return None if kept is None else kept.read()

    async def delete_all(self, owner: str) -> int:
        """See `Shelf.delete_all`."""
        self.sweep()
        mine = list(self._owners.get(owner, ()))
        for conversation_id in mine:
            self._drop(conversation_id)
        return len(mine)

    async def export(self, owner: str) -> AsyncIterator[tuple[Conversation, list[Item]]]:
        """See `Shelf.export`."""
        for conversation_id in list(self._owners.get(owner, ())):
            if (kept := self._find(conversation_id)) is not None:
                yield kept.known, kept.read()

    def sweep(self) -> None:
        """See `Shelf.sweep`."""
        oldest = self._clock() - self._keep_s
        while self._kept:
            kept = next(iter(self._kept.values()))
            if kept.known.updated_at >= oldest:
                break
            self._drop(kept.known.id)
        self._locks.sweep()

    def _find(self, conversation_id: str) -> _Kept | None:
        kept = self._kept.get(conversation_id)
        if kept is not None and kept.known.updated_at < self._clock() - self._keep_s:
            self._drop(conversation_id)
            return None
        return kept

    def _write(
        self,
        kept: _Kept,
        items: Sequence[Item],
        *,
        without: str | None = None,
        metadata: Mapping[str, str] | None = None,
        turn: str | None = None,
        opening: str | None = None,
    ) -> Conversation:
        """Change one, count it anew, and let the least recently used go where the byte bound asks for it."""
        before = kept.size
        removed = len(kept.items.pop(without)) if without is not None else 0
        first_new = len(kept.items)
        kept.add(items)
        if turn is not None:
            kept.turns[turn] = None
        known = kept.known
        kept.known = dataclasses.replace(
            known,
            updated_at=self._clock(),
            metadata=known.metadata if metadata is None else metadata,
            opening=known.opening if opening is None else opening,
            version=known.version + 1,
            items=len(kept.items),
            bytes=known.bytes - removed + sum(map(len, islice(kept.items.values(), first_new, None))),
        )
        self.bytes += kept.size - before
        self._kept.move_to_end(known.id)
        mine = self._owners[known.owner]
        mine[known.id] = None
        mine.move_to_end(known.id)
        while self.bytes > self._max_bytes and self._kept:
            self._drop(next(iter(self._kept)))
        return kept.known

    def _drop(self, conversation_id: str) -> None:
        kept = self._kept.pop(conversation_id)
        self.bytes -= kept.size
        self._locks.forget(conversation_id)
        mine = self._owners[kept.known.owner]
        del mine[conversation_id]
        if not mine:
            del self._owners[kept.known.owner]


def _slice(ids: dict[str, Any], after: str | None, limit: int, newest_first: bool) -> list[str] | None:
    """`limit` ids behind `after`, and one more when there is one; None when it is not there."""
    if after is not None and after not in ids:
        return None
    in_order = iter(reversed(ids) if newest_first else ids)
    if after is not None:
        for one in in_order:
            if one == after:
                break
    return list(islice(in_order, limit + 1))


def _read(items: Iterable[bytes]) -> list[Item]:
    read: list[Item] = orjson.loads(b"[" + b",".join(items) + b"]")
    return read
