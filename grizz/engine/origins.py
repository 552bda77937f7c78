"""What a request continues from: a response before it, or a conversation; and what its references stand for."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from grizz.engine.compaction import Compactions
from grizz.engine.conversations import Conversations, own_ids, unreachable
from grizz.engine.history import Scope, Turn
from grizz.engine.ids import new_id
from grizz.engine.lookup import Lookup
from grizz.engine.reply import Reply
from grizz.engine.turns import Turns
from grizz.errors import Code, RequestError
from grizz.protocol.items import Item, check_calls_match, with_ids
from grizz.protocol.requests import Request

# A turn over a WebSocket waits in order behind the one before it; so long, a job may wait and run.
TURN_WAIT_S = 300.0
_NOT_KEPT = "which is not kept any more; send the conversation itself"


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

    async def seen(self, compactions: Compactions, owner: str) -> list[Item]:
        """All that the model sees. Cancel-safe.

        Raises:
            RequestError: an item of it makes that impossible, and is named; 503, it cannot be known now.
        """
        context, source = [*self.before, *self.given], self.request.source
        context = await compactions.opened(owner, context, len(self.given), source=source)
        check_calls_match(context, self.given, source=source)
        return context


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
        before = await self._before(parent, owner)
        return Origin(request, parent, before, await self._resolve(request.input, owner, scope, (), deadline))

    async def read(self, request: Request, owner: str, deadline: float) -> Origin:
        """As `of`, for a request that does not become a response: no lock is taken.

        Raises:
            RequestError: there is nothing of that name.
        """
        if request.conversation is None:
            return await self.of(request, owner, None, "", deadline)
        try:
            async with asyncio.timeout_at(deadline):
                before = await self._conversations.read(request.conversation, owner)
        except TimeoutError:
            raise unreachable() from None
        request = dataclasses.replace(request, input=tuple(own_ids(request.input, {item["id"] for item in before})))
        return Origin(request, None, before, await self._resolve(request.input, owner, None, before, deadline))

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
            given = await self._resolve(request.input, owner, scope, before, deadline + waited_s)
            return Origin(request, None, before, given, waited_s)
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
        if turn is None or turn.gone:
            raise _no_parent(previous, "has not ended yet" if running and not running.ended else "not found")
        if turn.missing is not None:  # the same owner's: nobody can continue what is not theirs
            raise _no_parent(previous, f"cannot be continued: it continues '{turn.missing}', {_NOT_KEPT}")
        raise _no_parent(previous, "cannot be continued: it has failed; continue the response before it")

    async def _before(self, parent: Turn | None, owner: str) -> list[Item]:
        """All that was said up to a turn, and in the conversation in which its chain of responses began, if in one."""
        if parent is None:
            return []
        return [*await self._before_chain(parent, owner), *parent.context()]

    async def _before_chain(self, parent: Turn, owner: str) -> list[Item]:
        root = parent.lineage()[0]
        named = root.response.get("conversation")
        if not named:
            return []
        name = named["id"]
        try:
            items = await self._conversations.read(name, owner)
        except RequestError as error:
            if error.code is not Code.CONVERSATION_NOT_FOUND:
                raise
            raise _no_parent(
                parent.id, f"cannot be continued: it goes on from conversation '{name}', {_NOT_KEPT}"
            ) from error
        own = {item["id"] for item in (*root.input, *root.response["output"])}
        for index, item in enumerate(items):
            if item["id"] in own:
                return items[:index]
        # Half a conversation cannot be continued.
        state = f"cannot be continued: nothing of '{root.id}' is left in conversation '{name}', from which it goes on"
        raise _no_parent(parent.id, state)

    async def _resolve(
        self, items: Iterable[Item], owner: str, scope: Scope | None, before: Sequence[Item], deadline: float
    ) -> list[Item]:
        resolved = []
        known = {item["id"]: item for item in before}
        for index, item in enumerate(items):
            if item["type"] == "item_reference":
                where = f"input[{index}].id"
                found = known.get(item["id"]) or await self._referred(item["id"], owner, scope, deadline)
                if found is None:
                    raise RequestError(400, Code.ITEM_NOT_FOUND, f"Item with id '{item['id']}' not found.", param=where)
                item = found
            resolved.append(item)
        return resolved

    async def _referred(self, item_id: str, owner: str, scope: Scope | None, deadline: float) -> Item | None:
        try:
            async with asyncio.timeout_at(deadline):
                return await self._lookup.item(item_id, owner, scope)
        except TimeoutError:
            text = f"Item with id '{item_id}' could not be looked up in time; try again."
            raise RequestError(503, Code.OVERLOADED, text, param="input", retry_after_s=1.0) from None


def _no_parent(previous: str, state: str) -> RequestError:
    text = f"Previous response with id '{previous}' {state}."
    return RequestError(400, Code.PREVIOUS_RESPONSE_NOT_FOUND, text, param="previous_response_id")
