"""Who asks while a takeover is under way waits for its outcome: what somebody will have is never said to be unknown."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from tests.faults.test_corners import begun
from tests.nodes import Client, Node, Nodes, nodes_on
from tests.player import numbers
from tests.redis_servers import RedisServer

pytestmark = pytest.mark.timeout(240)

LEASE_S = 3


async def status_at(http: aiohttp.ClientSession, node: Node, response_id: str) -> int:
    async with http.get(f"{node.url}/v1/responses/{response_id}") as answer:
        return answer.status


async def asked_again_and_again(
    http: aiohttp.ClientSession, nodes: list[Node], response_id: str, over: asyncio.Event
) -> Counter[int]:
    """What twelve askers, who come at different times, are told of a response until it is over."""
    told: Counter[int] = Counter()

    async def asker(number: int) -> None:
        await asyncio.sleep(number * 0.17)
        while not over.is_set():
            told[await status_at(http, nodes[number % len(nodes)], response_id)] += 1
            await asyncio.sleep(0.1)

    await asyncio.gather(*(asker(number) for number in range(12)))
    return told


async def several(nodes: Nodes, *slots: int) -> list[Node]:
    """Nodes with so many slots each."""
    return [await nodes.start(workers__concurrency=count, workers__lease_s=LEASE_S) for count in slots]


@pytest.mark.parametrize("between_s", [0.3, 1.0, 2.4])
async def test_when_a_home_and_then_its_worker_are_killed_nobody_is_told_that_the_answer_is_unknown(
    own_redis: RedisServer, tmp_path: Path, between_s: float
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        home, worker, *fronts = await several(nodes, 0, 4, 0, 0)
        client = Client(http, [home])
        asking = await begun(client, "[[words:200]] [[rate:40]]")
        client.nodes = [home, *fronts]
        over = asyncio.Event()
        home.kill()
        nodes.launch(workers__lease_s=LEASE_S)  # who shall run it again; it looks for the dead when it starts
        askers = asyncio.create_task(asked_again_and_again(http, fronts, client.response_id, over))
        await asyncio.sleep(between_s)
        worker.kill()
        await asking
        over.set()
        assert (await askers).keys() == {200}
        client.check()
        assert client.text == numbers(200)


async def test_who_takes_an_heir_over_is_asked_for_what_that_one_had_inherited(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        home, heir, third, fourth = await several(nodes, 0, 4, 0, 0)
        inherited, own = Client(http, [home]), Client(http, [heir])
        asking = [await begun(client, "[[words:900]] [[rate:30]]") for client in (inherited, own)]
        inherited.nodes, own.nodes = [heir], [fourth]
        home.kill()
        async with asyncio.timeout(20):
            while not inherited.attached:  # the heir has kept it
                await asyncio.sleep(0.05)
        heir.kill()  # only the fourth is asked for what was the heir's own, and takes it over with all it had
        async with asyncio.timeout(20):
            while not own.attached:
                await asyncio.sleep(0.05)
        assert await status_at(http, third, inherited.response_id) == 200
        inherited.nodes = [third]
        await several(nodes, 4)
        await asyncio.gather(*asking)
        for client in (inherited, own):
            client.check()
            assert client.text == numbers(900)


async def test_what_never_was_is_refused_without_a_flood_of_commands_although_its_node_was_taken_over(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        home, *others = await several(nodes, 4, 4, 4)
        client = Client(http, [home, *others])
        asking = await begun(client, "[[words:100]] [[rate:40]]")
        home.kill()
        await asking
        invented = client.response_id[:-8] + "0" * 8
        own_redis.reset()
        told = await asyncio.gather(*(status_at(http, node, invented) for node in others for _ in range(5)))
        assert set(told) == {404}
        # Ten askers at two nodes: one search at each, of a few rounds, and one look into the archive for each asker.
        assert sum(own_redis.calls().values()) <= 100


async def test_a_takeover_that_redis_breaks_off_is_finished_when_it_is_back(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        home, heir = await several(nodes, 1, 0)
        client = Client(http, [home, heir])
        asking = await begun(client, "[[words:300]] [[rate:40]]")
        home.kill()
        async with asyncio.timeout(30):
            while "another node is gone" not in heir.log:
                await asyncio.sleep(0.01)
        own_redis.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        async with asyncio.timeout(10):
            while "a takeover did not succeed" not in heir.log:
                await asyncio.sleep(0.05)
        await several(nodes, 1)  # who shall run it again
        await asking
        client.check()
        assert client.text == numbers(300)
