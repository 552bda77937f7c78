"""Model servers on one's own machine: they load, start late, and drop what they kept open. No response fails by it."""

from __future__ import annotations

import asyncio

import pytest

from tests import grammar
from tests.player import TERMINAL, Event, Player, text_of
from tests.raw_upstream import Call, RawUpstream, raw_upstream
from tests.several import Several, dead_url, running

LOADING = b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}'


class Loading:
    """Says 503 until `ready` is set, as llama.cpp does."""

    def __init__(self, *headers: str, body: bytes = LOADING) -> None:
        self.ready = asyncio.Event()
        self._headers = headers
        self._body = body

    async def behave(self, call: Call) -> None:
        if self.ready.is_set():
            await call.answer("loaded")
        else:
            await call.status("503 Service Unavailable", self._body, *self._headers)


async def ended(player: Player, within_s: float = 20) -> list[Event]:
    """Ask, and wait longer than a player does: nothing is to be seen while a model loads."""
    await player.create("hello")
    events: list[Event] = []
    async with asyncio.timeout(within_s):
        while not events or events[-1]["type"] not in TERMINAL:
            events.append(await player.ws.receive_json())
    return events


async def asked(raw: RawUpstream, times: int) -> None:
    async with asyncio.timeout(10):
        while raw.requests < times:
            await asyncio.sleep(0.01)


async def transitions(grizz: Several) -> float:
    return await grizz.metric("grizz_breaker_transitions_total", upstream="main", to="open")


@pytest.mark.parametrize("headers", [(), ("Retry-After: 1",)])
async def test_a_model_that_loads_for_longer_than_all_retries_take_is_waited_for(headers: tuple[str, ...]) -> None:
    loading = Loading(*headers)
    async with raw_upstream(loading.behave) as (raw, url), running({"main": {"base_url": url}}) as grizz:
        asking = asyncio.create_task(ended(await grizz.player()))
        await asked(raw, 5)  # more than the first try and its two repeats
        loading.ready.set()
        events = await asking
        grammar.check(events)
        assert text_of(events) == "loaded"
        assert await grizz.breaker("main") == "closed"


async def test_a_crowd_that_waits_for_a_model_is_answered_and_asks_one_at_a_time_meanwhile() -> None:
    loading = Loading(body=b"not even JSON")
    async with raw_upstream(loading.behave) as (raw, url), running({"main": {"base_url": url}}) as grizz:
        asking = [asyncio.create_task(ended(await grizz.player())) for _ in range(20)]
        await asked(raw, 10)
        await asyncio.sleep(6)
        # The first tries, some that were on their way when it went to rest, and a few probes; not 20 a second.
        assert raw.requests < 40
        loading.ready.set()
        assert [text_of(await task) for task in asking] == ["loaded"] * 20


async def test_a_server_that_loads_for_too_long_fails_the_response_with_what_it_said() -> None:
    loading = Loading()
    async with (
        raw_upstream(loading.behave) as (raw, url),
        running({"main": {"base_url": url, "loading_timeout_s": 1}}) as grizz,
    ):
        failed = (await ended(await grizz.player()))[-1]["response"]
        assert failed["error"] == {
            "code": "server_error",
            "message": "upstream 'main' answered 503: Loading model",
        }
        assert raw.requests > 3
        # It has had its time: whoever comes now is told after the usual tries.
        before = raw.requests
        assert (await ended(await grizz.player()))[-1]["response"]["status"] == "failed"
        assert raw.requests - before <= 3


async def test_a_rest_after_loading_is_short_so_that_who_comes_later_is_answered_soon() -> None:
    loading = Loading()
    main = {"loading_timeout_s": 0.5, "breaker_failures": 1, "breaker_first_s": 0.2, "breaker_longest_s": 3600}
    async with raw_upstream(loading.behave) as (_, url), running({"main": {"base_url": url, **main}}) as grizz:
        player = await grizz.player()
        for _ in range(3):
            await ended(player)
        assert await transitions(grizz) > 5  # with rests that double it would be an hour by now
        loading.ready.set()
        assert text_of(await ended(player)) == "loaded"


async def test_another_upstream_answers_at_once_while_one_loads() -> None:
    loading = Loading()
    async with (
        raw_upstream(loading.behave) as (raw, url),
        running({"main": {"base_url": url, "breaker_failures": 1}, "backup": {"priority": 2}}) as grizz,
    ):
        player = await grizz.player()
        assert text_of(await player.ask("[[echo:here]]")) == "here"
        assert text_of(await player.ask("[[echo:again]]")) == "again"
        assert raw.requests == 1


async def test_503_alternating_with_real_failures_is_not_tried_for_ever() -> None:
    async def behave(call: Call) -> None:
        await call.status("503 Wait" if call.number % 2 else "500 Oh", b"{}")

    async with raw_upstream(behave) as (raw, url), running({"main": {"base_url": url}}) as grizz:
        assert (await ended(await grizz.player()))[-1]["response"]["status"] == "failed"
        assert raw.requests <= 6


async def test_a_server_that_is_started_after_the_request_came_answers_it() -> None:
    url = dead_url()
    async with running({"main": {"base_url": url}}) as grizz:
        asking = asyncio.create_task(ended(await grizz.player()))
        await asyncio.sleep(2.5)  # by now the first try and its two repeats were refused
        async with raw_upstream(Call.late, port=int(url.split(":")[2].split("/")[0])) as (raw, _):
            assert text_of(await asking) == "late"
            assert raw.requests == 1


async def test_a_server_that_is_started_long_after_grizz_is_found_by_the_next_request() -> None:
    url = dead_url()
    main = {"base_url": url, "loading_timeout_s": 0.2, "breaker_failures": 1}
    async with running({"main": main}) as grizz:
        player = await grizz.player()
        for _ in range(3):
            failed = (await ended(player))[-1]["response"]
            assert failed["error"]["message"] == "upstream 'main' could not be reached"
        async with raw_upstream(Call.late, port=int(url.split(":")[2].split("/")[0])):
            assert text_of(await ended(player)) == "late"
            assert await grizz.breaker("main") == "closed"


# Connections that were kept open


async def test_a_server_that_closes_after_each_answer_without_a_word_fails_nothing() -> None:
    async def behave(call: Call) -> None:
        await call.answer("once")
        call.hang_up()

    async with raw_upstream(behave) as (raw, url), running({"main": {"base_url": url}}) as grizz:
        player = await grizz.player()
        for _ in range(20):
            assert text_of(await player.ask("hello")) == "once"
        assert raw.connections == 20


async def test_a_whole_pool_of_connections_that_break_when_they_are_used_again_fails_nothing() -> None:
    together = asyncio.Event()

    async def behave(call: Call) -> None:
        if call.of_connection > 1:
            call.hang_up()
            return
        if call.number >= 8:
            together.set()
        await together.wait()
        await call.answer("fresh")

    async with raw_upstream(behave) as (raw, url), running({"main": {"base_url": url}}) as grizz:
        players = [await grizz.player() for _ in range(8)]
        await asyncio.gather(*(player.ask("hello") for player in players))
        assert raw.connections == 8
        for player in players:
            assert text_of(await player.ask("hello")) == "fresh"
        # Each was tried once more, at once: no pause, no failure that counts.
        assert await grizz.metric("grizz_upstream_requests_total", upstream="main", result="connect") == 0
        assert await grizz.metric("grizz_upstream_retries_total", upstream="main", reason="connect") == 8
        assert raw.requests == 24


async def test_a_server_that_closes_what_was_idle_is_asked_on_a_new_connection() -> None:
    closing: set[asyncio.TimerHandle] = set()

    async def behave(call: Call) -> None:
        await call.answer("idle")
        closing.add(asyncio.get_running_loop().call_later(0.3, call.hang_up))

    async with raw_upstream(behave) as (raw, url), running({"main": {"base_url": url}}) as grizz:
        player = await grizz.player()
        for wait_s in (0.0, 0.29, 0.3, 0.31, 0.5, 0.1):
            await asyncio.sleep(wait_s)
            assert text_of(await player.ask("hello")) == "idle"
        assert await grizz.metric("grizz_upstream_requests_total", upstream="main", result="2xx") == 6
        assert raw.connections > 1
