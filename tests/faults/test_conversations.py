"""Conversations of several processes on one Redis: whatever dies, a turn is in its conversation once."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.faults.test_redis_kinds import RIGHTS
from tests.nodes import Client, Node, busy_one, nodes_on
from tests.player import numbers
from tests.redis_servers import Cluster, RedisServer

pytestmark = pytest.mark.timeout(120)

LEASE_S = 3


async def call(http: aiohttp.ClientSession, method: str, url: str, body: Any = None) -> tuple[int, Any]:
    async with http.request(method, url, json=body) as answer:
        return answer.status, await answer.json()


async def made(http: aiohttp.ClientSession, node: Node) -> str:
    status, body = await call(http, "POST", f"{node.url}/v1/conversations")
    assert status == 200
    return str(body["id"])


async def said(http: aiohttp.ClientSession, node: Node, name: str) -> list[str]:
    """What is said in it, oldest first."""
    status, body = await call(http, "GET", f"{node.url}/v1/conversations/{name}/items?order=asc&limit=100")
    assert status == 200, body
    return ["".join(part["text"] for part in item["content"]) for item in body["data"]]


async def begun(client: Client, text: str, name: str) -> asyncio.Task[Any]:
    """Begin a turn, and return once ten events came."""
    asking = asyncio.create_task(client.ask(text, within_s=60, conversation=name))
    async with asyncio.timeout(20):
        while len(client.events) < 10:
            await asyncio.sleep(0.02)
    return asking


async def ask(http: aiohttp.ClientSession, node: Node, name: str, text: str) -> tuple[int, Any]:
    return await call(http, "POST", f"{node.url}/v1/responses", {"input": text, "conversation": name})


async def test_every_node_has_every_conversation_and_the_turns_in_it_wait_for_each_other(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        one, other = await nodes.start(), await nodes.start()
        name = await made(http, one)
        first, waiting = Client(http, [one]), Client(http, [other])
        asking = await begun(first, "[[words:60]] [[rate:40]]", name)
        assert (await ask(http, other, name, "too early"))[0] == 409
        behind = asyncio.create_task(waiting.ask("[[echo:behind]]", conversation=name))
        await asyncio.gather(asking, behind)
        assert waiting.text == "behind"
        # Who has seen an end may go on at any node at once, and nobody is told that the turn is still under way.
        for turn in range(6):
            node = (one, other)[turn % 2]
            status, body = await ask(http, node, name, f"[[echo:{turn}]]")
            assert status == 200, body
            assert (await said(http, (other, one)[turn % 2], name))[-1] == str(turn)
        both = await said(http, one, name)
        assert both[1::2] == [numbers(60), "behind", *"012345"]
        assert both == await said(http, other, name)
        listed = [await call(http, "GET", f"{node.url}/v1/conversations") for node in (one, other)]
        assert listed[0] == listed[1] and listed[0][1]["data"][0]["items"] == 16


async def test_a_turn_costs_three_commands_more_than_an_answer_without_a_conversation(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async def sent() -> int:
        """The count once it stands still: what is collected goes out within a quarter of a second."""
        count, before = -1, -2
        while count != before:
            await asyncio.sleep(0.4)
            before = count
            async with http.get(f"{node.url}/metrics") as answer:
                lines = (await answer.text()).splitlines()
            count = sum(int(float(line.split()[-1])) for line in lines if line.startswith("grizz_redis_commands_total"))
        return count

    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        node = await nodes.start()
        name = await made(http, node)
        spent = []
        for conversation in (None, name, name):
            before = await sent()
            client = Client(http, [node])
            await client.ask("[[words:30]] [[rate:100]]", conversation=conversation)
            client.check()
            spent.append(await sent() - before)
        assert spent == [3, 6, 6]


@pytest.mark.parametrize("how", ["killed", "killed with its worker elsewhere", "left", "stood still"])
async def test_a_turn_whose_home_goes_is_kept_once_and_frees_its_conversation(
    own_redis: RedisServer, tmp_path: Path, how: str
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        slots = 0 if "elsewhere" in how else 4
        home = await nodes.start(workers__lease_s=LEASE_S, workers__concurrency=slots, server__drain_timeout_s=0.1)
        other = await nodes.start(workers__lease_s=LEASE_S)
        name = await made(http, home)
        await ask(http, other, name, "[[echo:before]]")
        client = Client(http, [home, other])
        asking = await begun(client, "[[words:200]] [[rate:40]]", name)
        client.nodes = [home, other, other]
        if how == "left":
            assert await home.end() == 0
        elif how == "stood still":
            home.signal(signal.SIGSTOP)
            client.nodes = [other]
            await asyncio.sleep(1)
        else:
            home.kill()
        if how == "stood still":
            asking.cancel()  # its connection hangs; a client with a watchdog of its own comes back elsewhere
            await asyncio.gather(asking, return_exceptions=True)
            asking = asyncio.create_task(client.ask("", within_s=60))
        await asking
        client.check()
        assert client.text.endswith(numbers(200))  # behind what was said before, where it went on under its numbers
        if how == "stood still":
            home.signal(signal.SIGCONT)
            await asyncio.sleep(2)
        status, body = await ask(http, other, name, "[[echo:after]]")
        assert status == 200, body
        kept = await said(http, other, name)
        assert [kept[0], kept[2], kept[-2]] == ["[[echo:before]]", "[[words:200]] [[rate:40]]", "[[echo:after]]"]
        assert kept[1] == "before" and kept[-1] == "after"
        assert "".join(kept[3:-2]).endswith(numbers(200)) and kept.count(numbers(200)) == 1
        output = client.events[-1]["response"]["output"]
        assert kept[3:-2] == ["".join(part["text"] for part in item["content"]) for item in output]


async def test_a_killed_worker_costs_a_conversation_nothing(own_redis: RedisServer, tmp_path: Path) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        home = await nodes.start(workers__lease_s=LEASE_S, workers__concurrency=0)
        workers = [await nodes.start(workers__lease_s=LEASE_S) for _ in range(2)]
        name = await made(http, home)
        client = Client(http, [home])
        asking = await begun(client, "[[words:100]] [[rate:40]]", name)
        (await busy_one(http, workers)).kill()
        await asking
        client.check()
        kept = await said(http, home, name)
        assert kept[0] == "[[words:100]] [[rate:40]]" and kept[-1] == numbers(100)
        assert (await ask(http, home, name, "[[echo:on]]"))[0] == 200


async def test_without_redis_a_conversation_is_refused_soon_and_an_answer_under_way_ends_and_is_kept_later(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        node = await nodes.start()
        name = await made(http, node)
        client = Client(http, [node])
        asking = await begun(client, "[[words:100]] [[rate:40]]", name)
        own_redis.pause()
        for method, path, body in (
            ("GET", f"/v1/conversations/{name}", None),
            ("GET", "/v1/conversations", None),
            ("POST", "/v1/conversations", {}),
            ("POST", "/v1/responses", {"input": "x", "conversation": name}),
        ):
            began = time.monotonic()
            status, told = await call(http, method, node.url + path, body)
            assert (status, told["error"]["code"]) == (503, "server_is_overloaded")
            assert time.monotonic() - began < 4
        await asking  # with its end, although its turn is nowhere yet
        client.check()
        assert client.text == numbers(100)
        own_redis.resume()
        async with asyncio.timeout(45):
            while (await call(http, "GET", f"{node.url}/v1/conversations/{name}"))[0] != 200:
                await asyncio.sleep(0.2)
            while not await said(http, node, name):
                await asyncio.sleep(0.2)
        assert await said(http, node, name) == ["[[words:100]] [[rate:40]]", numbers(100)]
        async with asyncio.timeout(10):
            while (await ask(http, node, name, "[[echo:on]]"))[0] == 409:
                await asyncio.sleep(0.2)
        assert (await said(http, node, name))[-1] == "on"


async def test_an_account_without_the_right_to_scripts_has_no_conversations_and_everything_else(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    rights = "resetchannels ~{grizz}:* &{grizz}:* +@all -eval".split()
    own_redis.command("ACL", "SETUSER", "grizz", "on", ">hunter2", *rights)
    url = f"redis://grizz:hunter2@127.0.0.1:{own_redis.port}"
    async with nodes_on(url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        node = await nodes.start()
        for _ in range(2):
            assert (await call(http, "POST", f"{node.url}/v1/conversations"))[0] == 503
            assert (await call(http, "GET", f"{node.url}/v1/conversations/conv_1"))[0] == 404
            client = Client(http, [node])
            await client.ask("[[words:10]]")
            client.check()
        assert (await call(http, "GET", f"{node.url}/readyz"))[1] == {"status": "ready"}


@pytest.mark.parametrize("kind", ["few rights", "cluster"])
async def test_conversations_live_in_every_kind_of_redis(tmp_path: Path, kind: str) -> None:
    with ExitStack() as stack:
        if kind == "cluster":
            url = stack.enter_context(Cluster()).url
        else:
            server = stack.enter_context(RedisServer())
            server.command("ACL", "SETUSER", "grizz", "on", ">hunter2", *RIGHTS.split())
            url = f"redis://grizz:hunter2@127.0.0.1:{server.port}"
        async with nodes_on(url, tmp_path) as nodes, aiohttp.ClientSession() as http:
            node = await nodes.start()
            base, names = f"{node.url}/v1/conversations", [await made(http, node) for _ in range(2)]
            for text in ("one", "two"):
                assert (await ask(http, node, names[0], f"[[echo:{text}]]"))[0] == 200
            assert await said(http, node, names[0]) == ["[[echo:one]]", "one", "[[echo:two]]", "two"]
            item = {"type": "message", "role": "user", "content": "by hand"}
            status, added = await call(http, "POST", f"{base}/{names[1]}/items", {"items": [item]})
            assert status == 200
            one = f"{base}/{names[1]}/items/{added['first_id']}"
            assert [(await call(http, how, one))[0] for how in ("GET", "DELETE", "GET")] == [200, 200, 404]
            status, page = await call(http, "GET", f"{base}/{names[0]}/items?limit=1")
            status, page = await call(http, "GET", f"{base}/{names[0]}/items?limit=2&after={page['last_id']}")
            assert (status, len(page["data"]), page["has_more"]) == (200, 2, True)
            assert (await call(http, "POST", f"{base}/{names[1]}", {"metadata": {"title": "two"}}))[0] == 200
            status, listing = await call(http, "GET", f"{base}?query=two&after={names[1]}&order=asc")
            assert status == 200
            status, listing = await call(http, "GET", f"{base}?query=TWO")
            assert [found["id"] for found in listing["data"]] == [names[1]]
            assert [(await call(http, "DELETE", f"{base}/{name}"))[0] for name in names] == [200, 200]
            assert (await call(http, "GET", base))[1]["data"] == []
