"""Conversations in the file: `transport.shelf.Shelf`. Their locks are in memory, since no other process has the file.

A turn's end in its conversation, its response and the end of its job are one transaction.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

import orjson

from grizz.errors import ConversationLocked, ShelfDown
from grizz.protocol.items import Item
from grizz.transport.shelf import MAX_OF_OWNER, Conversation, Wanted
from grizz.transport.shelf_memory import Locks
from grizz.transport.sqlite.reader import Reader
from grizz.transport.sqlite.writer import Writer

T = TypeVar("T")

_WITHIN_S = 2.0
_COLUMNS = "key, id, owner, created_at, updated_at, metadata, opening, version, items, bytes"
_FIND = f"SELECT {_COLUMNS} FROM conversations WHERE id = ? AND updated_at >= ?"
_CREATE = """
    INSERT INTO conversations (id, owner, created_at, updated_at, metadata, opening, version, items, bytes)
    VALUES (?, ?, ?, ?, ?, ?, 0, 0, 0)
"""
_NUMBER = "SELECT number FROM conversation_items WHERE conversation = ? AND id = ?"
_APPEND = """
    INSERT OR IGNORE INTO conversation_items (conversation, number, id, data) VALUES (:key,
        (SELECT coalesce(max(number), -1) + 1 FROM conversation_items WHERE conversation = :key), :id, :data)
"""
_WRITE = """
    UPDATE conversations SET updated_at = :at, metadata = :metadata, opening = :opening, version = version + 1,
        items = items + :items, bytes = bytes + :bytes
    WHERE key = :key
"""
_TOO_MANY = """
    DELETE FROM conversations WHERE key IN
    (SELECT key FROM conversations WHERE owner = ?1 ORDER BY updated_at LIMIT
        max(0, (SELECT count(*) FROM conversations WHERE owner = ?1) - ?2))
