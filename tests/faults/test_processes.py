"""`--processes`: several on one port, started, watched, reloaded and drained as one."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.nodes import Client, Node, Nodes, metric, nodes_on
from tests.player import numbers
from tests.redis_servers import RedisServer, free_port

pytestmark = pytest.mark.timeout(120)
COUNT = 3


class Group:
    """The parent as a node, its processes as their metrics show them."""

    def __init__(self, parent: Node, metrics_port: int) -> None:
        self.parent = parent
        self.each = [Node(parent.popen, Path(os.devnull)) for _ in range(COUNT)]
        for number, node in enumerate(self.each):
            node.url = f"http://127.0.0.1:{metrics_port + number}"

    def pids(self) -> list[int]:
        """Of all that were ever started, in the order they became ready."""
        return [int(pid) for pid in re.findall(r" ready .* pid=(\d+)", self.parent.log)]

    async def busy(self, http: aiohttp.ClientSession, name: str = "grizz_connections_open") -> None:
        """Wait until each has some."""
        async with asyncio.timeout(30):
            while not all([await metric(http, one, name) for one in self.each]):
                await asyncio.sleep(0.05)

    async def logged(self, text: str, times: int = 1, within_s: float = 60) -> None:
        async with asyncio.timeout(within_s):
            while self.parent.log.count(text) < times:
                await asyncio.sleep(0.05)


@asynccontextmanager
async def group_on(nodes: Nodes, **settings: object) -> AsyncIterator[Group]:
    port = free_port()
    node = nodes.launch("--processes", str(COUNT), server__metrics_listen=f"127.0.0.1:{port}", **settings)
    await node.ready()
    group = Group(node, port)
    await group.logged("all processes are ready")
    yield group


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def gone(pids: list[int], within_s: float = 30) -> None:
    async with asyncio.timeout(within_s):
        while any(map(lives, pids)):
            await asyncio.sleep(0.05)


async def test_clients_of_one_port_are_spread_over_the_processes_and_each_finds_every_answer(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, group_on(nodes) as group, aiohttp.ClientSession() as http:
        url = group.parent.url
        sockets = [await http.ws_connect(f"{url}/v1/responses") for _ in range(60)]
        open_ones = [await metric(http, one, "grizz_connections_open") for one in group.each]
        assert sum(open_ones) == 60
        assert min(open_ones) > 0, open_ones
        for ws in sockets:
            await ws.close()
        async with http.post(f"{url}/v1/responses", json={"input": "[[words:5]]"}) as answer:
            response = await answer.json()
        for _ in range(12):  # each over a connection of its own
            headers = {"Connection": "close"}
            async with http.get(f"{url}/v1/responses/{response['id']}", headers=headers) as answer:
                assert await answer.json() == response
        async with http.get(f"{url}/metrics") as answer:
            assert answer.status == 404
            assert "server.metrics_listen" in (await answer.json())["error"]["message"]
        async with http.get(f"{group.each[0].url}/readyz") as answer:
            assert answer.status == 200


async def test_a_killed_process_is_replaced_and_its_answers_go_on(own_redis: RedisServer, tmp_path: Path) -> None:
    async with (
        nodes_on(own_redis.url, tmp_path) as nodes,
        group_on(nodes, workers__lease_s=2) as group,
        aiohttp.ClientSession() as http,
    ):
        clients = [Client(http, [group.parent]) for _ in range(36)]
        async with asyncio.TaskGroup() as asking:
            for client in clients:
                asking.create_task(client.ask("[[words:300]] [[rate:50]]"))
            while any(client.last < 10 for client in clients):
                await asyncio.sleep(0.05)
            await group.busy(http)
            os.kill(group.pids()[0], signal.SIGKILL)
        for client in clients:
            client.check()
            assert client.text == numbers(300)
        assert any(client.closes for client in clients)
        await group.logged(" ready ", times=COUNT + 1)
        assert group.parent.log.count("a process ended by itself, and is replaced") == 1


async def test_all_drain_together_and_running_answers_finish(own_redis: RedisServer, tmp_path: Path) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, group_on(nodes) as group, aiohttp.ClientSession() as http:
        clients = [Client(http, [group.parent]) for _ in range(12)]
        async with asyncio.TaskGroup() as asking:
            for client in clients:
                asking.create_task(client.ask("[[words:100]] [[rate:50]]"))
            while any(client.last < 10 for client in clients):
                await asyncio.sleep(0.05)
            assert await group.parent.end() == 0
        for client in clients:
            client.check()
            assert (client.text, client.closes) == (numbers(100), [])
        await gone(group.pids(), within_s=0.1)
        assert "all processes have ended status=0" in group.parent.log


async def test_a_second_signal_ends_all_at_once(own_redis: RedisServer, tmp_path: Path) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, group_on(nodes) as group, aiohttp.ClientSession() as http:
        body = {"input": "[[words:1000]] [[rate:10]]", "background": True}
        for _ in range(COUNT * 12):  # each over a connection of its own, wherever that leads
            async with http.post(f"{group.parent.url}/v1/responses", json=body, headers={"Connection": "close"}):
                pass
        await group.busy(http, "grizz_jobs_running")
        group.parent.signal(signal.SIGTERM)
        await group.logged("stopping", times=COUNT)
        assert all(map(lives, group.pids()))
        assert await group.parent.end() == 1
        await gone(group.pids(), within_s=0.1)


async def test_when_the_parent_is_killed_the_others_drain_and_end(own_redis: RedisServer, tmp_path: Path) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, group_on(nodes) as group, aiohttp.ClientSession() as http:
        client = Client(http, [group.parent])
        asking = asyncio.create_task(client.ask("[[words:100]] [[rate:50]]"))
        while client.last < 10:
            await asyncio.sleep(0.05)
        group.parent.kill()
        await asking
        client.check()
        assert (client.text, client.closes) == (numbers(100), [])
        await gone(group.pids())


async def test_a_reload_reaches_every_process(own_redis: RedisServer, tmp_path: Path) -> None:
    config = tmp_path / "grizz.toml"
    config.write_text("[limits]\nrequests_per_minute = 1000\n")
    async with nodes_on(own_redis.url, tmp_path) as nodes:
        port = free_port()
        listen = f"127.0.0.1:{port}"
        node = nodes.launch("--processes", str(COUNT), "--config", str(config), server__metrics_listen=listen)
        await node.ready()
        group = Group(node, port)
        await group.logged("all processes are ready")
        config.write_text("[limits]\nrequests_per_minute = 7\n")
        node.signal(signal.SIGHUP)
        await group.logged('settings reloaded changed=["limits.requests_per_minute"]', times=COUNT)
        assert "not reloaded" not in node.log
        # Who comes later begins with what was read, and a reload that comes too soon for it is not lost.
        os.kill(group.pids()[0], signal.SIGKILL)
        await group.logged("is replaced")
        config.write_text("[limits]\nrequests_per_minute = 5\n")
        node.signal(signal.SIGHUP)
        await group.logged(" ready ", times=COUNT + 1)
        async with aiohttp.ClientSession() as http, asyncio.timeout(30):
            seen: list[str | None] = []
            while len(seen) < 40 or set(seen[-40:]) != {"5"}:
                headers = {"Connection": "close"}
                async with http.post(f"{node.url}/v1/responses", json={"input": "hi"}, headers=headers) as answer:
                    seen.append(answer.headers.get("x-ratelimit-limit-requests"))
        assert node.popen.poll() is None
        assert "needs a restart" not in node.log


async def test_a_start_that_cannot_be_is_given_up_once_and_says_why(own_redis: RedisServer, tmp_path: Path) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes:
        bad = nodes.launch("--processes", str(COUNT), server__tls_cert_file=str(tmp_path / "none.pem"))
        assert await asyncio.to_thread(bad.popen.wait, 60) == 2
        assert "none.pem" in bad.log
        assert "a process did not start, so none does" in bad.log
        assert "replaced" not in bad.log
        with socket.create_server(("127.0.0.1", 0)) as taken:
            other = nodes.launch("--processes", str(COUNT), "--port", str(taken.getsockname()[1]))
            assert await asyncio.to_thread(other.popen.wait, 60) == 1
        assert "cannot listen" in other.log
        assert " ready " not in other.log


async def test_signals_amid_a_start_reach_each_process_once(own_redis: RedisServer, tmp_path: Path) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes:
        for wait_s in (0.0, 0.002, 0.01, 0.05):
            node = nodes.launch("--processes", str(COUNT), "--demo")
            async with asyncio.timeout(60):
                while not node.log:  # the first of the forks speaks
                    await asyncio.sleep(0.001)
            node.signal(signal.SIGHUP)
            await asyncio.sleep(wait_s)
            assert await node.end() in (0, 1)  # a process that is told before it listens has not started
            assert "second signal" not in node.log
            assert "killed" not in node.log


async def test_the_next_process_may_have_the_metrics_port_while_this_one_drains(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        listen = f"127.0.0.1:{free_port()}"
        first = await nodes.start(server__metrics_listen=listen)
        taken = nodes.launch(server__metrics_listen=listen)
        assert await asyncio.to_thread(taken.popen.wait, 60) == 2
        assert f"server.metrics_listen = {listen}: cannot listen there" in taken.log
        body = {"input": "[[words:480]] [[rate:20]]", "background": True}
        async with http.post(f"{first.url}/v1/responses", json=body) as answer:
            assert answer.status == 200
        first.signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            while "stopping" not in first.log:
                await asyncio.sleep(0.02)
        await nodes.start(server__metrics_listen=listen)
        assert first.popen.poll() is None
        async with http.get(f"http://{listen}/readyz") as answer:
            assert answer.status == 200
