"""The file itself: how it is opened, that one process alone writes it, and what is done when it is damaged."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from pathlib import Path

from grizz.errors import HistoryUnusable
from grizz.transport.sqlite import schema

try:
    import fcntl
except ImportError:  # Windows: nothing there is as safe as flock, which the kernel gives back when a process dies
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

# Another writer is a command that deletes a user's history, in short transactions.
_BUSY_MS = 5000
# A damaged page is looked for at the start, for so long at most: two seconds read some gigabytes.
_CHECK_S = 2.0
_CHECK_EVERY = 100_000  # instructions of SQLite's machine between two looks at the clock


class Lock:
    """Held for as long as a process uses the file; the kernel gives it back, however the process ends."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(path.name + ".lock")
        self._fd = -1

    def __repr__(self) -> str:
        return f"<Lock {self._path}{' held' if self._fd >= 0 else ''}>"

    @property
    def there(self) -> bool:
        """Did any process ever use it?"""
        return self._path.exists()

    def take(self) -> bool:
        """Take it; False when another process has it.

        Raises:
            HistoryUnusable: this system has no such locks.
            OSError: the directory cannot be written.
        """
        if fcntl is None:
            raise HistoryUnusable("this system has no file locks to keep a second process away")
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        return True

    def give_back(self) -> None:
        """Safe to call twice. The lock's file stays: removing it would let two processes hold two locks."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def connect(path: Path) -> sqlite3.Connection:
    """A connection that writes. Transactions are begun by hand.

    synchronous=NORMAL: what was committed survives the death of this process in any case (the pages are with the
    kernel), and a power cut may cost the last commits, not the file.

    Raises:
        HistoryUnusable: it is another program's, or a newer Grizz's; it was not changed.
        sqlite3.Error: it cannot be opened.
    """
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    try:
        db.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
        schema.version_of(db)
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # of effect before the first table is made
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA secure_delete = ON")  # what is deleted must not be read from the free pages
        db.execute("PRAGMA journal_size_limit = 16777216")
    except BaseException:
        db.close()
        raise
    return db


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that only reads.

    Raises:
        sqlite3.Error: it cannot be opened.
    """
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    db.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    db.execute("PRAGMA query_only = ON")
    return db


def open_database(path: Path) -> sqlite3.Connection:
    """The file, made if there is none and brought to this version; a damaged one is moved aside, and a new one begun.

    The caller holds the lock.

    Raises:
        HistoryUnusable: it is another program's, a newer Grizz's, or may not be read or written.
    """
    try:
        return _open(path)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):  # not what is in it: permissions, a full disk, a directory
            raise HistoryUnusable(f"cannot be used: {error}") from error
        aside = _move_aside(path)
        log.error(
            "the history's file is damaged; it was moved aside, and a new one is begun",
            extra={"path": str(path), "moved_to": str(aside), "err": str(error)},
        )
    try:
        return _open(path)
    except sqlite3.Error as error:
        raise HistoryUnusable(f"cannot be used: {error}") from error


def prepare(path: Path) -> None:
    """Make the directory, for this user alone if it is new.

    Raises:
        OSError: it cannot be made.
    """
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(mode=0o700, exist_ok=True)


def _open(path: Path) -> sqlite3.Connection:
    try:
        # SQLite gives its other files (-wal, -shm) the mode of this one.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        os.chmod(path, 0o600)
    except OSError as error:
        raise HistoryUnusable(f"cannot be used: {error.strerror}") from error
    db = connect(path)
    try:
        schema.migrate(db)
        _look_for_damage(db)
    except BaseException:
        db.close()
        raise
    return db


def _look_for_damage(db: sqlite3.Connection) -> None:
    """Read every page, as far as that goes within two seconds.

    Raises:
        sqlite3.DatabaseError: one is damaged.
    """
    until = time.monotonic() + _CHECK_S
    db.set_progress_handler(lambda: int(time.monotonic() > until), _CHECK_EVERY)
    try:
        found = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.OperationalError as error:
        if "interrupted" not in str(error):
            raise
        return  # so far it was well
    finally:
        db.set_progress_handler(None, 0)
    if found != "ok":
        raise sqlite3.DatabaseError(found)


def _move_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}")
    number = 1
    while aside.exists():
        number += 1
        aside = aside.with_name(f"{aside.name.partition('~')[0]}~{number}")
    for tail in ("", "-wal", "-shm"):
        part = path.with_name(path.name + tail)
        if part.exists():
            part.rename(aside.with_name(aside.name + tail))
    return aside
