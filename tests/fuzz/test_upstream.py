"""Whatever bytes a model server sends, cut wherever: a legal answer, or one that failed and says so; nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import orjson
from hypothesis import example, given
from hypothesis import strategies as st

from grizz.errors import Code, UpstreamError
from grizz.protocol import requests
from grizz.protocol.compose import Composer
from grizz.protocol.events import Event, response_object
from grizz.protocol.reader import Reader
from grizz.protocol.sse import Decoder
from tests import grammar
from tests.fuzz.conftest import budget
from tests.fuzz.strategies import chunk, chunks, cuts, spelled, streams, written

MODEL = requests.parse({"input": "x"}, "m")


def answer(pieces: Iterable[bytes], *, flush: bool) -> tuple[list[dict[str, Any]], str]:
    """The events and the failure, as the worker reads a stream.

    Args:
        flush: send waiting text after every piece, as the ticker may.
    """
    ids = itertools.count()
    composer = Composer(
        response_object("resp_1", 1, MODEL, "in_progress"), new_id=lambda prefix: f"{prefix}_{next(ids)}"
    )
    composer.lifecycle("created", "in_progress")
    composer.lifecycle("in_progress", "in_progress")
    decoder, reader = Decoder(), Reader(composer, new_id=lambda prefix: f"{prefix}_{next(ids)}")
    failure = ""
    try:
        for piece in pieces:
            for payload in decoder.feed(piece):
                reader.feed(payload)
            if reader.done:
                break
            if flush:
                composer.flush()
        for payload in decoder.close():
            reader.feed(payload)
        ending = reader.end()
    except UpstreamError as error:
        assert isinstance(error.code, Code) and error.message
        failure = error.message
        ending = {"status": "failed", "error": {"code": str(error.code), "message": error.message}}
    composer.finish(completed_at=2, **ending)
    return [orjson.loads(event.data) for event in composer.take()], failure


def check(events: list[dict[str, Any]]) -> None:
    """In legal order, and every field that clients read as text is text."""
    grammar.check(events)
    for event in events:
        Event.read(event["sequence_number"], orjson.dumps(event))
        for name in ("delta", "text", "arguments", "refusal", "name"):
            assert isinstance(event.get(name, ""), str), event
        for entry in event.get("logprobs", ()):
            assert isinstance(entry["token"], str) and isinstance(entry["logprob"], int | float), event
    for item in events[-1]["response"]["output"]:
        for name in ("id", "name", "call_id", "arguments"):
            assert isinstance(item.get(name, ""), str), item
    usage = events[-1]["response"]["usage"]
    assert usage is None or all(
        type(usage[name]) is int and usage[name] >= 0 for name in usage if "details" not in name
    )


def text(events: list[dict[str, Any]]) -> list[Any]:
    """What was said, however it was divided among deltas."""
    last = events[-1]["response"]
    return [last["output"], last["status"], last["error"], last["usage"]]


@st.composite
def cut_streams(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> tuple[bytes, list[bytes]]:
    data = draw(whole)
    return data, draw(cuts(data))


def sse(*documents: Any) -> bytes:
    return b"".join(b"data: " + written(document).encode() + b"\n\n" for document in documents)


def whole(data: bytes) -> tuple[bytes, list[bytes]]:
    return data, [data[:-1], data[-1:]]


CALLS = [{"index": 0, "id": "c", "function": {"name": "f", "arguments": {"a": "@253 arrays@"}}}]


@budget(100)
@given(cut_streams(streams()), st.booleans())
@example(whole(sse(chunk({"refusal": 5}))), False)
@example(whole(sse(chunk({"tool_calls": [{"id": "c", "function": {"name": 5}}]}, "stop"))), False)
@example(whole(sse(chunk({"content": "x"}, "stop", usage=[5]))), False)
@example(whole(sse(chunk({"content": "x"}, "stop", usage={"prompt_tokens": "many", "completion_tokens": -1}))), False)
@example(whole(sse(chunk({"tool_calls": CALLS}, "stop"))), True)
@example(whole(sse(chunk({}, "stop")) + b"data: [DONE]\n\ndata: no JSON\n\n"), False)
def test_a_stream_is_one_legal_answer_wherever_it_is_cut(cut: tuple[bytes, list[bytes]], flush: bool) -> None:
    data, pieces = cut
    events, failure = answer([data], flush=False)
    check(events)
    for other in (pieces, [data[at : at + 1] for at in range(len(data))]):
        again, fault = answer(other, flush=flush)
        check(again)
        assert (text(again), fault) == (text(events), failure)


@budget(100)
@given(cut_streams(st.binary(max_size=200)))
def test_any_bytes_are_a_legal_answer(cut: tuple[bytes, list[bytes]]) -> None:
    data, pieces = cut
    events, failure = answer([data], flush=False)
    check(events)
    assert text(answer(pieces, flush=True)[0]) == text(events) and failure


@budget(100)
@given(st.lists(spelled(chunks) | st.binary(max_size=20), max_size=6))
def test_any_payloads_are_a_legal_answer_or_none(payloads: list[bytes]) -> None:
    pieces = [b"data: " + payload.replace(b"\n", b"").replace(b"\r", b"") + b"\n\n" for payload in payloads]
    check(answer(pieces, flush=True)[0])


@budget(100)
@given(cut_streams(streams()), st.integers(1, 300))
@example((b"data: 123456\n\n", [b"data: 123", b"456\n\n"]), 5)
def test_a_decoder_fails_on_the_same_events_wherever_they_are_cut(cut: tuple[bytes, list[bytes]], most: int) -> None:
    outcomes = []
    for pieces in ([cut[0]], cut[1]):
        decoder, failed = Decoder(most), False
        payloads: list[bytes] = []
        try:
            for piece in pieces:
                payloads += decoder.feed(piece)
            payloads += decoder.close()
        except UpstreamError:
            failed = True
        assert all(len(payload) <= most for payload in payloads)
        outcomes.append((payloads, failed))
    (first, fails), (second, also) = outcomes
    # What came before the fault may be lost with it, since the answer fails.
    assert fails == also
    assert fails or first == second
