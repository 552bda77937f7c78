"""How much a client may do: connections in all, per user and per address, and requests per minute."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from grizz.config import LimitSettings
from grizz.core.bucket import Buckets
from grizz.errors import Code, RequestError


class Limits:
    """Counts what is open; 0 in a setting means no limit."""

    def __init__(self, settings: LimitSettings) -> None:
        self._settings = settings
        self._open = 0
        self._users: Counter[str] = Counter()
        self._addresses: Counter[str] = Counter()
        self._requests = Buckets(settings.requests_per_minute)

    @contextmanager
    def connection(self, owner: str, address: str) -> Iterator[None]:
        """Holds one connection's place.

        Raises:
            RequestError: 429 (one user or address has too many) or 503 (the server has).
        """
        limits = self._settings
        if self._open >= limits.connections:
            text = f"The server has {self._open} connections open, which is its limit."
            raise RequestError(503, Code.TOO_MANY_CONNECTIONS, text, retry_after_s=10.0)
        for what, count, limit in (
            ("You have", self._users[owner], limits.connections_per_user),
            ("Your address has", self._addresses[address], limits.connections_per_address),
        ):
            if limit and count >= limit:
                text = f"{what} {count} connections open, which is the limit."
                raise RequestError(429, Code.TOO_MANY_CONNECTIONS, text, retry_after_s=10.0)
        self._open += 1
        self._users[owner] += 1
        self._addresses[address] += 1
        try:
            yield
        finally:
            self._open -= 1
            _less(self._users, owner)
            _less(self._addresses, address)

    def request(self, owner: str) -> None:
        """Take one of this minute's requests.

        Raises:
            RequestError: 429 with the seconds to wait.
        """
        wait_s = self._requests.take(owner, asyncio.get_running_loop().time())
        if wait_s:
            limit = self._settings.requests_per_minute
            text = f"You may make {limit} requests a minute; try again in {math.ceil(wait_s)} s."
            raise RequestError(429, Code.RATE_LIMIT, text, retry_after_s=wait_s)


def _less(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
