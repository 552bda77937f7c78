"""Two versions share one Redis: nodes are replaced one by one under load, and back again, and nothing is lost."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from tests.deploy import other_versions
from tests.nodes import Client, Node, Nodes, nodes_on
from tests.player import numbers
from tests.redis_servers import RedisServer

pytestmark = pytest.mark.timeout(120)

# Few slots, so that much of the work runs at the other version's node.
SETTINGS = {"workers__concurrency": 3, "server__drain_timeout_s": 1, "workers__lease_s": 2}
WORDS = 30


class Load:
    """Clients that ask again and again, at any node that is there, until it is closed."""

    def __init__(self, http: aiohttp.ClientSession, nodes: list[Node], clients: int) -> None:
        self._http = http
        self._nodes = nodes
        self._over = False
        self._tasks = [asyncio.create_task(self._ask(index)) for index in range(clients)]
        self.answered: list[Client] = []

    async def _ask(self, index: int) -> None:
        while not self._over:
            there = self._nodes[index % len(self._nodes) :] + self._nodes[: index % len(self._nodes)]
            client = Client(self._http, there)
            client.nodes = self._nodes  # those that come later are tried, too
            await client.ask(f"[[words:{WORDS}]] [[rate:100]]")
            self.answered.append(client)

    async def more(self, count: int) -> None:
        """Wait until so many more were answered."""
        until = len(self.answered) + count
        while len(self.answered) < until:
            for task in self._tasks:
                if task.done():
                    task.result()
            await asyncio.sleep(0.02)

    async def end(self) -> None:
        """Let the last ones be answered."""
        self._over = True
        await asyncio.gather(*self._tasks)


@pytest.mark.parametrize("other", [other_versions.earlier, other_versions.says_more], ids=lambda other: other.__name__)
async def test_nodes_are_replaced_by_another_version_and_back_under_load(
    other: Callable[[Path], Path], redis_server: RedisServer, tmp_path: Path
) -> None:
    tree = other(tmp_path / "other")
    async with nodes_on(redis_server.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        before = [await nodes.start(**SETTINGS), await nodes.start(**SETTINGS)]
        there = list(before)
        load = Load(http, there, clients=10)
        after: list[Node] = []
        for old in before:  # to the other version
            await load.more(6)
            after.append(await other_versions.start(nodes, tree, **SETTINGS))
            there.append(after[-1])
            await load.more(6)
            await leave(old, there)
        await load.more(6)
        there.append(await nodes.start(**SETTINGS))  # and back
        await load.more(6)
        await leave(after[0], there)
        await load.more(6)
        await load.end()
        await nothing_is_lost(http, load, there, redis_server, nodes)


async def test_formats_that_differ_leave_each_others_work_alone(redis_server: RedisServer, tmp_path: Path) -> None:
    """What a node leaves behind waits in the Redis for one of its own format: a way back is always there."""
    tree = other_versions.speaks_otherwise(tmp_path / "other")
    async with nodes_on(redis_server.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        there = [await nodes.start(**SETTINGS)]
        load = Load(http, there, clients=8)
        await load.more(3)
        there.append(await other_versions.start(nodes, tree, **SETTINGS))
        await load.more(12)
        await leave(there[0], there)
        there.append(await nodes.start(**SETTINGS))
        await load.more(12)
        await load.end()
        for client in load.answered:
            client.denied.clear()  # the one node did not know it, the other went on with it
        await nothing_is_lost(http, load, there, redis_server, nodes)
        assert "cannot be read" not in nodes.logs()


async def leave(node: Node, there: list[Node]) -> None:
    """As the recipe says: nobody comes to it any more, then it drains."""
    there.remove(node)
    assert await node.end() == 0


async def nothing_is_lost(
    http: aiohttp.ClientSession, load: Load, there: list[Node], redis_server: RedisServer, nodes: Nodes
) -> None:
    for client in load.answered:
        client.errors = [error for error in client.errors if error["error"]["code"] != "server_is_overloaded"]
        client.check()  # who was told to come back later came back, and is not counted
        assert client.text == numbers(WORDS)
    assert redis_server.command("XLEN", "{grizz}:dead") == 0
    for node in there:
        async with http.get(f"{node.url}/metrics") as answer:
            page = await answer.text()
        assert 'grizz_unhandled_errors_total{where="worker"} 0.0' in page
        assert not re.search(r"^grizz_events_lost_total [1-9]", page, re.M)
    assert "Traceback" not in nodes.logs()
