"""Input that once broke something, each as small as it was found; `tests/fuzz` looks for more."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
import pytest

from grizz.config import load
from grizz.engine.worker import Work
from grizz.errors import Code, ConfigError, RequestError, UpstreamError
from grizz.protocol import chat, requests
from grizz.protocol.compose import Composer
from grizz.protocol.events import response_object
from grizz.protocol.reader import Reader, usage
from grizz.protocol.sse import Decoder
from grizz.transport.redis.record import Codec, UnreadableRecord, unpack

# What clients send


def refusal(body: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        requests.parse(body, "m")
    assert caught.value.status == 400
    return caught.value


def nested(levels: int) -> Any:
    return orjson.loads("[" * levels + "]" * levels)


def test_a_part_whose_type_is_a_list_is_refused() -> None:
    error = refusal({"input": [{"role": "user", "content": [{"type": []}]}]})
    assert (error.code, error.param) == (Code.INVALID_VALUE, "input[0].content[0]")


@pytest.mark.parametrize("levels", [300, 1000])
def test_a_request_that_is_nested_deeper_than_can_be_written_is_refused(levels: int) -> None:
    for body in (
        {"input": "x", "tools": [{"type": "t", "deep": nested(levels)}]},
        {"input": [{"type": "x_call", "deep": nested(levels)}]},
    ):
        assert refusal(body).code is Code.INVALID_VALUE


def test_the_deepest_request_that_is_taken_can_be_written_in_an_event_and_a_record() -> None:
    levels = next(n for n in itertools.count(200) if not taken(n + 1))
    request = requests.parse(tool_of(levels), "m")
    response = response_object("resp_1", 1, request)
    composer = Composer(response, new_id=str)
    composer.lifecycle("created", "queued")
    orjson.dumps({"work": Work(request, list(request.input), response).to_wire()})


def tool_of(levels: int) -> dict[str, Any]:
    return {"input": "x", "tools": [{"type": "t", "deep": nested(levels)}]}


def taken(levels: int) -> bool:
    try:
        requests.parse(tool_of(levels), "m")
    except RequestError:
        return False
    return True


@pytest.mark.parametrize("type_", [["x"], {"a": nested(200)}, 5, "x" * 5000])
def test_the_type_of_an_unknown_item_is_not_repeated_at_length(type_: Any) -> None:
    assert len(refusal({"input": [{"type": type_}]}).message) < 400


@pytest.mark.parametrize(
    "choice", [{"tools": 5}, {"tools": ["f"]}, {}, {"tools": [], "mode": {"a": 1}}, {"tools": [], "mode": "none"}]
)
def test_allowed_tools_of_another_shape_are_refused(choice: dict[str, Any]) -> None:
    assert refusal({"input": "x", "tool_choice": {"type": "allowed_tools", **choice}}).param in (
        "tool_choice.tools",
        "tool_choice.mode",
    )


def test_an_allowed_tool_whose_name_is_a_list_allows_nothing() -> None:
    choice = {"type": "allowed_tools", "tools": [{"type": "function", "name": []}]}
    body = {"input": "x", "tools": [{"type": "function", "name": "f"}], "tool_choice": choice}
    assert "tools" not in chat.body(requests.parse(body, "m"), [])


@pytest.mark.parametrize("role", ["user", "system", "assistant"])
def test_what_an_image_says_besides_is_not_taken_for_text(role: str) -> None:
    image = {"type": "input_image", "image_url": "https://u", "text": 5}
    request = requests.parse({"input": [{"role": role, "content": [image]}]}, "m")
    (message,) = chat.body(request, request.input)["messages"]
    shown = [{"type": "image_url", "image_url": {"url": "https://u"}}]
    assert message["content"] == (shown if role == "user" else "")


def test_an_empty_text_within_a_tools_output_stays_empty() -> None:
    output = [{"type": "input_text", "text": ""}, {"type": "input_image", "image_url": "u", "text": 5}]
    items = [{"type": "function_call_output", "call_id": "c", "output": output}]
    message, seen = chat.messages(items, instructions=None, developer_role=False)
    assert message["content"] == "[image, shown below]"
    assert seen["content"][1] == {"type": "image_url", "image_url": {"url": "u"}}


# What model servers send


def reader() -> tuple[Reader, Composer]:
    ids = itertools.count()
    response = response_object("resp_1", 1, requests.parse({"input": "x"}, "m"), "in_progress")
    composer = Composer(response, new_id=lambda prefix: f"{prefix}_{next(ids)}")
    composer.lifecycle("created", "in_progress")
    return Reader(composer, new_id=lambda prefix: f"{prefix}_{next(ids)}"), composer


def chunk(delta: dict[str, Any], **choice: Any) -> bytes:
    return orjson.dumps({"choices": [{"delta": delta, **choice}]})


def call(**fields: Any) -> dict[str, Any]:
    return {"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}, **fields}]}


def logprob(**fields: Any) -> dict[str, Any]:
    return {"content": [{"token": "x", "logprob": -1, "bytes": [120], "top_logprobs": [], **fields}]}


@pytest.mark.parametrize(
    "payload",
    [
        chunk({"refusal": 5}),
        chunk(call(function={"name": 5, "arguments": "{}"})),
        chunk(call(function={"name": {"a": 1}, "arguments": "{}"})),
        chunk(call(id=5)),
        chunk(call(index=[])),
        chunk(call(index="0")),
        chunk(call(function={"name": "f", "arguments": "@"})).replace(b'"@"', b"[" * 300 + b"]" * 300),
        chunk({}, finish_reason={"a": 1}),
        chunk({"content": "x"}, logprobs=logprob(token=5)),
        chunk({"content": "x"}, logprobs=logprob(logprob="-1")),
        chunk({"content": "x"}, logprobs=logprob(bytes=["x"])),
        chunk({"content": "x"}, logprobs=logprob(top_logprobs=[{"token": "x"}])),
    ],
)
def test_a_chunk_of_another_shape_fails_the_answer_which_then_ends_as_any_other(payload: bytes) -> None:
    read, composer = reader()
    read.feed(chunk({"content": "so far"}))
    with pytest.raises(UpstreamError, match="another shape"):
        read.feed(payload)
    composer.finish("failed", error={"code": "server_error", "message": "x"})
    assert composer.take()[-1].type == "response.failed"


def test_usage_that_is_no_count_is_0_and_never_breaks_a_metric() -> None:
    odd = {"prompt_tokens": "many", "completion_tokens": -1, "total_tokens": 2**64, "prompt_tokens_details": [1]}
    found = usage(odd)
    assert (found["input_tokens"], found["output_tokens"], found["total_tokens"]) == (0, 0, 0)
    assert found["input_tokens_details"] == {"cached_tokens": 0, "cache_write_tokens": 0}
    assert usage({"prompt_tokens": 2.5, "completion_tokens": True})["total_tokens"] == 0


@pytest.mark.parametrize("strange", [[5], "x", 5, {"prompt_tokens_details": "x"}])
def test_usage_of_another_shape_beside_content_does_no_harm(strange: Any) -> None:
    read, _ = reader()
    read.feed(orjson.dumps({"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}], "usage": strange}))
    assert read.end()["status"] == "completed"


@pytest.mark.parametrize("detail", ["x" * 5000, {"message": "x" * 5000}, {"message": {"a": 1}}, {"code": 5}, [5], 5])
def test_an_upstreams_error_is_shown_in_short_and_only_if_it_is_text(detail: Any) -> None:
    read, _ = reader()
    with pytest.raises(UpstreamError, match="the upstream failed: (x{1000}|it did not say why)$"):
        read.feed(orjson.dumps({"error": detail}))


def test_an_upstreams_error_that_is_deeper_than_the_stack_is_an_error_like_others() -> None:
    read, _ = reader()
    with pytest.raises(UpstreamError, match="did not say why"):
        read.feed(b'{"error":' + b"[" * 1000 + b"]" * 1000 + b"}")


def test_what_follows_the_end_of_a_stream_does_not_count_even_in_the_same_read() -> None:
    read, _ = reader()
    for payload in Decoder().feed(
        b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\ndata: no\n\n'
    ):
        read.feed(payload)
    assert read.end()["status"] == "completed"


@pytest.mark.parametrize(
    "pieces", [[b"data: 1234567890\n\n"], [b"data: 123", b"4567890\n\n"], [b"data: 1234567890\n", b"\n"]]
)
def test_an_event_that_is_too_large_is_refused_wherever_it_is_cut(pieces: list[bytes]) -> None:
    decoder = Decoder(max_bytes=12)
    with pytest.raises(UpstreamError, match="over 12 bytes"):
        for piece in pieces:
            decoder.feed(piece)


def test_empty_lines_of_data_without_end_do_not_fill_memory() -> None:
    decoder = Decoder(max_bytes=100)
    with pytest.raises(UpstreamError, match="over 100 bytes"):
        for _ in range(200):
            decoder.feed(b"data:\n")


# What stands in the Redis

CODEC = Codec(pack=lambda payload: payload, unpack=lambda body: body, may_keep=lambda payload: True)
RECORD = {"v": 1, "id": "r", "owner": "o", "home": "h", "attempt": 1, "token": "t", "accepted_at": 1.0}
RECORD |= {"expires_at": 1.0, "size": 1, "next_seq": 2, "output": [], "work": {}}


@pytest.mark.parametrize(
    "wrong",
    [{"output": "abc"}, {"output": [5]}, {"output": {"a": 1}}, {"next_seq": -1}, {"size": "5"}, {"attempt": True}],
)
async def test_a_record_with_another_shape_is_unreadable(wrong: dict[str, Any]) -> None:
    assert unpack(orjson.dumps(RECORD), CODEC).delivery.job.next_seq == 2
    with pytest.raises(UnreadableRecord):
        unpack(orjson.dumps(RECORD | wrong), CODEC)


# Settings


def complaint(environ: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as caught:
        load({}, environ, None)
    return str(caught.value)


def test_a_password_given_to_the_wrong_setting_is_not_shown() -> None:
    text = complaint(
        {"GRIZZ_SERVER_HOST": "redis://me:hunter2@host", "GRIZZ_SERVER_ALLOWED_HOSTS": "a b,x://me:hunter2@h"}
    )
    assert "server.host" in text and "server.allowed_hosts" in text and "hunter2" not in text


@pytest.mark.parametrize("value", ["hunter2", "sub/hunter2", "redis://me:hunter2@host"])
def test_a_secret_in_the_place_of_its_files_name_is_not_shown(value: str) -> None:
    text = complaint({"OPENAI_API_KEY_FILE": value})
    assert text.startswith("environment OPENAI_API_KEY_FILE: upstream.api_key: the file it names cannot be read")
    assert "hunter2" not in text


@pytest.mark.parametrize("odd", ["a\x85b", "a\u2028b", "a\nb", "\udcff"])
def test_a_text_that_cannot_be_shown_on_one_line_is_refused_on_one_line(odd: str) -> None:
    text = complaint({"GRIZZ_UPSTREAM_MODEL": odd})
    assert text.splitlines() == [text] and "upstream.model" in text
    text.encode()
