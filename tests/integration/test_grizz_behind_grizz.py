"""One Grizz asks another one, which has the demo model behind it: the pass-through against a whole real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from tests import grammar
from tests.conftest import Grizz, running_grizz
from tests.player import numbers, text_of
from tests.several import Several, running

TOOL = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}
Event = dict[str, Any]


@asynccontextmanager
async def two() -> AsyncIterator[tuple[Several, Grizz]]:
    """The one in front, and the one behind."""
    async with (
        running_grizz() as behind,
        running({"behind": {"base_url": f"{behind.url}/v1", "api": "responses"}}) as front,
    ):
        yield front, behind


async def ask(front: Several, way: str, text: str, **fields: Any) -> list[Event]:
    """All events of an answer, by WebSocket or as server-sent events."""
    if way == "ws":
        return await (await front.player()).ask(text, **fields)
    body = {"input": text, "stream": True, **fields}
    async with front.http.post(f"{front.url}/v1/responses", json=body) as answer:
        assert answer.status == 200, await answer.text()
        lines = (await answer.read()).split(b"\n")
    data = [line.removeprefix(b"data: ") for line in lines if line.startswith(b"data: ")]
    assert data[-1] == b"[DONE]"
    return [orjson.loads(line) for line in data[:-1]]


@pytest.mark.parametrize("way", ["ws", "http"])
async def test_an_answer_goes_through_both(way: str) -> None:
    async with two() as (front, behind):
        events = await ask(front, way, "[[reasoning:let me see]] [[words:50]]")
        grammar.check(events)
        assert text_of(events) == numbers(50)
        done = events[-1]["response"]
        assert [item["type"] for item in done["output"]] == ["reasoning", "message"]
        assert done["usage"]["output_tokens"] == 53
        inner = [turn for turn in behind.app.engine.history._turns]
        assert done["id"] not in inner
        assert behind.demo.requests == 1


@pytest.mark.parametrize("way", ["ws", "http"])
async def test_a_tool_loop_over_both(way: str) -> None:
    async with two() as (front, behind):
        events = await ask(front, way, "What is the weather in Paris?", tools=[TOOL])
        grammar.check(events)
        (call,) = events[-1]["response"]["output"]
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "42 degrees"}
        previous = events[-1]["response"]["id"]
        body = {"input": [output], "previous_response_id": previous, "tools": [TOOL]}
        async with front.http.post(f"{front.url}/v1/responses", json=body) as answer:
            done = await answer.json()
        assert "42 degrees" in done["output"][0]["content"][0]["text"]
        assert [m["role"] for m in behind.demo.last_request["messages"]] == ["user", "assistant", "tool"]


async def test_a_failure_behind_is_one_in_front_with_what_was_said() -> None:
    async with two() as (front, _):
        events = await ask(front, "ws", "[[words:20]] [[cut:7]]")
        grammar.check(events)
        failed = events[-1]["response"]
        assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
        assert text_of(events) == numbers(7)


@pytest.mark.parametrize(
    ("fault", "code"), [("error:400", "invalid_prompt"), ("error:context", "context_length_exceeded")]
)
async def test_an_error_code_behind_is_kept(fault: str, code: str) -> None:
    async with two() as (front, behind):
        events = await ask(front, "ws", f"[[{fault}]]")
        assert events[-1]["response"]["error"]["code"] == code
        assert behind.demo.requests == 1


async def test_a_model_that_is_not_there_is_not_asked_for_again() -> None:
    async with two() as (front, behind):
        events = await ask(front, "ws", "[[error:404]]")
        assert events[-1]["response"]["error"]["code"] == "model_not_found"
        assert behind.demo.requests == 1


async def test_a_cancel_leaves_nobody_reading_behind() -> None:
    async with two() as (front, behind):
        player = await front.player()
        await player.create("[[words:2000]] [[rate:100]]")
        begun = await player.until("response.output_text.delta")
        await player.send({"type": "response.cancel"})
        events = begun + await player.answer()
        grammar.check(events)
        assert events[-1]["response"]["status"] == "cancelled"
        (reply,) = behind.app.engine.replies.all_running()
        async with asyncio.timeout(5):
            while reply.readers:
                await asyncio.sleep(0.01)


async def test_many_answers_at_a_time() -> None:
    async with two() as (front, _):
        answers = await asyncio.gather(*(ask(front, "http", f"[[words:{30 + n}]]") for n in range(20)))
        for n, events in enumerate(answers):
            grammar.check(events)
            assert text_of(events) == numbers(30 + n)
