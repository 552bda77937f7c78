"""Two and three real processes on one real Redis: whatever dies, every answer goes on and ends once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import aiohttp
import pytest

from tests.nodes import ROOT, Client, busy_one, metric, nodes_on
from tests.player import numbers
from tests.redis_servers import RedisServer

pytestmark = pytest.mark.timeout(120)


async def dead_letters(redis: RedisServer, status: int, *arguments: str) -> str:
    """Run the command as an operator does; everything it printed."""
    command = [sys.executable, str(ROOT / "grizz.py"), "dead-letters", *arguments, "--redis-url", redis.url]
    environ = {**os.environ, "GRIZZ_HISTORY_STORE": "redis"}
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=STDOUT, env=environ)
    printed, _ = await process.communicate()
    assert process.returncode == status, printed.decode()
    return printed.decode()


async def test_an_answer_run_elsewhere_reads_like_one_run_at_home(own_redis: RedisServer, tmp_path: Path) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        home = await nodes.start(workers__concurrency=0)
        await nodes.start()
        client = Client(http, [home])
        await client.ask("[[words:100]] [[rate:200]]")
        client.check()
        assert client.text == numbers(100)
        assert [event["sequence_number"] for event in client.events] == list(range(len(client.events)))


async def test_a_killed_worker_is_replaced_and_its_client_stays_connected(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        home = await nodes.start(workers__concurrency=0)
        workers = [await nodes.start(), await nodes.start()]
        client = Client(http, [home])
        asking = asyncio.create_task(client.ask("[[words:200]] [[rate:50]]"))
        while len(client.events) < 10:
            await asyncio.sleep(0.05)
        (await busy_one(http, workers)).kill()
        await asking
        client.check()
        assert client.longest_pause_s < 15
        assert client.closes == []
        output = client.events[-1]["response"]["output"]
        assert [item["status"] for item in output] == ["incomplete", "completed"]
        assert output[1]["content"][0]["text"] == numbers(200)
        assert nodes.demo.requests == 2


async def test_a_killed_home_is_taken_over_and_its_answer_begins_anew_elsewhere(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        home, other = await nodes.start(), await nodes.start()
        client = Client(http, [home, other])
        asking = asyncio.create_task(client.ask("[[words:200]] [[rate:50]]"))
        while len(client.events) < 10:
            await asyncio.sleep(0.05)
        home.kill()
        await asking
        client.check()
        assert client.text == numbers(200)
        assert client.longest_pause_s < 15
        assert client.last > 1_000_000
        assert nodes.demo.requests == 2
        assert await metric(http, other, 'grizz_resumes_total{result="gap"}') == 1


async def test_a_killed_home_whose_worker_lives_loses_nothing_at_all(own_redis: RedisServer, tmp_path: Path) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        home, worker = await nodes.start(workers__concurrency=0), await nodes.start()
        client = Client(http, [home, worker])
        asking = asyncio.create_task(client.ask("[[words:300]] [[rate:30]]"))
        while len(client.events) < 10:
            await asyncio.sleep(0.05)
        home.kill()
        await asking
        client.check()
        assert client.text == numbers(300)
        assert client.longest_pause_s < 15
        assert nodes.demo.requests == 1
        assert await metric(http, worker, 'grizz_resumes_total{result="ok"}') == 1
        assert await metric(http, worker, 'grizz_resumes_total{result="gap"}') == 0


async def test_a_home_that_stood_still_does_not_speak_again(own_redis: RedisServer, tmp_path: Path) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        home, other = await nodes.start(workers__lease_s=2), await nodes.start(workers__lease_s=2)
        stuck, moved = Client(http, [home, other]), Client(http, [other])
        asking = asyncio.create_task(stuck.ask("[[words:300]] [[rate:20]]"))
        while len(stuck.events) < 10:
            await asyncio.sleep(0.05)
        home.signal(signal.SIGSTOP)
        moved.response_id, moved.last = stuck.response_id, stuck.last
        await moved.ask("")
        before = len(stuck.events)
        home.signal(signal.SIGCONT)
        await asking
        moved.check()
        stuck.check()
        # Not one event of the old attempt after the pause: the next is the first of the new one.
        assert stuck.events[before]["sequence_number"] == 1_000_000
        assert stuck.closes[0] == 1012
        assert moved.text == stuck.text == numbers(300)
        assert nodes.demo.requests == 2


async def test_a_cancel_from_a_third_node_stops_the_upstream(own_redis: RedisServer, tmp_path: Path) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        home = await nodes.start(workers__concurrency=0)
        await nodes.start()
        third = await nodes.start(workers__concurrency=0)
        client = Client(http, [home])
        asking = asyncio.create_task(client.ask("[[words:2000]] [[rate:50]]"))
        while len(client.events) < 10:
            await asyncio.sleep(0.05)
        async with http.post(f"{third.url}/v1/responses/{client.response_id}/cancel") as answer:
            assert (answer.status, (await answer.json())["status"]) == (200, "cancelled")
        await asking
        client.check()
        assert client.events[-1]["response"]["status"] == "cancelled"
        async with asyncio.timeout(1):
            while nodes.demo.active:
                await asyncio.sleep(0.01)


async def test_tabs_on_several_nodes_read_one_answer(own_redis: RedisServer, tmp_path: Path) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        all_nodes = [await nodes.start(workers__concurrency=count) for count in (0, 4, 0)]
        client = Client(http, all_nodes[:1])
        asking = asyncio.create_task(client.ask("[[words:150]] [[rate:50]]"))
        while len(client.events) < 10:
            await asyncio.sleep(0.05)
        tabs = [Client(http, [node]) for node in all_nodes for _ in range(2)]
        for tab in tabs:
            tab.response_id = client.response_id
        await asyncio.gather(asking, *(tab.ask("") for tab in tabs))
        client.check()
        for tab in tabs:
            tab.check()
            assert tab.events == client.events
        again = Client(http, all_nodes[2:])
        await again.ask("And now?", previous_response_id=client.response_id)
        again.check()
        async with http.get(f"{all_nodes[2].url}/v1/responses/{client.response_id}") as answer:
            assert (await answer.json())["status"] == "completed"
        assert nodes.demo.requests == 2


async def test_a_deploy_moves_what_runs_to_another_node_and_clients_resume_mid_word(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        home = await nodes.start("--drain-timeout", "0.5", workers__concurrency=1)
        stays = await nodes.start()
        here, elsewhere = Client(http, [home, stays]), Client(http, [home, stays])
        asking = []
        for client in (here, elsewhere):
            asking.append(asyncio.create_task(client.ask("[[words:200]] [[rate:50]]")))
            while len(client.events) < 10:
                await asyncio.sleep(0.05)
        assert await home.end() == 0
        await asyncio.gather(*asking)
        for client in (here, elsewhere):
            client.check()
            assert client.closes == [1012]
            assert [event["sequence_number"] for event in client.events] == list(range(len(client.events)))
            assert client.longest_pause_s < 5
        # What ran at the other node was not even interrupted, what ran here began again, honestly.
        assert elsewhere.text == numbers(200)
        output = here.events[-1]["response"]["output"]
        assert [item["status"] for item in output] == ["incomplete", "completed"]
        assert output[1]["content"][0]["text"] == numbers(200)
        assert nodes.demo.requests == 3


async def test_a_worker_that_leaves_hands_its_jobs_back_and_that_is_no_attempt(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        home = await nodes.start(workers__concurrency=0, workers__max_attempts=1)
        worker = await nodes.start("--drain-timeout", "0.5")
        client = Client(http, [home])
        asking = asyncio.create_task(client.ask("[[words:200]] [[rate:50]]"))
        while len(client.events) < 10:
            await asyncio.sleep(0.05)
        await nodes.start()
        assert await worker.end() == 0
        await asking
        client.check()
        assert client.closes == []
        assert client.events[-1]["type"] == "response.completed"
        assert client.events[-1]["response"]["output"][-1]["content"][0]["text"] == numbers(200)


async def test_a_lone_node_that_restarts_goes_on_with_what_it_left(own_redis: RedisServer, tmp_path: Path) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        old = await nodes.start("--drain-timeout", "0.5")
        client = Client(http, [old])
        asking = asyncio.create_task(client.ask("[[words:200]] [[rate:50]]"))
        while len(client.events) < 10:
            await asyncio.sleep(0.05)
        client.nodes = [await nodes.start()]
        nodes.all[-1].kill()
        await old.end()
        client.nodes = [await nodes.start()]
        await asking
        client.check()
        assert client.text == numbers(200)


async def test_heirs_of_heirs_are_found(own_redis: RedisServer, tmp_path: Path) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        first, second, third = [await nodes.start() for _ in range(3)]
        client = Client(http, [first, second, third])
        asking = asyncio.create_task(client.ask("[[words:400]] [[rate:50]]", within_s=60))
        for dying, attempt in ((first, 0), (second, 1)):
            while len(client.events) < 10 or client.last < attempt * 1_000_000 + 10:
                await asyncio.sleep(0.05)
            dying.kill()
        await asking
        client.check()
        assert client.text == numbers(400)
        assert client.last > 2_000_000
        assert client.longest_pause_s < 15
        assert nodes.demo.requests == 3


async def test_three_lost_attempts_make_a_dead_letter(own_redis: RedisServer, tmp_path: Path) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        home = await nodes.start(workers__concurrency=0, workers__lease_s=1)
        client = Client(http, [home])
        asking = asyncio.create_task(client.ask("[[words:2000]] [[rate:50]]", within_s=60))
        for attempt in range(3):
            worker = await nodes.start(workers__lease_s=1)
            async with asyncio.timeout(20):
                while nodes.demo.requests <= attempt:
                    await asyncio.sleep(0.02)
            await asyncio.sleep(0.3)
            worker.kill()
        await asking
        client.check()
        assert client.events[-1]["type"] == "response.failed"
        listed = own_redis.command("XRANGE", "{grizz}:dead", "-", "+")
        assert len(listed) == 1 and client.response_id in listed[0][1]
        assert client.response_id in await dead_letters(own_redis, 0, "list")
        assert "no such dead letter" in await dead_letters(own_redis, 1, "drop", "resp_nothing")
        assert "requeue what?" in await dead_letters(own_redis, 2, "requeue")
        worker = await nodes.start()
        assert "requeued 1" in await dead_letters(own_redis, 0, "requeue", client.response_id)
        assert "no dead letters" in await dead_letters(own_redis, 0, "list")
        async with asyncio.timeout(10):
            while nodes.demo.requests < 4:
                await asyncio.sleep(0.05)
        for node in (home, worker):
            async with http.get(f"{node.url}/v1/responses/{client.response_id}") as answer:
                assert (answer.status, (await answer.json())["status"]) == (200, "in_progress")
