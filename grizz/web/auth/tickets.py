"""One-use tickets for a WebSocket: `?ticket=` ends up in histories and logs of proxies, so what it says must be spent.

They are kept in this process alone. A ticket that any process could check would need a common secret, and one that is
taken only once a common memory; a balancer that sends a client's ticket elsewhere needs another way in.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict

from grizz.errors import Code, RequestError
from grizz.web.auth.identity import Identity

MAX_TICKETS = 10_000
MAX_TICKETS_PER_USER = 100


class Tickets:
    """What was given out and not used yet. Too many of one user: that user's oldest gives way, and nobody else's."""

    def __init__(self) -> None:
        # Both in the order of giving, which is that of ending as long as no reload changes how long they last.
        self._open: OrderedDict[bytes, tuple[Identity, float]] = OrderedDict()
        self._by_user: dict[str, dict[bytes, None]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def issue(self, identity: Identity, until: float, now: float) -> str:
        """A ticket for whoever this is, good until a moment in seconds since the epoch.

        Raises:
            RequestError: 503, there are as many as may be, of all users together.
        """
        self._forget_old(now)
        mine = self._by_user.get(identity.limited_as, {})
        if len(mine) >= MAX_TICKETS_PER_USER:
            self._remove(next(iter(mine)))
        elif len(self._open) >= MAX_TICKETS:
            _, oldest_until = next(iter(self._open.values()))
            text = f"{MAX_TICKETS} tickets wait to be used, which is the limit; try again, or send a credential."
            raise RequestError(503, Code.OVERLOADED, text, retry_after_s=max(1.0, oldest_until - now))
        ticket = secrets.token_urlsafe(32)
        digest = _digest(ticket)
        self._open[digest] = (identity, until)
        self._by_user.setdefault(identity.limited_as, {})[digest] = None
        return ticket

    def take(self, ticket: str, now: float) -> Identity | None:
        """Spend it; None if it is unknown, used or too old."""
        identity, until = self._remove(_digest(ticket))
        return identity if now < until else None

    def _remove(self, digest: bytes) -> tuple[Identity | None, float]:
        identity, until = self._open.pop(digest, (None, 0.0))
        if identity is not None:
            mine = self._by_user[identity.limited_as]
            del mine[digest]
            if not mine:
                del self._by_user[identity.limited_as]
        return identity, until

    def _forget_old(self, now: float) -> None:
        while self._open:
            digest, (_, until) = next(iter(self._open.items()))
            if now < until:
                return
            self._remove(digest)


def _digest(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode(errors="surrogateescape")).digest()
