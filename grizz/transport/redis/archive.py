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

    def keep(self, response_id: str, owner: str, record: bytes) -> None:
        """See `Archive.keep`; the record names the owner."""
        if len(record) <= _MAX_BYTES:
            self._chores.store(bucket_of(response_id), response_id, record)

    def settle(self, response_id: str, owner: str, record: bytes | None, *, in_conversation: bool = False) -> None:
        """See `Archive.settle`: a command for each end would cost more than the rare answer that runs once more."""
        if record is not None:
            self.keep(response_id, owner, record)

    async def fetch(self, response_ids: Sequence[str]) -> dict[str, bytes]:
        """See `Archive.fetch`; what this node has yet to store or to remove counts as done."""
        found = {one: data for one in response_ids if (data := self._chores.unsent(bucket_of(one), one)) is not None}
        rest = [one for one in response_ids if one not in found and not self._chores.leaving(one)]
        try:
            return found | await self._look_up(rest)
        except (RedisDown, RedisError):
            return found

    async def ended(self, response_ids: Sequence[str]) -> set[str]:
        """Which of these have ended and are stored.

        Raises:
            RedisDown, RedisError: that cannot be known now.
        """
        return set(await self._look_up(response_ids))

    async def _look_up(self, response_ids: Sequence[str]) -> dict[str, bytes]:
        """All of it goes out at once, so that it takes one deadline, not one for each hour that is asked for."""
        if not response_ids:
            return {}
        buckets: dict[str, list[str]] = {}
        for response_id in response_ids:
            buckets.setdefault(bucket_of(response_id), []).append(response_id)
        asked = [self._link.ask("MGET", *map(self._keys.turn, response_ids))]
        asked += [self._link.ask("HMGET", self._keys.history(bucket), *ids) for bucket, ids in buckets.items()]
        replies = await asyncio.gather(*asked)
        names = [list(response_ids), *buckets.values()]
        found: dict[str, bytes] = {}
        for ids, values in zip(names, replies, strict=True):
            found |= {one: value for one, value in zip(ids, values, strict=True) if value is not None}
        return found

    def touch(self, response_ids: Sequence[str]) -> None:
        """See `Archive.touch`."""
        for response_id in response_ids:
            self._chores.prolong(bucket_of(response_id), response_id)

    def discard(self, response_id: str, *, stored: bool = True) -> None:
        """See `Archive.discard`."""
        if stored:
            self._chores.unstore(bucket_of(response_id), response_id)
        else:
            self._chores.drop(bucket_of(response_id), response_id)
