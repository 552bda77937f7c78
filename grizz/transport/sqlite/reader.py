"""The one thread that reads the file, over a connection of its own: it sees what is committed, and blocks no writer."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from grizz.transport.sqlite.file import connect_reader

T = TypeVar("T")

_WITHIN_S = 2.0


class Reader:
    """Reads, one question after the other."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grizz history reader")
        self._db: sqlite3.Connection | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Reader {self._path}{'' if self._db is None else ', open'}>"

    async def ask(self, question: Callable[[sqlite3.Connection], T], within_s: float | None = _WITHIN_S) -> T:
        """What `question` finds; it is called in the reader's thread. Cancel-safe.

        Args:
            within_s: None waits for as long as it takes.

        Raises:
            sqlite3.Error: it cannot be read.
            TimeoutError: not within that time.
        """

        if self._closed:
            raise sqlite3.ProgrammingError("the history is closed")

        def read() -> T:
            if self._db is None:
                self._db = connect_reader(self._path)
            return question(self._db)

        async with asyncio.timeout(within_s):
            return await asyncio.get_running_loop().run_in_executor(self._thread, read)

    async def close(self) -> None:
        """Close the connection, behind what is being read; what takes longer than two seconds is broken off.

        Safe to call twice.
        """
        if self._closed:
            return
        self._closed = True

        def close() -> None:
            if self._db is not None:
                self._db.close()

        closed = asyncio.get_running_loop().run_in_executor(self._thread, close)
        self._thread.shutdown(wait=False)
        _, late = await asyncio.wait([closed], timeout=_WITHIN_S)
        if late and self._db is not None:
            with contextlib.suppress(sqlite3.ProgrammingError):  # it has just been closed
                self._db.interrupt()  # the writer is closed next, and somebody waits for this process's end
            await asyncio.wait([closed], timeout=_WITHIN_S)
