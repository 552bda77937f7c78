"""What Grizz sends to Redis, counted by Redis: the promise that it is nearly free."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from tests.nodes import PROTOCOLS, Client, Node, metric, nodes_on
from tests.player import numbers
from tests.redis_servers import RedisServer

pytestmark = pytest.mark.timeout(120)


def sent(redis: RedisServer) -> int:
    return sum(redis.calls().values())


async def all_sent(redis: RedisServer) -> int:
    """The count once it stands still: what is collected goes out within a quarter of a second."""
    count = -1
    while count != sent(redis):
        count = sent(redis)
        await asyncio.sleep(0.4)
    return count


@pytest.mark.parametrize("password", ["", "secret"])
async def test_a_process_starts_with_eight_commands_at_most_and_then_sends_none(
    password: str, own_redis: RedisServer, tmp_path: Path
) -> None:
    url = f"redis://grizz:{password}@127.0.0.1:{own_redis.port}" if password else own_redis.url
    own_redis.command("ACL", "SETUSER", "grizz", "on", f">{password or 'none'}", "~*", "&*", "+@all")
    told = own_redis.info("server")
    # Before Redis 7.2 a consumer has to be made by a command of its own, and with a password there are three logins.
    old = "valkey_version" not in told and tuple(map(int, told["redis_version"].split(".")[:2])) < (7, 2)
    most = 9 if old and password else 8
    async with nodes_on(url, tmp_path) as nodes:
        for count in (1, 2, 3):
            before = sent(own_redis)
            await nodes.start(workers__concurrency=0 if count == 3 else 4)
            await asyncio.sleep(3.5)  # longer than the look for nodes that are gone
            # Some servers count a blocked read when it begins, others when it ends.
            reading = 0 if "xreadgroup" in own_redis.calls() or count == 3 else 1
            assert await all_sent(own_redis) - before + reading <= most


async def test_idle_tabs_cost_nothing(own_redis: RedisServer, tmp_path: Path) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession(connector=connector) as http:
        both = [await nodes.start(), await nodes.start()]
        await asyncio.sleep(3.5)
        before = await all_sent(own_redis)
        tabs = [await tab(http, both[index % 2]) for index in range(1000)]
        await asyncio.sleep(5)
        assert sent(own_redis) == before
        for ws in tabs:
            await ws.close()
        assert await all_sent(own_redis) == before


async def tab(http: aiohttp.ClientSession, node: Node) -> aiohttp.ClientWebSocketResponse:
    return await http.ws_connect(node.url.replace("http", "ws") + "/v1/responses", protocols=PROTOCOLS)


async def test_a_reply_at_home_costs_three_commands_its_history_included(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        node = await nodes.start()
        await all_sent(own_redis)
        for _ in range(3):
            own_redis.reset()
            client = Client(http, [node])
            await client.ask("[[words:50]] [[rate:100]]")
            client.check()
            await all_sent(own_redis)
            assert own_redis.calls() == {"hset": 1, "set": 1, "hdel": 1}
        assert await metric(http, node, 'grizz_redis_commands_total{command="hset"}') == 3


async def test_a_reply_elsewhere_costs_a_message_a_tick_and_twenty_share_them(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        home = await nodes.start(workers__concurrency=0)
        await nodes.start()
        for together, most in ((1, 18), (20, 50)):  # 2 s: eight ticks, the start, the first words, the end
            await asyncio.sleep(3)
            await all_sent(own_redis)
            own_redis.reset()
            clients = [Client(http, [home]) for _ in range(together)]
            await asyncio.gather(*(client.ask("[[words:100]] [[rate:50]]") for client in clients))
            for client in clients:
                client.check()
                assert client.text == numbers(100)
            await all_sent(own_redis)
            assert sum(own_redis.calls().values()) <= most, own_redis.calls()


async def test_a_spent_budget_keeps_work_where_it_was_asked_for(own_redis: RedisServer, tmp_path: Path) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        home = await nodes.start(workers__concurrency=1, redis__monthly_command_budget=5)
        await nodes.start()
        await asyncio.sleep(2.5)
        own_redis.reset()
        clients = [Client(http, [home]) for _ in range(3)]
        await asyncio.gather(*(client.ask("[[words:30]] [[rate:60]]") for client in clients))
        for client in clients:
            client.check()
        await all_sent(own_redis)
        assert own_redis.calls() == {}
        assert await metric(http, home, "grizz_redis_thrift") == 3
        assert await metric(http, home, 'grizz_jobs_unrecorded_total{reason="thrift"}') == 3
        assert await metric(http, home, "grizz_redis_projected_monthly_commands") > 5
        assert "command budget" in home.log
