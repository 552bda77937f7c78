"""Job, Delivery and the table of states a job may move through.

            a: lease              c: ack
    QUEUED ─────────▶ LEASED ─────────────▶ DONE
      │  ▲              │ │
      │  └──────────────┘ │
      │   b: nack         │ d: bury
      │   e: release      ▼
      └─────────────────▶ DEAD (d only from LEASED)
        f: withdraw ▶ DONE

    QUEUED ──offer──▶ OFFERED ──start──▶ LEASED
       ▲                 │ │
       └──take_back──────┘ └──withdraw──▶ DONE

a: a worker takes it for a time. b: the attempt failed or its lease ran out; the next may start. c: its terminal event
is out. d: its attempts are spent. e: given back by a drain, which is no attempt. f: cancelled, or waited too long.
offer: it is shown to workers elsewhere; start: one of them runs it; take_back: none did, or none can be reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

# What begins anew, its home being gone, is numbered from a multiple of this: above all that was seen before.
RESTART_STEP = 1_000_000
NO_TRACE: Mapping[str, str] = MappingProxyType({})


class State(StrEnum):
    """Where a job is."""

    QUEUED = "queued"
    OFFERED = "offered"
    LEASED = "leased"
    DONE = "done"
    DEAD = "dead"


MOVES: dict[tuple[State, str], State] = {
    (State.QUEUED, "lease"): State.LEASED,
    (State.LEASED, "nack"): State.QUEUED,
    (State.LEASED, "release"): State.QUEUED,
    (State.LEASED, "ack"): State.DONE,
    (State.LEASED, "bury"): State.DEAD,
    (State.QUEUED, "withdraw"): State.DONE,
    (State.QUEUED, "offer"): State.OFFERED,
    (State.OFFERED, "start"): State.LEASED,
    (State.OFFERED, "take_back"): State.QUEUED,
    (State.OFFERED, "withdraw"): State.DONE,
}


class IllegalMove(Exception):
    """A move that the table does not hold: always a bug in the caller, never a client's doing."""


def move(state: State, event: str) -> State:
    """The state after `event`.

    Raises:
        IllegalMove: the table has no such edge.
    """
    try:
        return MOVES[state, event]
    except KeyError:
        raise IllegalMove(f"a job that is {state} cannot {event}") from None


@dataclass(frozen=True, slots=True)
class Job:
    """One response as work for a worker; the id is the response's.

    Attributes:
        id: the response id.
        owner: whose it is; the fair queue takes turns between owners.
        payload: what the worker needs to stream it; opaque here.
        size: bytes it holds in the queue, for the byte bound.
        accepted_at: when it was accepted, seconds of the home's clock.
        next_seq: the sequence number of the next event; grows with each interrupted attempt.
        output: output items that earlier, interrupted attempts left behind.
        trace: the context of its trace, as headers of W3C Trace Context; none without traces.
    """

    id: str
    owner: str
    payload: Any
    size: int
    accepted_at: float
    next_seq: int = 0
    output: tuple[dict[str, Any], ...] = ()
    trace: Mapping[str, str] = field(default_factory=lambda: NO_TRACE)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One hand-over of a job to one worker. Only the holder of the current token may settle it.

    Attributes:
        attempt: 1-based number of the hand-over.
        token: names this hand-over; unguessable and never reused.
    """

    job: Job
    attempt: int
    token: str
