"""A create that is no response yet can be cancelled by its lane: it ends with one error, and holds nothing up."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from tests.conformance import judges
from tests.conftest import Grizz, running_grizz
from tests.contract.cast import until
from tests.player import Player, numbers, text_of
from tests.redis_servers import RedisServer

pytestmark = pytest.mark.timeout(60)


async def new_conversation(http: aiohttp.ClientSession, grizz: Grizz) -> str:
    async with http.post(f"{grizz.url}/v1/conversations", json={}) as answer:
        return str((await answer.json())["id"])


async def said_in(http: aiohttp.ClientSession, grizz: Grizz, conversation: str) -> list[str]:
    async with http.get(f"{grizz.url}/v1/conversations/{conversation}/items?order=asc&limit=100") as answer:
        return ["".join(part["text"] for part in item["content"]) for item in (await answer.json())["data"]]


def waiting(grizz: Grizz) -> int:
    """Creates that wait for their turn in any conversation."""
    return sum(line.waiting for line in grizz.app.engine._turns._lines.values())


@pytest.mark.parametrize("lane", [None, "a"])
async def test_a_create_that_waits_for_its_conversation_is_cancelled_by_its_lane(
    grizz: Grizz, http: aiohttp.ClientSession, lane: str | None
) -> None:
    conversation = await new_conversation(http, grizz)
    first, second = [await Player.connect(http, grizz.ws_url) for _ in range(2)]
    on = {"stream_id": lane} if lane else {}
    await first.create("[[words:9]] [[stall:5]]", conversation=conversation)
    await first.until("response.output_text.delta")
    await second.create("[[echo:withdrawn]]", conversation=conversation, **on)
    await until(lambda: waiting(grizz) == 1)
    await second.create("[[echo:next]]", **on)  # behind it in the lane
    running = grizz.app.engine.replies.running
    await second.send({"type": "response.cancel", **on})
    (error,) = await second.answer(lane)
    judges.websocket_notice(error)
    assert (error["type"], error["status"], error["error"]["code"]) == ("error", 409, "grizz:withdrawn")
    assert text_of(await second.answer(lane)) == "next"
    assert (waiting(grizz), grizz.app.engine.replies.running) == (0, running)
    # Nothing runs on the lane any more, and nothing of it is left in the conversation or in the limits.
    await second.send({"type": "response.cancel", **on})
    assert (await second.answer(lane))[-1]["error"]["code"] == "response_not_found"
    await first.send({"type": "response.cancel"})
    await first.answer()
    assert text_of(await second.ask("[[echo:last]]", conversation=conversation, **on)) == "last"
    said = await said_in(http, grizz, conversation)
    assert "[[echo:withdrawn]]" not in said and said[-1] == "last"


async def test_those_who_wait_behind_a_withdrawn_create_go_on_in_order(
    grizz: Grizz, http: aiohttp.ClientSession
) -> None:
    conversation = await new_conversation(http, grizz)
    player = await Player.connect(http, grizz.ws_url)
    await player.create("[[words:20]] [[rate:60]]", conversation=conversation, stream_id="a")
    await player.until("response.created", lane="a")
    for count, lane in enumerate("bcd"):
        await player.create(f"[[echo:{lane}]]", conversation=conversation, stream_id=lane)
        await until(lambda count=count: waiting(grizz) == count + 1)
    await player.send({"type": "response.cancel", "stream_id": "c"})
    events: list[dict[str, Any]] = []
    async with asyncio.timeout(30):
        while len([event for event in player.events if event["type"] in ("response.completed", "error")]) < 4:
            events.append(await player.next())
    assert [e["error"]["code"] for e in player.events if e.get("stream_id") == "c"] == ["grizz:withdrawn"]
    assert (await said_in(http, grizz, conversation))[1::2] == [numbers(20), "b", "d"]


async def test_a_response_that_is_cancelled_before_its_worker_has_begun_ends_and_gives_its_slot_back(
    http: aiohttp.ClientSession,
) -> None:
    async with running_grizz(workers__concurrency=1) as grizz:
        player = await Player.connect(http, grizz.ws_url)
        for _ in range(20):
            await player.create("[[words:2000]] [[rate:10]]")
            await player.send({"type": "response.cancel"})
            ended = (await player.answer())[-1]
            assert ended["type"] == "response.incomplete" or ended["error"]["code"] == "grizz:withdrawn"
        assert text_of(await player.ask("[[echo:free]]")) == "free"
        await until(lambda: grizz.app.pool.free == 1)


async def test_a_create_that_is_withdrawn_at_once_leaves_no_job_and_no_lock(
    redis_server: RedisServer, http: aiohttp.ClientSession
) -> None:
    async with running_grizz(redis__url=redis_server.url) as grizz:
        conversation = await new_conversation(http, grizz)
        player = await Player.connect(http, grizz.ws_url)
        for _ in range(10):
            await player.create("[[words:2000]] [[rate:10]]", conversation=conversation)
            await player.send({"type": "response.cancel"})
            ended = (await player.answer())[-1]
            # It may have become a response just before.
            assert ended["type"] == "response.incomplete" or ended["error"]["code"] == "grizz:withdrawn"
        assert text_of(await player.ask("[[echo:free]]", conversation=conversation)) == "free"
        await until(lambda: grizz.app.engine.replies.running == 0)
        depth = grizz.app.transport.depth()
        assert (depth.queued, depth.leased) == (0, 0)
        await until(lambda: not [key for key in redis_server.command("KEYS", "*") if "records" in str(key)])
