"""Whatever happens to Redis: running answers go on, new ones run, nobody waits, and the way back mends everything."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.nodes import Client, Node, Nodes, metric, nodes_on
from tests.player import numbers
from tests.redis_servers import FaultProxy, RedisServer, free_port

pytestmark = pytest.mark.timeout(120)

LONG = "[[words:160]] [[rate:40]]"


@asynccontextmanager
async def a_pair(url: str, directory: Path) -> AsyncIterator[tuple[Nodes, Node, Node, aiohttp.ClientSession]]:
    """A home with a single slot and a worker with many: the home's second answer runs at the worker."""
    async with nodes_on(url, directory) as nodes, aiohttp.ClientSession() as http:
        home = await nodes.start(workers__concurrency=1)
        worker = await nodes.start()
        yield nodes, home, worker, http


async def is_up(http: aiohttp.ClientSession, node: Node) -> bool:
    return await metric(http, node, "grizz_redis_up") == 1


async def until(check: Callable[[], Awaitable[bool]], within_s: float = 60) -> None:
    async with asyncio.timeout(within_s):
        while not await check():
            await asyncio.sleep(0.1)


async def ride_through(
    nodes: Nodes,
    home: Node,
    worker: Node,
    http: aiohttp.ClientSession,
    break_it: Callable[[], Any],
    mend_it: Callable[[], Any],
    *,
    for_s: float = 4.0,
) -> list[Client]:
    """One answer at home and one elsewhere stream while it breaks; two more begin while it is broken; then it mends."""
    clients = [Client(http, [home]) for _ in range(2)]
    running = []
    for client in clients:
        running.append(asyncio.create_task(client.ask(LONG)))
        while len(client.events) < 5:
            await asyncio.sleep(0.02)
    await asyncio.to_thread(break_it)
    await asyncio.sleep(0.3)
    late = [Client(http, [node]) for node in (home, worker)]
    began = time.monotonic()
    running += [asyncio.create_task(client.ask("[[words:30]] [[rate:60]]")) for client in late]
    while not late[1].events:
        await asyncio.sleep(0.01)
    assert time.monotonic() - began < 3.0, "a new answer waited for Redis"
    await asyncio.sleep(for_s)
    await asyncio.to_thread(mend_it)
    await asyncio.gather(*running)
    for client in [*clients, *late]:
        client.check()
        assert client.closes == []
    assert clients[0].text == numbers(160)
    assert late[0].text == late[1].text == numbers(30)
    assert [item["status"] for item in clients[1].events[-1]["response"]["output"]][-1] == "completed"
    assert clients[1].events[-1]["response"]["output"][-1]["content"][0]["text"] == numbers(160)
    assert nodes.demo.requests <= 5, "more than one extra upstream call"
    for node in (home, worker):
        await until(lambda node=node: is_up(http, node))
    # And it works together again: the home's second answer runs elsewhere.
    after = [Client(http, [home]) for _ in range(2)]
    await asyncio.gather(*(client.ask("[[words:30]] [[rate:30]]") for client in after))
    for client in after:
        client.check()
        assert client.text == numbers(30)
    return clients


async def test_redis_that_is_killed_and_comes_back_empty(own_redis: RedisServer, tmp_path: Path) -> None:
    async with a_pair(own_redis.url, tmp_path) as (nodes, home, worker, http):
        await ride_through(nodes, home, worker, http, own_redis.kill, lambda: own_redis.restart(empty=True))


async def test_redis_that_stands_still_for_twenty_seconds(own_redis: RedisServer, tmp_path: Path) -> None:
    async with a_pair(own_redis.url, tmp_path) as (nodes, home, worker, http):
        await ride_through(nodes, home, worker, http, own_redis.pause, own_redis.resume, for_s=20)


async def test_connections_that_are_half_open(own_redis: RedisServer, tmp_path: Path) -> None:
    async with FaultProxy(own_redis.port) as proxy, a_pair(proxy.url, tmp_path) as (nodes, home, worker, http):

        def stall() -> None:
            proxy.mode = "stall"

        await ride_through(nodes, home, worker, http, stall, proxy.heal)


async def test_commands_that_are_executed_but_never_answered(own_redis: RedisServer, tmp_path: Path) -> None:
    async with FaultProxy(own_redis.port) as proxy, a_pair(proxy.url, tmp_path) as (nodes, home, worker, http):

        def half() -> None:
            proxy.mode = "half"

        await ride_through(nodes, home, worker, http, half, proxy.heal)


@pytest.mark.parametrize(
    "error",
    [
        "-LOADING Redis is loading the dataset in memory",
        "-READONLY You can't write against a read only replica.",
        "-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "-ERR max number of clients reached",
    ],
)
async def test_a_redis_that_answers_with_errors(error: str, own_redis: RedisServer, tmp_path: Path) -> None:
    async with FaultProxy(own_redis.port) as proxy, a_pair(proxy.url, tmp_path) as (nodes, home, worker, http):
        await ride_through(nodes, home, worker, http, lambda: proxy.fail(error), proxy.heal)


