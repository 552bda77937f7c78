"""Where a response is looked up: the history of this process, the other nodes, the archive that all of them share."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from grizz.engine.chains import Chains, check_length
from grizz.engine.history import Deletions, History, Scope, Turn
from grizz.engine.ids import response_of
from grizz.engine.peers import Peers
from grizz.engine.reply import Reply
from grizz.errors import Code, RequestError
from grizz.protocol.items import Item
from grizz.transport.base import Archive

# A finished response is stored together with others, a tenth of a second after its end.
_STORE_LOOKS = 5
_STORE_LOOK_S = 0.1
# What a deletion is waited for.
_DISCARD_S = 2.0
# Look-ups elsewhere at a time.
_MAX_LOOKUPS = 256
_MAX_LOOKUPS_OF_OWNER = 32


class Lookup:
    """Turns and mirrors.

    Args:
        keep_s: seconds a stored response is kept after its last use.
        archive: where finished responses are stored for every node, or the next process, or None.
        max_chain_bytes: of input and output in a chain that may be continued.

    Attributes:
        peers: the other nodes, or None.
    """

    def __init__(self, history: History, archive: Archive | None, *, keep_s: float, max_chain_bytes: int) -> None:
        self.history = history
        self.peers: Peers | None = None
        self._archive = archive
        self._chains = None if archive is None else Chains(history, archive, max_said=max_chain_bytes)
        self._max_chain_bytes = max_chain_bytes
        self._keep_s = keep_s
        self._lookups: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Lookup {self.history!r}, {self.peers!r}>"

    # Replies of other nodes

    def mirror(self, response_id: str) -> Reply | None:
        """The mirror of another node's reply, if there is one here."""
        return self.peers.mirror(response_id) if self.peers is not None else None

    def take_mirror(self, response_id: str) -> Reply | None:
        """As `mirror`; this node is its home from now on."""
        return self.peers.take(response_id) if self.peers is not None else None

    def moved(self, response_id: str, node: str) -> None:
        """Its home is not the node that its id names."""
        if self.peers is not None:
            self.peers.moved(response_id, node)

    def distrust(self) -> None:
        """Another node speaks for what this one had: nothing that was heard of others is true any more."""
        if self.peers is not None:
            self.peers.clear()

    # Turns

    async def find(self, response_id: str, owner: str) -> Reply | Turn | None:
        """A response that is no reply of this node: its turn, its mirror, its stored turn. Cancel-safe."""
        turn = self.history.find(response_id, owner, _now())
        if turn is not None or self._archive is None:
            return turn
        with self._looking_up(owner):
            peers = self.peers
            reply = None if peers is None else await peers.find(response_id, owner, self._stored(response_id))
            return reply or await self._one(response_id, owner)

    async def turn(self, response_id: str, owner: str, scope: Scope | None) -> Turn | None:
        """A finished turn that is this owner's (on this connection), wherever it was made, with its ancestors.

        It may be torn, when one of them is not kept any more.

        Raises:
            RequestError: 400, its chain is too long to be continued; 429.

        Cancel-safe.
        """
        turn = self.history.find(response_id, owner, _now(), scope)
        if self._archive is not None and (turn is None or turn.is_torn):
            with self._looking_up(owner):
                read = self._turn_elsewhere(response_id, owner, self._fetch) if turn is None else self._mended(turn)
                turn = await read
        if turn is not None:
            check_length(turn, self._max_chain_bytes)
            self._touch(turn)
        return turn

    async def item(self, item_id: str, owner: str, scope: Scope | None) -> Item | None:
        """An output item, wherever it was made, if this owner (on this connection) may see it. Cancel-safe."""
        found = self.history.item(item_id, owner, scope)
        response_id = response_of(item_id, time.time()) if found is None and self._archive is not None else None
        if response_id is None:
            return found
        with self._looking_up(owner):
            turn = await self._turn_elsewhere(response_id, owner, self._one)
        if turn is not None:
            self._touch(turn)
            found = next((item for item in turn.response["output"] if item["id"] == item_id), None)
        return found

    def keep(self, turn: Turn, now: float) -> None:
        """Remember a turn; a stored one for all nodes."""
        self.history.add(turn, now)
        if self._archive is not None and turn.scope is None:
            self._archive.keep(turn.id, turn.owner, turn.to_wire())

    def settle(
        self, response_id: str, owner: str, turn: Turn | None, *, in_conversation: bool
    ) -> asyncio.Future[Any] | None:
        """A response ends, and this is its turn, if there is one: see `Archive.settle`."""
        if self._archive is None:
            return None
        record = turn.to_wire() if turn is not None and turn.scope is None else None
        return self._archive.settle(response_id, owner, record, in_conversation=in_conversation)

    def forget(self, response_id: str) -> None:
        """Drop a turn here and where all nodes find it."""
        self.history.forget(response_id)
        if self._archive is not None:
            self._archive.discard(response_id)

    def forget_owner(self, owner: str) -> int:
        """Drop all that is here of a user's, turns and mirrors; how many turns there were."""
        if self.peers is not None:
            self.peers.forget_owner(owner)
        return self.history.forget_owner(owner)

    async def delete(self, response_id: str, owner: str) -> None:
        """Drop a turn everywhere: other nodes may have a copy, or be about to store it. Cancel-safe: it goes on.

        Raises:
            RequestError: 503, what is stored could not be deleted.
        """
        if self.peers is not None:
            self.peers.deleted(response_id, owner)
        self.history.forget(response_id)
        done = None if self._archive is None else self._archive.discard(response_id)
        if done is not None:
            await asyncio.wait([done], timeout=_DISCARD_S)
            if not done.done() or done.exception() is not None:
                text = f"Response with id '{response_id}' could not be deleted; try again."
                raise RequestError(503, Code.OVERLOADED, text, retry_after_s=1.0)

    def deleted_elsewhere(self, response_id: str) -> None:
        """Another node deletes it; what is stored, it removes itself."""
        self.history.forget(response_id)
        if self._archive is not None:
            self._archive.discard(response_id, stored=False)

    def sweep(self, now: float) -> None:
        """Drop what is too old, ask after what is silent."""
        self.history.sweep(now)
        if self.peers is not None:
            self.peers.sweep(now)

    @contextlib.contextmanager
    def _looking_up(self, owner: str) -> Iterator[None]:
        """Look-ups elsewhere are bounded: they cost messages, and ids can be invented. This process's own file asks
        nobody: who comes back after a restart with many conversations must not be refused.

        Raises:
            RequestError: 429.
        """
        if self.peers is None:
            yield
            return
        mine = self._lookups.get(owner, 0)
        if mine >= _MAX_LOOKUPS_OF_OWNER or sum(self._lookups.values()) >= _MAX_LOOKUPS:
            text = "Too many responses are being looked up at other servers; try again."
            raise RequestError(429, Code.RATE_LIMIT, text, retry_after_s=1.0)
        self._lookups[owner] = mine + 1
        try:
            yield
        finally:
            self._lookups[owner] -= 1
            if not self._lookups[owner]:
                del self._lookups[owner]

    def _touch(self, turn: Turn) -> None:
        """A conversation in use must not expire; its turns are told so twice within their life at most."""
        if self._archive is None or turn.scope is not None:
            return
        now = time.time()
        old = [one for one in turn.lineage() if now - one.touched_at > self._keep_s / 2]
        for one in old:
            one.touched_at = now
        if old:
            self._archive.touch([one.id for one in old])

    def _stored(self, response_id: str) -> Callable[[], Awaitable[bool]]:
        async def look() -> bool:
            return self._archive is not None and bool(await self._archive.fetch([response_id]))

        return look

    async def _runs_elsewhere(self, response_id: str, owner: str) -> bool:
        if self.peers is None:
            return False
        return await self.peers.find(response_id, owner, self._stored(response_id)) is not None

    async def _turn_elsewhere(
        self, response_id: str, owner: str, read: Callable[[str, str], Awaitable[Turn | None]]
    ) -> Turn | None:
        """A turn that another node made; one that has just ended may be on its way to the archive."""
        turn = await read(response_id, owner)
        if turn is None and self.peers is not None and await self._runs_elsewhere(response_id, owner):
            for _ in range(_STORE_LOOKS):
                await asyncio.sleep(_STORE_LOOK_S)
                turn = await read(response_id, owner)
                if turn is not None:
                    break
        return turn

    async def _fetch(self, response_id: str, owner: str) -> Turn | None:
        """A stored turn, with its ancestors."""
        return None if self._chains is None else await self._chains.read(response_id, owner)

    async def _one(self, response_id: str, owner: str) -> Turn | None:
        """A stored turn alone."""
        return None if self._chains is None else await self._chains.one(response_id, owner)

    async def _mended(self, turn: Turn) -> Turn | None:
        """A turn of which memory has lost an ancestor: on what the archive has of those, as a copy that may be torn.

        None: it was deleted meanwhile.
        """
        with self.history.reading(turn.id, turn.owner) as deleted:
            mended = await self._hung_on_stored(turn, deleted)
            return None if deleted.it else mended

    async def _hung_on_stored(self, turn: Turn, deleted: Deletions) -> Turn:
        missing = turn.missing
        assert missing is not None and self._chains is not None
        rest = [copy.copy(one) for one in turn.lineage() if not one.gone]  # what memory drops meanwhile is emptied
        parent = await self._chains.read(missing, turn.owner, asked=turn.id)
        lost = missing if parent is None else parent.missing
        if parent is None or lost is not None:
            rest[0].lost = lost
            return rest[-1]
        chain = [*parent.lineage(), *rest]
        if sum(one.size for one in chain) <= self.history.max_bytes and not deleted.any:
            return self.history.add_chain(chain, _now())
        for one in rest:
            one.hang_on(parent)
            parent = one
        return parent


def _now() -> float:
    return asyncio.get_running_loop().time()
