"""Who waits long for a worker is told so again, under the next number, wherever it reads and wherever its job runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import openai.types.responses as sdk
import pytest
from pydantic import TypeAdapter

from grizz.engine import home
from tests import grammar
from tests.asking import events_of
from tests.conftest import Grizz, running_grizz
from tests.nodes import Node, nodes_on
from tests.player import Player, numbers, text_of
from tests.redis_servers import RedisServer

pytestmark = pytest.mark.timeout(90)
EVENT: TypeAdapter[Any] = TypeAdapter(sdk.ResponseStreamEvent)
BUSY = "[[words:2000]] [[rate:50]]"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home, "QUEUED_AGAIN_S", 0.5)


def socket_of(grizz: Grizz | Node) -> str:
    return f"{grizz.url.replace('http', 'ws', 1)}/v1/responses"


async def busy(http: aiohttp.ClientSession, grizz: Grizz | Node) -> Player:
    """Whoever has the only slot."""
    player = await Player.connect(http, socket_of(grizz))
    await player.create(BUSY)
    await player.until("response.output_text.delta")
    return player


async def again(player: Player, times: int) -> None:
    """Wait for so many `response.queued`."""
    async with asyncio.timeout(30):
        while [event["type"] for event in player.events].count("response.queued") < times:
            await player.next()


def said(player: Player) -> list[dict[str, Any]]:
    """What the response says of itself, without the connection's own notices."""
    return [event for event in player.events if not event["type"].startswith("grizz:")]


def judge(events: list[dict[str, Any]], text: str) -> None:
    grammar.check(events)
    for event in events:
        EVENT.validate_python(event, strict=True)
    assert text_of(events) == text
    queued = [event for event in events if event["type"] == "response.queued"]
    assert len(queued) >= 3 and all(event["response"] == queued[0]["response"] for event in queued)


async def test_a_response_that_waits_long_says_so_again_and_goes_on_under_the_next_number(
    http: aiohttp.ClientSession,
) -> None:
    async with running_grizz(workers__concurrency=1) as grizz:
        first, second = await busy(http, grizz), await Player.connect(http, grizz.ws_url)
        await second.create("[[words:20]]")
        await again(second, 3)
        await first.send({"type": "response.cancel"})
        await second.answer()
        judge(second.events, numbers(20))
        response_id = second.events[0]["response"]["id"]
        url = f"{grizz.url}/v1/responses/{response_id}?stream=true&starting_after=2"
        async with http.get(url) as answer:
            assert events_of(await answer.text()) == second.events[3:]


async def test_nobody_is_told_where_nobody_reads_and_one_who_comes_back_is_told_once_at_a_time(
    http: aiohttp.ClientSession,
) -> None:
    async with running_grizz(workers__concurrency=1) as grizz:
        first = await busy(http, grizz)
        async with http.post(f"{grizz.url}/v1/responses", json={"input": "hi", "background": True}) as answer:
            response_id = (await answer.json())["id"]
        await asyncio.sleep(2.5)
        reply = grizz.app.engine.replies.get(response_id)
        assert reply is not None and reply.last_seq == 1
        reader = await Player.connect(http, grizz.ws_url)
        await reader.send({"type": "grizz:attach", "response_id": response_id})
        await again(reader, 2)
        told_at = asyncio.get_running_loop().time()
        await again(reader, 3)
        assert asyncio.get_running_loop().time() - told_at > 0.4
        await first.send({"type": "response.cancel"})
        await reader.answer()
        judge(said(reader), text_of(reader.events))


async def test_what_is_said_again_in_one_sweep_is_bounded(
    http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home, "_MOST_AGAIN", 2)
    async with running_grizz(workers__concurrency=1) as grizz:
        await busy(http, grizz)
        waiting = [await Player.connect(http, grizz.ws_url) for _ in range(5)]
        for player in waiting:
            await player.create("hi")
            await player.until("response.queued")
        engine = grizz.app.engine
        replies = [engine.replies.get(player.events[0]["response"]["id"]) for player in waiting]
        monkeypatch.setattr(home, "QUEUED_AGAIN_S", 0.0)

        def said() -> int:
            return sum(reply.last_seq - 1 for reply in replies if reply is not None)

        before = said()
        engine.home.say_queued_again(engine._transport.advance)
        assert said() == before + 2
        monkeypatch.setattr(home, "_MOST_AGAIN", 100)
        monkeypatch.setattr(home, "_MOST_AGAIN_BYTES", 1)
        engine.home.say_queued_again(engine._transport.advance)
        assert said() == before + 3


async def test_a_job_that_is_offered_to_other_processes_keeps_its_place_among_them(
    own_redis: RedisServer, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with (
        nodes_on(own_redis.url, tmp_path) as nodes,
        running_grizz(redis__url=own_redis.url, workers__concurrency=0) as asked,
    ):
        worker = await nodes.start(workers__concurrency=1)
        first = await busy(http, worker)
        waiting = [await Player.connect(http, asked.ws_url) for _ in range(3)]
        for player in waiting:
            await player.create("[[words:20]]")
            await player.until("response.queued")
        await asyncio.sleep(2.5)  # five times as long as is waited here before it is said again
        await first.send({"type": "response.cancel"})
        for player in waiting:
            events = await player.answer()
            grammar.check(player.events)
            assert text_of(events) == numbers(20)
            # To say more its home would have to offer it anew, behind all that came later.
            assert [event["type"] for event in player.events].count("response.queued") == 1
