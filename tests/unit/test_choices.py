"""Responses in the words of Chat Completions: failures, and events as other servers' Responses APIs send them."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from grizz.protocol import choices, completions
from grizz.protocol.choices import Choice
from grizz.protocol.events import Event, response_object
from grizz.protocol.requests import Request

ASKED = completions.parse({"messages": [{"role": "user", "content": "x"}], "stream": True}, "m")


def response(status: str, **more: Any) -> dict[str, Any]:
    return {**response_object("resp_1", 1, Request("m", (), {}), status), **more}


def event(kind: str, **body: Any) -> Event:
    return Event(1, kind, orjson.dumps({"type": kind, "sequence_number": 1, **body}))


def deltas(*events: Event) -> list[dict[str, Any]]:
    data = Choice(response("in_progress"), ASKED).read(events)
    payloads = [frame.removeprefix(b"data: ") for frame in data.split(b"\n\n") if frame]
    return [orjson.loads(payload)["choices"][0]["delta"] for payload in payloads if payload != b"[DONE]"]


@pytest.mark.parametrize(
    ("code", "status", "headers"),
    [
        ("rate_limit_exceeded", 429, {}),
        ("insufficient_quota", 429, {"x-should-retry": "false"}),
        ("context_length_exceeded", 400, {}),
        ("invalid_prompt", 400, {}),
        ("model_not_found", 404, {}),
        ("server_error", 502, {}),
        ("a code of another server", 502, {}),
    ],
)
def test_a_failed_response_is_the_refusal_that_its_code_stands_for(
    code: str, status: int, headers: dict[str, str]
) -> None:
    failure = choices.failure_of(response("failed", error={"code": code, "message": "why"}))
    assert failure is not None
    assert (failure.status, failure.message, failure.headers) == (status, "why", headers)
    assert (failure.retry_after_s is not None) == (code == "rate_limit_exceeded")


def test_a_cancelled_answer_is_none_and_not_to_be_asked_for_again() -> None:
    failure = choices.failure_of(response("cancelled"))
    assert failure is not None
    assert (failure.status, failure.headers) == (409, {"x-should-retry": "false"})


def test_an_error_in_a_stream_is_openais_error_object() -> None:
    failure = choices.failure_of(response("failed", error={"code": "server_error", "message": "why"}))
    assert failure is not None
    assert choices.error_frame(failure) == (
        b'data: {"error":{"message":"why","type":"server_error","param":null,"code":"server_error"}}\n\n'
    )


def test_text_and_arguments_that_come_in_one_piece_at_their_end_are_told_once() -> None:
    where = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    call = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "", "status": "x"}
    of_call = {"item_id": "fc_1", "output_index": 1}
    found = deltas(
        event("response.output_text.done", **where, text="all of it"),
        event("response.output_item.added", output_index=1, item=call),
        event("response.function_call_arguments.done", **of_call, arguments="{}"),
        event("response.output_text.delta", **where | {"output_index": 2}, delta="more"),
        event("response.output_text.done", **where | {"output_index": 2}, text="more"),
    )
    assert found[1:] == [
        {"content": "all of it"},
        {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
        {"content": "more"},
    ]


def test_hosted_tools_and_unknown_events_are_left_out() -> None:
    item = {"type": "web_search_call", "id": "ws_1", "status": "in_progress"}
    assert (
        deltas(
            event("response.output_item.added", output_index=0, item=item),
            event("response.web_search_call.searching", output_index=0, item_id="ws_1"),
            event("response.custom_tool_call_input.delta", output_index=0, delta="x"),
            event("response.output_item.done", output_index=0, item={**item, "status": "completed"}),
        )
        == []
    )
    done = response("completed", output=[{**item, "status": "completed"}])
    (choice,) = choices.completion(done, ASKED)["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "stop")


def test_a_hosted_tool_that_broke_off_before_the_first_word_is_no_lost_answer() -> None:
    search = {"type": "web_search_call", "id": "ws_1", "status": "incomplete"}
    message = {"type": "message", "id": "msg_1", "role": "assistant", "status": "in_progress", "content": []}
    told = deltas(
        event("response.output_item.done", output_index=0, item=search),
        event("response.output_item.added", output_index=1, item=message),
        event("response.output_text.delta", item_id="msg_1", output_index=1, content_index=0, delta="a"),
    )
    assert [delta["content"] for delta in told] == ["", "a"]


def test_an_answer_that_began_to_be_told_and_begins_anew_is_an_error() -> None:
    choice = Choice(response("in_progress"), ASKED)
    first = event("response.output_text.delta", item_id="msg_1", output_index=0, content_index=0, delta="a")
    assert choice.read([first]) and choice.failure is None
    choice.losses = (0, 2)  # whatever was lost before the first word is not missed
    assert choice.read([first]) and choice.failure is None
    anew = event("response.output_text.delta", item_id="msg_2", output_index=1, content_index=0, delta="a")
    assert choice.read([Event(2, anew.type, anew.data)]) == b""
    assert choice.failure is not None and choice.failure.status == 502


def test_a_part_that_the_model_server_itself_ended_as_incomplete_does_not_end_the_answer() -> None:
    search = {"type": "web_search_call", "id": "ws_1", "status": "incomplete"}
    message = {"type": "message", "role": "assistant", "status": "incomplete"}
    told = [{**message, "id": f"msg_{n}", "content": [{"type": "output_text", "text": str(n)}]} for n in (0, 2)]
    choice = Choice(response("in_progress"), ASKED)
    data = choice.read(
        [
            event("response.output_text.delta", item_id="msg_0", output_index=0, content_index=0, delta="0"),
            event("response.output_item.done", output_index=0, item=told[0]),
            event("response.output_item.added", output_index=1, item=search),
            event("response.output_item.done", output_index=1, item=search),
            event("response.output_item.added", output_index=2, item={**told[1], "content": []}),
            event("response.output_text.delta", item_id="msg_2", output_index=2, content_index=0, delta="2"),
            event("response.completed", response=response("completed", output=[told[0], search, told[1]])),
        ]
    )
    assert choice.failure is None and data.endswith(b"data: [DONE]\n\n")
    whole = choices.completion(response("completed", output=[told[0], search, told[1]]), ASKED)
    assert whole["choices"][0]["message"]["content"] == "02"
    # What a lost worker has left in it, whole or not, is none of the answer that another one gave.
    whole = choices.completion(response("completed", output=[told[0], search, told[1]]), ASKED, 2)
    assert whole["choices"][0]["message"]["content"] == "2"


def test_an_empty_answer_still_has_a_role_and_an_end() -> None:
    found = deltas(event("response.completed", response=response("completed")))
    assert found == [{"role": "assistant", "content": "", "refusal": None}, {}]


def test_a_usage_that_nobody_counted_is_left_out_of_the_stream_and_null_otherwise() -> None:
    asked = completions.parse(
        {"messages": [{"role": "user", "content": "x"}], "stream": True, "stream_options": {"include_usage": True}}, "m"
    )
    done = response("completed")
    data = Choice(done, asked).read([event("response.completed", response=done)])
    assert b'"choices":[]' not in data and data.endswith(b"data: [DONE]\n\n")
    assert choices.completion(done, asked)["usage"] is None
