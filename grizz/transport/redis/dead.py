"""Dead letters: jobs whose attempts are spent, kept on a stream until a person decides."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from grizz.transport.redis.connection import pairs
from grizz.transport.redis.desk import Desk
from grizz.transport.redis.keys import Keys

_PAGE = 1000
_LIFE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Letter:
    """One job that was given up.

    Attributes:
        entry: its place on the stream.
        id: the response id; "" for something that nobody could read.
        at: when it was given up, seconds since the epoch.
        job: its record; empty when it must not be stored.
    """

    entry: str
    id: str
    owner: str
    cause: str
    attempts: int
    at: int
    job: bytes

    @property
    def requeueable(self) -> bool:
        """Is everything there to run it again?"""
        return bool(self.id and self.job)


class DeadLetters:
    """Reads and changes them.

    Every method raises RedisError, OSError or TimeoutError when the Redis cannot be used.
    """

    def __init__(self, desk: Desk, keys: Keys) -> None:
        self._desk = desk
        self._keys = keys

    async def all(self) -> list[Letter]:
        """Every dead letter, the oldest first (the stream is bounded at about a thousand)."""
        rows = await self._desk.ask("XRANGE", self._keys.dead, "-", "+", "COUNT", _PAGE * 2)
        return [_letter(entry.decode(), pairs(fields)) for entry, fields in rows]

    async def requeue(self, letters: Sequence[Letter], revise: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Let whoever is free run them again; their results are found under their ids.

        Args:
            revise: changes a job's payload, as it stands in its record, for a run that no client waits for.
        """
        for letter in letters:
            body = orjson.loads(letter.job)
            body |= {"home": "", "token": secrets.token_hex(8), "expires_at": time.time() + _LIFE_S}
            body["work"] = revise(body["work"])
            await self._desk.ask("XADD", self._keys.jobs, "*", "job", orjson.dumps(body))
            await self._desk.ask("XDEL", self._keys.dead, letter.entry)

    async def drop(self, letters: Sequence[Letter]) -> None:
        """Forget them."""
        for letter in letters:
            await self._desk.ask("XDEL", self._keys.dead, letter.entry)


def _letter(entry: str, fields: dict[str, bytes]) -> Letter:
    def text(name: str) -> str:
        return fields.get(name, b"").decode(errors="replace")

    return Letter(
        entry=entry,
        id=text("id"),
        owner=text("owner"),
        cause=text("cause"),
        attempts=int(text("attempts") or 0),
        at=int(text("at") or 0),
        job=fields.get("job", b""),
    )
