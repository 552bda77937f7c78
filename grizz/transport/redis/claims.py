"""Names that one node alone may have, in the Redis: `transport.base.Claims`."""

from __future__ import annotations

from functools import partial
from typing import Any

from redis.exceptions import RedisError

from grizz.errors import ClaimsDown, RedisDown
from grizz.transport.redis.keys import Keys
from grizz.transport.redis.link import Link


class RedisClaims:
    """Implements `transport.base.Claims`: one SET for a name that is free, and a GET for one that is not."""

    def __init__(self, keys: Keys, link: Link) -> None:
        self._keys = keys
        self._link = link

    async def claim(self, name: str, value: str, keep_s: float) -> str | None:
        """See `Claims.claim`."""
        key = self._keys.claim(name)
        try:
            # Not with GET in the same command: before Redis 7 that does not go together with NX.
            if await self._link.ask("SET", key, value, "NX", "EX", max(1, int(keep_s))) is not None:
                return None
            held = await self._link.ask("GET", key)
        except (RedisDown, RedisError) as error:
            raise ClaimsDown(str(error)) from error
        return None if held is None else str(held, "utf-8", "replace")  # it ran out in between: nobody has it

    def release(self, name: str, value: str) -> None:
        """See `Claims.release`."""
        key = self._keys.claim(name)
        self._link.send("GET", key, then=partial(self._held, key, value))

    def _held(self, key: str, value: str, reply: Any) -> None:
        if reply == value.encode():
            self._link.send("DEL", key)
