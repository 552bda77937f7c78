"""The port for conversations at rest: its guarantees, for every adapter alike.

* **Whose it is, is no business of a shelf.** It keeps the owner and hands it out; the engine compares, in one place.
* **A turn is appended once.** `append` with a turn's id that was appended before changes nothing, so whoever takes a
  turn over may append it again; all its items come in together, or none does.
* **A conversation of n turns costs n turns**, and appending one costs as much as that turn.
* **The lock keeps turns apart, it does not make them safe**: it runs out when nobody renews it, and a turn that comes
  too late is appended all the same, as a whole, behind the one that came between.
* **Bounded**: an owner has `MAX_OF_OWNER` at most; the least recently used goes first. What nobody wrote to for as long
  as the adapter keeps things goes as well.
* Nothing waits longer than two seconds. What cannot be asked now raises `ShelfDown`; whether it was done is unknown.

Times are seconds since the epoch: what is kept outlives a process.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from grizz.protocol.items import Item

MAX_OF_OWNER = 10_000


@dataclass(frozen=True, slots=True)
class Conversation:
    """What is known of a conversation beside its items.

    Attributes:
        created_at: when it was made, whole seconds.
        updated_at: when it was last written to: by a turn, an item more or less, new metadata.
        metadata: what its owner wrote on it.
        opening: the first words that a user said in it; "" while there are none.
        version: how often it was written to; every write adds one.
        items: how many there are.
        bytes: what their JSON comes to.
        running: the turn that has its lock, as `get` and `listing` found it; "" for none. One whose process died may
            be named until another one begins.
    """

    id: str
    owner: str
    created_at: int
    updated_at: float
    metadata: Mapping[str, str] = field(default_factory=dict)
    opening: str = ""
    version: int = 1
    items: int = 0
    bytes: int = 0
    running: str = ""

    @property
    def title(self) -> str:
        """What a listing shows: the title that its owner gave, else the first words."""
        return self.metadata.get("title") or self.opening


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which conversations a listing shows.

    Attributes:
        query: a part of the title, in any case; "" for all.
        metadata: values that must be there.
    """

    query: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def everything(self) -> bool:
        """Is nothing left out?"""
        return not self.query and not self.metadata

    def matches(self, conversation: Conversation) -> bool:
        """Is it wanted?"""
        if self.query and self.query.casefold() not in conversation.title.casefold():
            return False
        return all(conversation.metadata.get(key) == value for key, value in self.metadata.items())


class Shelf(Protocol):
    """The port. See the module's docstring for what every adapter promises.

    Every method that is `async` may raise `ShelfDown`, and is cancel-safe in that a cancelled call was done or was not.

    Attributes:
        largest: bytes of items that a conversation may hold; the engine lets no turn begin beyond it.
    """

    largest: int

    async def create(self, conversation: Conversation, items: Sequence[Item]) -> None:
        """Keep a new one; `items`, `bytes` and `version` are counted by the shelf. Its id is new.

        Args:
            items: the first ones, each with an id of its own.
        """

    async def get(self, conversation_id: str) -> Conversation | None:
        """What is known of it, with the turn that runs in it; None when it is not there."""

    async def update(self, conversation_id: str, metadata: Mapping[str, str]) -> Conversation | None:
        """Replace its metadata; what it is then, or None when it is not there."""

    async def delete(self, conversation_id: str) -> bool:
        """Forget it, its items and its lock; False when it is not there."""

    async def append(
        self, conversation_id: str, items: Sequence[Item], *, opening: str = "", turn: str | None = None
    ) -> Conversation | None:
        """Add items at the end; what it is then, or None when it is not there.

        Args:
            items: each with an id; one whose id is there already is left out.
            opening: the first words that a user says in these items; kept when there are none yet.
            turn: the id of the turn they are. The same turn is not appended twice, and its lock, if it has it, is
                released in the same step, whether it was appended before or not.
        """

    async def page(
        self, conversation_id: str, *, after: str | None, limit: int, newest_first: bool
    ) -> tuple[list[Item], bool] | None:
        """`limit` items at most, and whether there are more; None when the conversation or `after` is not there.

        Args:
            after: the item before the first of them, in the order that is asked for; None for the beginning.
        """

    async def item(self, conversation_id: str, item_id: str) -> Item | None:
        """One item; None when it, or the conversation, is not there."""

    async def remove(self, conversation_id: str, item_id: str) -> Conversation | None:
        """Remove one item; what the conversation is then, or None when it, or the item, is not there."""

    async def listing(
        self, owner: str, *, after: str | None, limit: int, newest_first: bool, wanted: Wanted
    ) -> tuple[list[Conversation], bool] | None:
        """`limit` of an owner's conversations at most, by when they were last written to, and whether there are more.

        None when `after`, the conversation before the first of them, is not among this owner's.
        """

    async def begin(self, conversation_id: str, turn: str, hold_s: float) -> list[Item] | None:
        """Take the lock for a turn and read every item, oldest first; None when it is not there.

        Args:
            turn: the turn's id, which is the token of its lock. Who has the lock already gets it again.
            hold_s: seconds after which the lock is free unless it was renewed.

        Raises:
            ConversationLocked: another turn has the lock.
        """

    async def renew(self, conversation_id: str, turn: str, hold_s: float) -> bool:
        """Hold the lock for `hold_s` seconds more, and take it if it is free; False when another turn has it."""

    async def release(self, conversation_id: str, turn: str) -> None:
        """Give the lock back, if this turn has it; nothing is appended."""

    async def read(self, conversation_id: str) -> list[Item] | None:
        """Every item, oldest first; None when it is not there."""

    async def delete_all(self, owner: str) -> int:
        """Forget all of an owner's; how many there were."""

    def export(self, owner: str) -> AsyncIterator[tuple[Conversation, list[Item]]]:
        """All of an owner's with all their items, one at a time, the oldest first; what changes meanwhile may lack."""

    def sweep(self) -> None:
        """Drop what is too old, where nobody else does; never waits. Called every second."""
