"""A job as it stands in the Redis: in the stream for whoever is free, in a node's records for its heir, among the dead.

The format carries its number, see `keys.FORMAT`: nodes of two releases share a Redis, and pass over fields that they do
not know.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from grizz.core.job import NO_TRACE, Delivery, Job
from grizz.transport.redis.keys import FORMAT


class UnreadableRecord(ValueError):
    """It is not JSON, not a job, or of another version."""


@dataclass(frozen=True, slots=True)
class Codec:
    """How a job's payload, which the transport does not know, becomes JSON and back.

    Attributes:
        may_keep: may it stand in the Redis after its job is over (among the dead letters)?
        outlives: is its answer of use to anybody once the process that accepted it is gone?
    """

    pack: Callable[[Any], dict[str, Any]]
    unpack: Callable[[dict[str, Any]], Any]
    may_keep: Callable[[Any], bool]
    outlives: Callable[[Any], bool] = lambda payload: True


@dataclass(frozen=True, slots=True)
class Record:
    """A job, and where it stands.

    Attributes:
        home: the node that keeps its reply; "" for a dead letter that was requeued, which has none.
        expires_at: seconds since the epoch after which no attempt may begin.
    """

    delivery: Delivery
    home: str
    expires_at: float


def pack(delivery: Delivery, home: str, expires_at: float, codec: Codec) -> bytes:
    """The record of a delivery."""
    job = delivery.job
    waited_s = asyncio.get_running_loop().time() - job.accepted_at
    traced = {"trace": dict(job.trace)} if job.trace else {}  # earlier versions pass over what they do not know
    return orjson.dumps(
        {
            **traced,
            "v": FORMAT,
            "id": job.id,
            "owner": job.owner,
            "home": home,
            "attempt": delivery.attempt,
            "token": delivery.token,
            "accepted_at": round(time.time() - waited_s, 3),
            "expires_at": round(expires_at, 3),
            "size": job.size,
            "next_seq": job.next_seq,
            "output": job.output,
            "work": codec.pack(job.payload),
        }
    )


def unpack(data: bytes, codec: Codec) -> Record:
    """Read a record.

    Raises:
        UnreadableRecord: it cannot be read.
    """
    try:
        body = orjson.loads(data)
        if body["v"] != FORMAT:
            raise UnreadableRecord(f"version {body['v']!r}; this node reads {FORMAT}")
        waited_s = time.time() - body["accepted_at"]
        job = Job(
            id=str(body["id"]),
            owner=str(body["owner"]),
            payload=codec.unpack(body["work"]),
            size=_count(body["size"]),
            accepted_at=asyncio.get_running_loop().time() - waited_s,
            next_seq=_count(body["next_seq"]),
            output=_objects(body["output"]),
            trace=_trace(body.get("trace")),
        )
        delivery = Delivery(job, _count(body["attempt"]), str(body["token"]))
        return Record(delivery, str(body["home"]), float(body["expires_at"]))
    except UnreadableRecord:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnreadableRecord(repr(error)) from error


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r:.50} is no count")
    return value


def _objects(value: Any) -> tuple[dict[str, Any], ...]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise ValueError(f"{value!r:.50} is no list of objects")
    return tuple(value)


def _trace(value: Any) -> Mapping[str, str]:
    """Headers, or none: no job is lost for its trace."""
    good = isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
    return value if good else NO_TRACE


def home_of(job_id: str) -> str:
    """The node whose client created a response: part of its id."""
    return job_id.removeprefix("resp_")[:8]
