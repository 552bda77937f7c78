"""Whose job is next: owners take turns, each owner's jobs stay in order.

Round-robin over owners that have something queued, so an owner with a thousand jobs delays another owner's next job by
one job, not a thousand. Every operation is O(1), whatever is queued; `order` alone looks at all of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Items keyed by (owner, key), handed out one owner at a time."""

    def __init__(self) -> None:
        self._owners: OrderedDict[str, OrderedDict[str, T]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"<FairQueue: {self._size} items of {len(self._owners)} owners>"

    def push(self, owner: str, key: str, item: T, *, front: bool = False) -> None:
        """Queue `item` behind its owner's others, or before them when it comes back (`front`).

        Raises:
            KeyError: the owner has an item under this key already.
        """
        lane = self._owners.get(owner)
        if lane is None:
            lane = self._owners[owner] = OrderedDict()
        if key in lane:
            raise KeyError(key)
        lane[key] = item
        if front:
            lane.move_to_end(key, last=False)
            # Its owner had had its turn for this one already.
            self._owners.move_to_end(owner, last=False)
        self._size += 1

    def pop(self) -> T | None:
        """Take the next item, or None when nothing is queued."""
        if not self._owners:
            return None
        owner, lane = next(iter(self._owners.items()))
        _, item = lane.popitem(last=False)
        self._size -= 1
        if lane:
            self._owners.move_to_end(owner)
        else:
            del self._owners[owner]
        return item

    def remove(self, owner: str, key: str) -> T | None:
        """Take one item out of turn, or None when it is not queued."""
        lane = self._owners.get(owner)
        if lane is None or key not in lane:
            return None
        item = lane.pop(key)
        self._size -= 1
        if not lane:
            del self._owners[owner]
        return item

    def count(self, owner: str) -> int:
        """How many items this owner has queued."""
        return len(self._owners.get(owner, ()))

    def order(self) -> Iterator[str]:
        """The keys of all items in the order in which they are handed out, if none comes or goes."""
        lanes = [iter(lane) for lane in self._owners.values()]
        while lanes:
            left = []
            for lane in lanes:
                key = next(lane, None)
                if key is not None:
                    yield key
                    left.append(lane)
            lanes = left

    def heads(self) -> Iterator[T]:
        """Each owner's next item; the oldest of all is among them."""
        for lane in self._owners.values():
            yield next(iter(lane.values()))
