"""Chat completions where the job runs at another process than the one that was asked."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import orjson
import pytest
from openai import AsyncOpenAI

from tests.nodes import Nodes, nodes_on
from tests.player import numbers
from tests.redis_servers import RedisServer

pytestmark = pytest.mark.timeout(120)
PATH = "/v1/chat/completions"
FUNCTION = {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}


def body(text: str, **fields: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}], **fields}


async def gone(nodes: Nodes) -> None:
    async with asyncio.timeout(30):
        while nodes.demo.active:
            await asyncio.sleep(0.01)


async def test_streams_tools_and_failures_are_the_same_when_another_node_does_the_work(
    own_redis: RedisServer, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes:
        asked = await nodes.start(workers__concurrency=0)
        await nodes.start(workers__concurrency=4)
        async with AsyncOpenAI(base_url=f"{asked.url}/v1", api_key="any", max_retries=0) as client:
            stream = await client.chat.completions.create(
                model="grizz-demo",
                messages=[{"role": "user", "content": "[[reasoning:hm]] [[words:200]] [[rate:400]]"}],
                stop="END",
                seed=5,
                stream=True,
                stream_options={"include_usage": True},
            )
            chunks = [chunk async for chunk in stream]
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == numbers(200)
            assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 201
            # What only a chat upstream knows has travelled with the job.
            assert (nodes.demo.last_request["stop"], nodes.demo.last_request["seed"]) == ("END", 5)
            done = await client.chat.completions.create(
                model="grizz-demo",
                messages=[{"role": "user", "content": "Weather in Paris?"}],
                tools=[{"type": "function", "function": FUNCTION}],  # type: ignore[list-item]
            )
            assert done.choices[0].finish_reason == "tool_calls"
        async with http.post(asked.url + PATH, json=body("[[error:context]]", stream=True)) as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]["code"] == "context_length_exceeded"


async def test_a_client_that_leaves_ends_the_work_at_the_other_node(
    own_redis: RedisServer, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes:
        asked = await nodes.start(workers__concurrency=0)
        await nodes.start(workers__concurrency=4)
        async with http.post(asked.url + PATH, json=body("[[words:9]] [[stall:4]]", stream=True)) as answer:
            await answer.content.readuntil(b'"w0 "')
            assert nodes.demo.active == 1
            answer.close()
        await gone(nodes)
        assert nodes.demo.disconnected == 1


async def test_an_answer_whose_home_dies_is_taken_over_by_nobody(
    own_redis: RedisServer, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    """Its client went with the home, and cannot come back; others are kept running for a minute."""
    async with nodes_on(own_redis.url, tmp_path) as nodes:
        asked = await nodes.start(workers__concurrency=0, workers__lease_s=2)
        await nodes.start(workers__concurrency=4, workers__lease_s=2)
        async with http.post(asked.url + PATH, json=body("[[words:9]] [[stall:4]]", stream=True)) as answer:
            await answer.content.readuntil(b'"w0 "')
            asked.kill()
            with pytest.raises(aiohttp.ClientError):
                await answer.content.read()
        await gone(nodes)
        assert nodes.demo.requests == 1


async def test_an_answer_whose_worker_dies_half_way_is_an_error_in_a_stream_and_whole_without_one(
    own_redis: RedisServer, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    """A stream cannot take back what it said, and the next worker begins anew."""
    async with nodes_on(own_redis.url, tmp_path) as nodes:
        asked = await nodes.start(workers__concurrency=0, workers__lease_s=2)
        worker = await nodes.start(workers__concurrency=4, workers__lease_s=2)
        text = "[[words:9]] [[stall:4]] [[times:2]]"
        async with http.post(asked.url + PATH, json=body(text, stream=True)) as answer:
            await answer.content.readuntil(b'"w0 "')
            whole = asyncio.ensure_future(http.post(asked.url + PATH, json=body(text)))
            async with asyncio.timeout(20):
                while nodes.demo.active < 2:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.5)
            worker.kill()
            await nodes.start(workers__concurrency=4, workers__lease_s=2)
            rest = await answer.content.read()
        last = orjson.loads(rest.split(b"\n\n")[-2].removeprefix(b"data: "))
        assert "lost this answer half-way" in last["error"]["message"]
        async with await whole as answer:
            done = await answer.json()
        assert (answer.status, done["choices"][0]["message"]["content"]) == (200, numbers(9))
        await gone(nodes)
