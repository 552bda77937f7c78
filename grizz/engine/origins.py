"""What a request continues from: a response before it, or a conversation; and what its references stand for."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from grizz.engine.conversations import Conversations, own_ids, unreachable
from grizz.engine.history import Scope, Turn
from grizz.engine.ids import new_id
from grizz.engine.lookup import Lookup
from grizz.engine.reply import Reply
from grizz.engine.turns import Turns
from grizz.errors import Code, RequestError
from grizz.protocol.items import Item, with_ids
from grizz.protocol.requests import Request

# A turn over a WebSocket waits in order behind the one before it; so long, a job may wait and run.
TURN_WAIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a response begins.

    Attributes:
        request: the request, its items with ids.
        parent: the turn it continues, or None.
        before: all that was said before, oldest first.
        given: this turn's input, references resolved.
        waited_s: how long it waited for its turn.
    """

    request: Request
    parent: Turn | None
    before: Sequence[Item]
    given: Sequence[Item]
    waited_s: float = 0.0


class Origins:
    """Finds them.

    Args:
        reply: the log of a response, if it is kept here and that owner's.
    """

    def __init__(
        self,
        lookup: Lookup,
        conversations: Conversations,
        turns: Turns,
        reply: Callable[[str, str], Reply | None],
    ) -> None:
        self._lookup = lookup
        self._reply = reply
        self._conversations = conversations
        self._turns = turns

    async def of(self, request: Request, owner: str, scope: Scope | None, response_id: str, deadline: float) -> Origin:
        """The origin of a request that is about to become a response; with a conversation, its lock is held then.

        Args:
            scope: the connection it came by, if that is one whose creates wait in order.
            deadline: until when other nodes may be asked, in seconds of the loop's clock.

        Raises:
            RequestError: it cannot begin there; no lock is held.
        """
        if request.conversation is not None:
            return await self._in_conversation(request, owner, scope, response_id, deadline)
        request = dataclasses.replace(request, input=tuple(with_ids(request.input, new_id)))
        parent = await self._parent(request, owner, scope, deadline)
        before = [] if parent is None else [*await self._before(parent, owner), *parent.context()]
        return Origin(request, parent, before, self._resolve(request.input, owner, scope, ()))

    async def _in_conversation(
        self, request: Request, owner: str, scope: Scope | None, response_id: str, deadline: float
    ) -> Origin:
        assert request.conversation is not None
        wait_s = 0.0 if scope is None else TURN_WAIT_S
        try:
            async with asyncio.timeout_at(deadline + wait_s):
                known = await self._conversations.for_turn(request.conversation, owner)
                asked_at = asyncio.get_running_loop().time()
                before = await self._turns.begin(known.id, response_id, wait_s)
        except TimeoutError:
            raise unreachable() from None
        try:
            waited_s = asyncio.get_running_loop().time() - asked_at if wait_s else 0.0
            taken = {item["id"] for item in before}
            request = dataclasses.replace(request, input=tuple(own_ids(request.input, taken)))
            return Origin(request, None, before, self._resolve(request.input, owner, scope, before), waited_s)
        except BaseException:
            self._turns.give_up(response_id)
            raise

    async def _parent(self, request: Request, owner: str, scope: Scope | None, deadline: float) -> Turn | None:
        previous = request.previous_response_id
        if previous is None:
            return None
        try:
            async with asyncio.timeout_at(deadline):
                turn = await self._lookup.turn(previous, owner, scope)
        except TimeoutError:
            text = f"Previous response with id '{previous}' could not be looked up in time; try again."
            raise RequestError(503, Code.OVERLOADED, text, param="previous_response_id", retry_after_s=1.0) from None
        if turn is not None and turn.continuable:
            return turn
        running = self._reply(previous, owner)
        raise _no_parent(previous, " has not ended yet" if running is not None and not running.ended else " not found")

    async def _before(self, parent: Turn, owner: str) -> list[Item]:
        """What had been said in the conversation in which a chain of responses began, if it began in one."""
        root = parent.lineage()[0]
        named = root.response.get("conversation")
        if not named:
            return []
        try:
            items = await self._conversations.read(named["id"], owner)
        except RequestError as error:
            if error.code is not Code.CONVERSATION_NOT_FOUND:
                raise
            raise _no_parent(parent.id, " not found") from error
        own = {item["id"] for item in (*root.input, *root.response["output"])}
        for index, item in enumerate(items):
            if item["id"] in own:
                return items[:index]
        raise _no_parent(parent.id, " not found")  # half a conversation cannot be continued

    def _resolve(self, items: Iterable[Item], owner: str, scope: Scope | None, before: Sequence[Item]) -> list[Item]:
        resolved = []
        known = {item["id"]: item for item in before}
        for index, item in enumerate(items):
            if item["type"] == "item_reference":
                found = known.get(item["id"]) or self._lookup.item(item["id"], owner, scope)
                if found is None:
                    text = f"Item with id '{item['id']}' not found."
                    raise RequestError(400, Code.ITEM_NOT_FOUND, text, param=f"input[{index}].id")
                item = found
            resolved.append(item)
        return resolved


def _no_parent(previous: str, state: str) -> RequestError:
    text = f"Previous response with id '{previous}'{state}."
    return RequestError(400, Code.PREVIOUS_RESPONSE_NOT_FOUND, text, param="previous_response_id")
