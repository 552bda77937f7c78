"""An event that another process wrote is, read from its bytes, the event it was there."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grizz.protocol import requests
from grizz.protocol.compose import Composer
from grizz.protocol.events import Event, merge, response_object

FAST = settings(max_examples=150, deadline=None)

words = st.text(min_size=1, max_size=5) | st.sampled_from(['","delta":"', ',"delta":', '{"type":"', "\\", '"'])
logprobs = st.none() | st.just([{"token": "x", "logprob": -1.0, "bytes": [120], "top_logprobs": []}])
steps = st.one_of(
    st.tuples(st.just("text"), words, logprobs),
    st.tuples(st.just("refusal"), words),
    st.tuples(st.just("reasoning"), words),
    st.tuples(st.just("call"), st.integers(0, 1), words),
    st.tuples(st.just("arguments"), st.integers(0, 1), words),
    st.tuples(st.just("flush")),
    st.tuples(st.just("interrupt")),
)


def composed(said: list[tuple[Any, ...]], *, first: int, raw: bool) -> list[Event]:
    """The log of a random answer, with calls side by side, as nested and as often flushed as it comes."""
    ids = itertools.count()
    made = Composer(
        response_object("resp_1", 1, requests.parse({"input": "x", "instructions": '","delta":"'}, "m"), "in_progress"),
        new_id=lambda prefix: f"{prefix}_{next(ids)}",
        next_seq=first,
        raw_reasoning=raw,
    )
    made.lifecycle("created", "in_progress")
    made.lifecycle("in_progress", "in_progress")
    calls: set[int] = set()
    for name, *arguments in said:
        if name == "interrupt":
            calls.clear()
        elif name == "call":
            if arguments[0] in calls:
                continue
            calls.add(arguments[0])
            arguments = [arguments[0], f"call_{arguments[0]}", arguments[1]]
        elif name == "arguments" and arguments[0] not in calls:
            continue
        getattr(made, name)(*arguments)
    made.finish("completed", completed_at=2)
    return made.take()


def shape(events: list[Event]) -> list[tuple[int, str, bytes]]:
    return [(event.seq, event.type, event.data) for event in events]


@FAST
@given(st.lists(steps, max_size=30), st.sampled_from([0, 7, 99_999, 3_000_000]), st.booleans(), st.integers(1, 9))
def test_an_event_read_from_its_bytes_has_the_same_type_number_and_end_and_merges_with_the_same_others(
    said: list[tuple[Any, ...]], first: int, raw: bool, step: int
) -> None:
    log = composed(said, first=first, raw=raw)
    read = [Event.read(event.seq, event.data) for event in log]
    assert shape(read) == shape(log)
    assert [event.terminal for event in read] == [event.terminal for event in log]
    assert [event.key is None for event in read] == [event.key is None for event in log]
    assert [a.key == b.key for a, b in itertools.combinations(read, 2)] == [
        a.key == b.key for a, b in itertools.combinations(log, 2)
    ]
    for start in range(0, len(log), step):
        assert shape(merge(read[start : start + step])) == shape(merge(log[start : start + step]))


@FAST
@given(st.lists(steps, max_size=15), st.booleans())
def test_what_was_merged_can_be_read_and_merged_again(said: list[tuple[Any, ...]], raw: bool) -> None:
    log = composed(said, first=0, raw=raw)
    read = [Event.read(event.seq, event.data) for event in merge(log)]
    assert shape(merge(read)) == shape(merge(log))


@FAST
@given(st.lists(steps, max_size=10), st.booleans())
def test_a_log_that_was_read_is_rebuilt_like_the_one_that_was_written(said: list[tuple[Any, ...]], raw: bool) -> None:
    log = composed(said, first=0, raw=raw)
    read = [Event.read(event.seq, event.data) for event in log]
    for end in (len(log) // 2, len(log)):
        snapshots = [Composer.rebuild(events[:end], new_id=str).snapshot() for events in (log, read)]
        assert snapshots[0] == snapshots[1]


def wire(seq: int, kind: str = "response.completed") -> bytes:
    return orjson.dumps({"type": kind, "sequence_number": seq, "response": {}})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"null",
        b'{"type":"',
        b'{"type":"response.completed"}',
        b'{"sequence_number":5,"type":"response.completed"}',
        b'{"type": "response.completed", "sequence_number": 5, "response": {}}',
        b'{"type":"\xff","sequence_number":5,"response":{}}',
        b'{"type":"response.output_text.delta","sequence_number":5,"item_id":"msg_1"}',
        wire(4),
        wire(55),
        wire(5)[:-30],
    ],
)
def test_what_does_not_begin_as_the_event_of_that_number_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        Event.read(5, data)


@settings(deadline=None)
@given(st.binary(max_size=80), st.integers(0, 100))
def test_any_bytes_are_read_or_refused(data: bytes, cut: int) -> None:
    for candidate in (data, wire(5)[:cut] + data, wire(5, "response.output_text.delta")[:cut] + data):
        try:
            assert Event.read(5, candidate).seq == 5
        except ValueError:
            pass
