"""Whatever a server that speaks the Responses API sends, cut wherever: a legal answer, or one that failed and says so.

And what it leaves in the history can be sent to any upstream.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import orjson
from hypothesis import example, given
from hypothesis import strategies as st

from grizz.engine.history import Turn
from grizz.errors import Code, RequestError, UpstreamError
from grizz.protocol import chat, items, requests, responses
from grizz.protocol.compose import Composer
from grizz.protocol.events import Event, response_object
from grizz.protocol.relay import Relay
from grizz.protocol.sse import Decoder
from tests import grammar, relayed
from tests.fuzz.conftest import budget
from tests.fuzz.strategies import cuts, mutated, spelled, written

ASKED = requests.parse({"input": "x"}, "m")
ANSWERS = (
    relayed.answer(relayed.message(0, "Hel", "lo")),
    relayed.answer(relayed.reasoning(0, "hm"), relayed.message(1, "no", refusal=True), told=False),
    relayed.answer(relayed.reasoning(0, "hm", form="open"), relayed.call(1, '{"a":', "1}"), end="incomplete"),
    relayed.answer(relayed.hosted(0), relayed.call(1, "x", kind="mcp_call"), relayed.message(2, "so")),
    relayed.answer(relayed.call(0, "p", "q", kind="custom_tool_call"), relayed.reasoning(1, "a", "b", form="text")),
)
FAILURES = (
    {"type": "error", "code": "rate_limit_exceeded", "message": "slow down", "param": None},
    {"type": "error", "error": {"type": "server_error", "code": None, "message": "oh"}},
    {"type": "response.failed", "response": {**relayed.R, "error": {"code": "server_error", "message": "oh"}}},
    {"error": {"message": "overloaded", "code": 503}},
    {"type": "keepalive", "sequence_number": 3},
)
NAMES = ("type", "id", "item", "item_id", "output_index", "content_index", "part", "delta", "text", "arguments", "name")
NAMES += ("content", "summary", "role", "call_id", "response", "output", "usage", "error", "annotations", "logprobs")
events = mutated(*itertools.chain(*ANSWERS), *FAILURES, names=NAMES)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """An answer with a few events exchanged for broken ones."""
    said = [written(event).encode() for event in draw(st.sampled_from(ANSWERS))]
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(said)))
        event = draw(spelled(events)).replace(b"\n", b" ").replace(b"\r", b" ")
        said[at : at + draw(st.integers(0, 1))] = [event]
    stream = b"".join(b"event: x\ndata: " + data + b"\n\n" for data in said)
    return stream[: draw(st.integers(0, len(stream)))] if draw(st.integers(0, 4)) == 0 else stream


def answer(pieces: Iterable[bytes], *, flush: bool, raw: bool = False) -> tuple[list[dict[str, Any]], str]:
    """The events and the failure, as the worker reads a stream; `flush` after every piece, as the ticker may."""
    ids = itertools.count()
    response = response_object("resp_ours", 1, ASKED, "in_progress")
    composer = Composer(response, new_id=lambda prefix: f"{prefix}_new{next(ids)}", raw_reasoning=raw)
    composer.lifecycle("created", "in_progress")
    composer.lifecycle("in_progress", "in_progress")
    decoder, relay = Decoder(), Relay(composer, new_id=lambda prefix: f"{prefix}_new{next(ids)}")
    failure = ""
    try:
        for piece in pieces:
            for payload in decoder.feed(piece):
                relay.feed(payload)
            if relay.done:
                break
            if flush:
                composer.flush()
        for payload in decoder.close():
            relay.feed(payload)
        ending = relay.end()
    except UpstreamError as error:
        assert isinstance(error.code, Code) and error.message
        failure = error.message
        ending = {"status": "failed", "error": {"code": str(error.code), "message": error.message}}
    composer.finish(completed_at=2, **ending)
    made = composer.take()
    again = Composer.rebuild(made, new_id=lambda prefix: prefix)
    assert again.snapshot() == composer.snapshot()
    for event in made:
        assert Event.read(event.seq, event.data).type == event.type
    return [orjson.loads(event.data) for event in made], failure


def check(told: list[dict[str, Any]]) -> None:
    """In legal order, of the right types where we read them ourselves, and fit for the next turn."""
    grammar.check(told)
    response = told[-1]["response"]
    assert response["id"] == "resp_ours"
    usage = response["usage"]
    assert usage is None or all(type(usage[name]) is int for name in ("input_tokens", "output_tokens", "total_tokens"))
    turn = Turn("resp_ours", "me", None, ASKED.input, response, told[-1]["sequence_number"], None)
    turn.to_wire()
    context = [*turn.context(), *ASKED.input]
    for body in (chat.body(ASKED, context), responses.body(ASKED, context)):
        orjson.dumps(body)
    items.check_calls_match(context)
    try:
        items.normalise(response["output"])
    except RequestError as error:
        assert error.status == 400


def said(told: list[dict[str, Any]]) -> list[Any]:
    """What was said, however it was divided among deltas; ids that are ours may differ."""
    last = told[-1]["response"]
    return [last["output"], last["status"], last["error"], last["usage"]]


@st.composite
def cut_streams(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> tuple[bytes, list[bytes]]:
    data = draw(whole)
    return data, draw(cuts(data))


def sse(*documents: Any) -> bytes:
    return b"".join(b"data: " + written(document).encode() + b"\n\n" for document in documents)


def whole(*documents: Any) -> tuple[bytes, list[bytes]]:
    data = sse(*documents)
    return data, [data[:-1], data[-1:]]


DEEP = {"type": "vendor:deep", "a": "@253 arrays@"}


@budget(150)
@given(cut_streams(streams()), st.booleans(), st.booleans())
@example(whole(*ANSWERS[0][:4], DEEP, *ANSWERS[0][4:]), False, False)
@example(whole(relayed.added(0, {"type": "a", "id": "x", "deep": "@250 arrays@"})), True, True)
def test_a_stream_is_one_legal_answer_wherever_it_is_cut(
    cut: tuple[bytes, list[bytes]], flush: bool, raw: bool
) -> None:
    data, pieces = cut
    told, failure = answer([data], flush=False, raw=raw)
    check(told)
    for other in (pieces, [data[at : at + 1] for at in range(len(data))]):
        again, fault = answer(other, flush=flush, raw=raw)
        check(again)
        assert (said(again), fault) == (said(told), failure)


@budget(150)
@given(st.lists(spelled(events) | st.binary(max_size=20), max_size=8), st.booleans())
def test_any_payloads_are_a_legal_answer_or_none(payloads: list[bytes], raw: bool) -> None:
    pieces = [b"data: " + payload.replace(b"\n", b"").replace(b"\r", b"") + b"\n\n" for payload in payloads]
    check(answer(pieces, flush=True, raw=raw)[0])
