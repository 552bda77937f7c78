"""The transport port: its guarantees, for every adapter alike.

* **Jobs are handed over at least once.** A delivery is named by its token; only the holder of the current one may
  renew, publish or settle, everyone else gets `LeaseLost` and must stop without another word.
* **Events are delivered live at most once**, in order, numbered without gaps; a gap on the way is closed by replay, and
  events of a delivery that is no longer current are dropped.
* **A lease that runs out is a lost attempt**: the home closes what it left open (`Home.interrupted`) and the next
  attempt continues there, until `max_attempts` are spent (`Home.buried`).
* **A drain is no attempt**: a released delivery comes back as if it had never been made.

Times are seconds of the event loop's clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any, Protocol

from grizz.core.job import Delivery, Job
from grizz.protocol.events import Event


class Cause(StrEnum):
    """Why a job is stopped before its end."""

    CANCELLED = "cancelled"  # its owner asked
    ABANDONED = "abandoned"  # nobody watched for the whole grace
    DELETED = "deleted"  # its owner wants it gone
    OVERDUE = "overdue"  # it waited too long for a worker
    SHUTDOWN = "shutdown"  # the process ends and nobody can take it over


class Found(StrEnum):
    """Where `Transport.cancel` met a job."""

    QUEUED = "queued"  # it was withdrawn; no worker will ever speak of it, so its home ends the response
    RUNNING = "running"  # its worker was told to stop, and will publish the terminal event
    UNKNOWN = "unknown"  # settled, or never here


@dataclass(frozen=True, slots=True)
class Depth:
    """What waits and what runs.

    Attributes:
        oldest_accepted_at: when the longest waiting job was accepted, or None when nothing waits.
    """

    queued: int
    leased: int
    oldest_accepted_at: float | None


class Home(Protocol):
    """The side that made a job and keeps its reply. Its methods never wait."""

    def deliver(self, job_id: str, events: Sequence[Event]) -> None:
        """The next events of a response, in order."""

    def interrupted(self, delivery: Delivery, *, drained: bool = False) -> Job:
        """This attempt was lost, or `drained`: close what it left open; the job returned continues there."""

    def log_of(self, job_id: str) -> Sequence[Event]:
        """Every event of a response that this node keeps; none when it does not."""

    def buried(self, delivery: Delivery) -> None:
        """The last attempt was lost: end the response as failed."""

    def overdue(self, job: Job) -> None:
        """The job waited longer than allowed and was withdrawn: end the response as failed."""

    def stopped(self, job_id: str, cause: Cause) -> None:
        """The worker that was to stop it is gone: end the response with that cause."""

    def adopt(self, job: Job, attempt: int, log: Sequence[Event] | None) -> Job | None:
        """The job's home is gone, and this node is its home from now on.

        Args:
            attempt: the attempt that runs, or comes next.
            log: the events of that attempt when it runs here already: they go on under their numbers. None when it
                must begin anew: the events are numbered from (attempt - 1) * 1,000,000 then, so that a cursor into
                the old log is always lower.

        Returns:
            The job, continuing behind what was said about it here; None when the response is here already.
        """

    def knows(self, job_id: str) -> bool:
        """Is the response's log kept here, as its home?"""

    def forget(self, job_id: str, node: str) -> None:
        """How it ended is not true any more: it runs again, at that node."""

    def deposed(self) -> None:
        """Others took this node's responses over while it was silent: forget them without another word."""


class Workers(Protocol):
    """The side that runs jobs. Its methods never wait."""

    @property
    def free(self) -> int:
        """How many more jobs it could run now."""

    def stop(self, delivery: Delivery, cause: Cause) -> None:
        """Stop this delivery: close the upstream request, publish the terminal event, settle."""

    def abandon(self, delivery: Delivery) -> None:
        """This delivery is not current any more: stop it without another word."""


