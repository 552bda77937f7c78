"""Chains of `previous_response_id` that memory has not, or not whole: read from the archive, within two bounds.

What memory has is taken from there. A chain that fits into memory is kept there from then on; a longer one is read
again for each turn, and lives as long as that turn's answer runs. So does one during whose reading
something was deleted: that must not come back into memory.

A chain may hold as much as the largest request may: who keeps a conversation itself could not send more either. And so
many turns as a conversation may have items, since each is read for every turn.
"""

from __future__ import annotations

import asyncio
import copy

from grizz.engine.history import Deletions, History, Turn, read_turns
from grizz.errors import Code, RequestError
from grizz.transport.base import Archive

MAX_TURNS = 10_000
# Read at a time: what an archive answers at once is held as bytes and as objects.
_BATCH = 50
# What of a response the turns after it need.
_NEEDED = ("status", "output", "conversation", "created_at")


class Chains:
    """Reads them.

    Args:
        archive: where finished responses are stored.
        max_said: bytes of input and output that a chain may hold.
    """

    def __init__(self, history: History, archive: Archive, *, max_said: int) -> None:
        self._history = history
        self._archive = archive
        self._max_said = max_said

    async def read(self, response_id: str, owner: str, *, asked: str = "") -> Turn | None:
        """A stored turn with its ancestors; one of which an ancestor is not kept any more comes alone, and torn.

        Args:
            asked: the turn after it that a client named, if it did not name this one.

        Raises:
            RequestError: 400, its chain is too long to be continued.

        Cancel-safe.
        """
        with self._history.reading(response_id, owner) as deleted:
            turn = await self._read(response_id, owner, asked, deleted)
            return None if deleted.it else turn

    async def _read(self, response_id: str, owner: str, asked: str, deleted: Deletions) -> Turn | None:
        found = await self._fetch([response_id], owner)
        if response_id not in found:
            return None
        turn, lineage = found[response_id]
        # Newest first, and not those that memory has: what it drops meanwhile is emptied.
        chain, said, size = [turn], turn.said, turn.size
        _check(asked or response_id, len(lineage) + 1, said, self._max_said)
        for end in range(len(lineage), 0, -_BATCH):
            names = lineage[max(0, end - _BATCH) : end]
            known = {one: copy.copy(kept) for one in names if (kept := self._history.peek(one, owner)) is not None}
            stored = await self._fetch([one for one in names if one not in known], owner)
            for one in reversed(names):
                ancestor = known.get(one) or (stored[one][0] if one in stored else None)
                if ancestor is None:
                    turn.lost = one  # half a conversation cannot be continued
                    return turn
                said, size = said + ancestor.said, size + ancestor.size
                _check(asked or response_id, len(lineage) + 1, said, self._max_said)
                if size > self._history.max_bytes:  # no more of it than this one turn needs
                    ancestor.response = {key: ancestor.response.get(key) for key in _NEEDED}
                chain.append(ancestor)
        chain.reverse()
        if size <= self._history.max_bytes and not deleted.any:
            return self._history.add_chain(chain, asyncio.get_running_loop().time())
        for parent, child in zip(chain, chain[1:], strict=False):
            child.hang_on(parent)
        chain[0].hang_on(None)
        return turn

    async def one(self, response_id: str, owner: str) -> Turn | None:
        """A stored turn without its ancestors, and torn for that; kept in memory from then on. Cancel-safe."""
        with self._history.reading(response_id, owner) as deleted:
            found = await self._fetch([response_id], owner)
        if response_id not in found or deleted.it:
            return None
        kept = self._history.peek(response_id, owner)
        if kept is not None:
            return kept
        turn, lineage = found[response_id]
        if lineage:
            turn.lost, turn.older = lineage[-1], tuple(lineage)
        if turn.size <= self._history.max_bytes and not deleted.any:
            self._history.add(turn, asyncio.get_running_loop().time())
        return turn

    async def _fetch(self, response_ids: list[str], owner: str) -> dict[str, tuple[Turn, list[str]]]:
        if not response_ids:
            return {}
        found = read_turns(list((await self._archive.fetch(response_ids)).values()))
        return {name: (turn, older) for name, (turn, older) in found.items() if turn.owner == owner}


def check_length(turn: Turn, max_said: int) -> None:
    """May a turn follow this one, by what its chain holds?

    Raises:
        RequestError: 400.
    """
    turns = turn.lineage()
    _check(turn.id, len(turns), sum(one.said for one in turns), max_said)


def _check(response_id: str, turns: int, said: int, max_said: int) -> None:
    if turns <= MAX_TURNS and said <= max_said:
        return
    text = (
        f"Response '{response_id}' ends a chain of at least {turns} responses and {said} bytes of input and output; "
        f"allowed are {MAX_TURNS} responses and {max_said} bytes. Start another one."
    )
    raise RequestError(400, Code.CONTEXT_LENGTH, text, param="previous_response_id")
