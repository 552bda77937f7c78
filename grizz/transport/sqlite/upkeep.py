"""What keeps the file within its bounds, and looks whether a command has deleted something in it.

Runs in the writer's thread between two transactions, twice a second, in small transactions of its own.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence

# Rows that one transaction drops; a round drops more when it must, and then the other writers had their turn.
_AT_ONCE = 200
_ROUNDS = 20
_EXPIRE_EVERY_S = 30.0
# What was deleted or replaced stands in the log of writes until that is cut.
_CUT_EVERY_S = 5.0
# Pages given back to the system at a time, once a quarter of the file is free.
_GIVE_BACK = 500

_EXPIRE = (
    "DELETE FROM turns WHERE rowid IN (SELECT rowid FROM turns WHERE used_at < ? ORDER BY used_at LIMIT ?)",
    "DELETE FROM conversations WHERE key IN"
    " (SELECT key FROM conversations WHERE updated_at < ? ORDER BY updated_at LIMIT ?)",
)

Erasure = tuple[int, str]
"""Its number, and whose history it was."""


class Upkeep:
    """A `Step` of the writer.

    Args:
        keep_s: seconds a response is kept after its last use.
        max_bytes: what may be in use of the file; the least recently used goes first.
        erased: told, in the writer's thread, of users whose history a command has deleted.

    Attributes:
        bytes: what is in use of the file.
    """

    def __init__(self, *, keep_s: float, max_bytes: int, erased: Callable[[Sequence[Erasure]], None]) -> None:
        self._keep_s = keep_s
        self._max_bytes = max_bytes
        self._erased = erased
        self._version = -1
        self._seen = 0
        self._expired_at = -_EXPIRE_EVERY_S
        self._cut_at = time.monotonic()
        self._changes = 0
        self.bytes = 0

    def __repr__(self) -> str:
        return f"<Upkeep: {self.bytes} of {self._max_bytes} bytes>"

    def __call__(self, db: sqlite3.Connection) -> None:
        """One look."""
        self._look_for_erasures(db)
        if time.monotonic() - self._expired_at >= _EXPIRE_EVERY_S:
            self._expired_at = time.monotonic()
            self._expire(db)
        self._keep_bound(db)
        self._give_back(db)
        if db.total_changes != self._changes and time.monotonic() - self._cut_at >= _CUT_EVERY_S:
            self._cut(db)

    def _look_for_erasures(self, db: sqlite3.Connection) -> None:
        version = _number(db, "PRAGMA data_version")  # another one when another connection has committed
        if version == self._version:
            return
        self._version = version
        found = db.execute("SELECT id, owner FROM erasures WHERE id > ? ORDER BY id", (self._seen,)).fetchall()
        if found:
            self._seen = found[-1][0]
            self._erased(found)

    def _expire(self, db: sqlite3.Connection) -> None:
        before = time.time() - self._keep_s
        for query in _EXPIRE:
            if db.execute(query, (before, _AT_ONCE)).rowcount == _AT_ONCE:
                self._expired_at = -_EXPIRE_EVERY_S  # there is more: at the next look

    def _keep_bound(self, db: sqlite3.Connection) -> None:
        """Drop what nobody used for longest, a fiftieth at a time: a small file must not lose all of it at once."""
        for _ in range(_ROUNDS):
            self.bytes = _used(db)
            if self.bytes <= self._max_bytes:
                return
            count, oldest = db.execute("SELECT count(*), min(used_at) FROM turns").fetchone()
            others, theirs = db.execute("SELECT count(*), min(updated_at) FROM conversations").fetchone()
            if not count and not others:
                return  # unfinished jobs are all there is; the queue bounds them
            few = min(_AT_ONCE, 1 + (count + others) // 50)
            if count and (not others or oldest < theirs):
                before = db.execute("SELECT used_at FROM turns ORDER BY used_at LIMIT 1 OFFSET ?", (few,)).fetchone()
                db.execute(_EXPIRE[0], (before[0] if before else time.time() + 1, few))
            else:
                db.execute(_EXPIRE[1], (theirs + 1e-6, 1))

    def _give_back(self, db: sqlite3.Connection) -> None:
        free, pages = _number(db, "PRAGMA freelist_count"), _number(db, "PRAGMA page_count")
        if free > _GIVE_BACK and free * 4 > pages:
            db.execute(f"PRAGMA incremental_vacuum({_GIVE_BACK})").fetchall()

    def _cut(self, db: sqlite3.Connection) -> None:
        """Fold the log of writes in and cut it: every answer deletes its job, whose words may be for no one to keep.

        Whoever reads just now is not waited for, since the writers would wait, too: then it is done at a later look.
        """
        changes = db.total_changes
        busy_ms = _number(db, "PRAGMA busy_timeout")
        db.execute("PRAGMA busy_timeout = 0")
        try:
            busy = _number(db, "PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            db.execute(f"PRAGMA busy_timeout = {busy_ms}")
        if not busy:
            self._changes, self._cut_at = changes, time.monotonic()


def _used(db: sqlite3.Connection) -> int:
    pages = _number(db, "PRAGMA page_count") - _number(db, "PRAGMA freelist_count")
    return pages * _number(db, "PRAGMA page_size")


def _number(db: sqlite3.Connection, query: str) -> int:
    return int(db.execute(query).fetchone()[0])