class Transport(Protocol):
    """The port. See the module's docstring for what every adapter promises."""

    def connect(self, home: Home, workers: Workers) -> None:
        """Say who gets events and who gets stops; once, before `start`."""

    async def start(self) -> None:
        """Begin to supervise leases."""

    async def close(self) -> None:
        """Take nothing new; waiting `lease` calls raise `TransportClosed`. Safe to call twice."""

    async def put(self, job: Job) -> None:
        """Hand a new job to whoever is free next.

        Raises:
            QueueFull: the bound is reached; nothing was taken.
            TransportClosed: the transport is shutting down.

        Cancel-safe: a cancelled call may have queued the job.
        """

    async def lease(self) -> Delivery:
        """Wait for a job and take it for `lease_s` seconds.

        Raises:
            TransportClosed: the transport was closed while waiting.

        Cancel-safe: a cancelled call has taken nothing.
        """

    async def renew(self, delivery: Delivery) -> None:
        """Hold it for another lease.

        Raises:
            LeaseLost: the delivery is not current.
        """

    def publish(self, delivery: Delivery, events: Sequence[Event]) -> None:
        """Send events home. Never waits.

        Raises:
            LeaseLost: the delivery is not current; nothing was sent.
        """

    async def ack(self, delivery: Delivery) -> None:
        """The terminal event was published: forget the job.

        Raises:
            LeaseLost: the delivery is not current.
        """

    async def nack(self, delivery: Delivery) -> None:
        """The attempt is lost, not the job: the next one may start at once, if any is left.

        Raises:
            LeaseLost: the delivery is not current.
        """

    async def release(self, delivery: Delivery) -> None:
        """Give it back as if never delivered.

        Raises:
            LeaseLost: the delivery is not current.
        """

    async def cancel(self, job_id: str, cause: Cause) -> Found:
        """Stop a job, wherever it is. See `Found` for who ends the response."""

    def advance(self, job_id: str, next_seq: int) -> bool:
        """Its home is about to say more about a job that waits: whoever begins it goes on at `next_seq`. Never waits.

        Returns:
            False: it does not wait here any more, and nothing may be said but by its worker: it runs, or is shown to
                other processes, which begin it where they were told.
        """

    def depth(self) -> Depth:
        """What waits and what runs, as far as this process knows."""

    def queued_of(self, owner: str) -> int:
        """This owner's jobs of this home that wait for a worker."""

    def positions(self) -> Mapping[str, int]:
        """How many jobs will be handed out before each that waits here, by its id, as far as this process knows.

        0: it is next, or shown to workers elsewhere already. Takes time for each job that waits.
        """

    @property
    def trouble(self) -> str:
        """Why it runs on this process's memory alone, in a word; "" when nothing is wrong."""

    async def may_speak(self) -> bool:
        """After this process stood still: are its responses still its own? When they are not, says `Home.deposed`.

        Waits a few seconds at most, while nothing is sent to anybody. Cancel-safe.
        """

    async def leave(self) -> None:
        """Take no more jobs of others, and wait until none of them runs here. Cancel-safe."""

    async def hand_over(self) -> list[str]:
        """While leaving: let another process take over what did not end; the ids of what is in good hands.

        Never waits longer than five seconds. Not cancel-safe.
        """


class Journal(Protocol):
    """Where a process alone writes its jobs down, so that the next one on this machine goes on with them."""

    async def accepted(self, job: Job, attempt: int) -> None:
        """Write a new job down; returns when it stands there, or cannot. A cancelled call writes it all the same.

        Args:
            attempt: deliveries that it had, the one included that is about to begin.
        """

    def begun(self, delivery: Delivery) -> None:
        """A worker begins. Never waits."""

    def over(self, job_id: str) -> None:
        """Forget it, if it is there. Never waits."""

    def left(self, jobs: Sequence[tuple[Job, int]]) -> list[str]:
        """This process ends; which of these jobs, each with its deliveries so far, the next one finds. Never waits."""


# Between nodes. A process alone has none of it.

Part = dict[str, Any]
"""One thing that a node tells another: "k" is its kind, "n" how many lines of events belong to it."""


class Haste(Enum):
    """When a message goes out."""

    NOW = 0  # with whatever is said in this turn of the event loop
    SOON = 1  # within 50 ms
    TICK = 2  # with the next message to that node, a flush interval after the last


class Source(Hashable, Protocol):
    """Something that has events for a node, and is asked for them when the next message goes out."""

    def collect(self) -> list[tuple[Part, Sequence[bytes]]]:
        """What there is by now."""


