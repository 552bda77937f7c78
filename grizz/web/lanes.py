"""Lanes of one connection: order within a lane, concurrency between lanes (protocol §4). Pure bookkeeping."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from grizz.config import LimitSettings
from grizz.engine.reply import Cursor
from grizz.errors import Code, RequestError

Frame = dict[str, Any]


@dataclass(slots=True, eq=False)
class Lane:
    """One lane.

    Attributes:
        name: None for the default lane, whose events carry no stream_id.
        waiting: creates behind the running one, with their bytes.
        cursor: what is delivered on it now.
        creating: a create is being submitted, or its response runs.
        task: submits the create, until that is a response or refused.
        withdrawn: the client cancelled that create before it was a response.
        made: the response that was created on it last, or None.
        position: how many jobs come before its response, as the client was told last; None when it was not.
    """

    name: str | None
    waiting: list[tuple[Frame, int]] = field(default_factory=list)
    cursor: Cursor | None = None
    creating: bool = False
    task: asyncio.Task[None] | None = None
    withdrawn: bool = False
    made: str | None = None
    position: int | None = None

    @property
    def busy(self) -> bool:
        """Is something delivered, or about to be?"""
        return self.creating or self.cursor is not None

    def withdraw(self) -> bool:
        """Cancel a create that is no response yet: it may wait long for its turn in a conversation. Was there one?"""
        if self.task is None:
            return False
        if self.withdrawn:
            return True
        self.withdrawn = True
        asyncio.get_running_loop().call_soon(self.task.cancel)  # not before it has begun: it could not say so
        return True


class Lanes:
    """The lanes of one connection and their bounds.

    Args:
        max_bytes: what waiting creates may hold together.
    """

    __slots__ = ("_lanes", "_limits", "_max_bytes", "_waiting", "_waiting_bytes")

    def __init__(self, limits: LimitSettings, max_bytes: int) -> None:
        self._limits = limits
        self._max_bytes = max_bytes
        self._lanes: dict[str | None, Lane] = {}
        self._waiting = 0
        self._waiting_bytes = 0

    def __iter__(self) -> Iterator[Lane]:
        return iter(list(self._lanes.values()))

    @property
    def as_they_are(self) -> Collection[Lane]:
        """The lanes, not copied: for who neither waits nor changes them while he looks."""
        return self._lanes.values()

    def get(self, name: str | None) -> Lane:
        """The lane of that name, opened on first use.

        Raises:
            RequestError: 400, one named lane more than allowed.
        """
        lane = self._lanes.get(name)
        if lane is None:
            limit = self._limits.lanes_per_connection
            named = len(self._lanes) - (None in self._lanes)
            if name is not None and named >= limit:
                text = f"This connection has {limit} named lanes, which is the limit; reuse one."
                raise RequestError(400, Code.STREAM_LIMIT, text, param="stream_id")
            lane = self._lanes[name] = Lane(name)
        return lane

    def find(self, name: str | None) -> Lane | None:
        """The lane of that name if it was opened; a question opens none."""
        return self._lanes.get(name)

    def enqueue(self, lane: Lane, frame: Frame, size: int) -> None:
        """Let a create wait for its turn in its lane.

        Raises:
            RequestError: 429, too many or too large ones wait.
        """
        limit = self._limits.queued_creates_per_connection
        if self._waiting >= limit or (self._waiting and self._waiting_bytes + size > self._max_bytes):
            text = f"{self._waiting} creates ({self._waiting_bytes} bytes) wait on this connection, which is the limit."
            raise RequestError(429, Code.WEBSOCKET_QUEUE_FULL, text, retry_after_s=1.0)
        lane.waiting.append((frame, size))
        self._waiting += 1
        self._waiting_bytes += size

    def startable(self) -> Iterator[tuple[Lane, Frame, int]]:
        """The creates whose turn has come, taken out; lanes take turns when not all may start."""
        for lane in list(self._lanes.values()):
            if sum(other.creating for other in self._lanes.values()) >= self._limits.responses_per_connection:
                return
            if lane.waiting and not lane.busy:
                frame, size = lane.waiting.pop(0)
                self._waiting -= 1
                self._waiting_bytes -= size
                lane.creating, lane.withdrawn = True, False
                self._lanes[lane.name] = self._lanes.pop(lane.name)
                yield lane, frame, size

    def close(self) -> None:
        """The connection is gone: nothing is read any more, and no create starts behind one that was withdrawn."""
        for lane in self:
            lane.withdrawn = False
            if lane.cursor is not None:
                lane.cursor.close()

    def delivering(self, response_id: str) -> Lane | None:
        """The lane that delivers this response."""
        return next((lane for lane in self if lane.cursor and lane.cursor.reply.id == response_id), None)

    @property
    def queued(self) -> bool:
        """Does a response that is delivered here wait for a worker?"""
        return any(lane.cursor and lane.cursor.reply.status == "queued" for lane in self._lanes.values())

    def moved(self, positions: Mapping[str, int]) -> Iterator[tuple[Lane, Cursor, int]]:
        """Lanes whose response has another place in the queue than their client was told, with that place.

        Args:
            positions: how many jobs come before each that waits, by response.
        """
        for lane in self:
            cursor = lane.cursor
            # Not before the client has heard of the response: `response.created` comes first on every stream.
            if cursor is None or cursor.position < 0 or cursor.reply.status != "queued":
                lane.position = None
                continue
            position = positions.get(cursor.reply.id)
            if position is not None and position != lane.position:
                lane.position = position
                yield lane, cursor, position


def withdrawn() -> RequestError:
    """The end of a create that was cancelled before it became a response."""
    text = "This create was cancelled before it became a response; nothing of it is kept."
    return RequestError(409, Code.WITHDRAWN, text)
