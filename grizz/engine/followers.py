"""Nodes that read replies of this one for their own clients.

A follower is, to the home, one more cursor; what it reads travels in the messages between the two nodes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from grizz.engine.reply import Cursor, Reply
from grizz.engine.search import home_of
from grizz.tasks import TaskOwner
from grizz.transport.base import Bus, Cause, Finder, Haste, Part

log = logging.getLogger(__name__)

_MAX_FOLLOWERS = 1000
_READ = 256  # events in one part; a message is cut between parts only


class _Follower:
    """Another node that reads one of this node's replies. A `Source` of messages."""

    __slots__ = ("_bus", "_cursor", "_reply", "node")

    def __init__(self, bus: Bus, node: str, reply: Reply, after: int) -> None:
        self._bus = bus
        self._reply = reply
        self.node = node
        self._cursor = Cursor(reply, after, self._wake)

    @property
    def finished(self) -> bool:
        """Has everything been sent?"""
        return self._cursor.finished

    def _wake(self) -> None:
        first = self._reply.ended or self._reply.last_seq < 8
        self._bus.ready(self.node, self, haste=Haste.SOON if first else Haste.TICK)

    def collect(self) -> list[tuple[Part, Sequence[bytes]]]:
        """What there is to read."""
        parts: list[tuple[Part, Sequence[bytes]]] = []
        while not self._reply.revoked and (events := self._cursor.read(_READ)):
            part = {"k": "mirror", "id": self._reply.id, "a": self._reply.attempt, "s": events[0].seq, "n": len(events)}
            parts.append((part, [event.data for event in events]))
        if self.finished:
            self.close()
        return parts

    def close(self) -> None:
        self._cursor.close()


class Followers:
    """What other nodes ask of this one: to be fed, to be told that it knows nothing, to cancel.

    Args:
        local: the reply of that id, when this node is its home.
        moved_to: the home of a response, when it is known to be another node than the id names.
        cancel: cancels a local response; it is a coroutine function.
    """

    def __init__(
        self,
        *,
        bus: Bus,
        finder: Finder,
        tasks: TaskOwner,
        local: Callable[[str], Reply | None],
        moved_to: Callable[[str], str | None],
        cancel: Callable[[Reply, Cause], Any],
    ) -> None:
        self._bus = bus
        self._finder = finder
        self._tasks = tasks
        self._local = local
        self._moved_to = moved_to
        self._cancel = cancel
        self._followers: dict[tuple[str, str], _Follower] = {}
        bus.on("follow", self._on_follow)
        bus.on("unfollow", self._on_unfollow)
        bus.on("cancel", self._on_cancel)

    def __len__(self) -> int:
        return len(self._followers)

    def __repr__(self) -> str:
        return f"<Followers: {len(self._followers)}>"

    def reached(self, node: str, count: int) -> None:
        """A message to a node reached so many: where nobody listens, nobody follows."""
        if count:
            return
        for key, follower in list(self._followers.items()):
            if key[0] == node:
                follower.close()
                del self._followers[key]

    def sweep(self) -> None:
        """Drop those that have everything."""
        for key, follower in list(self._followers.items()):
            if follower.finished:
                follower.close()
                del self._followers[key]

    def clear(self) -> None:
        """Another node speaks for what this one had."""
        for follower in self._followers.values():
            follower.close()
        self._followers.clear()

    def _on_follow(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        if sender == self._bus.node:
            return
        response_id = part["id"]
        reply = self._local(response_id)
        if reply is None:
            self._deny(sender, response_id)
            return
        if len(self._followers) >= _MAX_FOLLOWERS:
            log.warning("too many nodes follow responses of this one", extra={"count": _MAX_FOLLOWERS})
            return
        key = (sender, response_id)
        if (old := self._followers.pop(key, None)) is not None:
            old.close()
        after = int(part["after"]) if part.get("a") == reply.attempt else -1
        meta = {
            "owner": reply.owner,
            "model": reply.request.model,
            "fields": reply.request.fields,
            "input": list(reply.request.input),
            "response": {**reply.response, "output": []},
        }
        answer = {"k": "followed", "id": response_id, "a": reply.attempt, "last": reply.last_seq, "reply": meta}
        answer["s"] = max(after + 1, reply.first_seq)
        self._bus.post(sender, answer)
        follower = self._followers[key] = _Follower(self._bus, sender, reply, after)
        self._bus.ready(sender, follower, haste=Haste.NOW)

    def _deny(self, sender: str, response_id: str) -> None:
        if (node := self._moved_to(response_id)) is not None:
            self._bus.post(sender, {"k": "moved", "id": response_id, "to": node})
        elif home_of(response_id) == self._bus.node or not (self._finder.is_busy or self._finder.is_behind):
            self._bus.post(sender, {"k": "unknown", "id": response_id})
        # Else it may be with the node that is being taken over right now: the question comes again.

    def _on_unfollow(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        follower = self._followers.pop((sender, part["id"]), None)
        if follower is not None:
            follower.close()

    def _on_cancel(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        reply = self._local(part["id"])
        if reply is not None and reply.owner == part["owner"]:
            self._tasks.spawn(self._cancel(reply, Cause(part["c"])), name=f"cancel {reply.id}")