class Bus(Protocol):
    """Messages between nodes: delivered at most once, in order for each pair of nodes."""

    @property
    def node(self) -> str:
        """This node's id."""

    @property
    def is_up(self) -> bool:
        """Can something be sent?"""

    def on(self, kind: str, handler: Callable[[str, Part, Sequence[bytes]], None]) -> None:
        """Let `handler` take the parts of a kind: it gets the sender, the part and its lines, and must not wait."""

    def post(self, node: str, part: Part, lines: Sequence[bytes] = (), *, haste: Haste = Haste.NOW) -> bool:
        """Send a part; False when nothing can be sent. Never waits."""

    def ready(self, node: str, source: Source, *, haste: Haste = Haste.TICK) -> bool:
        """Ask `source` for what it has when the next message to the node goes out."""

    def shout(self, part: Part) -> bool:
        """Tell all other nodes; False when nothing can be sent. Never waits."""


class Archive(Protocol):
    """Finished responses where every node, or the next process, finds them.

    What it loses when it is unreachable is only ever a copy.
    """

    def keep(self, response_id: str, owner: str, record: bytes) -> None:
        """Store one. Never waits."""

    def settle(
        self, response_id: str, owner: str, record: bytes | None, *, in_conversation: bool = False
    ) -> asyncio.Future[Any] | None:
        """A response of this process ends: store it, or, without a record, see that nothing of it stays. Never waits.

        Args:
            in_conversation: it is a conversation's turn, and what that comes to (`Shelf.append`, `Shelf.release`) is
                called right after.

        Returns:
            None: its end may be told at once. Else what is done, in whatever way, when it may be: an end that was
            told must not be taken back by a crash.
        """

    async def fetch(self, response_ids: Sequence[str]) -> dict[str, bytes]:
        """Those that are there; none when the store cannot be asked. Waits two seconds at most. Cancel-safe."""

    def touch(self, response_ids: Sequence[str]) -> None:
        """They are in use: keep them longer. Never waits."""

    def discard(self, response_id: str, *, stored: bool = True) -> asyncio.Future[Any] | None:
        """Forget one; not `stored`: another node removes what is stored. Never waits.

        Returns:
            None: that is as good as done. Else what is done when no crash can bring it back.
        """


class Claims(Protocol):
    """Names that only one may have at a time, of all nodes, or of this one now and after a restart."""

    async def claim(self, name: str, value: str, keep_s: float) -> str | None:
        """Take a name for `keep_s` seconds; None when it is this node's now, else the value of who has it.

        Raises:
            ClaimsDown: it cannot be known now.

        Waits four seconds at most. A cancelled call may have taken it.
        """

    def release(self, name: str, value: str) -> None:
        """Give a name back, if it was taken with that value. Never waits."""


class Finder(Protocol):
    """Who is the home of a response now, when the node that made it does not answer."""

    async def seek(self, node: str) -> bool:
        """Nobody listens where a node should: take over what it left, if that is so again; True when it was done.

        Not cancel-safe: call it in a task that nobody cancels.
        """

    async def unanswered(self, node: str) -> None:
        """A node listens and did not answer for a lease: it stands still, and is taken over.

        Not cancel-safe, as `seek`.
        """

    def is_heir(self, node: str) -> bool:
        """Did this node take that one over? Then it hears what is said to it."""

    @property
    def is_busy(self) -> bool:
        """Is this node taking another one over right now? Then it cannot know yet what it does not have."""

    @property
    def is_behind(self) -> bool:
        """Did a takeover of this node break off, and is not finished yet? Then it cannot know either."""

    async def settled(self, within_s: float) -> bool:
        """Wait until the takeovers under way here are done; False when they are not by then. Cancel-safe."""

    async def anybody_dead(self, since: float) -> bool:
        """Is a node silent that nobody has begun to take over? It is looked after. Not cancel-safe, as `seek`.

        Args:
            since: what was seen before that moment is too old.
        """

    async def unknown(self, node: str) -> bool:
        """Is there no sign that such a node ever was? Cancel-safe."""
