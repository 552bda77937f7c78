"""Who lives, as the Redis shows it: nodes are the consumers of the group, and a living one listens on its channel."""

from __future__ import annotations

from collections.abc import Sequence

from grizz.transport.redis.connection import pairs
from grizz.transport.redis.keys import GROUP, Keys
from grizz.transport.redis.link import Link


class Census:
    """Looks; one command each. Every method raises `RedisDown` or `RedisError` when that cannot be known now."""

    def __init__(self, keys: Keys, link: Link) -> None:
        self._keys = keys
        self._link = link

    def __repr__(self) -> str:
        return f"<Census over {self._link!r}>"

    async def consumers(self) -> list[str]:
        """Every node that started and did not leave, dead ones included until they are taken over."""
        rows = await self._link.ask("XINFO", "CONSUMERS", self._keys.jobs, GROUP)
        return [pairs(row)["name"].decode() for row in rows]

    async def listeners(self, node: str) -> int:
        """How many listen on a node's channel: itself, or its heirs."""
        reply = await self._link.ask("PUBSUB", "NUMSUB", self._keys.channel(node))
        return int(reply[1])

    async def silent_among(self, nodes: Sequence[str]) -> list[str]:
        """Those where nobody listens."""
        if not nodes:
            return []
        reply = await self._link.ask("PUBSUB", "NUMSUB", *map(self._keys.channel, nodes))
        return [node for node, count in zip(nodes, reply[1::2], strict=True) if not count]
