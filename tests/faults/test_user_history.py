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

from tests.nodes import ROOT, Client, Node, nodes_on
from tests.redis_servers import FaultProxy, RedisServer
from tests.restarts import House, get, house_in

pytestmark = pytest.mark.timeout(300)


async def command(kept: House | RedisServer, *arguments: str, status: int = 0, **environ: str) -> tuple[str, str]:
    """What it printed, and what it complained about."""
    if isinstance(kept, House):
        settings = {"GRIZZ_HISTORY_STORE": "sqlite", "GRIZZ_HISTORY_PATH": str(kept.file)}
    else:
        settings = {"GRIZZ_HISTORY_STORE": "redis", "GRIZZ_REDIS_URL": kept.url}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / "grizz.py"), "history", *arguments),
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, **settings, **environ},
    )
    printed, complained = await process.communicate()
    assert process.returncode == status, complained.decode()
    return printed.decode(), complained.decode()


async def ask(http: aiohttp.ClientSession, node: Node, user: str, text: str, **fields: object) -> dict:
    async with http.post(f"{node.url}/v1/responses", json={"input": text, **fields}, headers=head(user)) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


def head(user: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS[user]}"}


KEYS = {"alice": "grizz-" + "a" * 40, "bob": "grizz-" + "b" * 40}


def accounts() -> dict[str, object]:
    from grizz.core.api_keys import hash_of

    return {f"keys__{name}__hashes": hash_of(key) for name, key in KEYS.items()}


async def test_all_of_a_user_is_counted_exported_and_deleted_and_nobody_elses(tmp_path: Path) -> None:
    async with house_in(tmp_path, **accounts()) as house, aiohttp.ClientSession() as http:
        await house.start()
        headers = head("alice")
        url = f"{house.node.url}/v1"
        async with http.post(f"{url}/conversations", json={}, headers=headers) as answer:
            conversation = (await answer.json())["id"]
        first = await ask(http, house.node, "alice", "[[echo:one]]")
        second = await ask(http, house.node, "alice", "[[echo:two]]", previous_response_id=first["id"])
        talked = await ask(http, house.node, "alice", "[[echo:three]]", conversation=conversation)
        theirs = await ask(http, house.node, "bob", "[[echo:mine]]")
        running = await ask(http, house.node, "alice", "[[words:900]] [[rate:20]] later", background=True)

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
        async with http.get(f"{url}/responses/{theirs['id']}", headers=head("bob")) as answer:
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
        redis = {"GRIZZ_HISTORY_STORE": "redis", "GRIZZ_REDIS_URL": "redis://127.0.0.1:1"}
        assert "the Redis at 127.0.0.1:1 cannot be used" in (await command(house, "show", status=1, **redis))[1]


async def all_words(redis: RedisServer) -> str:
    """Everything that stands in it, keys and values."""
    found = []
    for key in redis.command("KEYS", "*"):
        kind = redis.command("TYPE", key)
        kind = kind.decode() if isinstance(kind, bytes) else kind
        read = {
            "string": ("GET", key),
            "hash": ("HGETALL", key),
            "stream": ("XRANGE", key, "-", "+"),
            "zset": ("ZRANGE", key, "0", "-1"),
        }[kind]
        found.append((key, redis.command(*read)))
    return repr(found)


