"""Everything that one user has here, forgotten."""

from __future__ import annotations

import asyncio

from grizz.engine.engine import Engine
from grizz.errors import RequestError


async def forget_owner(engine: Engine, owner: str) -> int:
    """Stop what runs for a user, and drop every log and turn; how many there were. Cancel-safe: do it again."""
    mine = engine.replies.of(owner)
    # Each waits until it has ended, so that nothing is stored afterwards.
    stops = [engine.cancel(reply.id, owner) for reply in mine if not reply.ended]
    for failed in await asyncio.gather(*stops, return_exceptions=True):
        if isinstance(failed, BaseException) and not isinstance(failed, RequestError):
            raise failed
    for reply in mine:
        engine.replies.remove(reply)
    return len(mine) + engine.lookup.forget_owner(owner)
