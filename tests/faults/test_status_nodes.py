"""The status page before several nodes: all are in the table, and nobody pays for it but who looks."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.faults.test_commands import all_sent, sent
from tests.faults.test_processes import COUNT, group_on
from tests.nodes import Node, nodes_on
from tests.redis_servers import RedisServer

pytestmark = pytest.mark.timeout(120)


async def status(http: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with http.get(f"{url}/status.json") as answer:
        assert answer.status == 200
        return await answer.json()


async def table(http: aiohttp.ClientSession, node: Node, count: int) -> dict[str, dict[str, Any]]:
    """Its rows by node, once there are so many."""
    async with asyncio.timeout(40):
        while len(rows := (await status(http, node.url))["nodes"]) < count:
            await asyncio.sleep(1)
    return {row["node"]: row for row in rows}


async def test_both_nodes_are_in_the_table_of_each_and_only_a_look_costs_commands(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        both = [await nodes.start(workers__concurrency=3), await nodes.start(workers__concurrency=5)]
        await asyncio.sleep(3.5)
        before = await all_sent(own_redis)
        await asyncio.sleep(5)
        assert sent(own_redis) == before, "nobody looks"
        tables = []
        for node in both:
            tables.append(await table(http, node, 2))
            for _ in range(5):
                await status(http, node.url)
        assert await all_sent(own_redis) - before <= 4, "a question and an answer for each that looks, however often"
        assert tables[0].keys() == tables[1].keys()
        assert sorted(row["slots"] for row in tables[0].values()) == [3, 5]
        for row in tables[1].values():
            assert (row["state"], row["degraded"], row["queued"]) == ("answers", "", 0)
            assert row["uptime_s"] >= 3
        shown = await status(http, both[0].url)
        assert sum(shown["redis"]["commands"].values()) >= 3
        assert shown["redis"]["per_hour"] >= 3
        assert shown["redis"]["projected_month"] > 0
        assert shown["redis"]["budget_month"] == 0


async def test_a_node_that_stands_still_is_shown_as_silent_and_holds_nobody_up(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        first, second = await nodes.start(), await nodes.start()
        await table(http, first, 2)
        second.signal(signal.SIGSTOP)
        async with asyncio.timeout(40):
            while [row["state"] for row in (await table(http, first, 2)).values()] != ["answers", "silent"]:
                await asyncio.sleep(0.5)
        checks = {check["what"]: check for check in (await status(http, first.url))["checks"]}
        assert "1 of 2 processes do not answer" in checks["nodes"]["text"]
        second.signal(signal.SIGCONT)


async def test_without_redis_the_page_says_so_at_once(own_redis: RedisServer, tmp_path: Path) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        node = await nodes.start()
        await asyncio.to_thread(own_redis.kill)
        async with asyncio.timeout(40):
            while not (shown := await status(http, node.url))["redis"]["trouble"]:
                await asyncio.sleep(0.2)
        assert any(check["what"] == "redis" and "works alone" in check["text"] for check in shown["checks"])
        assert [row["degraded"] for row in shown["nodes"]] == [f"redis: {shown['redis']['trouble']}"]


async def test_on_a_shared_port_any_process_shows_all(own_redis: RedisServer, tmp_path: Path) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, group_on(nodes) as group, aiohttp.ClientSession() as http:
        rows = await table(http, group.parent, COUNT)
        assert len(rows) == COUNT
        assert (await status(http, group.parent.url))["shares_port"] is True
