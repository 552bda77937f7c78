"""`python grizz.py history`, as an operator runs it, beside a server and without one."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import aiohttp
import pytest

from tests.nodes import ROOT
from tests.restarts import House, get, house_in

pytestmark = pytest.mark.timeout(300)


async def command(house: House, *arguments: str, status: int = 0, **environ: str) -> tuple[str, str]:
    """What it printed, and what it complained about."""
    settings = {"GRIZZ_HISTORY_STORE": "sqlite", "GRIZZ_HISTORY_PATH": str(house.file)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / "grizz.py"), "history", *arguments),
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, **settings, **environ},
    )
    printed, complained = await process.communicate()
    assert process.returncode == status, complained.decode()
    return printed.decode(), complained.decode()


async def ask(http: aiohttp.ClientSession, house: House, user: str, text: str, **fields: object) -> dict:
    headers = {"Authorization": f"Bearer {KEYS[user]}"}
    async with http.post(f"{house.node.url}/v1/responses", json={"input": text, **fields}, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


KEYS = {"alice": "grizz-" + "a" * 40, "bob": "grizz-" + "b" * 40}


def accounts() -> dict[str, object]:
    from grizz.core.api_keys import hash_of

    return {f"keys__{name}__hashes": hash_of(key) for name, key in KEYS.items()}


async def test_all_of_a_user_is_counted_exported_and_deleted_and_nobody_elses(tmp_path: Path) -> None:
    async with house_in(tmp_path, **accounts()) as house, aiohttp.ClientSession() as http:
        await house.start()
        headers = {"Authorization": f"Bearer {KEYS['alice']}"}
        url = f"{house.node.url}/v1"
        async with http.post(f"{url}/conversations", json={}, headers=headers) as answer:
            conversation = (await answer.json())["id"]
        first = await ask(http, house, "alice", "[[echo:one]]")
        second = await ask(http, house, "alice", "[[echo:two]]", previous_response_id=first["id"])
        talked = await ask(http, house, "alice", "[[echo:three]]", conversation=conversation)
        theirs = await ask(http, house, "bob", "[[echo:mine]]")
        running = await ask(http, house, "alice", "[[words:900]] [[rate:20]] later", background=True)

        shown = [json.loads(line) for line in (await command(house, "show", "--json"))[0].splitlines()]
        assert [(one["owner"], one["responses"], one["unfinished"], one["conversations"]) for one in shown] == [
            ("key:alice", 3, 1, 1),
            ("key:bob", 1, 0, 0),
        ]
        exported = [
            json.loads(line) for line in (await command(house, "export", "--user", "key:alice"))[0].splitlines()
        ]
        responses = {one["response"]["id"]: one for one in exported if one["kind"] == "response"}
        assert set(responses) == {first["id"], second["id"], talked["id"]}
        assert responses[second["id"]]["previous"] == first["id"]
        assert responses[second["id"]]["response"]["output"][0]["content"][0]["text"] == "two"
        assert [one["id"] for one in exported if one["kind"] == "unfinished"] == [running["id"]]
        (talk,) = [one for one in exported if one["kind"] == "conversation"]
        assert [item["content"][0]["text"] for item in talk["items"]] == ["[[echo:three]]", "three"]

        for action in ("export", "delete"):
            assert "did you mean key:alice?" in (await command(house, action, "--user", "alice", status=1))[1]
        printed, _ = await command(house, "delete", "--user", "key:alice")
        assert printed.startswith("deleted ")
        for one in (first, second, talked, running):
            async with http.get(f"{url}/responses/{one['id']}", headers=headers) as answer:
                assert answer.status == 404
        async with http.get(f"{url}/conversations/{conversation}", headers=headers) as answer:
            assert answer.status == 404
        async with http.post(
            f"{url}/responses", json={"input": "x", "previous_response_id": first["id"]}, headers=headers
        ) as answer:
            assert (await answer.json())["error"]["code"] == "previous_response_not_found"
        assert house.demo.active == 0  # what ran for her was stopped
        async with http.get(
            f"{url}/responses/{theirs['id']}", headers={"Authorization": f"Bearer {KEYS['bob']}"}
        ) as answer:
            assert answer.status == 200
        assert [row[0] for row in house.rows("SELECT owner FROM turns")] == ["key:bob"]
        assert house.rows("SELECT count(*) FROM jobs") == house.rows("SELECT count(*) FROM erasures") == [(0,)]
        for part in house.file.parent.iterdir():
            assert b"[[echo:three]]" not in part.read_bytes(), part


async def test_each_of_several_deletions_is_done_and_none_concerns_what_came_after_it(tmp_path: Path) -> None:
    async with house_in(tmp_path) as house, aiohttp.ClientSession() as http:
        await house.start()
        for text in ("[[echo:one]]", "[[echo:two]]", "[[echo:three]]"):
            async with http.post(f"{house.node.url}/v1/responses", json={"input": text}) as answer:
                made = await answer.json()
            await command(house, "delete", "--user", "local")
            assert (await get(http, f"{house.node.url}/v1/responses/{made['id']}"))[0] == 404
        async with http.post(f"{house.node.url}/v1/responses", json={"input": "[[echo:later]]"}) as answer:
            made = await answer.json()
        house.node.kill()
        await house.start()
        assert (await get(http, f"{house.node.url}/v1/responses/{made['id']}"))[0] == 200


async def test_without_a_server_it_does_the_same(tmp_path: Path) -> None:
    async with house_in(tmp_path) as house, aiohttp.ClientSession() as http:
        await house.start()
        async with http.post(f"{house.node.url}/v1/responses", json={"input": "[[echo:one]]"}) as answer:
            made = await answer.json()
        house.node.kill()
        assert "local  1 responses" in (await command(house, "show"))[0]
        assert (await command(house, "delete", "--user", "local"))[0] == "deleted 1\n"
        assert (await command(house, "show"))[0] == "nothing is kept\n"
        await house.start()
        assert (await get(http, f"{house.node.url}/v1/responses/{made['id']}"))[0] == 404


async def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    async with house_in(tmp_path) as house:
        assert "is not there" in (await command(house, "show", status=1))[1]
        assert "whose history" in (await command(house, "delete", status=2))[1]
        assert "kept in memory" in (await command(house, "show", status=2, GRIZZ_HISTORY_STORE="memory"))[1]
        redis = {"GRIZZ_HISTORY_STORE": "redis", "GRIZZ_REDIS_URL": "redis://127.0.0.1"}
        assert "no index by user" in (await command(house, "show", status=2, **redis))[1]
