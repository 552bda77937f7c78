"""One turn at a time in each conversation, and each turn's end in it, once.

The token of a turn's lock is the response's id. Whoever takes the response over has the token too: it goes on holding
the lock, and what it appends is appended once. A lock that nobody renews is free after `HOLD_S`, or six leases.

A turn is in its conversation before its terminal event is shown, so that who has seen the end may read and go on at
any node. Only when the shelf cannot be reached within two seconds the end is shown first, and the turn follows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from grizz.engine.conversations import not_found, unreachable
from grizz.engine.reply import Reply
from grizz.errors import Code, ConversationLocked, RequestError, ShelfDown
from grizz.protocol.conversations import opening
from grizz.protocol.items import Item
from grizz.tasks import TaskOwner
from grizz.transport.shelf import Shelf

log = logging.getLogger(__name__)

HOLD_S = 60.0
# All that a turn may wait for the shelf, at its beginning and at its end.
_WITHIN_S = 2.0
# How often a turn that waits behind one of another node looks: from the first to the second, doubling.
_LOOK_S, _LOOK_LONGEST_S = 0.1, 2.0
# What the shelf did not take goes on being offered, so often and so long, for so many turns of so many bytes in all.
_AGAIN_S, _LATEST_S = 1.0, 600.0
_MAX_LATE, _MAX_LATE_BYTES = 1000, 16 << 20


@dataclass(slots=True, eq=False)
class _Line:
    """Those of this node who want the next turn of a conversation, in the order they came."""

    first: asyncio.Lock = field(default_factory=asyncio.Lock)
    freed: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0


@dataclass(slots=True)
class _Held:
    conversation_id: str
    renew_at: float


class Turns:
    """Begins, holds and ends the turns of this node's responses.

    Args:
        lease_s: seconds of silence after which another node takes a response over.
        is_home: is this node the home of the response of that id?
    """

    def __init__(self, shelf: Shelf, tasks: TaskOwner, *, lease_s: float, is_home: Callable[[str], bool]) -> None:
        self._shelf = shelf
        self._tasks = tasks
        self._hold_s = max(HOLD_S, 6 * lease_s)
        self._is_home = is_home
        self._lines: dict[str, _Line] = {}
        self._held: dict[str, _Held] = {}
        self._late_bytes = 0
        self._late = 0

    def __repr__(self) -> str:
        return f"<Turns: {len(self._held)} held, {len(self._lines)} lines, {self._late} late>"

    async def begin(self, conversation_id: str, turn: str, wait_s: float) -> list[Item]:
        """Take the lock for a turn, and read all that was said before it.

        Args:
            wait_s: seconds it may wait behind other turns; those of this node go in the order they came.

        Raises:
            RequestError: 409, another turn is under way, and it may not wait (any longer); 404 and 503 as ever.

        Cancel-safe: the lock of a cancelled call is given back.
        """
        line = self._lines.setdefault(conversation_id, _Line())
        line.waiting += 1
        try:
            if not wait_s and line.first.locked():
                raise ConversationLocked(conversation_id)
            async with asyncio.timeout(wait_s + _WITHIN_S), line.first:
                items = await self._take(conversation_id, turn, line, _now() + wait_s)
        except ConversationLocked:
            raise _locked(conversation_id) from None
        except (ShelfDown, TimeoutError) as error:
            self._give_back(conversation_id, turn)
            raise unreachable() from error
        except asyncio.CancelledError:
            self._give_back(conversation_id, turn)
            raise
        finally:
            line.waiting -= 1
            if not line.waiting:
                del self._lines[conversation_id]
        if items is None:
            raise not_found(conversation_id)
        self._held[turn] = _Held(conversation_id, _now() + self._hold_s / 3)
        return items

    def give_up(self, turn: str) -> None:
        """It was begun, and will not be a response: nothing is appended."""
        held = self._held.pop(turn, None)
        if held is not None:
            self._give_back(held.conversation_id, turn)

    def adopt(self, reply: Reply) -> None:
        """This node is the home of a turn that another one began: the lock is renewed, or taken again, at once."""
        if (named := reply.request.conversation) is not None:
            self._held[reply.id] = held = _Held(named, 0.0)
            self._prolong(reply.id, held)

    def settle(self, reply: Reply, response: dict[str, Any], then: Callable[[], None]) -> None:
        """A response has ended: append the turn if it counts, release the lock, call `then`, within two seconds."""
        conversation_id = reply.request.conversation
        assert conversation_id is not None
        items = said(reply.given, response)
        self._tasks.spawn(self._settle(conversation_id, reply.id, items, then), name=f"append {reply.id}")

    def sweep(self) -> None:
        """Prolong the locks of turns that take long."""
        now = _now()
        for turn, held in list(self._held.items()):
            if now < held.renew_at:
                continue
            if self._is_home(turn):
                self._prolong(turn, held)
            else:  # another node speaks for it now
                del self._held[turn]

    def _prolong(self, turn: str, held: _Held) -> None:
        held.renew_at = _now() + self._hold_s / 3
        self._tasks.spawn(self._renew(held.conversation_id, turn), name=f"hold the turn of {turn}")

    async def _take(self, conversation_id: str, turn: str, line: _Line, until: float) -> list[Item] | None:
        pause = _LOOK_S
        while True:
            line.freed.clear()
            try:
                async with asyncio.timeout(_WITHIN_S):
                    return await self._shelf.begin(conversation_id, turn, self._hold_s)
            except ConversationLocked:
                left = until - _now()
                if left <= 0:
                    raise
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, pause)):
                    await line.freed.wait()
            pause = min(2 * pause, _LOOK_LONGEST_S)

    def _give_back(self, conversation_id: str, turn: str) -> None:
        """Whether it has the lock or not."""

        async def release() -> None:
            try:
                async with asyncio.timeout(_WITHIN_S):
                    await self._shelf.release(conversation_id, turn)
            except (ShelfDown, TimeoutError) as error:
                log.info("a conversation stays locked for a while", extra={"response_id": turn, "err": str(error)})
            self._free(conversation_id)

        self._tasks.spawn(release(), name=f"give up the turn of {turn}")

    def _free(self, conversation_id: str) -> None:
        if (line := self._lines.get(conversation_id)) is not None:
            line.freed.set()

    async def _renew(self, conversation_id: str, turn: str) -> None:
        try:
            async with asyncio.timeout(_WITHIN_S):
                if not await self._shelf.renew(conversation_id, turn, self._hold_s):
                    log.warning("another turn began before this one has ended", extra={"response_id": turn})
        except (ShelfDown, TimeoutError) as error:
            log.info("the lock of a conversation was not renewed", extra={"response_id": turn, "err": str(error)})

    async def _settle(
        self, conversation_id: str, turn: str, items: Sequence[Item] | None, then: Callable[[], None]
    ) -> None:
        try:
            try:
                done = await self._append(conversation_id, turn, items)
            finally:
                then()
            if not done and items is not None:
                await self._append_late(conversation_id, turn, items)
        except Exception:
            self._give_back(conversation_id, turn)  # a turn that cannot be kept must not keep all others out
            raise
        finally:
            self._held.pop(turn, None)
            self._free(conversation_id)

    async def _append(self, conversation_id: str, turn: str, items: Sequence[Item] | None) -> bool:
        try:
            async with asyncio.timeout(_WITHIN_S):
                if items is None:
                    await self._shelf.release(conversation_id, turn)
                elif await self._shelf.append(conversation_id, items, opening=opening(items), turn=turn) is None:
                    log.info("the conversation of a turn is gone", extra={"response_id": turn})
        except (ShelfDown, TimeoutError) as error:
            log.warning("a turn is not in its conversation yet", extra={"response_id": turn, "err": str(error)})
            return False
        return True

    async def _append_late(self, conversation_id: str, turn: str, items: Sequence[Item]) -> None:
        size = len(orjson.dumps(list(items)))
        until = _now() + _LATEST_S
        if self._late >= _MAX_LATE or self._late_bytes + size > _MAX_LATE_BYTES:
            until = 0.0
        self._late += 1
        self._late_bytes += size
        try:
            while _now() < until:
                await asyncio.sleep(_AGAIN_S)
                if await self._append(conversation_id, turn, items):
                    return
            log.error("a turn is lost to its conversation", extra={"response_id": turn})
        finally:
            self._late -= 1
            self._late_bytes -= size


def said(given: Sequence[Item], response: dict[str, Any]) -> list[Item] | None:
    """What of a turn stays in its conversation; None when nothing does.

    A failed turn leaves nothing, so that asking again does not say it twice; nor does one that was cancelled before
    its first word. A call that broke off would make every later turn fail, so it is left out.
    """
    if response["status"] == "failed" or (response["status"] == "cancelled" and not response["output"]):
        return None
    broken = ("in_progress", "incomplete")
    output = (item for item in response["output"] if not (item["type"].endswith("_call") and item["status"] in broken))
    return [*given, *output]


def given_in(own: Sequence[Item], context: Sequence[Item]) -> list[Item]:
    """What a turn adds to its conversation before the answer, when only its request and its context are known.

    Args:
        own: the input as it came; a reference is what it leads to, a compaction item stays sealed.
        context: all that the model sees: it may be longer than what was said, where compaction items were opened.
    """
    known = {item["id"]: item for item in context}
    named = (known.get(item["id"]) if item["type"] == "item_reference" else item for item in own)
    return [item for item in named if item is not None]


def _locked(conversation_id: str) -> RequestError:
    text = f"Another turn of conversation '{conversation_id}' is under way; try again when it has ended."
    return RequestError(409, Code.CONVERSATION_LOCKED, text, param="conversation", retry_after_s=1.0)


def _now() -> float:
    return asyncio.get_running_loop().time()
