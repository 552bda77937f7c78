"""Responses of other nodes: found, followed as mirrors of their logs, cancelled where they are.

To the tabs and streams of this node a mirror is a reply like any other. `search.py` finds its home, and `followers.py`
is the home's side of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from grizz.engine.followers import Followers
from grizz.engine.reply import Reply
from grizz.engine.search import Searches, Stored
from grizz.protocol.events import Event
from grizz.protocol.requests import Request
from grizz.tasks import TaskOwner
from grizz.transport.base import Bus, Cause, Finder, Part

log = logging.getLogger(__name__)

# A mirror without readers is kept for so long, should a tab come back.
_LINGER_S = 10.0
_KEEP_ENDED_S = 60.0
_MAX_MIRRORS = 10_000
# What mirrors that have ended or have no reader may hold; beyond it the oldest go.
_MAX_BYTES = 64 << 20


class _Mirror:
    """A reply of another node, as this one has it.

    Attributes:
        expects: the attempt and the number with which what its home sends next begins, when it begins anew.
    """

    __slots__ = ("asked_at", "expects", "heard_at", "home", "reply")

    def __init__(self, reply: Reply, home: str, now: float) -> None:
        self.reply = reply
        self.home = home
        self.expects = (0, 0)
        self.heard_at = now
        self.asked_at = now


class Peers:
    """What this node knows of the others' responses.

    Args:
        local: the reply of that id, when this node is its home.
        cancel: cancels a local response; it is a coroutine function.
        forget: forgets a response of that owner, which another node has deleted.
        lease_s: seconds without a word after which a node is asked, or taken for dead.
    """

    def __init__(
        self,
        *,
        bus: Bus,
        finder: Finder,
        tasks: TaskOwner,
        lease_s: float,
        local: Callable[[str], Reply | None],
        cancel: Callable[[Reply, Cause], Any],
        forget: Callable[[str, str], None],
    ) -> None:
        self._bus = bus
        self._lease_s = lease_s
        self._local = local
        self._tasks = tasks
        self._mirrors: dict[str, _Mirror] = {}
        self._searches = Searches(bus=bus, finder=finder, tasks=tasks, lease_s=lease_s, local=local, mirror=self.mirror)
        self._followers = Followers(
            bus=bus, finder=finder, tasks=tasks, local=local, moved_to=self._searches.moved_to, cancel=cancel
        )
        bus.on("deleted", lambda sender, part, lines: forget(part["id"], part["owner"]))
        bus.on("followed", self._on_followed)
        bus.on("mirror", self._on_mirror)

    def __repr__(self) -> str:
        return f"<Peers: {len(self._mirrors)} mirrors, {len(self._followers)} followers>"

    def mirror(self, response_id: str) -> Reply | None:
        """The mirror of a response, if there is one."""
        found = self._mirrors.get(response_id)
        return None if found is None else found.reply

    def take(self, response_id: str) -> Reply | None:
        """This node becomes the home of what it mirrored."""
        found = self._mirrors.pop(response_id, None)
        return None if found is None else found.reply

    def moved(self, response_id: str, node: str) -> None:
        """Its home is not the node that its id names."""
        self._searches.moved(response_id, node)

    def remove(self, reply: Reply) -> None:
        """It was deleted."""
        self._mirrors.pop(reply.id, None)

    def forget_owner(self, owner: str) -> None:
        """A user's responses are deleted at every node: none of them is mirrored any more."""
        for mirror in [mirror for mirror in self._mirrors.values() if mirror.reply.owner == owner]:
            del self._mirrors[mirror.reply.id]
            mirror.reply.revoke()

    async def find(self, response_id: str, owner: str, stored: Stored) -> Reply | None:
        """The mirror of a response that its home still has; None when no node knows it for this owner.

        Args:
            stored: asked when the home is silent: has the response ended, so that nobody needs to be waited for?

        Waits until its home answered, or is gone and was taken over: two and a half leases at most. Cancel-safe.
        """
        mirror = self.mirror(response_id)
        if mirror is not None:
            return mirror if mirror.owner == owner else None
        home = self._searches.home_of(response_id)
        if home is None:
            return None
        reply = await asyncio.shield(self._searches.begin(response_id, home, stored))
        return reply if reply is not None and reply.owner == owner else None

    def cancel(self, reply: Reply, cause: Cause) -> bool:
        """Ask the home of a mirror to stop it; False when it cannot be asked."""
        found = self._mirrors.get(reply.id)
        if found is None:
            return False
        return self._bus.post(found.home, {"k": "cancel", "id": reply.id, "owner": reply.owner, "c": str(cause)})

    def deleted(self, response_id: str, owner: str) -> None:
        """A response was deleted here: so that nobody else has it either."""
        self._bus.shout({"k": "deleted", "id": response_id, "owner": owner})

    def reached(self, node: str, count: int) -> None:
        """A message to a node reached so many."""
        self._searches.reached(node, count)
        self._followers.reached(node, count)

    def sweep(self, now: float) -> None:
        """Ask after silent mirrors, drop those nobody reads."""
        for response_id, mirror in list(self._mirrors.items()):
            reply = mirror.reply
            idle = reply.unwatched_since is not None and now - reply.unwatched_since > _LINGER_S
            if reply.ended_at is not None and now - reply.ended_at > _KEEP_ENDED_S and not reply.readers:
                del self._mirrors[response_id]
            elif idle and not reply.ended:
                del self._mirrors[response_id]
                self._bus.post(mirror.home, {"k": "unfollow", "id": response_id})
            elif not reply.ended and now - max(mirror.heard_at, mirror.asked_at) > self._lease_s / 2:
                mirror.asked_at = now
                self._look_after(response_id, mirror)
        self._make_room()
        self._followers.sweep()

    def _make_room(self) -> None:
        unread = [mirror for mirror in self._mirrors.values() if not mirror.reply.readers]
        held = sum(mirror.reply.bytes for mirror in unread)
        for mirror in unread:
            if held <= _MAX_BYTES:
                return
            held -= mirror.reply.bytes
            del self._mirrors[mirror.reply.id]
            self._bus.post(mirror.home, {"k": "unfollow", "id": mirror.reply.id})

    def clear(self) -> None:
        """Another node speaks for what this one had: nothing here is true any more."""
        for mirror in self._mirrors.values():
            mirror.reply.revoke()
        self._followers.clear()
        self._mirrors.clear()

    def _look_after(self, response_id: str, mirror: _Mirror) -> None:
        """A mirror that hears nothing: ask its home, which sends what is missing; without one it is no use."""
        if not self._searches.is_open(response_id):
            search = self._searches.begin(response_id, mirror.home)
            self._tasks.spawn(self._refresh(response_id, mirror, search), name=f"find {response_id} again")

    async def _refresh(self, response_id: str, mirror: _Mirror, search: asyncio.Task[Reply | None]) -> None:
        found = await asyncio.shield(search)
        if found is None and self._mirrors.get(response_id) is mirror and self._bus.is_up:
            del self._mirrors[response_id]
            mirror.reply.revoke()  # its readers come back, and are told what is known

    # What others answer

    def _on_followed(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        response_id = part["id"]
        if self._local(response_id) is not None:
            return
        now = asyncio.get_running_loop().time()
        mirror = self._mirrors.get(response_id)
        if mirror is None:
            if len(self._mirrors) >= _MAX_MIRRORS:
                log.warning("too many responses of other nodes are followed here", extra={"count": _MAX_MIRRORS})
                return
            meta = part["reply"]
            request = Request(model=meta["model"], input=tuple(meta["input"]), fields=meta["fields"])
            reply = Reply(meta["response"], meta["owner"], request, parent=None, scope=None, given=(), size=0, now=now)
            reply.attempt = part["a"]
            mirror = self._mirrors[response_id] = _Mirror(reply, sender, now)
        mirror.home, mirror.heard_at = sender, now
        mirror.expects = (part["a"], part["s"])
        if part["a"] == mirror.reply.attempt and part["last"] <= mirror.reply.last_seq:
            self._searches.answered(response_id)  # nothing is to follow that would say so

    def _on_mirror(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        response_id, first = part["id"], int(part["s"])
        mirror = self._mirrors.get(response_id)
        if mirror is None:
            if self._local(response_id) is None:
                self._bus.post(sender, {"k": "unfollow", "id": response_id})
            return
        now = asyncio.get_running_loop().time()
        reply = mirror.reply
        mirror.heard_at = now
        events = [Event.read(first + index, line) for index, line in enumerate(lines)]
        anew = part["a"] > reply.attempt or reply.last_seq < 0
        if anew and (part["a"], first) == mirror.expects:
            reply.restart(events, part["a"], now)
        elif not anew and part["a"] == reply.attempt and first <= reply.last_seq + 1:
            reply.extend(events, now)
        else:
            self._look_after(response_id, mirror)  # something did not arrive
            return
        self._searches.answered(response_id)
