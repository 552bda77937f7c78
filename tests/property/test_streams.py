"""However bytes are cut and however a reader reads, the answer is the same."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from grizz.engine.reply import Reply
from grizz.errors import RequestError
from grizz.protocol import requests
from grizz.protocol.compose import Composer
from grizz.protocol.events import Event, merge, response_object
from grizz.protocol.reader import Reader
from grizz.protocol.sse import Decoder
from tests import grammar

FAST = settings(max_examples=150, deadline=None)


def new_ids(start: int = 0) -> Any:
    counter = itertools.count(start)
    return lambda prefix: f"{prefix}_{next(counter)}"


def composer() -> Composer:
    made = Composer(response_object("resp_1", 1, requests.parse({"input": "x"}, "m"), "in_progress"), new_id=new_ids())
    made.lifecycle("created", "in_progress")
    made.lifecycle("in_progress", "in_progress")
    return made


def bodies(events: list[Event]) -> list[dict[str, Any]]:
    return [orjson.loads(event.data) for event in events]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@FAST
@given(
    st.lists(st.lists(st.text(alphabet="ab é:{}", max_size=6), min_size=1, max_size=3), max_size=6),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.lists(st.integers(0, 10_000), max_size=30),
    st.booleans(),
)
def test_an_sse_stream_gives_the_same_payloads_wherever_it_is_cut(
    payloads: list[list[str]], end: bytes, places: list[int], bom: bool
) -> None:
    lines = b"".join(
        b": comment" + end + b"".join(b"data: " + line.encode() + end for line in payload) + end for payload in payloads
    )
    stream = (b"\xef\xbb\xbf" if bom else b"") + lines
    expected = [said for payload in payloads if (said := "\n".join(payload).encode().strip())]
    decoder = Decoder()
    assert [p for piece in cut(stream, places) for p in decoder.feed(piece)] == expected
    every_byte = Decoder()
    assert [p for n in range(len(stream)) for p in every_byte.feed(stream[n : n + 1])] == expected


deltas = st.one_of(
    st.builds(lambda text: {"content": text}, st.text(min_size=1, max_size=5)),
    st.builds(lambda text: {"reasoning_content": text}, st.text(min_size=1, max_size=5)),
    st.builds(lambda text: {"refusal": text}, st.text(min_size=1, max_size=5)),
    st.builds(
        lambda index, arguments, first: {
            "tool_calls": [
                {
                    "index": index,
                    "id": f"call_{index}" if first else None,
                    "function": {"name": f"f{index}", "arguments": arguments},
                }
            ]
        },
        st.integers(0, 2),
        st.text(max_size=4),
        st.booleans(),
    ),
)


@FAST
@given(st.lists(deltas, max_size=15), st.lists(st.booleans(), max_size=15), st.sampled_from(["stop", "length"]))
def test_any_model_output_becomes_a_legal_stream_that_can_be_rebuilt_at_every_point(
    chunks: list[dict[str, Any]], flushes: list[bool], finish: str
) -> None:
    made = composer()
    reader = Reader(made, new_id=new_ids())
    log = made.take()
    for chunk, flush in itertools.zip_longest(chunks, flushes):
        if chunk is not None:
            reader.feed(orjson.dumps({"choices": [{"delta": chunk}]}))
        if flush:
            made.flush()
        if not made.dirty:
            log += made.take()
            assert Composer.rebuild(log, new_id=new_ids()).snapshot() == made.snapshot()
    reader.feed(orjson.dumps({"choices": [{"delta": {}, "finish_reason": finish}]}))
    made.finish(completed_at=2, **reader.end())
    log += made.take()
    grammar.check(bodies(log))
    said = "".join(chunk["content"] for chunk in chunks if "content" in chunk)
    assert "".join(b["delta"] for b in bodies(log) if b["type"] == "response.output_text.delta") == said


@FAST
@given(st.lists(deltas, max_size=10), st.integers(0, 100), st.lists(deltas, max_size=10))
def test_an_interrupted_attempt_is_closed_and_the_next_goes_on_legally(
    before: list[dict[str, Any]], cut_at: int, after: list[dict[str, Any]]
) -> None:
    first = composer()
    reader = Reader(first, new_id=new_ids())
    for chunk in before:
        reader.feed(orjson.dumps({"choices": [{"delta": chunk}]}))
    log = first.take()
    log = log[: 2 + cut_at % (len(log) - 1)]
    home = Composer.rebuild(log, new_id=new_ids())
    home.interrupt()
    log += home.take()
    ids = new_ids(1000)
    second = Composer(dict(home.response), new_id=ids, next_seq=home.next_seq, output=home.output)
    reader = Reader(second, new_id=ids)
    for chunk in after:
        reader.feed(orjson.dumps({"choices": [{"delta": chunk}]}))
    reader.feed(orjson.dumps({"choices": [{"delta": {}, "finish_reason": "stop"}]}))
    second.finish(completed_at=2, **reader.end())
    grammar.check(bodies(log + second.take()))


@FAST
@given(st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=30), st.integers(-1, 40), st.integers(1, 7))
def test_from_any_cursor_in_any_steps_merged_or_not_the_rest_is_exact(words: list[str], after: int, step: int) -> None:
    made = composer()
    for word in words:
        made.text(word)
        made.flush()
    made.finish("completed", completed_at=2)
    log = made.take()
    reply = Reply(
        {"id": "resp_1", "status": "in_progress"},
        "me",
        requests.parse({"input": "x"}, "m"),
        parent=None,
        scope=None,
        given=(),
        size=0,
        now=0.0,
    )
    reply.extend(log, 1.0)
    position, plain, merged = after, [], []
    while events := reply.after(position, step):
        position = events[-1].seq
        plain += events
        merged += merge(events)
    assert [event.seq for event in plain] == list(range(after + 1, len(log)))

    def text(events: list[Event]) -> str:
        return "".join(b["delta"] for b in bodies(events) if b["type"] == "response.output_text.delta")

    assert text(merged) == text(plain)
    assert [e.seq for e in merged][-1:] == [e.seq for e in plain][-1:]


@FAST
@given(st.text(alphabet="<>/think abc\n", max_size=25), st.lists(st.integers(0, 1000), max_size=10))
def test_inline_thinking_is_told_apart_wherever_it_is_cut(text: str, places: list[int]) -> None:
    outcomes = []
    whole = f"<think>deep</think>{text}"
    for pieces in ([whole], [piece.decode() for piece in cut(whole.encode(), places)]):
        made = composer()
        reader = Reader(made, new_id=new_ids())
        for piece in filter(None, pieces):
            reader.feed(orjson.dumps({"choices": [{"delta": {"content": piece}}]}))
        reader.feed(orjson.dumps({"choices": [{"delta": {}, "finish_reason": "stop"}]}))
        made.finish(completed_at=1, **reader.end())
        outcomes.append([item.get("summary") or item["content"][0]["text"] for item in made.output])
    said = text.lstrip("\n")
    assert outcomes[0] == outcomes[1] == [[{"type": "summary_text", "text": "deep"}], *([said] if said else [])]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(
    "model input instructions tools tool_choice text metadata include reasoning store temperature "
    "previous_response_id stream top_logprobs max_output_tokens type role content call_id output".split()
)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(fields, json_values | st.lists(st.dictionaries(fields, json_values, max_size=4), max_size=3)))
def test_whatever_a_client_sends_is_taken_or_refused_by_name(body: dict[str, Any]) -> None:
    try:
        request = requests.parse(body, "m")
    except RequestError as error:
        assert error.status == 400
        assert error.message
    else:
        orjson.dumps(response_object("resp_1", 1, request))
