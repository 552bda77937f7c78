"""How particular servers speak Chat Completions, each with its own liberties: the bytes they send, and what is read."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import orjson
import pytest

from grizz.errors import UpstreamError
from grizz.protocol import requests
from grizz.protocol.chat import messages
from grizz.protocol.compose import Composer
from grizz.protocol.events import response_object
from grizz.protocol.reader import Reader
from grizz.protocol.sse import Decoder
from tests import grammar

Object = dict[str, Any]
STOP: Object = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
CITIES = ('{"city":"Rome"}', '{"city":"Oslo"}')


def sse(*chunks: Object | bytes, end: bytes = b"\n\n", colon: bytes = b"data: ") -> bytes:
    return b"".join(colon + (chunk if isinstance(chunk, bytes) else orjson.dumps(chunk)) + end for chunk in chunks)


def delta(finish: str | None = None, **fields: Any) -> Object:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def calls(*fragments: Object | list[Object]) -> list[Object]:
    """A chunk for each; a list is several fragments in one chunk."""
    return [delta(tool_calls=one if isinstance(one, list) else [one]) for one in fragments]


def function(name: str | None, arguments: Any = None, **fields: Any) -> Object:
    return {**fields, "type": "function", "function": {"name": name, "arguments": arguments}}


def heard(stream: bytes | Iterable[Object]) -> Object:
    """The response that comes of it, after a look at the order of its events."""
    data = stream if isinstance(stream, bytes) else sse(*stream, STOP, b"[DONE]")
    ids = itertools.count()

    def new_id(prefix: str) -> str:
        return f"{prefix}_{next(ids)}"

    composer = Composer(response_object("resp_1", 1, requests.parse({"input": "x"}, "m"), "in_progress"), new_id=new_id)
    composer.lifecycle("created", "in_progress")
    composer.lifecycle("in_progress", "in_progress")
    reader, decoder = Reader(composer, new_id=new_id), Decoder()
    for payload in [*decoder.feed(data), *decoder.close()]:
        reader.feed(payload)
    composer.finish(completed_at=2, **reader.end())
    told = [orjson.loads(event.data) for event in composer.take()]
    grammar.check(told)
    response: Object = told[-1]["response"]
    return response


def text(response: Object) -> str:
    return "".join(part["text"] for item in response["output"] for part in item.get("content", ()))


def thought(response: Object) -> str:
    return "".join(part["text"] for item in response["output"] for part in item.get("summary", ()))


def called(response: Object) -> list[tuple[str, str]]:
    found = [item for item in response["output"] if item["type"] == "function_call"]
    assert all(item["call_id"] for item in found)
    assert len({item["call_id"] for item in found}) == len(found)
    return [(item["name"], item["arguments"]) for item in found]


HELLO = [delta(role="assistant", content="Hel"), delta(role="assistant", content="lo"), STOP]
STREAMS = {
    "carriage returns": sse(*HELLO, b"[DONE]", end=b"\r\n\r\n"),
    "no space after the colon": sse(*HELLO, b"[DONE]", colon=b"data:"),
    "a space after [DONE]": sse(*HELLO, b"[DONE] "),
    "no [DONE]": sse(*HELLO),
    "no blank line at the end": sse(*HELLO).rstrip(b"\n"),
    "comments and names of events": b": OPENROUTER PROCESSING\n\nevent: message\nid: 1\n" + sse(*HELLO, b"[DONE]"),
    "empty data to keep it open": sse(b"", *HELLO[:1], b" ", *HELLO[1:], b"[DONE]"),
    "a first chunk about filters": sse({"choices": [], "prompt_filter_results": [{}]}, *HELLO, b"[DONE]"),
    "no choices, no delta, nulls": sse(
        {}, {"choices": None}, {"choices": [{"finish_reason": None}]}, {"choices": [{"delta": None}]}, *HELLO
    ),
    "the end with the last word": sse(delta(content="Hel"), delta("stop", content="lo"), b"[DONE]"),
    "an empty reason in each chunk": sse(delta("", content="Hel"), delta("", content="lo"), STOP),
    "[DONE] and no reason": sse(*HELLO[:2], b"[DONE]"),
    "an error that is null": sse(*({**chunk, "error": None, "usage": None} for chunk in HELLO)),
    "no stream but one object": orjson.dumps(
        {"object": "chat.completion", "choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}
    ),
    "one object over several lines": orjson.dumps(
        {"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}, option=orjson.OPT_INDENT_2
    ),
    "content in parts": sse(
        delta(content=[{"type": "text", "text": "Hel"}]), delta(content=[{"type": "text", "text": "lo"}]), STOP
    ),
}


@pytest.mark.parametrize("name", STREAMS)
def test_the_same_words_are_read_however_they_are_sent(name: str) -> None:
    response = heard(STREAMS[name])
    assert (response["status"], text(response)) == ("completed", "Hello")


def test_an_end_without_a_reason_is_no_end_of_nothing() -> None:
    with pytest.raises(UpstreamError, match="ended its stream early") as caught:
        heard(sse(delta(role="assistant", content=""), b"[DONE]"))
    assert caught.value.retryable


THOUGHTS = {
    "DeepSeek": [delta(reasoning_content="hm", content=None), delta(reasoning_content=None, content="yes")],
    "OpenRouter": [delta(reasoning="hm", reasoning_details=[{"type": "reasoning.text", "text": "hm"}], content="")],
    "details alone": [delta(reasoning_details=[{"text": "h"}, {"summary": "m"}, {"data": "sealed"}])],
    "Mistral": [delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}])],
    "inline": [delta(content="<think>hm</think>\n\n")],
}


@pytest.mark.parametrize("name", THOUGHTS)
def test_thoughts_are_told_apart_from_words(name: str) -> None:
    stream = THOUGHTS[name] if name == "DeepSeek" else [*THOUGHTS[name], delta(content="yes")]
    response = heard(stream)
    assert [item["type"] for item in response["output"]] == ["reasoning", "message"]
    assert (thought(response), text(response)) == ("hm", "yes")


def test_one_object_that_holds_everything_is_told_in_its_order() -> None:
    tool_calls = [function("weather", CITIES[0], id="a"), function("weather", CITIES[1], id="b")]
    message = {"role": "assistant", "content": "yes", "reasoning": "hm", "refusal": None, "tool_calls": tool_calls}
    usage = {"prompt_tokens": 3.0, "completion_tokens": 5, "total_tokens": None}
    response = heard(orjson.dumps({"choices": [{"message": message, "finish_reason": "tool_calls"}], "usage": usage}))
    assert [item["type"] for item in response["output"]] == ["reasoning", "message", "function_call", "function_call"]
    assert called(response) == [("weather", city) for city in CITIES]
    assert [response["usage"][key] for key in ("input_tokens", "output_tokens", "total_tokens")] == [3, 5, 8]


TWO_CALLS = {
    "by the rule": calls(
        function("weather", "", index=0, id="a"),
        {"index": 0, "function": {"arguments": CITIES[0]}},
        function("weather", "", index=1, id="b"),
        {"index": 1, "function": {"arguments": CITIES[1]}},
    ),
    "all under index 0 (Gemini)": calls(
        function("weather", CITIES[0], index=0, id="a"), function("weather", CITIES[1], index=0, id="b")
    ),
    "whole ones without an index": calls(
        function("weather", CITIES[0], id="a"), function("weather", CITIES[1], id="b")
    ),
    "whole ones without index and id": calls(function("weather", CITIES[0]), function("weather", CITIES[1])),
    "both in one chunk without index and id": calls([function("weather", CITIES[0]), function("weather", CITIES[1])]),
    "both in one chunk with one id": calls([function("weather", city, id="same") for city in CITIES]),
    "the id in each fragment and no index": calls(
        *(
            function(name, piece, id=call_id)
            for call_id, city in zip("ab", CITIES, strict=True)
            for name, piece in (("weather", city[:5]), (None, city[5:]))
        )
    ),
    "fragments without index and id": calls(
        function("weather", CITIES[0][:5], id="a"),
        function(None, CITIES[0][5:]),
        function("weather", CITIES[1][:5], id="b"),
        function(None, CITIES[1][5:]),
    ),
    "another id in each fragment": calls(
        function("weather", "", index=0, id="a"),
        function(None, CITIES[0], index=0, id="a2"),
        function("weather", "", index=1, id="b"),
        function(None, CITIES[1], index=1, id="b2"),
    ),
    "arguments as an object": calls(
        *(function("weather", orjson.loads(city), index=n, id=f"c{n}") for n, city in enumerate(CITIES))
    ),
    "the name after the id": calls(
        *(
            fragment
            for n, city in enumerate(CITIES)
            for fragment in ({"index": n, "id": f"c{n}"}, function("weather", city, index=n))
        )
    ),
}


@pytest.mark.parametrize("name", TWO_CALLS)
def test_two_calls_are_two_however_they_are_sent(name: str) -> None:
    assert called(heard(TWO_CALLS[name])) == [("weather", city) for city in CITIES]


def test_a_single_call_may_come_outside_of_a_list() -> None:
    """As TGI sent it, with an empty id."""
    pieces = (function("weather", '{"city":', index=0, id=""), function(None, '"Rome"}', index=0, id=""))
    assert called(heard([delta(tool_calls=piece) for piece in pieces])) == [("weather", CITIES[0])]


def test_a_call_without_arguments_goes_back_with_an_empty_object() -> None:
    (call,) = heard(calls(function("now", "", index=0, id="a")))["output"]
    (message,) = messages([call], instructions=None, developer_role=False)
    assert message["tool_calls"][0]["function"] == {"name": "now", "arguments": "{}"}


@pytest.mark.parametrize(
    ("reason", "why"),
    [
        ("length", "max_output_tokens"),
        ("model_length", "max_output_tokens"),
        ("MAX_TOKENS", "max_output_tokens"),
        ("content_filter", "content_filter"),
        ("SAFETY", "content_filter"),
    ],
)
def test_an_answer_that_was_cut_is_incomplete_whatever_the_word_for_it(reason: str, why: str) -> None:
    response = heard(sse(delta(content="so far"), delta(reason)))
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": why})


@pytest.mark.parametrize("reason", ["stop", "eos_token", "stop_sequence", "tool_calls", "function_call", "COMPLETE"])
def test_an_answer_that_ended_otherwise_is_complete(reason: str) -> None:
    assert heard(sse(delta(content="all"), delta(reason)))["status"] == "completed"


BROKEN = {
    "an error beside a choice (OpenRouter)": (
        {**delta("error", content=""), "error": {"code": 502, "message": "Provider disconnected"}},
        ("server_error", "the upstream failed: Provider disconnected", True),
    ),
    "a flat error (vLLM)": (
        {"object": "error", "message": "boom", "type": "InternalServerError", "code": 500},
        ("server_error", "the upstream failed: boom", True),
    ),
    "an error by its type": ({"type": "error", "message": "boom"}, ("server_error", "the upstream failed: boom", True)),
    "an error that is a text": (
        {"error": "out of memory"},
        ("server_error", "the upstream failed: out of memory", True),
    ),
    "a limit": (
        {"error": {"code": 429, "message": "slow down"}},
        ("rate_limit_exceeded", "the upstream failed: slow down", True),
    ),
    "too long, by code": (
        {"error": {"code": "context_length_exceeded", "message": "no"}},
        ("context_length_exceeded", "the upstream failed: no", False),
    ),
    "too long, in words": (
        {"error": {"code": 400, "message": "This model's maximum context length is 9 tokens."}},
        ("context_length_exceeded", "the upstream failed: This model's maximum context length is 9 tokens.", False),
    ),
    "a reason that is none": (
        delta("abort"),
        ("server_error", "the upstream failed: it stopped with finish_reason abort", True),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("bare", [False, True], ids=["in the stream", "as the body"])
def test_an_answer_that_broke_is_not_complete_and_says_why(name: str, bare: bool) -> None:
    chunk, expected = BROKEN[name]
    with pytest.raises(UpstreamError) as caught:
        heard(orjson.dumps(chunk) if bare else sse(delta(content="so far"), chunk, STOP, b"[DONE]"))
    assert (caught.value.code.value, caught.value.message, caught.value.retryable) == expected


@pytest.mark.parametrize(
    ("odd", "read"),
    [
        (rb'"\ud83d"', "\ufffd"),
        (b'"\xf0\x9f\x98"', "\ufffd"),
        (rb'"\ud83d\ude00"', "😀"),
    ],
)
def test_half_a_letter_does_not_end_an_answer(odd: bytes, read: str) -> None:
    chunk = b'{"choices":[{"delta":{"content":' + odd + b"}}]}"
    assert text(heard(sse(delta(content="a"), chunk, delta(content="b"), STOP))) == f"a{read}b"


def test_numbers_that_json_does_not_have_are_the_least_or_none() -> None:
    entry = (
        b'{"token":"a","logprob":-Infinity,"top_logprobs":[{"token":"b","logprob":NaN},{"token":"c","logprob":-1e999}]}'
    )
    chunk = b'{"huge":' + b"9" * 30 + b',"choices":[{"delta":{"content":"a"},"logprobs":{"content":[' + entry + b"]}}]}"
    (found,) = heard(sse(chunk, STOP))["output"][0]["content"][0]["logprobs"]
    assert [one["logprob"] for one in (found, *found["top_logprobs"])] == [-9999.0, -9999.0, -9999.0]


@pytest.mark.parametrize("payload", [b"{", b"[" * 5000, b'{"a":' * 5000, b"nonsense", b"9" * 5000])
def test_what_is_no_json_at_all_fails_the_answer(payload: bytes) -> None:
    with pytest.raises(UpstreamError, match="not a JSON object"):
        heard(sse(delta(content="a"), payload, STOP))


def test_a_body_that_is_no_stream_is_bounded() -> None:
    decoder = Decoder(max_bytes=1000)
    with pytest.raises(UpstreamError, match="over 1000 bytes"):
        for _ in range(300):
            decoder.feed(b'{"a":\n')
