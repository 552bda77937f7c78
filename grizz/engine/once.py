"""Idempotency keys: a request that is sent twice becomes one response (`Idempotency-Key`, protocol §9.1).

A key is its owner's, and belongs to one body. Each process remembers the keys it has seen; with several, the first to
claim one in the Redis has it: one command for each new key, two for one that another process has. A process with a
history file claims them there, so that they outlive it. While neither can be asked, each process knows only its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import Any

import orjson

from grizz.errors import ClaimsDown, Code, RequestError
from grizz.transport.base import Claims

log = logging.getLogger(__name__)

_MOST = 10_000
_MOST_OF_OWNER = 1_000
_LONGEST_KEY = 255


@dataclass(slots=True, eq=False)
class _Entry:
    """A key in use.

    Attributes:
        elsewhere: another process claimed it.
        settled: its response exists, or will never.
    """

    owner: str
    digest: str
    response_id: str
    taken_at: float
    elsewhere: bool = False
    settled: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class Earlier:
    """The response that has the key already; `elsewhere`: it was claimed by another process."""

    response_id: str
    elsewhere: bool


class Once:
    """The keys in use.

    Args:
        claims: the claims of all nodes, or those in the file, or None.
        keep_s: seconds a key is remembered, the time that responses are stored.
    """

    def __init__(self, claims: Claims | None, keep_s: float) -> None:
        self._claims = claims
        self._keep_s = keep_s
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._of_owner: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Once: {len(self._entries)} keys>"

    async def take(self, owner: str, key: str, body: Any, response_id: str) -> Earlier | None:
        """Take a key for a response that is about to be made; None when it is the caller's.

        The caller must then call `keep` or `give_back`. Who takes the same key meanwhile waits for that.

        Raises:
            RequestError: 400, that is no key; 422, it was used with another body.

        Cancel-safe.
        """
        name, digest = _name(owner, key), _digest(body)
        now = asyncio.get_running_loop().time()
        while (entry := self._entries.get(name)) is not None:
            if now - entry.taken_at > self._keep_s and entry.settled.is_set():
                self._drop(name)
                break
            _check(entry.digest, digest)
            await entry.settled.wait()
            _check(entry.digest, digest)  # it may have become known that another process has it, for another body
            if self._entries.get(name) is entry:
                return Earlier(entry.response_id, entry.elsewhere)
        entry = self._entries[name] = _Entry(owner, digest, response_id, now)
        self._of_owner[owner] += 1
        self._make_room(owner)
        try:
            other = await self._claim(name, f"{digest} {response_id}")
        except BaseException:
            self.give_back(owner, key)
            raise
        if other is None:
            return None
        entry.digest, _, entry.response_id = other.partition(" ")
        entry.elsewhere = True
        if entry.digest != digest:
            self._drop(name)  # not remembered: the other process may be about to give it back
        entry.settled.set()
        _check(entry.digest, digest)
        return Earlier(entry.response_id, elsewhere=True)

    def keep(self, owner: str, key: str) -> None:
        """The response exists now."""
        if (entry := self._entries.get(_name(owner, key))) is not None:
            entry.settled.set()

    def give_back(self, owner: str, key: str) -> None:
        """There will be no response: the key may be used again."""
        name = _name(owner, key)
        if (entry := self._drop(name)) is not None and self._claims is not None:
            self._claims.release(name, f"{entry.digest} {entry.response_id}")

    def doubt(self, owner: str, key: str) -> None:
        """What another process has claimed is not to be found: ask again next time."""
        self._drop(_name(owner, key))

    async def _claim(self, name: str, value: str) -> str | None:
        if self._claims is None:
            return None
        try:
            return await self._claims.claim(name, value, self._keep_s)
        except ClaimsDown as error:
            log.info("an idempotency key is known to this process alone", extra={"err": str(error)})
            return None

    def _drop(self, name: str) -> _Entry | None:
        entry = self._entries.pop(name, None)
        if entry is not None:
            entry.settled.set()
            self._of_owner[entry.owner] -= 1
            if not self._of_owner[entry.owner]:
                del self._of_owner[entry.owner]
        return entry

    def _make_room(self, owner: str) -> None:
        """Forget the oldest settled key of an owner who has too many, or of anybody."""
        crowded = self._of_owner[owner] > _MOST_OF_OWNER
        if not crowded and len(self._entries) <= _MOST:
            return
        for name, entry in self._entries.items():
            if entry.settled.is_set() and (not crowded or entry.owner == owner):
                self._drop(name)
                return


def _check(used_with: str, digest: str) -> None:
    if used_with != digest:
        text = "This Idempotency-Key was used with another body; take a new key for a new request."
        raise RequestError(422, Code.IDEMPOTENCY_KEY_REUSED, text, param="Idempotency-Key")


def _name(owner: str, key: str) -> str:
    """Of a fixed size, and not to be read where it is kept.

    Raises:
        RequestError: 400.
    """
    if not 1 <= len(key) <= _LONGEST_KEY or not key.isascii() or not key.isprintable():
        text = f"An Idempotency-Key is 1 to {_LONGEST_KEY} printable ASCII characters."
        raise RequestError(400, Code.INVALID_VALUE, text, param="Idempotency-Key")
    return hashlib.sha256(f"{owner}\0{key}".encode()).hexdigest()[:32]


def _digest(body: Any) -> str:
    """Equal for bodies that say the same, however they are written."""
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]
