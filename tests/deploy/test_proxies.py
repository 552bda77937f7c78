"""Through nginx, Caddy and HAProxy with the files of deploy/: everything works as without a proxy."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from grizz.config import Settings
from tests.deploy.proxies import KINDS, Front, Kind, front_of
from tests.nodes import PROTOCOLS, ROOT, Client, Node, nodes_on
from tests.player import Event, Player, numbers, text_of
from tests.redis_servers import RedisServer

pytestmark = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
# An address of this machine that is no proxy.
CLIENT = "127.0.0.2"


@asynccontextmanager
async def browser(front: Front) -> AsyncIterator[aiohttp.ClientSession]:
    """What connects to the proxy, from an address of its own."""
    connector = aiohttp.TCPConnector(ssl=front.tls, local_addr=(CLIENT, 0))
    async with aiohttp.ClientSession(front.url, connector=connector) as http:
        yield http


async def test_one_node_behind_it_is_as_without(kind: Kind, redis_server: RedisServer, tmp_path: Path) -> None:
    async with nodes_on(redis_server.url, tmp_path) as nodes:
        node = await nodes.start(server__trusted_proxies="127.0.0.1")
        async with front_of(kind, [node], tmp_path) as front, browser(front) as http:
            player = await Player.connect(http, "/v1/responses", protocols=PROTOCOLS, origin=front.url)
            idle = await Player.connect(http, "/v1/responses", protocols=PROTOCOLS, origin=front.url)
            await tokens_come_one_by_one(player)
            await tokens_come_one_by_one_by_http(http)
            await a_resume_goes_on(http)
            assert text_of(await idle.ask("[[words:3]]")) == numbers(3)
            await the_address_is_the_clients(http, node)
            async with http.get("/metrics") as answer:
                assert answer.status == 404
            if kind.tls:
                async with http.get(front.plain + "/x?y=1", allow_redirects=False) as answer:
                    assert answer.status == 301 and answer.headers["Location"].startswith("https://127.0.0.1")
            await player.ws.close()
            await idle.ws.close()


async def tokens_come_one_by_one(player: Player) -> None:
    """The model stops after five words and never ends: they are here, though there is no end to wait for."""
    await player.create("[[words:20]] [[stall:5]]")
    while text_of(player.events) != numbers(5):
        await player.next()


async def tokens_come_one_by_one_by_http(http: aiohttp.ClientSession) -> None:
    events = []
    body = {"input": "[[words:20]] [[stall:5]]", "stream": True}
    async with asyncio.timeout(10), http.post("/v1/responses", json=body) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        async for line in answer.content:
            if line.startswith(b"data: {"):
                events.append(json.loads(line.removeprefix(b"data: ")))
            if text_of(events) == numbers(5):
                return
    raise AssertionError(f"the stream ended with {events[-1:]}")


async def a_resume_goes_on(http: aiohttp.ClientSession) -> None:
    first = await Player.connect(http, "/v1/responses", protocols=PROTOCOLS)
    await first.create("[[words:30]] [[rate:60]]")
    await first.until("response.output_text.delta")
    await first.ws.close()
    seen = numbered(first.events)
    response_id = seen[0]["response"]["id"]
    query = f"?response_id={response_id}&starting_after={seen[-1]['sequence_number']}"
    second = await Player.connect(http, f"/v1/responses{query}", protocols=PROTOCOLS)
    events = [*seen, *numbered(await second.answer())]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert text_of(events) == numbers(30)
    await second.ws.close()


def numbered(events: list[Event]) -> list[Event]:
    """Those of a response, without what is said about the connection."""
    return [event for event in events if not event["type"].startswith("grizz:")]


async def the_address_is_the_clients(http: aiohttp.ClientSession, node: Node) -> None:
    """Whatever the client says of itself."""
    forged = {"X-Forwarded-For": "203.0.113.9"}
    socket = await Player.connect(http, "/v1/responses", protocols=PROTOCOLS, headers=forged)
    await socket.ws.close()
    async with asyncio.timeout(10):
        while len(found := re.findall(r"connection opened.* address=(\S+)", node.log)) < 5:
            await asyncio.sleep(0.02)
    assert set(found) == {CLIENT}


async def test_a_node_that_leaves_is_noticed_by_nobody(kind: Kind, redis_server: RedisServer, tmp_path: Path) -> None:
    settings = {"server__trusted_proxies": "127.0.0.1", "server__drain_delay_s": 3, "server__drain_timeout_s": 0.2}
    async with nodes_on(redis_server.url, tmp_path) as nodes:
        first, second = nodes.launch(**settings), nodes.launch(**settings)
        await first.ready()
        await second.ready()
        async with front_of(kind, [first, second], tmp_path) as front, browser(front) as http:
            clients = [Client(http, [front]) for _ in range(6)]
            asking = [asyncio.create_task(client.ask("[[words:100]] [[rate:20]]")) for client in clients]
            while not all(len(client.events) > 5 for client in clients):
                await asyncio.sleep(0.02)
            # Kept open by us, so that the code is seen even if the proxy leaves right after it.
            idle = [await Player.connect(http, "/v1/responses", protocols=PROTOCOLS, autoclose=False) for _ in range(6)]
            assert all(node.log.count("connection opened") > 1 for node in (first, second))
            ending = asyncio.create_task(first.end())
            refused = 0
            while not ending.done():
                refused += await newcomers(http, front)
            refused += await newcomers(http, front)
            # nginx asks no node how it is. Who came just before the end is told to try again, as SDKs do.
            assert refused <= (2 if kind.name == "nginx" else 0)
            assert await ending == 0
            await asyncio.gather(*asking)
            assert await codes(idle) == {1012}
            for client in clients:
                client.check()
                assert client.events[-1]["response"]["output"][-1]["content"][0]["text"] == numbers(100)


async def newcomers(http: aiohttp.ClientSession, front: Front) -> int:
    """One comes by WebSocket, one by HTTP; how often they were told to try again."""
    newcomer = Client(http, [front])
    await newcomer.ask("[[words:3]]")
    assert newcomer.text == numbers(3)
    refused = len(newcomer.closes)
    while True:
        async with http.post("/v1/responses", json={"input": "[[words:3]]"}) as answer:
            if answer.status == 200:
                return refused
            assert answer.status == 503 and answer.headers["X-Should-Retry"] == "true", await answer.text()
        refused += 1
        await asyncio.sleep(0.2)


async def codes(idle: list[Player]) -> set[int]:
    """What those of the node that has left were closed with; the others still answer."""
    found = set()
    for player in idle:
        with contextlib.suppress(aiohttp.ClientConnectionResetError):  # and what it was closed with has been read
            await player.create("[[words:3]]")
        message = await player.ws.receive(timeout=10)
        if message.type is aiohttp.WSMsgType.CLOSE:
            found.add(message.data)
        else:
            assert message.type is aiohttp.WSMsgType.TEXT, message
            assert text_of(await player.answer()) == numbers(3)
        await player.ws.close()
    return found


def test_no_time_of_it_ends_what_grizz_lets_live(kind: Kind) -> None:
    server = Settings().server
    text = (ROOT / "deploy" / kind.file).read_text()
    names = {
        "nginx": r"proxy_(?:read|send)_timeout",
        "haproxy": r"timeout (?:client|server|tunnel)",
        "caddy": r"(?:read|write|stream)_timeout",
    }
    times = re.findall(rf"^\s*{names[kind.name]}\s+(\d+)h;?$", text, re.M)
    assert len(re.findall(rf"^\s*{names[kind.name]}\s", text, re.M)) == len(times), "all of them in hours"
    assert len(times) == {"nginx": 2, "haproxy": 3, "caddy": 0}[kind.name]
    for hours in times:
        assert int(hours) * 3600 >= max(server.max_age_s, 10 * server.heartbeat_s)
