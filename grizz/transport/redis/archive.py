"""Finished responses in the Redis, where every node finds them: `transport.base.Archive`.

What ended alone is a key of its own; what ended together goes into one hash for each node and hour, named by what the
id of a response begins with, which expires as a whole. So storing costs one command for a reply, or less than one, and
a look-up needs no index.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from redis.exceptions import RedisError

from grizz.errors import RedisDown
from grizz.transport.redis.chores import Chores
from grizz.transport.redis.keys import Keys
from grizz.transport.redis.link import Link

_MAX_BYTES = 4 << 20
# resp_ + node (8 hex digits) + hour (4 hex digits, since the epoch, modulo 65,536) + random part.
_BUCKET = slice(5, 17)


def bucket_of(response_id: str) -> str:
    """What the id of a response says about when and where it was made."""
    return response_id[_BUCKET]


class RedisArchive:
    """Implements `transport.base.Archive`.

    Args:
        keep_s: seconds a response is kept after it ended, or was last prolonged.
    """

    def __init__(self, keys: Keys, link: Link, chores: Chores, *, keep_s: float) -> None:
        self._keys = keys
        self._link = link
        self._chores = chores
        chores.keep_s = keep_s

    def keep(self, response_id: str, record: bytes) -> None:
        """See `Archive.keep`."""
        if len(record) <= _MAX_BYTES:
            self._chores.store(bucket_of(response_id), response_id, record)

    async def fetch(self, response_ids: Sequence[str]) -> dict[str, bytes]:
        """See `Archive.fetch`."""
        buckets: dict[str, list[str]] = {}
        for response_id in response_ids:
            buckets.setdefault(bucket_of(response_id), []).append(response_id)
        found: dict[str, bytes] = {}
        try:
            for bucket, ids in buckets.items():
                rows = [self._link.ask("HMGET", self._keys.history(bucket), *ids)]
                rows.append(self._link.ask("MGET", *map(self._keys.turn, ids)))
                for values in await asyncio.gather(*rows):
                    found |= {one: value for one, value in zip(ids, values, strict=True) if value is not None}
        except (RedisDown, RedisError):
            return found
        return found

    def touch(self, response_ids: Sequence[str]) -> None:
        """See `Archive.touch`."""
        for response_id in response_ids:
            self._chores.prolong(bucket_of(response_id), response_id)

    def discard(self, response_id: str) -> None:
        """See `Archive.discard`."""
        self._chores.unstore(bucket_of(response_id), response_id)
