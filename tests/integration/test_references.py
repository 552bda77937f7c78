"""An item is found by its id wherever its response is: the clients that send references do not know of processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from grizz.engine.ids import ids_of, new_id, new_response_id, response_of
from tests import relayed
from tests.accounts import ACCOUNTS, ALICE, BOB, bearer
from tests.nodes import nodes_on
from tests.player import Player
from tests.raw_upstream import HEADERS, Call, raw_upstream
from tests.redis_servers import RedisServer
from tests.restarts import house_in

pytestmark = pytest.mark.timeout(120)
KEYS = {name.removeprefix("GRIZZ_").lower(): value for name, value in ACCOUNTS.items()}
SAID = "[[reasoning:hm]] [[echo:Let me see.]] [[tool:f]] [[args:{}]]"


def test_an_item_tells_which_response_has_it_and_no_other_id_does() -> None:
    now = 1_795_000_000
    for _ in range(100):
        response_id = new_response_id("0123abcd", now)
        made = ids_of(response_id)
        ids = {made(prefix) for prefix in ("msg", "rs", "fc") for _ in range(20)}
        assert len(ids) == 60
        assert {response_of(item_id, now + hours * 3600) for item_id in ids for hours in (-1, 0, 20_000)} == {
            response_id
        }
        assert all(len(item_id) < 40 for item_id in ids)
        assert response_of(made("call"), now) is None
        assert {response_of(item_id, now - 2 * 3600) for item_id in ids} == {None}
    for strange in (new_id("msg"), "msg_", "", "x", "msg_" + "a" * 200, "msg_" + "ä" * 33, "msg_" + "!" * 33):
        assert response_of(strange, now) is None
    theirs = "msg_67ccd2bed1ec8190b14f964abc0542670bb6a6b452d3795b"  # OpenAI's own
    assert response_of(theirs, now) is None


async def post(http: aiohttp.ClientSession, url: str, key: str, **body: Any) -> tuple[int, dict[str, Any]]:
    async with http.post(f"{url}/v1/responses", json=body, headers=bearer(key)) as answer:
        return answer.status, await answer.json()


def referring(response: dict[str, Any]) -> list[dict[str, Any]]:
    """The whole turn by its ids, as Vercel's AI SDK sends it, and what comes next."""
    call = response["output"][-1]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}
    return [*({"type": "item_reference", "id": item["id"]} for item in response["output"]), output]


async def test_another_process_finds_what_is_referred_to_and_nobody_else_does(
    own_redis: RedisServer, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes:
        home, other = await nodes.start(**KEYS), await nodes.start(**KEYS)
        _, first = await post(http, home.url, ALICE, input=SAID)
        assert [item["type"] for item in first["output"]] == ["reasoning", "message", "function_call"]
        for node in (other, home):
            status, error = await post(http, node.url, BOB, input=referring(first))
            assert (status, error["error"]["code"]) == (400, "item_not_found")
        status, second = await post(http, other.url, ALICE, input=referring(first))
        assert status == 200, second
        assert "f answered: sunny" in second["output"][0]["content"][0]["text"]
        messages = nodes.demo.last_request["messages"]
        assert [message["role"] for message in messages] == ["assistant", "tool"]
        assert messages[0]["content"] == "Let me see."


async def test_after_a_kill_what_is_referred_to_is_read_from_the_file(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with house_in(tmp_path) as house:
        await house.start()
        _, first = await post(http, house.node.url, "any", input=SAID)
        house.node.kill()
        await house.start()
        status, second = await post(http, house.node.url, "any", input=referring(first))
        assert status == 200, second
        assert "f answered: sunny" in second["output"][0]["content"][0]["text"]


async def test_an_unstored_item_is_found_on_its_own_connection_alone(
    own_redis: RedisServer, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes:
        node = await nodes.start()
        player = await Player.connect(http, node.url.replace("http", "ws", 1) + "/v1/responses")
        first = (await player.ask(SAID, store=False))[-1]["response"]
        status, error = await post(http, node.url, "any", input=referring(first))
        assert (status, error["error"]["code"]) == (400, "item_not_found")
        await player.send({"type": "response.create", "input": referring(first), "store": False})
        assert (await player.answer())[-1]["response"]["status"] == "completed"


ANSWER = b"".join(
    b"data: " + orjson.dumps(event) + b"\n\n" for event in relayed.answer(relayed.message(0, "a", item_id="msg_0"))
)


async def the_same(call: Call) -> None:
    """A server of the Responses API that gives all its messages one id."""
    await call.raw(HEADERS)
    await call.part(ANSWER)
    await call.raw(b"0\r\n\r\n")


async def test_a_server_that_counts_its_items_anew_each_time_loses_none_and_they_are_found_after_a_restart(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with (
        raw_upstream(the_same) as (_, upstream),
        house_in(tmp_path, upstream__api="responses", upstream__base_url=upstream) as house,
    ):
        await house.start()
        async with http.post(f"{house.node.url}/v1/conversations", json={}) as answer:
            conversation = (await answer.json())["id"]
        for text in ("one", "two"):
            _, said = await post(http, house.node.url, "any", input=text, conversation=conversation)
        async with http.get(f"{house.node.url}/v1/conversations/{conversation}/items") as answer:
            roles = [item["role"] for item in (await answer.json())["data"]]
        assert roles == ["assistant", "user"] * 2
        house.node.kill()
        await house.start()
        reference = {"type": "item_reference", "id": said["output"][0]["id"]}
        status, again = await post(http, house.node.url, "any", input=[reference, {"role": "user", "content": "so?"}])
        assert status == 200, again