"""
_Row = tuple[Any, ...]


class SqliteShelf:
    """Implements `transport.shelf.Shelf`.

    Args:
        keep_s: seconds a conversation is kept after it was last written to.

    Attributes:
        largest: see `Shelf.largest`; as much as one request may bring.
    """

    largest = 16 << 20

    def __init__(self, writer: Writer, reader: Reader, *, keep_s: float) -> None:
        self._writer = writer
        self._reader = reader
        self._keep_s = keep_s
        self._locks = Locks()
        self._written_at = 0.0

    def __repr__(self) -> str:
        return f"<SqliteShelf: {len(self._locks)} locks>"

    async def create(self, conversation: Conversation, items: Sequence[Item]) -> None:
        """See `Shelf.create`."""
        one, now, data = conversation, self._now(), _dump(items)
        row = (one.id, one.owner, one.created_at, now, _json(one.metadata), one.opening)

        def step(db: sqlite3.Connection) -> None:
            db.execute(_CREATE, row)
            self._change(db, one.id, now, data)
            db.execute(_TOO_MANY, (one.owner, MAX_OF_OWNER))

        await self._write(step, _size(data))

    async def get(self, conversation_id: str) -> Conversation | None:
        """See `Shelf.get`."""
        row = await self._read(lambda db: self._find(db, conversation_id))
        return None if row is None else self._locks.named(_conversation(row))

    async def update(self, conversation_id: str, metadata: Mapping[str, str]) -> Conversation | None:
        """See `Shelf.update`."""
        now, given = self._now(), _json(metadata)
        return await self._write(lambda db: self._change(db, conversation_id, now, metadata=given), len(given))

    async def delete(self, conversation_id: str) -> bool:
        """See `Shelf.delete`."""

        def step(db: sqlite3.Connection) -> bool:
            found = self._find(db, conversation_id)
            db.execute("DELETE FROM conversations WHERE id = ?", (conversation_id,))
            return found is not None

        found = await self._write(step)
        self._locks.forget(conversation_id)
        return found

    async def append(
        self, conversation_id: str, items: Sequence[Item], *, opening: str = "", turn: str | None = None
    ) -> Conversation | None:
        """See `Shelf.append`."""
        now, data = self._now(), _dump(items)

        def step(db: sqlite3.Connection) -> Conversation | None:
            row = self._find(db, conversation_id)
            if row is None:
                return None
            if turn is not None:
                mark = "INSERT OR IGNORE INTO conversation_turns (conversation, turn) VALUES (?, ?)"
                if not db.execute(mark, (row[0], turn)).rowcount:
                    return _conversation(row)
            return self._change(db, conversation_id, now, data, opening=opening)

        known = await self._write(step, _size(data), with_turn=turn)
        if turn is not None:
            self._locks.release(conversation_id, turn)
        return known

    async def page(
        self, conversation_id: str, *, after: str | None, limit: int, newest_first: bool
    ) -> tuple[list[Item], bool] | None:
        """See `Shelf.page`."""
        compare, order = ("<", "DESC") if newest_first else (">", "ASC")
        query = f"""
            SELECT data FROM conversation_items WHERE conversation = ? AND number {compare} ?
            ORDER BY number {order} LIMIT ?
        """

        def ask(db: sqlite3.Connection) -> tuple[list[Item], bool] | None:
            row = self._find(db, conversation_id)
            if row is None:
                return None
            number = 1 << 62 if newest_first else -1
            if after is not None:
                found = db.execute(_NUMBER, (row[0], after)).fetchone()
                if found is None:
                    return None
                number = found[0]
            items = db.execute(query, (row[0], number, limit + 1)).fetchall()
            return _items(items[:limit]), len(items) > limit

        return await self._read(ask)

    async def item(self, conversation_id: str, item_id: str) -> Item | None:
        """See `Shelf.item`."""

        def ask(db: sqlite3.Connection) -> Item | None:
            row = self._find(db, conversation_id)
            query = "SELECT data FROM conversation_items WHERE conversation = ? AND id = ?"
            found = None if row is None else db.execute(query, (row[0], item_id)).fetchone()
            return None if found is None else _items([found])[0]

        return await self._read(ask)

    async def remove(self, conversation_id: str, item_id: str) -> Conversation | None:
        """See `Shelf.remove`."""
        now = self._now()

        def step(db: sqlite3.Connection) -> Conversation | None:
            row = self._find(db, conversation_id)
            query = "DELETE FROM conversation_items WHERE conversation = ? AND id = ? RETURNING length(data)"
            gone = [] if row is None else db.execute(query, (row[0], item_id)).fetchall()
            return self._change(db, conversation_id, now, less=gone[0][0]) if gone else None

        return await self._write(step)

    async def listing(
        self, owner: str, *, after: str | None, limit: int, newest_first: bool, wanted: Wanted
    ) -> tuple[list[Conversation], bool] | None:
        """See `Shelf.listing`."""
        compare, order = ("<", "DESC") if newest_first else (">", "ASC")
        query = f"""
            SELECT {_COLUMNS} FROM conversations WHERE owner = ? AND updated_at >= ? AND updated_at {compare} ?
            ORDER BY updated_at {order}
        """

        def ask(db: sqlite3.Connection) -> tuple[list[Conversation], bool] | None:
            behind = float(1 << 62) if newest_first else -1.0
            if after is not None:
                row = self._find(db, after)
                if row is None or row[2] != owner:
                    return None
                behind = row[4]
            rows = db.execute(query, (owner, self._oldest(), behind))
            found = list(islice(filter(wanted.matches, map(_conversation, rows)), limit + 1))
            return found[:limit], len(found) > limit

        page = await self._read(ask)
        return None if page is None else (list(map(self._locks.named, page[0])), page[1])

    async def begin(self, conversation_id: str, turn: str, hold_s: float) -> list[Item] | None:
        """See `Shelf.begin`."""
        if not self._locks.take(conversation_id, turn, hold_s):
            if await self.get(conversation_id) is None:
                return None
            raise ConversationLocked(conversation_id)
        found = await self.read(conversation_id)
        if found is None:
            self._locks.release(conversation_id, turn)
        return found

    async def renew(self, conversation_id: str, turn: str, hold_s: float) -> bool:
        """See `Shelf.renew`."""
        return self._locks.take(conversation_id, turn, hold_s)

    async def release(self, conversation_id: str, turn: str) -> None:
        """See `Shelf.release`."""
        self._locks.release(conversation_id, turn)
        self._writer.release(turn)

    async def read(self, conversation_id: str) -> list[Item] | None:
        """See `Shelf.read`."""

        def ask(db: sqlite3.Connection) -> list[Item] | None:
            row = self._find(db, conversation_id)
            query = "SELECT data FROM conversation_items WHERE conversation = ? ORDER BY number"
            return None if row is None else _items(db.execute(query, (row[0],)).fetchall())

        return await self._read(ask)

    async def delete_all(self, owner: str) -> int:
        """See `Shelf.delete_all`."""

        def step(db: sqlite3.Connection) -> int:
            query = "SELECT count(*) FROM conversations WHERE owner = ? AND updated_at >= ?"
            count = int(db.execute(query, (owner, self._oldest())).fetchone()[0])
            db.execute("DELETE FROM conversations WHERE owner = ?", (owner,))
            return count

        return await self._write(step)

    async def export(self, owner: str) -> AsyncIterator[tuple[Conversation, list[Item]]]:
        """See `Shelf.export`."""
        query = "SELECT id FROM conversations WHERE owner = ? AND updated_at >= ? ORDER BY updated_at"
        rows = await self._read(lambda db: db.execute(query, (owner, self._oldest())).fetchall())
        for (conversation_id,) in rows:
            known, items = await self.get(conversation_id), await self.read(conversation_id)
            if known is not None and items is not None:
                yield known, items

    def sweep(self) -> None:
        """See `Shelf.sweep`: of what stands in the file the writer takes care."""
        self._locks.sweep()

    # In the threads

    def _find(self, db: sqlite3.Connection, conversation_id: str) -> _Row | None:
        row: _Row | None = db.execute(_FIND, (conversation_id, self._oldest())).fetchone()
        return row

    def _change(
        self,
        db: sqlite3.Connection,
        conversation_id: str,
        now: float,
        data: Sequence[tuple[str, bytes]] = (),
        *,
        metadata: str | None = None,
        opening: str = "",
        less: int = 0,
    ) -> Conversation | None:
        """Append items, those aside that are there, and count them; what it is then, or None when it is not there.

        Args:
            less: bytes of the item that was removed.
        """
        row = self._find(db, conversation_id)
        if row is None:
            return None
        key = row[0]
        new = [item for name, item in data if db.execute(_APPEND, {"key": key, "id": name, "data": item}).rowcount]
        changes = {"key": key, "at": now, "metadata": metadata or row[5], "opening": row[6] or opening}
        changes |= {"items": len(new) - bool(less), "bytes": sum(map(len, new)) - less}
        db.execute(_WRITE, changes)
        found = self._find(db, conversation_id)
        return None if found is None else _conversation(found)

    # Inside

    def _now(self) -> float:
        """The time of a write; later than any before, so that the order of writes is one."""
        self._written_at = max(time.time(), self._written_at + 1e-6)
        return self._written_at

    def _oldest(self) -> float:
        return time.time() - self._keep_s

    async def _read(self, question: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await self._reader.ask(question)
        except (sqlite3.Error, TimeoutError) as error:
            raise ShelfDown(f"the history cannot be read: {error or 'timeout'}") from error

    async def _write(
        self, step: Callable[[sqlite3.Connection], T], size: int = 0, *, with_turn: str | None = None
    ) -> T:
        if self._writer.full:
            raise ShelfDown("the history is written too slowly")
        future = self._writer.write_with(with_turn, step, size) if with_turn else self._writer.write(step, size)
        try:
            async with asyncio.timeout(_WITHIN_S):
                written: T = await asyncio.shield(future)
        except (sqlite3.Error, TimeoutError) as error:
            raise ShelfDown(f"the history cannot be written: {error or 'timeout'}") from error
        return written


def _conversation(row: _Row) -> Conversation:
    _, name, owner, created_at, updated_at, metadata, opening, version, items, size = row
    return Conversation(
        id=name,
        owner=owner,
        created_at=created_at,
        updated_at=updated_at,
        metadata=orjson.loads(metadata),
        opening=opening,
        version=version,
        items=items,
        bytes=size,
    )


def _json(metadata: Mapping[str, str]) -> str:
    return orjson.dumps(dict(metadata)).decode()


def _dump(items: Sequence[Item]) -> list[tuple[str, bytes]]:
    return [(item["id"], orjson.dumps(item)) for item in items]


def _size(data: Sequence[tuple[str, bytes]]) -> int:
    return sum(len(item) for _, item in data)


def _items(rows: Sequence[tuple[bytes]]) -> list[Item]:
    read: list[Item] = orjson.loads(b"[" + b",".join(row[0] for row in rows) + b"]")
    return read
