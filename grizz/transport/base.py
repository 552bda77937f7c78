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

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

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

    QUEUED = "queued"  # it was withdrawn; no worker will ever see it, so its home ends the response
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

    def interrupted(self, delivery: Delivery) -> Job:
        """This attempt was lost: close what it left open; the job returned continues there."""

    def buried(self, delivery: Delivery) -> None:
        """The last attempt was lost: end the response as failed."""

    def overdue(self, job: Job) -> None:
        """The job waited longer than allowed and was withdrawn: end the response as failed."""


class Workers(Protocol):
    """The side that runs jobs. Its method never waits."""

    def stop(self, delivery: Delivery, cause: Cause) -> None:
        """Stop this delivery: close the upstream request, publish the terminal event, settle."""


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

    def depth(self) -> Depth:
        """What waits and what runs, as far as this process knows."""
