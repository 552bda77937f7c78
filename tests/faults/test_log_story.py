"""One answer in the logs of all processes that had to do with it: its id finds each step, whoever died meanwhile."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import aiohttp
import pytest

from tests.faults.test_corners import begun
from tests.nodes import PROTOCOLS, Client, Node, nodes_on
from tests.player import TERMINAL, numbers
from tests.redis_servers import RedisServer

pytestmark = pytest.mark.timeout(120)

LEASE_S = 0.6
# Says five words and no more, until somebody else asks for it.
STUCK = "[[words:30]] [[stall:5]] [[times:1]]"
_LINE = re.compile(r"\S+ (?P<level>\w+) +(?P<event>.*?)(?= \w+=|$)(?P<fields>.*)")
Line = dict[str, str]


def lines(node: Node, word: str) -> list[Line]:
    """The lines of a node's log with that word in them, their level and event among the fields."""
    found = []
    for line in node.log.splitlines():
        if word in line and (match := _LINE.match(line)):
            fields = dict(re.findall(r' (\w+)=("[^"]*"|\S*)', match["fields"]))
            found.append({**fields, "level": match["level"], "event": match["event"]})
    return found


def events(node: Node, word: str) -> list[str]:
    return [line["event"] for line in lines(node, word)]


async def said(node: Node, word: str, event: str, within_s: float = 10) -> Line:
    """The one line about that, once it is written: those of the lower levels wait for others."""
    async with asyncio.timeout(within_s):
        while not (found := [line for line in lines(node, word) if line["event"] == event]):
            await asyncio.sleep(0.02)
    return found[-1]


def name_of(node: Node) -> str:
    """The short id of a process, which stands in each of its lines."""
    return lines(node, " ready ")[0]["node"]


async def test_an_answer_is_followed_by_its_id_from_its_home_over_two_workers_to_who_resumed_it(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        home = await nodes.start(workers__concurrency=0, workers__lease_s=LEASE_S)
        workers = [await nodes.start(workers__concurrency=1, workers__lease_s=LEASE_S) for _ in range(2)]
        ws = await http.ws_connect(home.url.replace("http", "ws") + "/v1/responses", protocols=PROTOCOLS)
        request_id = ws._response.headers["x-request-id"]
        await ws.send_json({"type": "response.create", "input": STUCK})
        response_id = (await ws.receive_json())["response"]["id"]
        while (await ws.receive_json())["type"] != "response.output_text.delta":
            pass
        await ws.close()
        runs = await said(home, response_id, "response runs on another node")
        first, second = sorted(workers, key=lambda node: name_of(node) != runs["peer"])
        here = await said(first, response_id, "response of another node runs here")
        assert (here["node"], here["peer"], here["attempt"]) == (name_of(first), name_of(home), "1")
        first.kill()
        client = Client(http, [second])
        client.response_id = response_id
        await client.ask("")
        ended = await said(home, response_id, "response ended")
        assert (ended["request_id"], ended["status"]) == (request_id, "completed")
        assert events(home, response_id) == [
            "response accepted",
            "response runs on another node",
            "attempt lost",
            "response runs on another node",
            "response ended",
        ]
        runs = [line for line in lines(home, response_id) if line["event"] == "response runs on another node"]
        assert [(line["peer"], line["attempt"]) for line in runs] == [(name_of(first), "1"), (name_of(second), "2")]
        await said(second, response_id, "response of another node ended here")
        assert (await said(second, response_id, "response resumed"))["node"] == name_of(second)
        assert {line["node"] for line in lines(home, response_id)} == {name_of(home)}
        assert events(home, request_id)[:2] == ["connection opened", "response accepted"]


async def test_when_its_home_dies_the_id_is_in_the_lines_of_who_goes_on_with_it(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        home = await nodes.start(workers__concurrency=1, workers__lease_s=LEASE_S)
        heir = await nodes.start(workers__concurrency=1, workers__lease_s=LEASE_S)
        client = Client(http, [home, heir])
        asking = await begun(client, STUCK, events=5)
        home.kill()
        await asking
        client.check()
        assert client.text == numbers(30)
        anew = await said(heir, client.response_id, "response begun anew, its home is gone")
        assert anew["peer"] == client.response_id.removeprefix("resp_")[:8]
        assert (await said(heir, client.response_id, "response ended"))["status"] == "completed"


async def test_what_a_shutdown_hands_over_has_its_id_at_both(own_redis: RedisServer, tmp_path: Path) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        home = await nodes.start(workers__concurrency=1, server__drain_timeout_s=0)
        heir = await nodes.start(workers__concurrency=1)
        client = Client(http, [home, heir])
        asking = await begun(client, STUCK, events=5)
        assert await home.end() == 0
        await asking
        assert "response handed over" in events(home, client.response_id)
        assert "response taken over, its home leaves" in events(heir, client.response_id)
        assert (await said(heir, client.response_id, "response ended"))["status"] == "completed"


async def test_a_refusal_has_an_id_for_its_client_that_is_in_the_log(
    start_process, http: aiohttp.ClientSession
) -> None:
    process = start_process("--demo")
    async with http.post(f"{process.url}/v1/responses", json={"input": 3}) as answer:
        assert answer.status == 400
        by_http = answer.headers["x-request-id"]
    async with http.get(f"{process.url}/v1/responses/resp_unknown") as answer:
        unknown = answer.headers["x-request-id"]
    async with http.ws_connect(process.url.replace("http", "ws") + "/v1/responses", protocols=PROTOCOLS) as ws:
        of_socket = ws._response.headers["x-request-id"]
        await ws.send_json({"type": "response.create", "input": 3})
        frame = await ws.receive_json()
        assert frame["headers"]["x-request-id"] == of_socket
        await ws.send_json({"type": "grizz:attach", "response_id": "resp_unknown"})
        await ws.receive_json()
        await ws.send_json({"type": "response.create", "input": "[[words:2]]"})
        while (await ws.receive_json())["type"] not in TERMINAL:
            pass
    assert await asyncio.to_thread(process.end) == 0
    refused = [line for line in process.log if "request refused" in line]
    assert [(line_id, code) for line in refused for line_id, code in [_id_and_code(line)]] == [
        (by_http, "invalid_type"),
        (unknown, "response_not_found"),
        (of_socket, "invalid_type"),
        (of_socket, "response_not_found"),
    ]
    assert "resp_unknown" in refused[3]


def _id_and_code(line: str) -> tuple[str, str]:
    fields = dict(re.findall(r"(\w+)=(\S+)", line))
    return fields["request_id"], fields["code"]
