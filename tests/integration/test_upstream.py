"""What clients see when the upstream misbehaves; the faults are real HTTP faults of the demo server."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from grizz.errors import UpstreamError
from grizz.upstream.openai import OpenAIUpstream
from tests.conftest import Grizz
from tests.player import Player, numbers, text_of


@pytest.fixture
async def player(grizz: Grizz, http: aiohttp.ClientSession) -> Player:
    return await Player.connect(http, grizz.ws_url)


@pytest.mark.parametrize("fault", ["error:500", "error:503", "error:429", "cut:0", "eof:0", "midstream-error:0"])
async def test_a_passing_fault_before_the_first_word_is_retried_unseen(
    player: Player, grizz: Grizz, fault: str
) -> None:
    events = await player.ask(f"[[words:5]] [[{fault}]] [[times:1]] [[retry-after:0]]")
    assert text_of(events) == numbers(5)
    assert events[-1]["type"] == "response.completed"
    assert grizz.demo.requests == 2


@pytest.mark.parametrize(
    ("fault", "code", "requests"),
    [
        ("error:500", "server_error", 3),
        ("error:429", "rate_limit_exceeded", 3),
        ("error:quota", "insufficient_quota", 1),
        ("error:context", "context_length_exceeded", 1),
        ("error:400", "invalid_prompt", 1),
        ("error:401", "server_error", 1),
        ("error:404", "model_not_found", 1),
    ],
)
async def test_a_lasting_fault_fails_the_response_after_bounded_tries(
    player: Player, grizz: Grizz, fault: str, code: str, requests: int
) -> None:
    events = await player.ask(f"[[{fault}]] [[retry-after:0]]")
    failed = events[-1]
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert failed["response"]["error"]["code"] == code
    assert grizz.demo.requests == requests
    assert text_of(await player.ask("[[echo:fine again]]")) == "fine again"


async def test_the_operators_key_problem_is_not_described_to_clients(player: Player) -> None:
    message = (await player.ask("[[error:401]]"))[-1]["response"]["error"]["message"]
    assert message == "the upstream refused this server's API key"


@pytest.mark.parametrize("fault", ["cut:7", "eof:7", "midstream-error:7", "garbage:7"])
async def test_a_stream_that_breaks_off_fails_with_what_was_produced_and_is_not_retried(
    player: Player, grizz: Grizz, fault: str
) -> None:
    events = await player.ask(f"[[words:20]] [[{fault}]]")
    failed = events[-1]["response"]
    assert failed["status"] == "failed"
    assert failed["error"]["code"] == "server_error"
    assert failed["output"][0]["status"] == "incomplete"
    assert failed["output"][0]["content"][0]["text"] == numbers(7) == text_of(events)
    assert grizz.demo.requests == 1


async def test_an_upstream_that_falls_silent_is_given_up_after_the_idle_timeout(
    start_grizz, http: aiohttp.ClientSession
) -> None:
    grizz = await start_grizz(upstream__idle_timeout_s=0.3)
    player = await Player.connect(http, grizz.ws_url)
    failed = (await player.ask("[[words:20]] [[stall:5]]"))[-1]["response"]
    assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
    assert failed["output"][0]["content"][0]["text"] == numbers(5)
    assert failed["error"]["message"] == "the upstream was silent for 0.3 s"


async def test_an_answer_that_takes_too_long_in_all_is_ended(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(workers__job_timeout_s=0.5)
    player = await Player.connect(http, grizz.ws_url)
    failed = (await player.ask("[[words:1000]] [[rate:50]]"))[-1]["response"]
    assert failed["status"] == "failed"
    assert "0.5 s" in failed["error"]["message"]
    async with asyncio.timeout(5):
        while not grizz.demo.disconnected:
            await asyncio.sleep(0.01)


async def test_an_upstream_that_is_not_there_fails_the_response_clearly(
    start_grizz, http: aiohttp.ClientSession
) -> None:
    grizz = await start_grizz(upstream__max_retries=1)
    await grizz.demo.stop()
    player = await Player.connect(http, grizz.ws_url)
    failed = (await player.ask("hello"))[-1]["response"]
    assert failed["status"] == "failed"
    assert failed["error"] == {"code": "server_error", "message": "the upstream could not be reached"}


async def test_a_pooled_connection_that_the_upstream_dropped_is_survived(grizz: Grizz, player: Player) -> None:
    port = int(grizz.demo.url.rsplit(":", 1)[1].split("/")[0])
    assert text_of(await player.ask("[[echo:before]]")) == "before"
    await grizz.demo.stop()
    await grizz.demo.start(port=port)
    assert text_of(await player.ask("[[echo:after]]")) == "after"


async def test_an_answer_beyond_the_byte_bound_is_ended_and_says_so(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(replies__max_reply_bytes=20_000)
    player = await Player.connect(http, grizz.ws_url)
    failed = (await player.ask("[[words:50000]]"))[-1]["response"]
    assert failed["status"] == "failed"
    assert "20000 bytes" in failed["error"]["message"]


async def test_a_tool_call_comes_through_and_its_result_goes_back(player: Player, grizz: Grizz) -> None:
    tool = {
        "type": "function",
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }
    events = await player.ask("What is the weather in Paris?", tools=[tool])
    response = events[-1]["response"]
    call = response["output"][0]
    assert (call["type"], call["name"], call["status"]) == ("function_call", "get_weather", "completed")
    deltas = [event["delta"] for event in events if event["type"] == "response.function_call_arguments.delta"]
    assert "".join(deltas) == call["arguments"]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "18 degrees, light rain"}
    await player.send(
        {"type": "response.create", "input": [result], "previous_response_id": response["id"], "tools": [tool]}
    )
    assert "18 degrees, light rain" in text_of(await player.answer())
    roles = [message["role"] for message in grizz.demo.last_request["messages"]]
    assert roles == ["user", "assistant", "tool"]


@pytest.mark.parametrize("odd", ["split:1", "split:7", "crlf", "comment", "no-role", "no-usage"])
async def test_odd_but_legal_streams_read_the_same(player: Player, odd: str) -> None:
    events = await player.ask(f"[[words:30]] [[{odd}]]")
    assert text_of(events) == numbers(30)
    assert events[-1]["type"] == "response.completed"


async def test_reasoning_comes_first_as_a_summary_and_raw_when_asked(player: Player) -> None:
    events = await player.ask("[[reasoning:let me think]] [[echo:42]]")
    first, second = events[-1]["response"]["output"]
    assert first["summary"] == [{"type": "summary_text", "text": "let me think"}]
    assert second["content"][0]["text"] == "42"
    raw = await player.ask("[[reasoning:let me think]] [[echo:42]]", grizz_reasoning="raw")
    assert raw[-1]["response"]["output"][0]["content"] == [{"type": "reasoning_text", "text": "let me think"}]


@pytest.mark.parametrize(("directive", "reason"), [("length:4", "max_output_tokens"), ("filter:4", "content_filter")])
async def test_an_answer_cut_by_length_or_filter_is_incomplete_with_its_reason(
    player: Player, directive: str, reason: str
) -> None:
    done = (await player.ask(f"[[words:20]] [[{directive}]]"))[-1]
    assert done["type"] == "response.incomplete"
    assert done["response"]["incomplete_details"] == {"reason": reason}
    assert done["response"]["output"][0]["status"] == "incomplete"


async def test_a_refusal_is_a_completed_response(player: Player) -> None:
    done = (await player.ask("[[refusal:I would rather not.]]"))[-1]
    assert done["type"] == "response.completed"
    assert done["response"]["output"][0]["content"] == [{"type": "refusal", "refusal": "I would rather not."}]


async def test_what_the_upstream_says_of_a_prompt_does_not_reach_the_log(
    player: Player, caplog: pytest.LogCaptureFixture
) -> None:
    failed = await player.ask("[[words:my-secret-text]]")
    assert "my-secret-text" in failed[-1]["response"]["error"]["message"]
    assert "upstream failed" in caplog.text
    assert not any("my-secret-text" in str(vars(record)) for record in caplog.records)


@pytest.mark.parametrize("body", [b"[]", b'{"data": [{"name": "x"}]}', b'{"data": 5}', b"{}"])
async def test_a_list_of_models_of_another_shape_is_an_error_of_the_upstream_or_empty(
    body: bytes, aiohttp_server: Any
) -> None:
    async def models(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_get("/v1/models", models)
    url = str((await aiohttp_server(app)).make_url("/v1"))
    upstream = OpenAIUpstream(
        name="odd", base_url=url, api_key="k", connect_timeout_s=1, idle_timeout_s=5, max_connections=1
    )
    try:
        assert await upstream.models() == []
    except UpstreamError as error:
        assert "another shape" in error.message
    finally:
        await upstream.close()