async def test_flushall_under_load_loses_no_answer(own_redis: RedisServer, tmp_path: Path) -> None:
    async with a_pair(own_redis.url, tmp_path) as (nodes, home, worker, http):
        await ride_through(nodes, home, worker, http, lambda: own_redis.command("FLUSHALL"), lambda: None, for_s=1)


async def test_a_redis_out_of_memory_keeps_running_answers_and_new_ones_stay_local(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with a_pair(own_redis.url, tmp_path) as (nodes, home, worker, http):

        def fill() -> None:
            own_redis.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
            own_redis.command("CONFIG", "SET", "maxmemory", "1")

        clients = await ride_through(
            nodes, home, worker, http, fill, lambda: own_redis.command("CONFIG", "SET", "maxmemory", "0"), for_s=2
        )
        # Only what writes is refused: the answer that ran elsewhere was not even interrupted.
        assert len(clients[1].events[-1]["response"]["output"]) == 1
        assert "out of memory" in home.log


async def test_a_spent_quota_means_no_further_command(own_redis: RedisServer, tmp_path: Path) -> None:
    error = "-ERR max requests limit exceeded. Limit: 500000, Usage: 500001. See https://example.com/limits"
    async with (
        FaultProxy(own_redis.port) as proxy,
        nodes_on(proxy.url, tmp_path) as nodes,
        aiohttp.ClientSession() as http,
    ):
        node = await nodes.start()
        proxy.fail(error)
        client = Client(http, [node])
        await client.ask("[[words:30]]")
        client.check()
        sent = sum(proxy.commands.values())
        for _ in range(10):
            more = Client(http, [node])
            await more.ask("[[words:30]]")
            more.check()
        await asyncio.sleep(3)
        assert sum(proxy.commands.values()) == sent
        assert await metric(http, node, 'grizz_redis_breaker_open{cause="quota"}') == 1
        async with http.get(f"{node.url}/readyz") as answer:
            assert (answer.status, (await answer.json())["degraded"]) == (200, ["redis: quota"])


async def test_without_a_redis_at_the_start_it_serves_degraded_and_joins_later(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    own_redis.kill()
    async with a_pair(own_redis.url, tmp_path) as (_, home, worker, http):
        client = Client(http, [home])
        await client.ask("[[words:30]]")
        client.check()
        async with http.get(f"{home.url}/readyz") as answer:
            assert (answer.status, (await answer.json())["degraded"]) == (200, ["redis: down"])
        own_redis.restart(empty=True)
        for node in (home, worker):
            await until(lambda node=node: is_up(http, node))


async def test_a_wrong_password_ends_the_start_with_a_clear_word_and_no_secret(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    own_redis.command("CONFIG", "SET", "requirepass", "right-one")
    async with nodes_on(f"redis://:hunter2@127.0.0.1:{own_redis.port}", tmp_path) as nodes:
        node = nodes.launch()
        assert await asyncio.to_thread(node.popen.wait, 20) == 2
        assert "refuses the login" in node.log
        assert "hunter2" not in node.log


async def test_a_password_that_changes_means_degraded_until_it_fits_again(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with FaultProxy(own_redis.port) as proxy, nodes_on(proxy.url, tmp_path) as nodes:
        node = await nodes.start()
        async with aiohttp.ClientSession() as http:
            proxy.fail("-NOAUTH Authentication required.")
            client = Client(http, [node])
            await client.ask("[[words:30]]")
            client.check()
            assert await metric(http, node, 'grizz_redis_breaker_open{cause="login"}') == 1


async def test_nothing_listens_and_the_port_drops_packets_yet_the_start_takes_no_longer_than_two_seconds(
    tmp_path: Path,
) -> None:
    async with nodes_on(f"redis://127.0.0.1:{free_port()}", tmp_path) as nodes, aiohttp.ClientSession() as http:
        node = await nodes.start()
        client = Client(http, [node])
        await client.ask("[[words:30]]")
        client.check()


async def test_one_redis_that_flaps_is_not_hammered(own_redis: RedisServer, tmp_path: Path) -> None:
    async with FaultProxy(own_redis.port) as proxy, nodes_on(proxy.url, tmp_path) as nodes:
        await nodes.start()
        before = sum(proxy.commands.values())
        for _ in range(8):
            proxy.fail("-LOADING Redis is loading the dataset in memory")
            proxy.reset_all()
            await asyncio.sleep(1)
            proxy.heal()
            await asyncio.sleep(1)
        assert sum(proxy.commands.values()) - before <= 60
