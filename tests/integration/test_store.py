"""Where a response may be continued and fetched, by how it was stored; and what a failed continuation forgets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.conftest import Grizz
from tests.nodes import nodes_on
from tests.player import Player
from tests.redis_servers import RedisServer

BAD = [{"type": "function_call_output", "call_id": "call_of_nobody", "output": "x"}]


async def post(http: aiohttp.ClientSession, url: str, **body: Any) -> tuple[int, dict[str, Any]]:
    async with http.post(f"{url}/v1/responses", json=body) as answer:
        return answer.status, await answer.json()


async def made(player: Player, lane: str | None = None, **fields: Any) -> str:
    if lane is not None:
        fields["stream_id"] = lane
    return str((await player.ask("hello", **fields))[-1]["response"]["id"])


async def goes_on(player: Player, response_id: str, lane: str | None = None) -> bool:
    fields = {"stream_id": lane} if lane is not None else {}
    last = (await player.ask("more", previous_response_id=response_id, store=False, **fields))[-1]
    if last["type"] == "error":
        assert (last["status"], last["error"]["code"]) == (400, "previous_response_not_found")
    return last["type"] == "response.completed"


async def fails(player: Player, response_id: str, lane: str | None = None) -> None:
    fields = {"stream_id": lane} if lane is not None else {}
    frame = {"type": "response.create", "previous_response_id": response_id, "input": BAD, **fields}
    await player.send(frame)
    error = (await player.answer(lane))[-1]
    assert (error["type"], error["error"]["code"]) == ("error", "no_tool_call_found")


@pytest.fixture
async def player(grizz: Grizz, http: aiohttp.ClientSession) -> Player:
    return await Player.connect(http, grizz.ws_url)


@pytest.mark.parametrize("stored", [True, False])
async def test_who_may_continue_and_fetch_it(
    grizz: Grizz, http: aiohttp.ClientSession, player: Player, stored: bool
) -> None:
    response_id = await made(player, store=stored)
    other = await Player.connect(http, grizz.ws_url)
    assert await goes_on(player, response_id)
    assert await goes_on(player, response_id, "another-lane")
    assert await goes_on(other, response_id) is stored
    status, body = await post(http, grizz.url, input="more", previous_response_id=response_id)
    assert status == (200 if stored else 400)
    for path in ("", "?stream=true", "/input_items"):
        async with http.get(f"{grizz.url}/v1/responses/{response_id}{path}") as answer:
            assert answer.status == (200 if stored else 404), path
    async with http.delete(f"{grizz.url}/v1/responses/{response_id}") as answer:
        assert answer.status == (200 if stored else 404)


async def test_what_http_did_not_store_nobody_continues(
    grizz: Grizz, http: aiohttp.ClientSession, player: Player
) -> None:
    _, body = await post(http, grizz.url, input="hello", store=False)
    assert body["store"] is False
    assert not await goes_on(player, body["id"])
    assert (await post(http, grizz.url, input="more", previous_response_id=body["id"]))[0] == 400


async def test_a_failed_continuation_forgets_its_unstored_parent_on_the_same_lane(player: Player) -> None:
    response_id = await made(player, store=False)
    await fails(player, response_id)
    assert not await goes_on(player, response_id)


async def test_on_a_named_lane_too(player: Player) -> None:
    response_id = await made(player, "a", store=False)
    await fails(player, response_id, "a")
    assert not await goes_on(player, response_id, "a")


@pytest.mark.parametrize(("of", "fork"), [(None, "b"), ("a", "b"), ("a", None)])
async def test_a_failed_fork_from_another_lane_leaves_it(player: Player, of: str | None, fork: str | None) -> None:
    response_id = await made(player, of, store=False)
    await fails(player, response_id, fork)
    assert await goes_on(player, response_id, of)


async def test_a_stored_parent_survives_a_failed_continuation(player: Player) -> None:
    response_id = await made(player, store=True)
    await fails(player, response_id)
    assert await goes_on(player, response_id)


async def test_unstored_ones_go_with_their_connection(
    grizz: Grizz, http: aiohttp.ClientSession, player: Player
) -> None:
    response_id = await made(player, store=False)
    await player.ws.close()
    assert not await goes_on(await Player.connect(http, grizz.ws_url), response_id)


async def test_background_over_http_needs_to_be_stored(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    status, body = await post(http, grizz.url, input="hello", background=True, store=False)
    assert (status, body["error"]["param"]) == (400, "background")
    assert grizz.demo.requests == 0
    status, body = await post(http, grizz.url, input="hello", background=True)
    assert status == 200 and body["background"] is True


async def test_over_websocket_background_is_no_reason_to_refuse(player: Player) -> None:
    assert (await player.ask("hello", background=True, store=False))[-1]["type"] == "response.completed"


@pytest.mark.timeout(120)
async def test_at_another_node_it_is_the_same(
    own_redis: RedisServer, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes:
        one, two = await nodes.start(), await nodes.start()
        here = await Player.connect(http, one.url.replace("http", "ws", 1) + "/v1/responses")
        there = await Player.connect(http, two.url.replace("http", "ws", 1) + "/v1/responses")
        for stored in (True, False):
            response_id = await made(here, store=stored)
            assert await goes_on(here, response_id)
            assert await goes_on(there, response_id) is stored
            async with http.get(f"{two.url}/v1/responses/{response_id}") as answer:
                assert answer.status == (200 if stored else 404)
        # Input is listed at each node, while it runs and afterwards; and so is a compacted window opened.
        await here.create("[[words:9]] [[stall:4]]")
        running = (await here.until("response.output_text.delta"))[0]["response"]["id"]
        for node in (two, one):
            async with http.get(f"{node.url}/v1/responses/{running}/input_items") as answer:
                assert (await answer.json())["data"][0]["content"][0]["text"] == "[[words:9]] [[stall:4]]"
        body = {"model": "grizz-demo", "input": "The word is heron."}
        async with http.post(f"{one.url}/v1/responses/compact", json=body) as answer:
            window = await answer.json()
        status, answered = await post(http, two.url, input=window["output"])
        assert (status, answered["status"]) == (200, "completed")
        async with http.get(f"{one.url}/v1/responses/{answered['id']}/input_items") as answer:
            assert [item["type"] for item in (await answer.json())["data"]] == ["compaction", "message"]
