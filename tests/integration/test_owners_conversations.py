"""A conversation that is somebody else's is an unknown one, on every path, at every node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.accounts import ALICE, BOB, bearer
from tests.conftest import Grizz
from tests.integration.test_owners import ACCOUNTS, ALICES_PHONE, over_http, over_websocket
from tests.integration.test_owners_nodes import KEYS, at
from tests.nodes import nodes_on
from tests.redis_servers import RedisServer

UNKNOWN = "conv_0000000000000000000000000000000000000000"
ITEM: dict[str, Any] = {"type": "message", "role": "user", "content": "secret"}
ASK = {"input": "go on", "conversation": "ID"}
PATHS = {
    "retrieve": over_http("GET", "/v1/conversations/ID"),
    "update": over_http("POST", "/v1/conversations/ID", {"metadata": {"title": "mine now"}}),
    "list items": over_http("GET", "/v1/conversations/ID/items"),
    "list items after one": over_http("GET", "/v1/conversations/ID/items?after=msg_secret"),
    "add items": over_http("POST", "/v1/conversations/ID/items", {"items": [ITEM]}),
    "retrieve an item": over_http("GET", "/v1/conversations/ID/items/msg_secret"),
    "delete an item": over_http("DELETE", "/v1/conversations/ID/items/msg_secret"),
    "create": over_http("POST", "/v1/responses", ASK),
    "create, streamed": over_http("POST", "/v1/responses", {**ASK, "stream": True}),
    "create, background": over_http("POST", "/v1/responses", {**ASK, "background": True}),
    "create, object": over_http("POST", "/v1/responses", {"input": "go on", "conversation": {"id": "ID"}}),
    "create with a reference": over_http(
        "POST", "/v1/responses", {"conversation": "ID", "input": [{"type": "item_reference", "id": "msg_secret"}]}
    ),
    "create over WebSocket": over_websocket({"type": "response.create", **ASK}),
    "warm up over WebSocket": over_websocket({"type": "response.create", "generate": False, **ASK}),
    "page after it": over_http("GET", "/v1/conversations?after=ID"),
    "delete": over_http("DELETE", "/v1/conversations/ID"),
}


async def made(http: aiohttp.ClientSession, grizz: Any, key: str) -> str:
    body = {"items": [{**ITEM, "id": "msg_secret"}], "metadata": {"title": "secret"}}
    async with http.post(f"{grizz.url}/v1/conversations", json=body, headers=bearer(key)) as answer:
        assert answer.status == 200
        return str((await answer.json())["id"])


async def everything(http: aiohttp.ClientSession, grizz: Any, key: str, name: str) -> list[Any]:
    """What its owner sees of it."""
    found = []
    for path in ("", f"/{name}", f"/{name}/items"):
        async with http.get(f"{grizz.url}/v1/conversations{path}", headers=bearer(key)) as answer:
            found.append((answer.status, await answer.json()))
    return found


async def test_what_bob_is_told_of_alices_conversation_is_what_he_is_told_of_none_and_nothing_of_it_changes(
    start_grizz: Any, http: aiohttp.ClientSession
) -> None:
    house: Grizz = await start_grizz(environ=ACCOUNTS)
    name = await made(http, house, ALICE)
    before = await everything(http, house, ALICE, name)
    assert [status for status, _ in before] == [200, 200, 200] and "secret" in json.dumps(before)
    for path, ask in PATHS.items():
        told = await ask(http, house, BOB, name)
        assert told == await ask(http, house, BOB, UNKNOWN), path
        assert told[0] in (400, 404), path
        assert "secret" not in told[1].replace("msg_secret", ""), path
    assert await everything(http, house, ALICE, name) == before
    async with http.get(f"{house.url}/v1/conversations?query=secret", headers=bearer(BOB)) as answer:
        assert (await answer.json())["data"] == []


async def test_an_item_of_alices_conversation_is_no_reference_in_bobs(
    start_grizz: Any, http: aiohttp.ClientSession
) -> None:
    house: Grizz = await start_grizz(environ=ACCOUNTS)
    await made(http, house, ALICE)
    async with http.post(f"{house.url}/v1/conversations", headers=bearer(BOB)) as answer:
        his = (await answer.json())["id"]
    body = {"conversation": his, "input": [{"type": "item_reference", "id": "ID"}]}
    told = await over_http("POST", "/v1/responses", body)(http, house, BOB, "msg_secret")
    assert told == await over_http("POST", "/v1/responses", body)(http, house, BOB, "msg_unknown")
    assert told[0] == 400


@pytest.mark.parametrize("path", PATHS)
async def test_a_second_key_of_the_same_user_is_the_same_user(
    start_grizz: Any, http: aiohttp.ClientSession, path: str
) -> None:
    house: Grizz = await start_grizz(environ=ACCOUNTS)
    name = await made(http, house, ALICE)
    status, body = await PATHS[path](http, house, ALICES_PHONE, name)
    # What succeeds over a WebSocket is an event without a status.
    assert status in (0, 200), body


@pytest.mark.timeout(120)
async def test_at_another_node_a_foreign_conversation_is_an_unknown_one_and_the_owner_goes_on(
    own_redis: RedisServer, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes:
        one, other = at(await nodes.start(**KEYS)), at(await nodes.start(**KEYS))
        name = await made(http, one, ALICE)
        before = await everything(http, one, ALICE, name)
        for node in (other, one):
            for path, ask in PATHS.items():
                told = await ask(http, node, BOB, name)
                assert told == await ask(http, node, BOB, UNKNOWN), path
                assert told[0] in (400, 404), path
        assert await everything(http, other, ALICE, name) == before
        for path, ask in PATHS.items():
            if "background" in path:
                continue  # the next turn would find it under way
            status, body = await ask(http, other, ALICES_PHONE, name)
            wanted = (400,) if path == "create with a reference" else (0, 200)  # its item was deleted just now
            assert status in wanted, (path, body)
