"""What stands in the file, and how an older file becomes a newer one."""

from __future__ import annotations

import sqlite3
import time

from grizz import __version__
from grizz.errors import HistoryUnusable

# "Grzz": in the header of every file of ours, so that somebody else's is not taken for one.
APPLICATION_ID = 0x47727A7A

_FIRST = (
    """
    CREATE TABLE turns (
        id TEXT PRIMARY KEY, owner TEXT NOT NULL, data BLOB NOT NULL, created_at REAL NOT NULL, used_at REAL NOT NULL
    )
    """,
    "CREATE INDEX turns_by_use ON turns (used_at)",
    "CREATE INDEX turns_by_owner ON turns (owner)",
    """
    CREATE TABLE jobs (
        id TEXT PRIMARY KEY, owner TEXT NOT NULL, data BLOB NOT NULL,
        attempt INTEGER NOT NULL, accepted_at REAL NOT NULL
    )
    """,
    "CREATE INDEX jobs_by_owner ON jobs (owner)",
    # A command deleted what a user had: the running process has yet to forget it. No number comes twice, not even when
    # the table was empty meanwhile: that process looks for those that it has not seen.
    "CREATE TABLE erasures (id INTEGER PRIMARY KEY AUTOINCREMENT, owner TEXT NOT NULL, at REAL NOT NULL)",
)

_CONVERSATIONS = (
    """
    CREATE TABLE conversations (
        key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, created_at INTEGER NOT NULL,
        updated_at REAL NOT NULL, metadata TEXT NOT NULL, opening TEXT NOT NULL, version INTEGER NOT NULL,
        items INTEGER NOT NULL, bytes INTEGER NOT NULL
    )
    """,
    "CREATE INDEX conversations_by_owner ON conversations (owner, updated_at)",
    "CREATE INDEX conversations_by_use ON conversations (updated_at)",
    """
    CREATE TABLE conversation_items (
        conversation INTEGER NOT NULL, number INTEGER NOT NULL, id TEXT NOT NULL, data BLOB NOT NULL,
        UNIQUE (conversation, number), UNIQUE (conversation, id)
    )
    """,
    # Turns that were appended, so that none is twice.
    """
    CREATE TABLE conversation_turns (
        conversation INTEGER NOT NULL, turn TEXT NOT NULL, PRIMARY KEY (conversation, turn)
    ) WITHOUT ROWID
    """,
    """
    CREATE TRIGGER conversation_forgotten AFTER DELETE ON conversations BEGIN
        DELETE FROM conversation_items WHERE conversation = OLD.key;
        DELETE FROM conversation_turns WHERE conversation = OLD.key;
    END
    """,
)

_CLAIMS = (
    "CREATE TABLE claims (name TEXT PRIMARY KEY, value TEXT NOT NULL, until REAL NOT NULL) WITHOUT ROWID",
    "CREATE INDEX claims_by_end ON claims (until)",
)

# Each one makes a file one version newer. Never change one that was released; add the next.
MIGRATIONS: tuple[tuple[str, ...], ...] = (_FIRST, _CONVERSATIONS, _CLAIMS)

_MIGRATED = "CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, at REAL NOT NULL, grizz TEXT NOT NULL)"


def version_of(db: sqlite3.Connection) -> int:
    """The version of the file, 0 for a new one. Changes nothing.

    Raises:
        HistoryUnusable: it is another program's file, or a newer Grizz's.
        sqlite3.Error: it cannot be read.
    """
    found = int(db.execute("PRAGMA user_version").fetchone()[0])
    mark = int(db.execute("PRAGMA application_id").fetchone()[0])
    tables = int(db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    if mark != APPLICATION_ID and (mark or tables):
        raise HistoryUnusable("is the database of another program")
    if found > len(MIGRATIONS):
        raise HistoryUnusable(f"was written by a newer Grizz (version {found}; this one reads {len(MIGRATIONS)})")
    return found


def migrate(db: sqlite3.Connection) -> None:
    """Bring the file to the newest version, in one transaction: whoever is killed in the middle finds the old file.

    Raises:
        HistoryUnusable: see `version_of`.
        sqlite3.Error: it cannot be read or written.
    """
    found = version_of(db)
    if found == len(MIGRATIONS):
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        db.execute(_MIGRATED)
        for version in range(found, len(MIGRATIONS)):
            for statement in MIGRATIONS[version]:
                db.execute(statement)
            row = (version + 1, time.time(), __version__)
            db.execute("INSERT INTO migrations (version, at, grizz) VALUES (?, ?, ?)", row)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise
