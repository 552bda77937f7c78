"""How often a stream is read: text that waits for more does so in the kernel's buffer, and is never late or lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from tests.conftest import running_grizz
from tests.player import Player, numbers, text_of
from tests.raw_upstream import END, HEADERS, ROLE, Call, RawUpstream, raw_upstream, word


@asynccontextmanager
async def words(
    http: aiohttp.ClientSession, count: int, every_s: float, **overrides: object
) -> AsyncIterator[tuple[Player, RawUpstream]]:
    """A connection to Grizz in front of an upstream that writes numbered words, and the last with the end."""

    async def behave(call: Call) -> None:
        await call.raw(HEADERS)
        await call.part(ROLE)
        for number in range(count):
            await asyncio.sleep(every_s)
            text = word(f"w{number} ")
            await call.part(text + END if number == count - 1 else text)
        await call.raw(b"0\r\n\r\n")

    async with raw_upstream(behave) as (raw, url), running_grizz({"GRIZZ_UPSTREAM_BASE_URL": url}, **overrides) as it:
        yield await Player.connect(http, it.ws_url), raw


async def deltas(player: Player) -> int:
    events = await player.ask("go")
    assert text_of(events) == numbers(100)
    return sum(event["type"] == "response.output_text.delta" for event in events)


async def test_a_fast_stream_is_read_once_in_the_time_that_text_may_wait(http: aiohttp.ClientSession) -> None:
    async with words(http, 100, 0.005) as (player, _):
        began_at = time.monotonic()
        count = await deltas(player)
        took_s = time.monotonic() - began_at
    # Once at the start, once for each 50 ms, and once for what waits at the end.
    assert 3 <= count <= took_s / 0.05 + 3


async def test_without_a_wait_nothing_is_held_up(http: aiohttp.ClientSession) -> None:
    async with words(http, 100, 0.005, replies__flush_ms=0) as (player, _):
        assert await deltas(player) > 60


async def test_a_slow_stream_is_passed_on_word_by_word(http: aiohttp.ClientSession) -> None:
    async with words(http, 8, 0.1) as (player, _):
        events = await player.ask("go")
    came = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert came == [f"w{number} " for number in range(8)]


async def test_a_connection_goes_back_to_the_pool_ready_to_be_read(http: aiohttp.ClientSession) -> None:
    async with words(http, 20, 0.01) as (player, raw):
        for _ in range(5):
            assert text_of(await player.ask("go")) == numbers(20)
    assert (raw.requests, raw.connections) == (5, 1)


async def test_a_wait_that_is_longer_than_the_idle_timeout_is_not_taken_for_silence(
    http: aiohttp.ClientSession,
) -> None:
    slow = {"replies__flush_ms": 800, "upstream__idle_timeout_s": 0.3}
    async with words(http, 40, 0.05, **slow) as (player, _):
        assert text_of(await player.ask("go")) == numbers(40)


@pytest.mark.parametrize("ending", ["silent", "gone"])
async def test_an_upstream_that_fails_while_it_is_not_read_is_found_out(
    http: aiohttp.ClientSession, ending: str
) -> None:
    async def behave(call: Call) -> None:
        await call.raw(HEADERS)
        for number in range(30):
            await call.part(word(f"w{number} "))
            await asyncio.sleep(0.01)
        if ending == "gone":
            call.hang_up()
        await asyncio.sleep(3)

    async with raw_upstream(behave) as (_, url):
        overrides: dict[str, object] = {"upstream__idle_timeout_s": 0.5}
        async with running_grizz({"GRIZZ_UPSTREAM_BASE_URL": url}, **overrides) as it:
            events = await (await Player.connect(http, it.ws_url)).ask("go")
    assert events[-1]["type"] == "response.failed"
    assert text_of(events) == numbers(30)
