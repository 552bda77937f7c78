"""Several processes before a server that speaks the Responses API: nothing of what it says is lost on the way."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests import grammar
from tests.nodes import Client, busy_one, nodes_on
from tests.player import numbers
from tests.redis_servers import RedisServer

pytestmark = pytest.mark.timeout(120)
ASKED = "[[hosted]] [[unknown-event:3]] [[reasoning:well now]] [[words:200]] [[rate:50]]"
KINDS = ["web_search_call", "reasoning", "message"]


def kinds(client: Client) -> list[str]:
    return [item["type"] for item in client.events[-1]["response"]["output"]]


async def begun(client: Client, text: str) -> asyncio.Task[Any]:
    asking = asyncio.create_task(client.ask(text))
    while not any(event["type"] == "response.output_text.delta" for event in client.events):
        await asyncio.sleep(0.05)
    return asking


async def test_an_answer_run_elsewhere_reads_like_one_run_at_home(own_redis: RedisServer, tmp_path: Path) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        home = await nodes.start(workers__concurrency=0, upstream__api="responses")
        await nodes.start(upstream__api="responses")
        client = Client(http, [home])
        await client.ask(ASKED.replace("rate:50", "rate:0"))
        client.check()
        grammar.check(client.events)
        assert kinds(client) == KINDS
        assert client.text == numbers(200)
        assert "demo:weather" in [event["type"] for event in client.events]


async def test_a_killed_worker_leaves_its_items_closed_and_another_goes_on(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        home = await nodes.start(workers__concurrency=0, upstream__api="responses")
        workers = [await nodes.start(upstream__api="responses") for _ in range(2)]
        client = Client(http, [home])
        asking = await begun(client, ASKED)
        (await busy_one(http, workers)).kill()
        await asking
        client.check()
        grammar.check(client.events)
        assert kinds(client) == KINDS * 2
        output = client.events[-1]["response"]["output"]
        assert [item["status"] for item in output if item["type"] == "message"] == ["incomplete", "completed"]
        assert output[-1]["content"][0]["text"] == numbers(200)


async def test_a_killed_home_is_taken_over(own_redis: RedisServer, tmp_path: Path) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        home = await nodes.start(upstream__api="responses")
        other = await nodes.start(upstream__api="responses")
        client = Client(http, [home, other])
        asking = await begun(client, ASKED)
        home.kill()
        await asking
        client.check()
        assert kinds(client) == KINDS
        assert client.text == numbers(200)
