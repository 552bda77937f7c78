"""Finished turns, so that `previous_response_id` finds what was said before (protocol §11).

A turn keeps only its own input and output and points at its parent, so a conversation of n turns costs n turns, not n².
Two bounds: a turn goes `keep_s` after it was last used, and when `max_bytes` is reached the least recently used go
first. Using a turn uses its ancestors, so a conversation lives or goes as a whole; a turn whose ancestor went cannot be
continued from here, since the model would see half a conversation. Where there is an archive, `chains.py` reads it
whole from there.

`store: false` turns are kept here too, under the same bounds, but only the connection that made them finds them.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from grizz.protocol.events import Event
from grizz.protocol.items import Item

# The outcomes a conversation can go on from; a failed turn is kept for retrieval only.
CONTINUABLE = frozenset({"completed", "incomplete", "cancelled"})


# What a turn costs beside its JSON: the dictionaries that JSON becomes (RSS of 5,000 short ones, 3.11).
TURN_OVERHEAD_BYTES = 4000

# Unstored turns one connection may continue; the oldest is forgotten first.
MAX_SCOPED = 1000


class Scope:
    """A connection as the history sees it: what may be continued there, and nowhere else.

    Attributes:
        turns: ids of its turns, the oldest first.
        closed: the connection is gone; nothing is kept for it any more.
    """

    __slots__ = ("closed", "turns")

    def __init__(self) -> None:
        self.turns: dict[str, None] = {}
        self.closed = False


@dataclass(slots=True, eq=False)
class Turn:
    """One finished response and what it was asked.

    Attributes:
        parent: the turn before it, or None.
        last_seq: number of its terminal event, under which it is replayed once its log is gone.
        scope: the connection that alone may find it, or None when all of its owner's may.
        size: bytes it holds, by its JSON and `TURN_OVERHEAD_BYTES`.
        said: bytes of it that a model is shown when it is continued, by the JSON of its input and output.
        gone: it was dropped, and what it held with it.
        lost: id of the nearest ancestor that is not to be had, where it hangs on nothing for that reason; else None.
        older: ids of its ancestors, oldest first, where it hangs on nothing; what hangs on it may be stored after that.
        touched_at: when its stored copy was last told to live on, seconds since the epoch.
    """

    id: str
    owner: str
    parent: Turn | None
    input: Sequence[Item]
    response: dict[str, Any]
    last_seq: int
    scope: Scope | None
    size: int = 0
    said: int = 0
    used_at: float = 0.0
    gone: bool = False
    lost: str | None = None
    older: tuple[str, ...] = ()
    touched_at: float = 0.0

    def __post_init__(self) -> None:
        self.touched_at = float(self.response.get("created_at", 0))
        given = len(orjson.dumps(list(self.input)))
        self.said = given + len(orjson.dumps(self.response["output"]))
        self.size = given + len(orjson.dumps(self.response)) + TURN_OVERHEAD_BYTES

    def to_wire(self) -> bytes:
        """It as JSON, with the ids of its ancestors instead of them."""
        turns = self.lineage()
        lineage = [*turns[0].older, *(turn.id for turn in turns[:-1])]
        body = {"v": 1, "id": self.id, "owner": self.owner, "lineage": lineage, "last_seq": self.last_seq}
        return orjson.dumps({**body, "input": list(self.input), "response": self.response})

    def last_event(self) -> Event:
        """The terminal event of a response whose log is gone, under its original number."""
        status = self.response["status"]
        name = f"response.{status if status in ('completed', 'failed') else 'incomplete'}"
        body = {"type": name, "sequence_number": self.last_seq, "response": self.response}
        return Event(self.last_seq, name, orjson.dumps(body))

    def lineage(self) -> list[Turn]:
        """Itself and its ancestors, oldest first."""
        turns: list[Turn] = []
        turn: Turn | None = self
        while turn is not None:
            turns.append(turn)
            turn = turn.parent
        turns.reverse()
        return turns

    @property
    def continuable(self) -> bool:
        """May another turn follow?"""
        return self.response["status"] in CONTINUABLE and not self.is_torn

    @property
    def is_torn(self) -> bool:
        """Was it, or an ancestor, dropped? Then only a part of the conversation is left."""
        return self.missing is not None

    @property
    def missing(self) -> str | None:
        """The id of the nearest turn, from itself on, that is not to be had; None when it is whole."""
        turn: Turn | None = self
        while turn is not None:
            if turn.gone or turn.lost is not None:
                return turn.id if turn.gone else turn.lost
            turn = turn.parent
        return None

    def hang_on(self, parent: Turn | None) -> None:
        """Follow that turn, which is whole, from now on."""
        self.parent, self.lost, self.older = parent, None, ()

    def let_go(self) -> None:
        """Hang on nothing any more: remember only whose ids are before it."""
        turns = self.lineage()
        if self.parent is not None:
            self.lost = self.parent.id
        self.older = (*turns[0].older, *(one.id for one in turns[:-1]))
        self.parent = None

    def context(self) -> list[Item]:
        """Everything said up to and including it, oldest first."""
        said: list[Item] = []
        for turn in self.lineage():
            said += turn.input
            said += turn.response["output"]
        return said


@dataclass(slots=True, eq=False)
class Deletions:
    """What is deleted while somebody reads a turn and its ancestors elsewhere.

    Attributes:
        response_id: of the turn that was asked for.
        it: that one was deleted.
        any: something was, perhaps an ancestor: what was read before must not be kept here.
    """

    response_id: str
    owner: str
    it: bool = False
    any: bool = False


class History:
    """The turns of everybody, each found by its owner only.

    Args:
        keep_s: seconds a turn is kept after its last use.
        max_bytes: what all turns may hold together.

    Attributes:
        max_bytes: as given.
        bytes: what all turns hold together.
    """

    def __init__(self, *, keep_s: float, max_bytes: int) -> None:
        self._keep_s = keep_s
        self.max_bytes = max_bytes
        self._turns: OrderedDict[str, Turn] = OrderedDict()
        self._item_homes: dict[tuple[str, str], Turn] = {}
        self.bytes = 0
        self._readers: list[Deletions] = []

    def __len__(self) -> int:
        return len(self._turns)

    def __repr__(self) -> str:
        return f"<History: {len(self._turns)} turns, {self.bytes} bytes>"

    def add(self, turn: Turn, now: float) -> None:
        """Keep a turn, and let the least recently used go where the byte bound asks for it.

        What it hangs on stays alive by that, so it may only hang on what is kept here, too, and counted.
        """
        if turn.parent is not None:
            kept = self._turns.get(turn.parent.id)
            if kept is None:
                turn.let_go()
            else:
                turn.parent = kept
        if self._insert(turn):
            self._use(turn, now)
            self._make_room()

    def add_chain(self, turns: Sequence[Turn], now: float) -> Turn:
        """Keep a whole chain, oldest first: as `add` for each, and what is kept already is hung on the one before it.

        Returns:
            The last one as it is kept.
        """
        parent: Turn | None = None
        for turn in turns:
            kept = self._turns.get(turn.id, turn)
            kept.hang_on(parent)
            if kept is turn:
                self._insert(turn)
            parent = kept
        assert parent is not None
        self._use(parent, now)
        self._make_room()
        return parent

    def _insert(self, turn: Turn) -> bool:
        if turn.scope is not None:
            if turn.scope.closed:
                return False
            turn.scope.turns[turn.id] = None
            if len(turn.scope.turns) > MAX_SCOPED:
                self._drop_if_here(next(iter(turn.scope.turns)))
        self._turns[turn.id] = turn
        self.bytes += turn.size
        for item in turn.response["output"]:
            self._item_homes[turn.owner, item["id"]] = turn
        return True

    def _make_room(self) -> None:
        while self.bytes > self.max_bytes and self._turns:
            self._drop(next(iter(self._turns.values())))

    def peek(self, response_id: str, owner: str) -> Turn | None:
        """The turn, if every connection of this owner may see it; that does not count as using it."""
        turn = self._turns.get(response_id)
        return turn if turn is not None and turn.owner == owner and turn.scope is None else None

    def find(self, response_id: str, owner: str, now: float, scope: Scope | None = None) -> Turn | None:
        """The turn, if this owner (on this connection) may see it; its lineage counts as used."""
        turn = self._turns.get(response_id)
        if turn is None or turn.owner != owner or (turn.scope is not None and turn.scope is not scope):
            return None
        self._use(turn, now)
        return turn

    def item(self, item_id: str, owner: str, scope: Scope | None = None) -> Item | None:
        """The output item of that id, for `item_reference`, if this owner (on this connection) may see it."""
        turn = self._item_homes.get((owner, item_id))
        if turn is None or (turn.scope is not None and turn.scope is not scope):
            return None
        return next((item for item in turn.response["output"] if item["id"] == item_id), None)

    @contextlib.contextmanager
    def reading(self, response_id: str, owner: str) -> Iterator[Deletions]:
        """Learn what is deleted while a turn is read elsewhere: what was read before that must not come back here."""
        seen = Deletions(response_id, owner)
        self._readers.append(seen)
        try:
            yield seen
        finally:
            self._readers.remove(seen)

    def forget(self, response_id: str) -> None:
        """A turn was deleted: drop it, if it is here."""
        for reader in self._readers:
            reader.any = True
            reader.it = reader.it or reader.response_id == response_id
        self._drop_if_here(response_id)

    def forget_owner(self, owner: str) -> int:
        """All of one owner's was deleted: drop every turn; how many there were."""
        for reader in self._readers:
            if reader.owner == owner:
                reader.it = reader.any = True
        mine = [turn for turn in self._turns.values() if turn.owner == owner]
        for turn in mine:
            self._drop(turn)
        return len(mine)

    def close(self, scope: Scope) -> None:
        """The connection is gone: drop what only it could continue, now and later."""
        scope.closed = True
        for response_id in list(scope.turns):
            self._drop_if_here(response_id)

    def sweep(self, now: float) -> None:
        """Drop what nobody used for `keep_s`."""
        while self._turns:
            turn = next(iter(self._turns.values()))
            if now - turn.used_at <= self._keep_s:
                return
            self._drop(turn)

    def _use(self, turn: Turn, now: float) -> None:
        for ancestor in turn.lineage():
            ancestor.used_at = now
            if ancestor.id in self._turns:
                self._turns.move_to_end(ancestor.id)

    def _drop_if_here(self, response_id: str) -> None:
        turn = self._turns.get(response_id)
        if turn is not None:
            self._drop(turn)

    def _drop(self, turn: Turn) -> None:
        del self._turns[turn.id]
        self.bytes -= turn.size
        if turn.scope is not None:
            turn.scope.turns.pop(turn.id, None)
        for item in turn.response["output"]:
            if self._item_homes.get((turn.owner, item["id"])) is turn:
                del self._item_homes[turn.owner, item["id"]]
        # Descendants still point here; what it held must not outlive the bound through them.
        turn.let_go()
        turn.gone = True
        turn.input = ()
        turn.response = {**turn.response, "output": [], "instructions": None, "tools": []}


def read_turns(records: Sequence[bytes]) -> dict[str, tuple[Turn, list[str]]]:
    """Turns as `Turn.to_wire` wrote them, without parents, and the ids of their ancestors; unreadable ones left out."""
    turns: dict[str, tuple[Turn, list[str]]] = {}
    for data in records:
        try:
            body = orjson.loads(data)
            if body["v"] != 1:
                continue
            turn = Turn(body["id"], body["owner"], None, body["input"], body["response"], body["last_seq"], None)
            turns[turn.id] = (turn, list(body["lineage"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return turns
