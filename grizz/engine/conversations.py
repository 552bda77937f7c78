"""What clients ask of conversations. Whose a conversation is, is looked at here and nowhere else.

A foreign id is answered exactly like an unknown one, and both like one that expired.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
from collections.abc import AsyncIterator, Container, Sequence

from grizz.engine.ids import new_id
from grizz.errors import Code, RequestError, ShelfDown
from grizz.protocol.conversations import opening
from grizz.protocol.items import Item, with_ids
from grizz.transport.shelf import Conversation, Shelf, Wanted

# All that one request may wait for a shelf.
_WITHIN_S = 2.0
# Items in one conversation; they are all read for each turn.
MAX_ITEMS = 10_000
_ID = re.compile(r"conv_[A-Za-z0-9_-]{1,100}\Z")
# It is addressed by its URL, in which "." and ".." mean something else.
_ITEM_ID = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9_.\-]{1,100}\Z")


class Conversations:
    """Conversations by owner. Every method raises `RequestError`: 404, or 503 when they cannot be asked for now."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def __repr__(self) -> str:
        return f"<Conversations on {self._shelf!r}>"

    async def create(self, owner: str, items: Sequence[Item], metadata: dict[str, str]) -> Conversation:
        """A new one."""
        made = Conversation(
            id=f"conv_{secrets.token_hex(20)}",
            owner=owner,
            created_at=int(time.time()),
            updated_at=time.time(),
            metadata=metadata,
            opening=opening(items),
        )
        async with _in_time():
            await self._shelf.create(made, own_ids(items, ()))
        return made

    async def get(self, conversation_id: str, owner: str) -> Conversation:
        """One of this owner's."""
        async with _in_time():
            return await self._mine(conversation_id, owner)

    async def update(self, conversation_id: str, owner: str, metadata: dict[str, str]) -> Conversation:
        """Replace its metadata."""
        async with _in_time():
            await self._mine(conversation_id, owner)
            return _there(await self._shelf.update(conversation_id, metadata), conversation_id)

    async def delete(self, conversation_id: str, owner: str) -> None:
        """Forget it. A turn that is under way in it goes on, and is not kept in it."""
        async with _in_time():
            await self._mine(conversation_id, owner)
            if not await self._shelf.delete(conversation_id):
                raise not_found(conversation_id)

    async def add(self, conversation_id: str, owner: str, items: Sequence[Item]) -> list[Item]:
        """Add items at the end; they as they are kept, each with an id."""
        async with _in_time():
            check_room(await self._mine(conversation_id, owner), self._shelf.largest)
            named = {item["id"] for item in items if isinstance(item.get("id"), str) and _ITEM_ID.match(item["id"])}
            taken = {name for name in named if await self._shelf.item(conversation_id, name) is not None}
            kept = own_ids(items, taken)
            _there(await self._shelf.append(conversation_id, kept, opening=opening(kept)), conversation_id)
        return kept

    async def page(
        self, conversation_id: str, owner: str, *, after: str | None, limit: int, newest_first: bool
    ) -> tuple[list[Item], bool]:
        """Items, and whether there are more.

        Raises:
            RequestError: also 400, `after` is none of its items.
        """
        async with _in_time():
            await self._mine(conversation_id, owner)
            found = await self._shelf.page(conversation_id, after=after, limit=limit, newest_first=newest_first)
        if found is None:
            raise no_such_after(after, "Item")
        return found

    async def item(self, conversation_id: str, owner: str, item_id: str) -> Item:
        """One item."""
        async with _in_time():
            await self._mine(conversation_id, owner)
            found = await self._shelf.item(conversation_id, item_id)
        if found is None:
            raise _no_such_item(item_id)
        return found

    async def remove(self, conversation_id: str, owner: str, item_id: str) -> Conversation:
        """Remove one item; the conversation without it."""
        async with _in_time():
            await self._mine(conversation_id, owner)
            left = await self._shelf.remove(conversation_id, item_id)
        if left is None:
            raise _no_such_item(item_id)
        return left

    async def listing(
        self, owner: str, *, after: str | None, limit: int, newest_first: bool, wanted: Wanted
    ) -> tuple[list[Conversation], bool]:
        """This owner's conversations by when they were last written to, and whether there are more.

        Raises:
            RequestError: also 400, `after` is none of them.
        """
        async with _in_time():
            found = await self._shelf.listing(owner, after=after, limit=limit, newest_first=newest_first, wanted=wanted)
        if found is None:
            raise no_such_after(after, "Conversation")
        return found

    async def for_turn(self, conversation_id: str, owner: str) -> Conversation:
        """One of this owner's, in which another turn may begin.

        Raises:
            RequestError: also 400, it has grown too long.
        """
        found = await self.get(conversation_id, owner)
        check_room(found, self._shelf.largest)
        return found

    async def read(self, conversation_id: str, owner: str) -> list[Item]:
        """Every item, oldest first."""
        async with _in_time():
            await self._mine(conversation_id, owner)
            items = await self._shelf.read(conversation_id)
        if items is None:
            raise not_found(conversation_id)
        return items

    def sweep(self) -> None:
        """Drop what is too old."""
        self._shelf.sweep()

    async def _mine(self, conversation_id: str, owner: str) -> Conversation:
        found = await self._shelf.get(conversation_id) if _ID.match(conversation_id) else None
        if found is None or found.owner != owner:
            raise not_found(conversation_id)
        return found


