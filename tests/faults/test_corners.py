"""Corners where an answer was lost, doubled or stuck once: each was shown with real processes before it was mended."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import aiohttp
import pytest

from tests.faults.test_redis_faults import is_up, until
from tests.nodes import Client, nodes_on
from tests.player import numbers
from tests.redis_servers import FaultProxy, RedisServer

pytestmark = pytest.mark.timeout(120)


async def begun(client: Client, text: str, events: int = 10) -> asyncio.Task[object]:
    """Ask, and return once so many events came."""
    asking = asyncio.create_task(client.ask(text, within_s=60))
    async with asyncio.timeout(20):
        while len(client.events) < events:
            await asyncio.sleep(0.02)
    return asking


async def test_asking_for_another_nodes_answer_while_redis_is_gone_is_answered_at_once(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        node, other = await nodes.start(), await nodes.start()
        client = Client(http, [other])
        await client.ask("[[words:30]]")
        own_redis.kill()
        began = time.monotonic()
        async with http.get(f"{node.url}/v1/responses/{client.response_id}") as answer:
            assert answer.status == 404
        assert time.monotonic() - began < 3
        assert len(node.log) < 100_000


async def test_a_connection_that_breaks_while_a_node_runs_its_own_offer_is_made_anew(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        node = await nodes.start(workers__concurrency=2)
        clients = [Client(http, [node]) for _ in range(4)]
        asking = [asyncio.create_task(client.ask("[[words:150]] [[rate:50]]")) for client in clients]
        async with asyncio.timeout(20):
            while not all(client.events for client in clients):
                await asyncio.sleep(0.05)
        await asyncio.sleep(3.5)  # the last two run by now: the node has read its own offers
        own_redis.command("CLIENT", "KILL", "TYPE", "normal")
        own_redis.command("CLIENT", "KILL", "TYPE", "pubsub")
        await asyncio.gather(*asking)
        for client in clients:
            client.check()
            assert client.text == numbers(150)
        await until(lambda: is_up(http, node), 20)
        assert nodes.demo.requests == 4


async def test_an_answer_whose_home_died_first_survives_its_worker(own_redis: RedisServer, tmp_path: Path) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        home = await nodes.start(workers__concurrency=0, workers__lease_s=3)
        workers = [await nodes.start(workers__concurrency=1, workers__lease_s=3) for _ in range(2)]
        clients = [Client(http, [home, *workers]) for _ in range(2)]
        asking = [await begun(client, "[[words:400]] [[rate:25]]") for client in clients]
        home.kill()
        await asyncio.sleep(5)  # both workers keep what they run
        last = await nodes.start(workers__lease_s=3)
        for client in clients:
            client.nodes = [workers[1], last]
        workers[0].kill()
        await asyncio.gather(*asking)
        for client in clients:
            client.check()
            assert client.text == numbers(400)
            assert client.longest_pause_s < 15


async def test_the_third_crash_of_a_home_ends_the_answer_for_a_client_that_saw_it_all(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        living = [await nodes.start(workers__lease_s=2)]
        client = Client(http, living)
        asking = await begun(client, "[[words:2000]] [[rate:50]]")
        for crash in range(3):
            living.append(await nodes.start(workers__lease_s=2))
            living.pop(0).kill()
            if crash < 2:
                async with asyncio.timeout(20):
                    while client.last < (crash + 1) * 1_000_000 + 10:
                        await asyncio.sleep(0.05)
        await asking
        client.check()
        assert client.events[-1]["type"] == "response.failed"
        assert nodes.demo.requests == 3


async def test_what_is_deleted_at_one_node_is_gone_at_all(own_redis: RedisServer, tmp_path: Path) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        both = [await nodes.start(), await nodes.start()]
        ended, running = Client(http, both[:1]), Client(http, both[:1])
        await ended.ask("[[words:30]]")
        asking = await begun(running, "[[words:2000]] [[rate:50]]")
        await asyncio.sleep(0.3)
        for client in (ended, running):
            async with http.delete(f"{both[1].url}/v1/responses/{client.response_id}") as answer:
                assert (answer.status, (await answer.json())["deleted"]) == (200, True)
        await asking
        await asyncio.sleep(0.5)
        for client in (ended, running):
            for node in both:
                async with http.get(f"{node.url}/v1/responses/{client.response_id}") as answer:
                    assert answer.status == 404
        left = own_redis.command("KEYS", "*")
        assert left == ["{grizz}:jobs"]


async def test_a_stop_that_is_lost_on_the_way_is_said_again(own_redis: RedisServer, tmp_path: Path) -> None:
    async with (
        FaultProxy(own_redis.port) as proxy,
        nodes_on(own_redis.url, tmp_path) as nodes,
        aiohttp.ClientSession() as http,
    ):
        home = await nodes.start(workers__concurrency=0)
        await nodes.start(redis_url=proxy.url)
        client = Client(http, [home])
        asking = await begun(client, "[[words:400]] [[rate:50]]")
        proxy.reset_all()
        await asyncio.sleep(0.05)
        async with http.post(f"{home.url}/v1/responses/{client.response_id}/cancel") as answer:
            assert (answer.status, (await answer.json())["status"]) == (200, "cancelled")
        await asking
        client.check()
        async with asyncio.timeout(2):
            while nodes.demo.active:
                await asyncio.sleep(0.01)


async def test_inventions_of_ids_are_refused_without_a_flood_of_commands(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        node = await nodes.start()
        await asyncio.sleep(1)
        own_redis.reset()
        for number in range(100):
            invented = f"resp_{number:08x}{number:04x}{'0' * 28}"
            async with http.get(f"{node.url}/v1/responses/{invented}") as answer:
                assert answer.status == 404
        assert sum(own_redis.calls().values()) <= 200


async def test_nobody_reads_another_owners_answer_at_another_node(own_redis: RedisServer, tmp_path: Path) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes:
        both = [await nodes.start(), await nodes.start()]
        mine, theirs = aiohttp.CookieJar(unsafe=True), aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(cookie_jar=mine) as me, aiohttp.ClientSession(cookie_jar=theirs) as they:
            for session in (me, they):
                async with session.get(both[0].url + "/") as page:
                    assert page.status == 200
            client = Client(me, both[:1])
            asking = await begun(client, "[[words:150]] [[rate:50]]")
            for _ in range(2):  # while it runs, and once it is stored
                for node in both:
                    url = f"{node.url}/v1/responses/{client.response_id}"
                    for call in (they.get(url), they.post(url + "/cancel"), they.delete(url)):
                        async with call as answer:
                            assert answer.status == 404
                    async with me.get(url) as answer:
                        assert answer.status == 200
                await asking
            client.check()
            assert client.text == numbers(150)
