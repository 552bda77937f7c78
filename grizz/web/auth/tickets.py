"""One-use tickets for a WebSocket: `?ticket=` ends up in histories and logs of proxies, so what it says must be spent.

They are kept in this process alone. A ticket that any process could check would need a common secret, and one that is
taken only once a common memory; a balancer that sends a client's ticket elsewhere needs another way in.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict

from grizz.web.auth.identity import Identity

MAX_TICKETS = 10_000


class Tickets:
    """What was given out and not used yet; the oldest give way."""

    def __init__(self) -> None:
        self._open: OrderedDict[bytes, tuple[Identity, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def issue(self, identity: Identity, until: float) -> str:
        """A ticket for whoever this is, good until a moment in seconds since the epoch."""
        ticket = secrets.token_urlsafe(32)
        self._open[_digest(ticket)] = (identity, until)
        if len(self._open) > MAX_TICKETS:
            self._open.popitem(last=False)
        return ticket

    def take(self, ticket: str, now: float) -> Identity | None:
        """Spend it; None if it is unknown, used or too old."""
        identity, until = self._open.pop(_digest(ticket), (None, 0.0))
        return identity if now < until else None


def _digest(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode(errors="surrogateescape")).digest()
