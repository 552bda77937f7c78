"""Whatever a server that speaks the Responses API sends, in whatever order: what comes out is legal and rebuildable."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from grizz.errors import UpstreamError
from grizz.protocol import requests
from grizz.protocol.compose import Composer
from grizz.protocol.events import Event, merge, response_object
from grizz.protocol.relay import Relay
from tests import grammar, relayed

FAST = settings(max_examples=150, deadline=None)
KINDS = ("function_call", "custom_tool_call", "mcp_call", "code_interpreter_call")
words = st.lists(st.text(alphabet="ab é{", min_size=1, max_size=4), max_size=4)

makers: st.SearchStrategy[Callable[[int], list[dict[str, Any]]]] = st.one_of(
    st.builds(lambda said, no: lambda at: relayed.message(at, *said, refusal=no), words, st.booleans()),
    st.builds(
        lambda said, form: lambda at: relayed.reasoning(at, *said, form=form),
        words,
        st.sampled_from(("summary", "text", "open")),
    ),
    st.builds(lambda said, kind: lambda at: relayed.call(at, *said, kind=kind), words, st.sampled_from(KINDS)),
    st.just(relayed.hosted),
)


@st.composite
def answers(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A legal answer."""
    items = [make(at) for at, make in enumerate(draw(st.lists(makers, max_size=4)))]
    return relayed.answer(*items, end=draw(st.sampled_from(("completed", "incomplete"))), told=draw(st.booleans()))


@st.composite
def broken(draw: st.DrawFn) -> list[dict[str, Any]]:
    """An answer with events left out, doubled, moved or under other ids and places, and perhaps no end."""
    events = draw(answers())
    for _ in range(draw(st.integers(0, 6))):
        if not events:
            break
        at, to = draw(st.integers(0, len(events) - 1)), draw(st.integers(0, len(events)))
        match draw(st.sampled_from(("drop", "double", "move", "place", "id", "part"))):
            case "drop":
                del events[at]
            case "double":
                events.insert(to, events[at])
            case "move":
                events.insert(to, events.pop(at))
            case "place":
                events[at] = {**events[at], "output_index": draw(st.integers(0, 4) | st.none())}
            case "id":
                events[at] = {**events[at], "item_id": draw(st.sampled_from(("msg_0", "rs_1", "x", "", None)))}
            case _:
                events[at] = {**events[at], "content_index": draw(st.integers(0, 2))}
    return events[: draw(st.integers(0, len(events)))] if draw(st.booleans()) else events


def composer(*, raw: bool = False, next_seq: int = 0, output: Any = ()) -> Composer:
    ids = itertools.count()
    made = Composer(
        response_object("resp_ours", 1, requests.parse({"input": "x"}, "m"), "in_progress"),
        new_id=lambda prefix: f"{prefix}_new{next_seq}_{next(ids)}",
        next_seq=next_seq,
        output=output,
        raw_reasoning=raw,
    )
    if not next_seq:
        made.lifecycle("created", "in_progress")
        made.lifecycle("in_progress", "in_progress")
    return made


def new_relay(made: Composer) -> Relay:
    ids = itertools.count()
    return Relay(made, new_id=lambda prefix: f"{prefix}_own{made.next_seq}_{next(ids)}")


def bodies(events: list[Event]) -> list[dict[str, Any]]:
    return [orjson.loads(event.data) for event in events]


def read(made: Composer, events: list[dict[str, Any]], between: Callable[[], None] = lambda: None) -> str:
    """Read a stream to its end, as the worker does; returns what it failed with."""
    relay = new_relay(made)
    try:
        for event in events:
            relay.feed(orjson.dumps(event))
            between()
        ending, failure = relay.end(), ""
    except UpstreamError as error:
        failure = error.message
        ending = {"status": "failed", "error": {"code": str(error.code), "message": error.message}}
    made.finish(completed_at=2, **ending)
    return failure


@FAST
@given(answers(), st.booleans())
def test_a_legal_answer_comes_through_with_all_it_says(events: list[dict[str, Any]], raw: bool) -> None:
    made = composer(raw=raw)
    assert read(made, events) == ""
    log = made.take()
    grammar.check(bodies(log))
    theirs = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    ours = bodies(log)[-1]["response"]["output"]
    assert [item["type"] for item in ours] == [item["type"] for item in theirs]
    named = {body["item_id"] for body in bodies(log) if "item_id" in body}
    assert named <= {item["id"] for item in ours}
    for own, their in zip(ours, theirs, strict=True):
        sealed = their["type"] in ("reasoning", "compaction")
        assert (own["id"] == their["id"]) is sealed
        their = {**their, "id": own["id"]}
        if raw or not their.get("content") or their["type"] != "reasoning":
            assert {key: own[key] for key in their} == their
        else:
            assert [part["text"] for part in own["summary"]] == [part["text"] for part in their["content"]]
    assert not [body for body in bodies(log) if "resp_theirs" in str(body)]


@FAST
@given(broken(), st.booleans(), st.lists(st.booleans(), max_size=40))
def test_any_stream_is_legal_and_can_be_rebuilt_at_every_point(
    events: list[dict[str, Any]], raw: bool, flushes: list[bool]
) -> None:
    made = composer(raw=raw)
    log = made.take()
    flush = iter(flushes)

    def look() -> None:
        if next(flush, False):
            made.flush()
        if not made.dirty:
            log.extend(made.take())
            again = Composer.rebuild(log, new_id=lambda prefix: prefix)
            assert again.snapshot() == made.snapshot()

    read(made, events, look)
    log += made.take()
    grammar.check(bodies(log))
    for event in log:
        assert Event.read(event.seq, event.data).type == event.type
    merged = bodies(merge([Event.read(event.seq, event.data) for event in log]))
    text = "response.output_text.delta"
    assert "".join(body["delta"] for body in merged if body["type"] == text) == "".join(
        body["delta"] for body in bodies(log) if body["type"] == text
    )


@FAST
@given(broken(), st.integers(0, 100), broken())
def test_an_interrupted_attempt_is_closed_and_the_next_goes_on_legally(
    before: list[dict[str, Any]], cut_at: int, after: list[dict[str, Any]]
) -> None:
    first = composer()
    relay = new_relay(first)
    try:
        for event in before[:-1]:
            relay.feed(orjson.dumps(event))
    except UpstreamError:
        return
    if relay.done:
        return
    log = first.take()
    log = log[: 2 + cut_at % (len(log) - 1)]
    home = Composer.rebuild(log, new_id=lambda prefix: prefix)
    home.interrupt()
    log += home.take()
    assert {item.get("status", "") for item in home.output} <= {"", "completed", "incomplete"}
    second = composer(next_seq=home.next_seq, output=home.output)
    read(second, after)
    grammar.check(bodies(log + second.take()))


@FAST
@given(broken())
def test_nothing_is_seen_of_a_stream_that_fails_before_its_first_content(events: list[dict[str, Any]]) -> None:
    made = composer()
    made.take()
    relay = new_relay(made)
    waiting = ("created", "in_progress", "added")
    for event in itertools.takewhile(lambda event: event["type"].rsplit(".", 1)[-1] in waiting, events):
        relay.feed(orjson.dumps(event))
        assert not made.produced
        assert not made.take()
