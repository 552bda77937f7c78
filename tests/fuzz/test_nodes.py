"""Whatever stands in the Redis or comes from another node: it is read, or dropped and counted; no parser fails."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from grizz.engine.worker import Work
from grizz.protocol.events import Event
from grizz.scaled import CODEC
from grizz.telemetry.metrics import Metrics
from grizz.transport.base import Part
from grizz.transport.redis.bus import Bus
from grizz.transport.redis.keys import Keys
from grizz.transport.redis.record import Record, UnreadableRecord, unpack
from tests.fuzz.conftest import budget
from tests.fuzz.strategies import EVENT, RECORD, messages, records, spelled, written


async def read(data: bytes) -> Record | None:
    try:
        return unpack(data, CODEC)
    except UnreadableRecord:
        return None


@budget(150)
@given(spelled(records) | st.binary(max_size=60))
@example(written({**RECORD, "output": "abc"}).encode())
@example(written({**RECORD, "output": {"a": 1}}).encode())
@example(written({**RECORD, "next_seq": -5}).encode())
@example(written({**RECORD, "work": {**RECORD["work"], "response": "x"}}).encode())
def test_a_record_is_a_job_that_can_be_run_or_unreadable(data: bytes) -> None:
    record = asyncio.run(read(data))
    if record is None:
        return
    job = record.delivery.job
    assert all(isinstance(name, str) for name in (job.id, job.owner, record.home, record.delivery.token))
    assert job.size >= 0 and job.next_seq >= 0 and record.delivery.attempt >= 0
    assert all(isinstance(item, dict) for item in job.output)
    assert isinstance(job.payload, Work)


METRICS = Metrics(version="1", mode="redis", models=["m"], upstreams=["u"])


def dropped() -> int:
    return int(METRICS.redis.errors.labels("message")._value.get())


@budget(150)
@given(messages() | st.binary(max_size=60))
def test_a_message_is_handed_on_in_parts_or_dropped_and_counted(data: bytes) -> None:
    before = dropped()
    bus = Bus("bbbb", Keys("grizz"), None, METRICS.redis, interval_s=lambda: 1.0)  # type: ignore[arg-type]  # only reads
    handed: list[tuple[str, Part, Sequence[bytes]]] = []
    for kind in ("events", "echo", "hello"):
        bus.on(kind, lambda *found: handed.append(found))
    bus.receive(data)
    assert dropped() - before in (0, 1)
    assert dropped() == before or not handed, "either all of a message or nothing"
    lines = data.split(b"\n")[1:]
    taken = [line for _, _, found in handed for line in found]
    assert all(isinstance(sender, str) and isinstance(part, dict) for sender, part, _ in handed)
    assert len(taken) <= len(lines) and all(line in lines for line in taken)


@budget(150)
@given(st.binary(max_size=60), st.integers(0, len(EVENT)), st.integers(0, 20))
def test_an_event_line_is_that_event_or_refused(data: bytes, at: int, seq: int) -> None:
    for line in (data, EVENT[:at] + data, EVENT[:at] + data + EVENT[at:]):
        try:
            assert Event.read(seq, line).seq == seq
        except ValueError:
            continue
