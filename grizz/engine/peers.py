"""Responses of other nodes: found, followed as mirrors of their logs, cancelled where they are.

A follower on another node is, to the home, one more cursor; what it reads travels in the messages between the two. To
the tabs and streams of this node the mirror is a reply like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from grizz.engine.reply import Cursor, Reply
from grizz.protocol.events import Event
from grizz.protocol.requests import Request
from grizz.tasks import TaskOwner
from grizz.transport.base import Bus, Cause, Finder, Haste, Part

log = logging.getLogger(__name__)

# A mirror without readers is kept for so long, should a tab come back.
_LINGER_S = 10.0
_KEEP_ENDED_S = 60.0
_MAX_MIRRORS = 10_000
_MAX_FOLLOWERS = 1000
_MAX_MOVED = 1000
# What mirrors that have ended or have no reader may hold; beyond it the oldest go.
_MAX_BYTES = 64 << 20
# Longer than any answer runs and its log is kept.
_LIVE_H = 48
# A question is asked again this often while nobody answers.
_ASK_EVERY_S = 1.0
# Heirs may be in the middle of a takeover when they say that they do not know: so many leases they are asked again.
_DENIED = 0.7
_READ = 256  # events in one part; a message is cut between parts only


class _Follower:
    """Another node that reads one of this node's replies. A `Source` of messages."""

    __slots__ = ("_bus", "_cursor", "_reply", "node")

    def __init__(self, bus: Bus, node: str, reply: Reply, after: int) -> None:
        self._bus = bus
        self._reply = reply
        self.node = node
        self._cursor = Cursor(reply, after, self._wake)

    @property
    def finished(self) -> bool:
        """Has everything been sent?"""
        return self._cursor.finished

    def _wake(self) -> None:
        first = self._reply.ended or self._reply.last_seq < 8
        self._bus.ready(self.node, self, haste=Haste.SOON if first else Haste.TICK)

    def collect(self) -> list[tuple[Part, Sequence[bytes]]]:
        """What there is to read."""
        parts: list[tuple[Part, Sequence[bytes]]] = []
        while not self._reply.revoked and (events := self._cursor.read(_READ)):
            part = {"k": "mirror", "id": self._reply.id, "a": self._reply.attempt, "s": events[0].seq, "n": len(events)}
            parts.append((part, [event.data for event in events]))
        if self.finished:
            self.close()
        return parts

    def close(self) -> None:
        self._cursor.close()


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


