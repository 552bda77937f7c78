"""What the file has of each user, for the operator's commands: counted, exported, deleted. A server may run meanwhile.

Everything is read page by page, each in a transaction of its own: one that took minutes would keep the server's log of
writes from being folded into the file.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from grizz.errors import HistoryUnusable
from grizz.transport.people import Count
from grizz.transport.sqlite import file, schema

_PAGE = 100
_AT_ONCE = 500

_COUNTS = """
    SELECT owner, sum(turns), sum(jobs), sum(conversations), sum(bytes) FROM (
        SELECT owner, 1 AS turns, 0 AS jobs, 0 AS conversations, length(data) AS bytes FROM turns
        UNION ALL SELECT owner, 0, 1, 0, length(data) FROM jobs
        UNION ALL SELECT owner, 0, 0, 1, bytes FROM conversations
    ) GROUP BY owner ORDER BY owner
"""
_TURNS = "SELECT rowid, data FROM turns WHERE owner = ? AND rowid > ? ORDER BY rowid LIMIT ?"
_JOBS = "SELECT rowid, data FROM jobs WHERE owner = ? AND rowid > ? ORDER BY rowid LIMIT ?"
_CONVERSATIONS = """
    SELECT key, id, created_at, updated_at, metadata FROM conversations WHERE owner = ? AND key > ? ORDER BY key LIMIT 1
"""
_ITEMS = """
    SELECT number, data FROM conversation_items WHERE conversation = ? AND number > ? ORDER BY number LIMIT ?
"""
_DELETE = (
    "DELETE FROM turns WHERE rowid IN (SELECT rowid FROM turns WHERE owner = ? LIMIT ?)",
    "DELETE FROM jobs WHERE rowid IN (SELECT rowid FROM jobs WHERE owner = ? LIMIT ?)",
    "DELETE FROM conversations WHERE key IN (SELECT key FROM conversations WHERE owner = ? LIMIT ?)",
)


class SqlitePeople:
    """Implements `transport.people.People`: the file. Every method may raise `sqlite3.Error`.

    Attributes:
        alone: no server has the file.
    """

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            HistoryUnusable: there is none, or it is of no use.
        """
        if not path.is_file():
            raise HistoryUnusable("is not there")
        self._lock = file.Lock(path)
        try:
            self.alone = self._lock.take()
            self._db = file.open_database(path) if self.alone else _join(path)
        except OSError as error:
            self._lock.give_back()
            raise HistoryUnusable(f"cannot be used: {error.strerror}") from error
        except BaseException:
            self._lock.give_back()
            raise

    def __enter__(self) -> SqlitePeople:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()
        self._lock.give_back()

    def counts(self) -> list[Count]:
        """See `People.counts`."""
        return [Count(*row) for row in self._db.execute(_COUNTS).fetchall()]

    def export(self, owner: str) -> Iterator[dict[str, Any]]:
        """See `People.export`."""
        for data in self._paged(_TURNS, owner):
            body = orjson.loads(data)
            previous = body["lineage"][-1] if body["lineage"] else None
            yield {"kind": "response", "previous": previous, "input": body["input"], "response": body["response"]}
        for data in self._paged(_JOBS, owner):
            body = orjson.loads(data)
            yield {"kind": "unfinished", "id": body["id"], "context": body["work"]["context"]}
        key = -1
        while (row := self._db.execute(_CONVERSATIONS, (owner, key)).fetchone()) is not None:
            key, name, created_at, updated_at, metadata = row
            known = {"id": name, "created_at": created_at, "updated_at": updated_at, "metadata": orjson.loads(metadata)}
            yield {"kind": "conversation", **known, "items": [orjson.loads(one) for one in self._paged(_ITEMS, key)]}

    def delete(self, owner: str, within_s: float) -> tuple[int, bool]:
        """See `People.delete`."""
        deleted = 0
        for statement in _DELETE:
            while count := self._db.execute(statement, (owner, _AT_ONCE)).rowcount:
                deleted += count
        done = self.alone or self._tell(owner, within_s)
        # What was deleted stands in the log of writes until that is folded into the file and cut.
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return deleted, done

    def _tell(self, owner: str, within_s: float) -> bool:
        number = self._db.execute("INSERT INTO erasures (owner, at) VALUES (?, ?)", (owner, time.time())).lastrowid
        until = time.monotonic() + within_s
        while self._db.execute("SELECT 1 FROM erasures WHERE id = ? AND owner = ?", (number, owner)).fetchone():
            if time.monotonic() > until:
                # Nobody shall come upon it later: by then it would concern what the user has made since.
                self._db.execute("DELETE FROM erasures WHERE id = ?", (number,))
                return False
            time.sleep(0.05)
        return True

    def _paged(self, query: str, of: object) -> Iterator[bytes]:
        last = -1
        while rows := self._db.execute(query, (of, last, _PAGE)).fetchall():
            for last, data in rows:  # noqa: B007  # where the next page begins
                yield data


def _join(path: Path) -> sqlite3.Connection:
    """The file that a server has open, whose version it is.

    Raises:
        HistoryUnusable: this is another Grizz than the server.
    """
    db = file.connect(path)
    version = schema.version_of(db)
    if version != len(schema.MIGRATIONS):
        db.close()
        raise HistoryUnusable(f"is of version {version}, this Grizz's is {len(schema.MIGRATIONS)}")
    return db
