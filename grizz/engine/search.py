"""Finding a response of another node, whatever happened to its home: alive, silent, dead, or just being taken over.

That a response is unknown is said only when it is: its home says so itself, or everybody who listens where it did says
so twice, and between and after the two nobody was dead and no takeover began, ran or ended. What a dead node had is
with nobody until its heir has begun it, and then the heir knows; so who asks meanwhile waits for the outcome.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence

from grizz.engine.reply import Reply
from grizz.tasks import TaskOwner
from grizz.transport.base import Bus, Finder, Part

# Longer than any answer runs and its log is kept.
_LIVE_H = 48
_MAX_MOVED = 1000
# A question is asked again this often while nobody answers.
_ASK_EVERY_S = 1.0
# A worker that keeps the answer of a dead home may say so late: what all deny is asked for so many leases longer.
_DENIED = 0.7
# The longest search, in leases and seconds: a death is noticed, seen again, taken over, and everybody asked twice.
_LEASES, _MORE_S = 2.5, 2.0

Stored = Callable[[], Awaitable[bool]]


class _Question:
    """A question to a home, and what came back so far.

    Attributes:
        asked_at: when it was asked last.
        found: it has the response.
        unknown: the nodes that said they do not.
        reached: how many nodes the question reached; None until that is known.
        news: set when one of these changes.
        denials: how often in a row all denied, and nobody was dead; the first time at `denied_at`.
    """

    __slots__ = ("asked_at", "denials", "denied_at", "found", "home", "news", "reached", "unknown")

    def __init__(self, home: str) -> None:
        self.home = home
        self.asked_at = 0.0
        self.found = False
        self.unknown: set[str] = set()
        self.reached: int | None = None
        self.news = asyncio.Event()
        self.denials = 0
        self.denied_at = 0.0

    def ask(self, home: str, now: float) -> None:
        """It is asked anew."""
        self.home, self.asked_at, self.found, self.reached = home, now, False, None
        self.unknown.clear()
        self.news.clear()

    def others(self, heir: bool) -> int:
        """How many it reached besides this node, which hears it too when it is an heir."""
        return (self.reached or 0) - heir

    def denied(self, heir: bool) -> bool:
        """Did everybody whom it reached say that they do not know?"""
        return self.reached is not None and len(self.unknown) >= self.others(heir)

    def doubt(self) -> None:
        """Somebody may have it whom it did not reach."""
        self.denials = 0

    def deny(self) -> None:
        """All denied, and nobody was dead."""
        if not self.denials:
            self.denied_at = self.asked_at
        self.denials += 1


class Searches:
    """The searches under way, one for each response.

    Args:
        lease_s: seconds without a word after which a node is taken for dead.
        local: the reply of that id, when this node is its home.
        mirror: the mirror of that reply, when there is one here.
    """

    def __init__(
        self,
        *,
        bus: Bus,
        finder: Finder,
        tasks: TaskOwner,
        lease_s: float,
        local: Callable[[str], Reply | None],
        mirror: Callable[[str], Reply | None],
    ) -> None:
        self._bus = bus
        self._finder = finder
        self._tasks = tasks
        self._lease_s = lease_s
        self._local = local
        self._mirror = mirror
        self._tasks_of: dict[str, asyncio.Task[Reply | None]] = {}
        self._open: dict[str, _Question] = {}
        self._moved: dict[str, str] = {}
        bus.on("unknown", self._on_unknown)
        bus.on("moved", self._on_moved)

    def __repr__(self) -> str:
        return f"<Searches: {len(self._open)} under way>"

    def home_of(self, response_id: str) -> str | None:
        """The node to ask, which need not live; None when no node can have it."""
        home = self._moved.get(response_id) or home_of(response_id)
        return home if home != self._bus.node and _recent(response_id) else None

    def moved_to(self, response_id: str) -> str | None:
        """Its home, when that is known to be another node than its id names."""
        return self._moved.get(response_id)

    def moved(self, response_id: str, node: str) -> None:
        """Its home is not the node that its id names."""
        self._moved[response_id] = node
        while len(self._moved) > _MAX_MOVED:
            del self._moved[next(iter(self._moved))]

    def is_open(self, response_id: str) -> bool:
        """Is it being searched?"""
        return response_id in self._tasks_of

    def begin(self, response_id: str, home: str, stored: Stored | None = None) -> asyncio.Task[Reply | None]:
        """The search for a response, shared by all who want it; await it shielded.

        Args:
            stored: asked when the home is silent: has the response ended, so that nobody needs to be waited for?
        """
        task = self._tasks_of.get(response_id)
        if task is None:
            task = self._tasks.spawn(self._search(response_id, home, stored), name=f"find {response_id}")
            self._tasks_of[response_id] = task
            task.add_done_callback(lambda _: self._tasks_of.pop(response_id, None))
        return task

    def answered(self, response_id: str) -> None:
        """Its home has sent what a mirror needs."""
        if (question := self._open.get(response_id)) is not None:
            question.found = True
            question.news.set()

    def reached(self, node: str, count: int) -> None:
        """A message to a node reached so many."""
        for question in self._open.values():
            if question.home == node:
                question.reached = count
                question.news.set()

    def _on_unknown(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        if (question := self._open.get(part["id"])) is not None:
            question.unknown.add(sender)
            question.news.set()

    def _on_moved(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        self.moved(part["id"], part["to"])
        self._on_unknown(sender, part, lines)

    async def _search(self, response_id: str, home: str, stored: Stored | None) -> Reply | None:
        began, woken = _now(), False
        until = began + _LEASES * self._lease_s + _MORE_S
        question = self._open[response_id] = _Question(home)
        try:
            while _now() < until:
                if (local := self._local(response_id)) is not None:
                    return local
                home = self._moved.get(response_id, home)
                if not await self._ask(response_id, home, question):
                    return None  # nobody can be asked
                if question.found and (mirror := self._mirror(response_id)) is not None:
                    return mirror
                if home in question.unknown or (stored is not None and await stored()):
                    return None  # it is there and does not know it; or it has ended
                if self._finder.is_busy:
                    question.doubt()
                    await self._finder.settled(until - _now())
                elif self._finder.is_heir(home) or (question.others(False) > 0 and question.denied(False)):
                    if await self._is_nowhere(question):
                        return None
                    await asyncio.sleep(_ASK_EVERY_S)
                elif not question.others(False):
                    if await self._finder.unknown(home):
                        return None
                    if not await self._finder.seek(home):
                        await asyncio.sleep(_ASK_EVERY_S)
                elif not woken and _now() - began > self._lease_s:
                    woken = True
                    await self._finder.unanswered(home)
            return None
        finally:
            del self._open[response_id]

    async def _is_nowhere(self, question: _Question) -> bool:
        """The home is gone, and nobody who listens in its place has the response: does somebody else?"""
        denied = question.denied(self._finder.is_heir(question.home))
        # Asked each time, since this is what sets the takeover of another dead node going, which may have it.
        if await self._finder.anybody_dead(question.asked_at) or not denied:
            question.doubt()
            return False
        question.deny()
        return question.denials > 1 and _now() - question.denied_at > _DENIED * self._lease_s

    async def _ask(self, response_id: str, home: str, question: _Question) -> bool:
        """Ask once, and wait for the answer, for a second at most; False when nothing can be sent."""
        question.ask(home, _now())
        mirror = self._mirror(response_id)
        after = -1 if mirror is None else mirror.last_seq
        attempt = 0 if mirror is None else mirror.attempt
        if not self._bus.post(home, {"k": "follow", "id": response_id, "after": after, "a": attempt}):
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ASK_EVERY_S):
                while not (question.found or question.denied(self._finder.is_heir(home))):
                    question.news.clear()
                    await question.news.wait()
        return True


def _now() -> float:
    return asyncio.get_running_loop().time()


def _recent(response_id: str) -> bool:
    """Can a node still have the log? Ids name the hour they were made in, so that most inventions cost no message.

    By its own clock, which may be two days off in either direction.
    """
    try:
        made = int(response_id.removeprefix("resp_")[8:12], 16)
    except ValueError:
        return False
    return (int(time.time() / 3600) + _LIVE_H - made) & 0xFFFF <= 2 * _LIVE_H


def home_of(response_id: str) -> str | None:
    """The node that made a response, which its id names; None when that is no id of ours."""
    node = response_id.removeprefix("resp_")[:8]
    return node if len(node) == 8 and all(digit in "0123456789abcdef" for digit in node) else None
