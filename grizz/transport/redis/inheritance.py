"""Whose heir this node is: what is said to those nodes is said to it too."""

from __future__ import annotations

from collections.abc import Iterator

from grizz.transport.redis.bus import Bus
from grizz.transport.redis.keys import Keys
from grizz.transport.redis.link import Link


class Inheritance:
    """The nodes whose channels this one listens on besides its own."""

    def __init__(self, keys: Keys, link: Link, bus: Bus) -> None:
        self._keys = keys
        self._link = link
        self._bus = bus
        self._nodes: dict[str, None] = {}

    def __contains__(self, node: str) -> bool:
        return node in self._nodes

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._nodes))

    def __repr__(self) -> str:
        return f"<Inheritance of {self._bus.node}: {len(self._nodes)} nodes>"

    async def add(self, node: str) -> None:
        """From now on, what is said to that node is said to this one too; nothing when it is this one."""
        if node not in self._nodes and node != self._bus.node:
            self._nodes[node] = None
            await self._link.subscribe(self._keys.channel(node))

    async def remove(self, node: str) -> None:
        """This node is not its heir."""
        if self._nodes.pop(node, "") is None:
            await self._link.subscribe(self._keys.channel(node), on=False)