class _Search:
    """A question to a home, and what came back so far.

    Attributes:
        found: it has the response.
        unknown: the nodes that said they do not.
        reached: how many nodes the question reached; None until that is known.
        news: set when one of these changes.
    """

    __slots__ = ("found", "home", "news", "reached", "unknown")

    def __init__(self, home: str) -> None:
        self.home = home
        self.found = False
        self.unknown: set[str] = set()
        self.reached: int | None = None
        self.news = asyncio.Event()

    def ask(self, home: str) -> None:
        """It is asked anew."""
        self.home, self.found, self.reached = home, False, None
        self.unknown.clear()
        self.news.clear()


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
        self._finder = finder
        self._tasks = tasks
        self._lease_s = lease_s
        self._local = local
        self._cancel = cancel
        self._mirrors: dict[str, _Mirror] = {}
        self._followers: dict[tuple[str, str], _Follower] = {}
        self._searches: dict[str, asyncio.Task[Reply | None]] = {}
        self._open: dict[str, _Search] = {}
        self._moved: dict[str, str] = {}
        bus.on("deleted", lambda sender, part, lines: forget(part["id"], part["owner"]))
        bus.on("follow", self._on_follow)
        bus.on("unfollow", self._on_unfollow)
        bus.on("unknown", self._on_unknown)
        bus.on("followed", self._on_followed)
        bus.on("mirror", self._on_mirror)
        bus.on("moved", self._on_moved)
        bus.on("cancel", self._on_cancel)

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
        self._moved[response_id] = node
        while len(self._moved) > _MAX_MOVED:
            del self._moved[next(iter(self._moved))]

    def remove(self, reply: Reply) -> None:
        """It was deleted."""
        self._mirrors.pop(reply.id, None)

    async def find(self, response_id: str, owner: str, stored: Callable[[], Awaitable[bool]]) -> Reply | None:
        """The mirror of a response that its home still has; None when no node knows it for this owner.

        Args:
            stored: asked when the home is silent: has the response ended, so that nobody needs to be waited for?

        Waits until its home answered, or is gone and was taken over: a little more than a lease at most. Cancel-safe.
        """
        mirror = self.mirror(response_id)
        if mirror is not None:
            return mirror if mirror.owner == owner else None
        home = self._moved.get(response_id) or _home(response_id)
        if home is None or home == self._bus.node or not _recent(response_id):
            return None
        search = self._searches.get(response_id)
        if search is None:
            search = self._tasks.spawn(self._search(response_id, home, stored), name=f"find {response_id}")
            self._searches[response_id] = search
            search.add_done_callback(lambda _: self._searches.pop(response_id, None))
        reply = await asyncio.shield(search)
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
        for search in self._open.values():
            if search.home == node:
                search.reached = count
                search.news.set()
        if count:
            return
        for key, follower in list(self._followers.items()):
            if key[0] == node:
                follower.close()
                del self._followers[key]

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
        for key, follower in list(self._followers.items()):
            if follower.finished:
                follower.close()
                del self._followers[key]

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
        for follower in self._followers.values():
            follower.close()
        self._mirrors.clear()
        self._followers.clear()

    # Searching

    def _look_after(self, response_id: str, mirror: _Mirror) -> None:
        """A mirror that hears nothing: ask its home, which sends what is missing; without one it is no use."""
        if response_id in self._searches:
            return
        search = self._tasks.spawn(self._refresh(response_id, mirror), name=f"find {response_id} again")
        self._searches[response_id] = search
        search.add_done_callback(lambda _: self._searches.pop(response_id, None))

    async def _refresh(self, response_id: str, mirror: _Mirror) -> Reply | None:
        found = await self._search(response_id, mirror.home)
        if found is None and self._mirrors.get(response_id) is mirror and self._bus.is_up:
            del self._mirrors[response_id]
            mirror.reply.revoke()  # its readers come back, and are told what is known
        return found

    async def _search(
        self, response_id: str, home: str, stored: Callable[[], Awaitable[bool]] | None = None
    ) -> Reply | None:
        loop = asyncio.get_running_loop()
        began, woken, denied_at = loop.time(), False, 0.0
        search = self._open[response_id] = _Search(home)
        try:
            while loop.time() - began < 2.5 * self._lease_s + 2.0:
                if (local := self._local(response_id)) is not None:
                    return local
                home = self._moved.get(response_id, home)
                if not await self._ask(response_id, home, search):
                    return None  # nobody can be asked
                if search.found and (mirror := self.mirror(response_id)) is not None:
                    return mirror
                if home in search.unknown:
                    return None  # it is there, and does not know it
                if stored is not None and await stored():
                    return None
                heirs_too = self._finder.is_heir(home)
                others = (search.reached or 0) - heirs_too
                if others <= 0 and heirs_too:
                    await self._finder.settled(home)
                    if (local := self._local(response_id)) is not None:
                        return local
                if heirs_too or (others > 0 and len(search.unknown) >= others):
                    # Nobody has it, unless it is with a node that died a moment ago, or a takeover is under way.
                    if len(search.unknown) >= others:
                        denied_at = denied_at or loop.time()
                    dead = await self._finder.anybody_dead()  # each time: this is what sets a takeover going
                    if denied_at and not dead and loop.time() - denied_at > _DENIED * self._lease_s:
                        return None
                    await asyncio.sleep(_ASK_EVERY_S)
                elif others <= 0:
                    if await self._finder.unknown(home):
                        return None
                    if not await self._finder.seek(home):
                        await asyncio.sleep(_ASK_EVERY_S)
                elif not woken and loop.time() - began > self._lease_s:
                    woken = True
                    await self._finder.unanswered(home)
            return None
        finally:
            del self._open[response_id]

    async def _ask(self, response_id: str, home: str, search: _Search) -> bool:
        """Ask once, and wait for the answer, for a second at most; False when nothing can be sent."""
        search.ask(home)
        mirror = self._mirrors.get(response_id)
        after = -1 if mirror is None else mirror.reply.last_seq
        attempt = 0 if mirror is None else mirror.reply.attempt
        if not self._bus.post(home, {"k": "follow", "id": response_id, "after": after, "a": attempt}):
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ASK_EVERY_S):
                while not search.found and search.reached != 0:
                    others = (search.reached or 0) - self._finder.is_heir(home)
                    if search.reached is not None and len(search.unknown) >= others:
                        break
                    search.news.clear()
                    await search.news.wait()
        return True

    # What others ask of this node

    def _on_follow(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        if sender == self._bus.node:
            return
        response_id = part["id"]
        reply = self._local(response_id)
        if reply is None and response_id in self._moved:
            self._bus.post(sender, {"k": "moved", "id": response_id, "to": self._moved[response_id]})
            return
        if reply is None:
            # While a takeover is under way nobody knows yet; the question comes again.
            if not self._finder.is_busy(_home(response_id) or ""):
                self._bus.post(sender, {"k": "unknown", "id": response_id})
            return
        if len(self._followers) >= _MAX_FOLLOWERS:
            log.warning("too many nodes follow responses of this one", extra={"count": _MAX_FOLLOWERS})
            return
        key = (sender, response_id)
        if (old := self._followers.pop(key, None)) is not None:
            old.close()
        after = int(part["after"]) if part.get("a") == reply.attempt else -1
        meta = {
            "owner": reply.owner,
            "model": reply.request.model,
            "fields": reply.request.fields,
            "input": list(reply.request.input),
            "response": {**reply.response, "output": []},
        }
        answer = {"k": "followed", "id": response_id, "a": reply.attempt, "last": reply.last_seq, "reply": meta}
        answer["s"] = max(after + 1, reply.first_seq)
        self._bus.post(sender, answer)
        follower = self._followers[key] = _Follower(self._bus, sender, reply, after)
        self._bus.ready(sender, follower, haste=Haste.NOW)

    def _on_unfollow(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        follower = self._followers.pop((sender, part["id"]), None)
        if follower is not None:
            follower.close()

    def _on_cancel(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        reply = self._local(part["id"])
        if reply is not None and reply.owner == part["owner"]:
            self._tasks.spawn(self._cancel(reply, Cause(part["c"])), name=f"cancel {reply.id}")

    # What others answer

    def _on_unknown(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        search = self._open.get(part["id"])
        if search is not None:
            search.unknown.add(sender)
            search.news.set()

    def _on_moved(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        self.moved(part["id"], part["to"])
        self._on_unknown(sender, part, lines)

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
            self._answered(response_id)  # nothing is to follow that would say so

    def _answered(self, response_id: str) -> None:
        search = self._open.get(response_id)
        if search is not None:
            search.found = True
            search.news.set()

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
        self._answered(response_id)


def _recent(response_id: str) -> bool:
    """Can a node still have the log? Ids name the hour they were made in, so that most inventions cost no message."""
    try:
        made = int(response_id.removeprefix("resp_")[8:12], 16)
    except ValueError:
        return False
    return (int(time.time() / 3600) + 1 - made) & 0xFFFF <= _LIVE_H


def _home(response_id: str) -> str | None:
    node = response_id.removeprefix("resp_")[:8]
    return node if len(node) == 8 and all(digit in "0123456789abcdef" for digit in node) else None
