"""Deliveries that were read from the stream and wait for a worker of this process to take them."""

from __future__ import annotations

from collections import deque

from grizz.core.job import Delivery


class Inbox:
    """In the order they came; never more than there are free slots."""

    def __init__(self) -> None:
        self._waiting: deque[Delivery] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def __repr__(self) -> str:
        return f"<Inbox: {len(self)} deliveries>"

    def add(self, delivery: Delivery) -> None:
        """It waits behind the others."""
        self._waiting.append(delivery)

    def take(self) -> Delivery | None:
        """The next one, if there is one."""
        return self._waiting.popleft() if self._waiting else None

    def remove(self, delivery: Delivery) -> bool:
        """Was it on its way to a worker, and is not any more?"""
        for waiting in self._waiting:
            if waiting.token == delivery.token:
                self._waiting.remove(waiting)
                return True
        return False
