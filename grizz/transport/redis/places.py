"""Where the jobs of this node are: who runs them, and what of them stands in the Redis."""

from __future__ import annotations

from collections.abc import Iterator

from grizz.core.job import Job
from grizz.transport.base import Cause


class Place:
    """One job of this node.

    Attributes:
        worker: the node that runs it; "" when this one does, or none yet.
        entry: its stream entry, when it was offered.
        recorded: does it stand in this node's records?
        next_seq: the number of the event that its worker will send next.
        since: when it was offered.
        probed_at: when a silent worker was asked whether it lives.
        asked_at: when missing events were asked for.
        cause: why its worker was told to stop it.
    """

    __slots__ = ("asked_at", "cause", "entry", "job_id", "next_seq", "probed_at", "recorded", "since", "worker")

    def __init__(self, job: Job) -> None:
        self.job_id = job.id
        self.worker = ""
        self.entry: bytes | None = None
        self.recorded = False
        self.next_seq = job.next_seq
        self.since = 0.0
        self.probed_at: float | None = None
        self.asked_at: float | None = None
        self.cause: Cause | None = None

    def __repr__(self) -> str:
        return f"<Place of {self.job_id}: {self.worker or 'here'}, next event {self.next_seq}>"

    def rest(self) -> None:
        """Nobody runs it, and its entry is gone."""
        self.worker, self.entry = "", None
        self.probed_at = self.asked_at = None

    def show(self, job: Job, now: float) -> None:
        """It is offered anew."""
        self.rest()
        self.next_seq, self.since = job.next_seq, now


class Places:
    """The places of all jobs of this node that are anywhere but in its own memory alone."""

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Place]:
        return iter(list(self._places.values()))

    def __repr__(self) -> str:
        return f"<Places: {len(self._places)} jobs>"

    def get(self, job_id: str) -> Place | None:
        """The place of a job."""
        return self._places.get(job_id)

    def place(self, job: Job) -> Place:
        """The place of a job, made when there is none."""
        found = self._places.get(job.id)
        if found is None:
            found = self._places[job.id] = Place(job)
        return found

    def pop(self, job_id: str) -> Place | None:
        """The place of a job that is over."""
        return self._places.pop(job_id, None)

    def clear(self) -> None:
        """Forget all."""
        self._places.clear()

    def at(self, worker: str) -> list[str]:
        """The jobs that a node runs for this one."""
        return [place.job_id for place in self._places.values() if place.worker == worker]
