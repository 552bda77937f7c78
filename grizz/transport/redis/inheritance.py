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
        # Is it sure?
        self._nodes: dict[str, bool] = {}

    def __contains__(self, node: str) -> bool:
        return node in self._nodes

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._nodes))

    def __repr__(self) -> str:
        return f"<Inheritance of {self._bus.node}: {len(self._nodes)} nodes>"

    async def add(self, node: str, *, sure: bool = True) -> None:
        """From now on, what is said to that node is said to this one too; nothing when it is this one.

        Args:
            sure: else `remove` may take it back.
        """
        if node == self._bus.node:
            return
        known = node in self._nodes
        self._nodes[node] = self._nodes.get(node, False) or sure
        if not known:
            await self._link.subscribe(self._keys.channel(node))

    async def remove(self, node: str, *, sure: bool = False) -> None:
        """This node is not its heir after all.

        Args:
            sure: else nothing happens to what is sure.
        """
        if sure or self._nodes.get(node) is False:
            self._nodes.pop(node, None)
            await self._link.subscribe(self._keys.channel(node), on=False)
