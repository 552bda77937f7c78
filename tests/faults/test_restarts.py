"""kill -9, and the same file again: what was accepted ends honestly, what had ended is found."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from tests.nodes import Client
from tests.player import TERMINAL, numbers
from tests.restarts import House, get, house_in

pytestmark = pytest.mark.timeout(400)


async def until(condition: Callable[[], object], within_s: float = 90) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.02)


async def ask(http: aiohttp.ClientSession, house: House, text: str, **fields: object) -> dict:
    async with http.post(f"{house.node.url}/v1/responses", json={"input": text, **fields}) as answer:
        return await answer.json()


async def ended(http: aiohttp.ClientSession, house: House, response_id: str) -> dict:
    async with asyncio.timeout(90):
        while True:
            status, body = await get(http, f"{house.node.url}/v1/responses/{response_id}")
            assert status == 200, body
            if body["status"] not in ("queued", "in_progress"):
                return body
            await asyncio.sleep(0.05)


async def test_a_killed_answer_begins_anew_under_its_id_and_the_client_gets_it_whole(tmp_path: Path) -> None:
    async with house_in(tmp_path) as house, aiohttp.ClientSession() as http:
        client = Client(http, [await house.start()])
        async with asyncio.TaskGroup() as group:
            group.create_task(client.ask("[[words:200]] [[rate:200]]", within_s=200))
            await until(lambda: client.last > 10)
            await house.killed(client)
        client.check()
        assert client.text == numbers(200)
        assert client.attached[-1]["attempt"] == 2
        begun = [event for event in client.events if event["type"] == "response.created"]
        assert [event["sequence_number"] for event in begun] == [0, 1_000_000]
        assert begun[0]["response"]["id"] == begun[1]["response"]["id"]
        items = [event["item"]["id"] for event in client.events if event["type"] == "response.output_item.added"]
        assert len(items) == len(set(items)) == 2
        assert house.rows("SELECT count(*) FROM jobs") == [(0,)]
        assert house.rows("SELECT count(*) FROM turns") == [(1,)]
        whole = 1 + client.last - 1_000_000
        await until(lambda: f" events={whole} " in house.node.log)


async def test_fifty_answers_survive_three_kills_each_with_one_end(tmp_path: Path) -> None:
    async with house_in(tmp_path, workers__max_attempts=10) as house, aiohttp.ClientSession() as http:
        await house.start()
        clients = [Client(http, [house.node]) for _ in range(50)]
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.ask("[[words:200]] [[rate:100]]", within_s=300))
            for kill in range(3):
                await until(lambda least=kill: sum(len(client.events) > 20 for client in clients) > 20 + 5 * least)
                await asyncio.sleep(0.3)
                await house.killed()
                for client in clients:
                    client.nodes[:] = [house.node]
        for client in clients:
            client.check()
            assert client.text == numbers(200)
        ids = {client.response_id for client in clients}
        assert len(ids) == 50
        assert {row[0] for row in house.rows("SELECT id FROM turns")} == ids
        assert house.rows("SELECT count(*) FROM jobs") == [(0,)]


async def test_what_waited_when_it_was_killed_runs_afterwards_as_its_first_attempt(tmp_path: Path) -> None:
    async with house_in(tmp_path, workers__concurrency=1, workers__max_attempts=1) as house:
        async with aiohttp.ClientSession() as http:
            await house.start()
            running = await ask(http, house, "[[words:500]] [[rate:50]]", background=True)
            waiting = [await ask(http, house, "[[words:5]]", background=True) for _ in range(3)]
            await until(lambda: house.demo.requests == 1)
            await house.killed()
            # Its only attempt was lost; the others had none.
            assert (await ended(http, house, running["id"]))["status"] == "failed"
            for one in waiting:
                body = await ended(http, house, one["id"])
                assert (body["status"], body["output"][0]["content"][0]["text"]) == ("completed", numbers(5))


async def test_after_its_last_lost_attempt_a_response_fails_and_says_so(tmp_path: Path) -> None:
    async with house_in(tmp_path, workers__max_attempts=2) as house, aiohttp.ClientSession() as http:
        client = Client(http, [await house.start()])
        async with asyncio.TaskGroup() as group:
            group.create_task(client.ask("[[words:900]] [[rate:50]]", within_s=200))
            for seen in (5, 1_000_005):
                await until(lambda least=seen: client.last > least)
                await house.killed(client)
        client.check()
        end = client.events[-1]
        assert end["type"] == "response.failed"
        assert "lost this answer 2 times" in end["response"]["error"]["message"]


async def test_a_stream_over_http_goes_on_where_it_was(tmp_path: Path) -> None:
    async with house_in(tmp_path) as house, aiohttp.ClientSession() as http:
        await house.start()
        made = await ask(http, house, "[[words:100]] [[rate:100]]", background=True)
        await asyncio.sleep(0.4)
        await house.killed()
        query = {"stream": "true", "starting_after": "7"}
        async with http.get(f"{house.node.url}/v1/responses/{made['id']}", params=query) as answer:
            assert answer.status == 200
            text = (await answer.read()).decode()
        kinds = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
        assert kinds[:2] == ["response.created", "response.in_progress"]
        assert [kind for kind in kinds if kind in TERMINAL] == ["response.completed"]


async def test_a_conversation_goes_on_after_a_kill(tmp_path: Path) -> None:
    async with house_in(tmp_path) as house, aiohttp.ClientSession() as http:
        await house.start()
        first = await ask(http, house, "[[echo:one]]")
        second = await ask(http, house, "[[echo:two]]", previous_response_id=first["id"])
        await house.killed()
        third = await ask(http, house, "[[echo:three]]", previous_response_id=second["id"])
        assert third["status"] == "completed"
        told = [message["content"] for message in house.demo.last_request["messages"]]
        assert told == ["[[echo:one]]", "one", "[[echo:two]]", "two", "[[echo:three]]"]
        running = await ask(http, house, "[[words:20]] [[rate:20]]", previous_response_id=third["id"], background=True)
        await house.killed()
        assert (await ended(http, house, running["id"]))["status"] == "completed"
        _, given = await get(http, f"{house.node.url}/v1/responses/{running['id']}/input_items")
        assert [item["content"][0]["text"] for item in given["data"]] == ["[[words:20]] [[rate:20]]"]
        url = f"{house.node.url}/v1/responses/{second['id']}"
        assert await get(http, url) == (200, second)
        status, items = await get(http, f"{url}/input_items")
        assert (status, items["data"][0]["content"][0]["text"]) == (200, "[[echo:two]]")
        async with http.delete(url) as answer:
            assert answer.status == 200
        await house.killed()
        assert (await get(http, f"{house.node.url}/v1/responses/{second['id']}"))[0] == 404
        # The model would see a conversation with a hole in it.
        broken = await ask(http, house, "And now?", previous_response_id=third["id"])
        assert broken["error"]["code"] == "previous_response_not_found"


async def test_what_must_not_be_stored_leaves_the_file_when_it_ends_and_its_bytes_too(tmp_path: Path) -> None:
    async with house_in(tmp_path) as house, aiohttp.ClientSession() as http:
        client = Client(http, [await house.start()])
        async with asyncio.TaskGroup() as group:
            group.create_task(client.ask("[[words:60]] [[rate:60]] SECRETWORD", within_s=200, store=False))
            await until(lambda: client.last > 5)
            assert house.rows("SELECT count(*) FROM jobs") == [(1,)]
            await house.killed(client)
        client.check()
        assert client.text.startswith(numbers(60)[:40])
        assert house.rows("SELECT (SELECT count(*) FROM jobs), (SELECT count(*) FROM turns)") == [(0, 0)]
        assert await house.node.end() == 0
        for part in house.file.parent.iterdir():
            assert b"SECRETWORD" not in part.read_bytes(), part


async def test_nobody_comes_back_for_an_answer_so_it_is_cancelled_unless_it_is_in_the_background(
    tmp_path: Path,
) -> None:
    async with house_in(tmp_path, replies__grace_s=1) as house, aiohttp.ClientSession() as http:
        await house.start()
        kept = await ask(http, house, "[[words:150]] [[rate:50]]", background=True)
        ws = await http.ws_connect(f"{house.node.url.replace('http', 'ws')}/v1/responses")
        await ws.send_json({"type": "response.create", "input": "[[words:900]] [[rate:50]]"})
        left = (await ws.receive_json())["response"]["id"]
        await ws.receive_json()
        await house.killed()
        assert (await ended(http, house, left))["status"] == "cancelled"
        assert (await ended(http, house, kept["id"]))["status"] == "completed"
        await ws.close()


async def test_a_deploy_is_invisible_what_the_drain_does_not_finish_goes_on_in_the_next_process(
    tmp_path: Path,
) -> None:
    settings = {"server__drain_timeout_s": 0.2, "workers__max_attempts": 1}
    async with house_in(tmp_path, **settings) as house, aiohttp.ClientSession() as http:
        client = Client(http, [await house.start()])
        async with asyncio.TaskGroup() as group:
            group.create_task(client.ask("[[words:200]] [[rate:100]]", within_s=200))
            await until(lambda: client.last > 10)
            assert await house.node.end() == 0
            client.nodes[:] = [await house.start()]
        client.check()  # a stop is no attempt, of which there is one only
        assert client.text == numbers(200)
        assert client.closes[0] == 1012


async def test_a_reply_costs_two_transactions_at_most(tmp_path: Path) -> None:
    async with house_in(tmp_path, workers__concurrency=2) as house, aiohttp.ClientSession() as http:
        await house.start()

        async def commits() -> int:
            async with http.get(f"{house.node.url}/metrics") as answer:
                text = await answer.text()
            line = next(line for line in text.splitlines() if line.startswith("grizz_history_commits_total"))
            return round(float(line.split()[-1]))

        before = await commits()
        for _ in range(10):
            await ask(http, house, "[[words:20]]")
        one_by_one = await commits()
        # Fewer when an end waits for the next start: both are written as one then.
        assert 10 <= one_by_one - before <= 20
        await asyncio.gather(*(ask(http, house, "[[words:20]]") for _ in range(30)))
        assert await commits() - one_by_one <= 60
        assert house.rows("SELECT (SELECT count(*) FROM jobs), (SELECT count(*) FROM turns)") == [(0, 40)]


async def test_a_conversation_and_its_running_turn_survive_and_the_turn_is_in_it_once(tmp_path: Path) -> None:
    async with house_in(tmp_path) as house, aiohttp.ClientSession() as http:
        await house.start()
        async with http.post(f"{house.node.url}/v1/conversations", json={"metadata": {"title": "Bears"}}) as answer:
            conversation = (await answer.json())["id"]
        await ask(http, house, "[[echo:one]]", conversation=conversation)
        running = await ask(http, house, "[[words:60]] [[rate:60]]", conversation=conversation, background=True)
        await asyncio.sleep(0.3)
        await house.killed()
        url = f"{house.node.url}/v1/conversations"
        assert (await get(http, f"{url}/{conversation}"))[1]["metadata"] == {"title": "Bears"}
        assert (await ended(http, house, running["id"]))["status"] == "completed"
        _, page = await get(http, f"{url}/{conversation}/items?order=asc")
        told = [item["content"][0]["text"] for item in page["data"]]
        assert told == ["[[echo:one]]", "one", "[[words:60]] [[rate:60]]", numbers(60)]
        assert house.rows("SELECT count(*) FROM conversation_turns") == [(2,)]


async def test_a_compacted_windows_turn_survives_and_its_conversation_goes_on(tmp_path: Path) -> None:
    async with house_in(tmp_path) as house, aiohttp.ClientSession() as http:
        await house.start()
        said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "[[echo:a heron]]"}]
        async with http.post(f"{house.node.url}/v1/responses/compact", json={"model": "m", "input": said}) as answer:
            window = (await answer.json())["output"]
        async with http.post(f"{house.node.url}/v1/conversations", json={}) as answer:
            conversation = (await answer.json())["id"]
        given = [*window, {"role": "user", "content": "[[words:60]] [[rate:60]]"}]
        fields = {"conversation": conversation, "background": True, "input": given}
        running = await ask(http, house, "", **fields)
        await asyncio.sleep(0.3)
        await house.killed()
        assert (await ended(http, house, running["id"]))["status"] == "completed"
        _, page = await get(http, f"{house.node.url}/v1/conversations/{conversation}/items?order=asc")
        assert [item.get("role") for item in page["data"]] == ["user", None, "user", "assistant"]
        assert page["data"][1]["encrypted_content"] == window[1]["encrypted_content"]
        after = await ask(http, house, "[[echo:after]]", conversation=conversation)
        assert after["status"] == "completed", after