def own_ids(items: Sequence[Item], taken: Container[str]) -> list[Item]:
    """The items, each with an id that no other in the conversation has: its own where that may be, else a new one.

    Args:
        taken: the ids that are in it already. References are left alone.
    """
    named: list[Item] = []
    seen: set[str] = set()
    for item in items:
        item_id = item.get("id")
        if item["type"] != "item_reference":
            known = isinstance(item_id, str) and _ITEM_ID.match(item_id) and item_id not in taken
            if not known or item_id in seen:
                item = {key: value for key, value in item.items() if key != "id"}
            else:
                seen.add(str(item_id))
        named.append(item)
    return with_ids(named, new_id)


def check_room(conversation: Conversation, largest: int) -> None:
    """May more be said in it?

    Raises:
        RequestError: 400.
    """
    if conversation.items < MAX_ITEMS and conversation.bytes < largest:
        return
    text = (
        f"Conversation '{conversation.id}' holds {conversation.items} items of {conversation.bytes} bytes; "
        f"allowed are {MAX_ITEMS} and {largest}. Start another one, or delete items."
    )
    raise RequestError(400, Code.CONTEXT_LENGTH, text, param="conversation")


def not_found(conversation_id: str) -> RequestError:
    """The one answer to an id that is unknown, expired or somebody else's."""
    text = f"Conversation with id '{conversation_id[:100]}' not found."
    return RequestError(404, Code.CONVERSATION_NOT_FOUND, text)


def unreachable() -> RequestError:
    """A conversation is state: without it there is no honest answer."""
    return RequestError(503, Code.OVERLOADED, "Conversations cannot be reached now; try again.", retry_after_s=1.0)


def no_such_after(after: str | None, what: str) -> RequestError:
    """A page that begins behind what is not there."""
    return RequestError(400, Code.ITEM_NOT_FOUND, f"{what} with id '{(after or '')[:100]}' not found.", param="after")


def _no_such_item(item_id: str) -> RequestError:
    return RequestError(404, Code.ITEM_NOT_FOUND, f"Item with id '{item_id[:100]}' not found.")


def _there(found: Conversation | None, conversation_id: str) -> Conversation:
    if found is None:
        raise not_found(conversation_id)
    return found


@contextlib.asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(_WITHIN_S):
            yield
    except (ShelfDown, TimeoutError) as error:
        raise unreachable() from error