async def test_in_a_redis_all_of_a_user_is_found_without_an_index_and_deleted_at_every_process(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        one = await nodes.start(**accounts())
        two = await nodes.start(workers__concurrency=0, **accounts())
        async with http.post(f"{one.url}/v1/conversations", json={}, headers=head("alice")) as answer:
            conversation = (await answer.json())["id"]
        first = await ask(http, one, "alice", "[[echo:secret-one]]")
        second = await ask(http, two, "alice", "[[echo:secret-two]]", previous_response_id=first["id"])
        together = await asyncio.gather(*(ask(http, one, "alice", f"[[echo:secret-{n}]]") for n in range(5)))
        talked = await ask(http, two, "alice", "[[echo:secret-three]]", conversation=conversation)
        theirs = await ask(http, one, "bob", "[[echo:his-own]]")
        running = await ask(http, one, "alice", "[[words:900]] [[rate:20]] secret-later", background=True)
        elsewhere = await ask(http, two, "alice", "[[words:900]] [[rate:20]] secret-later", background=True)
        bobs = asyncio.create_task(Bob(http, [two]).ask("[[words:500]] [[rate:50]]"))
        async with asyncio.timeout(30):
            while nodes.demo.active < 3 or "secret-4" not in await all_words(own_redis):
                await asyncio.sleep(0.05)

        shown = [json.loads(line) for line in (await command(own_redis, "show", "--json"))[0].splitlines()]
        assert [(each["owner"], each["responses"], each["unfinished"], each["conversations"]) for each in shown] == [
            ("key:alice", 8, 2, 1),
            ("key:bob", 1, 1, 0),
        ]
        assert all(each["bytes"] > 100 for each in shown)
        exported = [
            json.loads(line) for line in (await command(own_redis, "export", "--user", "key:alice"))[0].splitlines()
        ]
        responses = {each["response"]["id"]: each for each in exported if each["kind"] == "response"}
        assert set(responses) == {made["id"] for made in (first, second, talked, *together)}
        assert responses[second["id"]]["previous"] == first["id"]
        assert {each["id"] for each in exported if each["kind"] == "unfinished"} == {running["id"], elsewhere["id"]}
        (talk,) = [each for each in exported if each["kind"] == "conversation"]
        assert [item["content"][0]["text"] for item in talk["items"]] == ["[[echo:secret-three]]", "secret-three"]
        assert "his-own" not in json.dumps(exported)

        assert "did you mean key:alice?" in (await command(own_redis, "delete", "--user", "alice", status=1))[1]
        printed, _ = await command(own_redis, "delete", "--user", "key:alice")
        assert printed.startswith("deleted ")
        assert "secret" not in await all_words(own_redis)
        for node in (one, two):
            for made in (first, second, talked, running, elsewhere, *together):
                async with http.get(f"{node.url}/v1/responses/{made['id']}", headers=head("alice")) as answer:
                    assert answer.status == 404
            async with http.get(f"{node.url}/v1/conversations/{conversation}", headers=head("alice")) as answer:
                assert answer.status == 404
            async with http.get(f"{node.url}/v1/responses/{theirs['id']}", headers=head("bob")) as answer:
                assert answer.status == 200
            assert "a user's history was deleted by a command" in node.log
        assert (await bobs)[-1]["type"] == "response.completed"
        assert nodes.demo.active == 0  # what ran for her was stopped


class Bob(Client):
    """A client with his key."""

    def __init__(self, http: aiohttp.ClientSession, nodes: list[Node]) -> None:
        super().__init__(http, nodes)
        self.headers = head("bob")


async def test_in_a_redis_without_a_server_it_does_the_same_and_names_a_right_that_is_missing(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        node = await nodes.start()
        async with http.post(f"{node.url}/v1/responses", json={"input": "[[echo:secret]]"}) as answer:
            assert answer.status == 200
        assert await node.end() == 0
    shown = (await command(own_redis, "show"))[0]
    assert " 1 responses  0 unfinished  0 conversations" in shown
    owner = shown.partition("  ")[0]
    own_redis.command("ACL", "SETUSER", "default", "-scan")
    assert "scan" in (await command(own_redis, "delete", "--user", owner, status=1))[1]
    own_redis.command("ACL", "SETUSER", "default", "+scan")
    assert (await command(own_redis, "delete", "--user", owner))[0] == "deleted 1\n"
    assert "secret" not in await all_words(own_redis)
    assert (await command(own_redis, "show"))[0] == "nothing is kept\n"


async def test_a_process_without_a_connection_is_not_taken_for_one_that_forgot_nor_waited_for_when_it_is_gone(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with (
        FaultProxy(own_redis.port) as proxy,
        nodes_on(own_redis.url, tmp_path) as nodes,
        aiohttp.ClientSession() as http,
    ):
        one = await nodes.start(**accounts())
        cut_off = await nodes.start(redis_url=proxy.url, **accounts())
        await ask(http, one, "alice", "[[echo:secret-one]]")
        proxy.mode = "refuse"
        proxy.reset_all()
        async with asyncio.timeout(20):
            while "redis lost" not in cut_off.log:
                await asyncio.sleep(0.05)
        kept = await ask(http, cut_off, "alice", "[[echo:secret-two]]")
        complained = (await command(own_redis, "delete", "--user", "key:alice", status=1))[1]
        assert "it may have no connection now" in complained
        assert "a user's history was deleted by a command" in one.log
        proxy.heal()
        async with asyncio.timeout(60):
            while "secret-two" not in await all_words(own_redis):  # as was said
                await asyncio.sleep(0.1)
        assert (await command(own_redis, "delete", "--user", "key:alice"))[0] == "deleted 1\n"
        async with http.get(f"{cut_off.url}/v1/responses/{kept['id']}", headers=head("alice")) as answer:
            assert answer.status == 404
        # One that was killed is waited for until another has taken it over.
        cut_off.kill()
        assert (await command(own_redis, "delete", "--user", "key:alice", status=1))[0] == "deleted 0\n"
        (dead,) = silent(own_redis)
        own_redis.command("SET", f"{{grizz}}:heir:{dead}", "another")
        assert (await command(own_redis, "delete", "--user", "key:alice"))[0] == "deleted 0\n"


def silent(redis: RedisServer) -> list[str]:
    """The consumers of the group on whose channel nobody listens."""
    names = [row[1] for row in redis.command("XINFO", "CONSUMERS", "{grizz}:jobs", "grizz")]
    return [name for name in names if not redis.command("PUBSUB", "NUMSUB", f"{{grizz}}:n:{name}")[1]]
