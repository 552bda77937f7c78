"""Names that one process alone may have, in the file: `transport.base.Claims`. So they outlive the process."""

from __future__ import annotations

import asyncio
import sqlite3
import time

from grizz.errors import ClaimsDown
from grizz.transport.sqlite.writer import Writer

_WITHIN_S = 2.0
_TAKE = "INSERT INTO claims (name, value, until) VALUES (?, ?, ?) ON CONFLICT (name) DO NOTHING"


class SqliteClaims:
    """Implements `transport.base.Claims`: one step of the writer each. What has run out goes with the next claim."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def claim(self, name: str, value: str, keep_s: float) -> str | None:
        """See `Claims.claim`."""
        now = time.time()

        def step(db: sqlite3.Connection) -> str | None:
            db.execute("DELETE FROM claims WHERE until < ?", (now,))
            if db.execute(_TAKE, (name, value, now + keep_s)).rowcount:
                return None
            return str(db.execute("SELECT value FROM claims WHERE name = ?", (name,)).fetchone()[0])

        try:
            async with asyncio.timeout(_WITHIN_S):
                held: str | None = await asyncio.shield(self._writer.write(step))
        except (sqlite3.Error, TimeoutError) as error:
            raise ClaimsDown(f"the history cannot be written: {error or 'timeout'}") from error
        return held

    def release(self, name: str, value: str) -> None:
        """See `Claims.release`."""
        self._writer.write(lambda db: db.execute("DELETE FROM claims WHERE name = ? AND value = ?", (name, value)))
