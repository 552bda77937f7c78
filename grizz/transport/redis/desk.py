"""A connection for the operator's commands, beside the servers'."""

from __future__ import annotations

import asyncio
from typing import Any, Self

from grizz.transport.redis.connection import Target, Wire

_DEADLINE_S = 10.0


class Desk:
    """Asks one thing after the other, in whatever order callers come.

    Every method raises RedisError, OSError or TimeoutError when it cannot.
    """

    def __init__(self, target: Target) -> None:
        self._wire: Wire = target.wire()
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        async with asyncio.timeout(_DEADLINE_S):
            await self._wire.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._wire.close()

    async def ask(self, *command: Any) -> Any:
        """The reply to a command."""
        async with asyncio.timeout(_DEADLINE_S), self._turn:
            reply = (await self._wire.ask([command]))[0]
        if isinstance(reply, Exception):
            raise reply
        return reply
