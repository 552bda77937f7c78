"""Upstreams that hang, drip, drop and refuse, on real sockets: which time ends what, and what the client reads."""

from __future__ import annotations

import asyncio

import pytest

from tests import grammar
from tests.player import Player, text_of
from tests.raw_upstream import COMMENT, HEADERS, ROLE, Call, deaf_url, raw_upstream, word
from tests.several import Several, running

ONCE = {"upstream__max_retries": 0}


async def message_of(player: Player, text: str = "hello") -> str:
    """Ask, and take the error's text from the failed response."""
    events = await player.ask(text)
    grammar.check(events)
    failed = events[-1]["response"]
    assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
    return failed["error"]["message"]


async def requests(grizz: Several, result: str) -> float:
    return await grizz.metric("grizz_upstream_requests_total", upstream="main", result=result)


async def silent(call: Call) -> None:
    await asyncio.sleep(60)


async def drip_headers(call: Call) -> None:
    for byte in HEADERS * 50:
        await call.raw(bytes([byte]))
        await asyncio.sleep(0.05)


async def drip_comments(call: Call) -> None:
    await call.raw(HEADERS)
    await call.part(ROLE)
    while True:
        await call.part(COMMENT)
        await asyncio.sleep(0.05)


async def drip_error(call: Call) -> None:
    await call.raw(b"HTTP/1.1 500 Oh\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
    while True:
        await call.raw(b" ")
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("behave", [silent, drip_headers, drip_comments, drip_error])
async def test_without_a_word_in_time_the_try_ends_whatever_else_is_sent(behave) -> None:
    async with raw_upstream(behave) as (_, url):
        upstreams = {"main": {"base_url": url, "first_token_timeout_s": 0.5, "idle_timeout_s": 5}}
        async with running(upstreams, **ONCE) as grizz:
            assert await message_of(await grizz.player()) == "upstream 'main' sent no word within 0.5 s"
            assert await requests(grizz, "timeout_first") == 1


async def test_silence_in_an_answer_ends_it_after_the_idle_timeout() -> None:
    async def behave(call: Call) -> None:
        await call.raw(HEADERS)
        await call.part(word("so far"))
        await asyncio.sleep(60)

    async with raw_upstream(behave) as (_, url):
        upstreams = {"main": {"base_url": url, "first_token_timeout_s": 0.5, "idle_timeout_s": 0.4}}
        async with running(upstreams, **ONCE) as grizz:
            assert await message_of(await grizz.player()) == "upstream 'main' was silent for 0.4 s"
            assert await requests(grizz, "timeout_idle") == 1


async def test_comments_keep_an_answer_open_no_longer_than_a_job_may_take() -> None:
    async def behave(call: Call) -> None:
        await call.raw(HEADERS)
        await call.part(word("so far"))
        while True:
            await call.part(COMMENT)
            await asyncio.sleep(0.05)

    async with raw_upstream(behave) as (_, url):
        upstreams = {"main": {"base_url": url, "first_token_timeout_s": 0.4, "idle_timeout_s": 0.4}}
        async with running(upstreams, workers__job_timeout_s=1) as grizz:
            text = "upstream 'main' did not finish the answer within the job's 1 s"
            assert await message_of(await grizz.player()) == text
            assert await requests(grizz, "timeout_total") == 1
            assert await grizz.metric("grizz_jobs_finished_total", model="grizz-demo", outcome="timeout") == 1


async def test_a_server_that_accepts_no_connection_is_given_up_after_the_connect_timeout() -> None:
    with deaf_url() as url:
        async with running({"main": {"base_url": url, "connect_timeout_s": 0.4}}, **ONCE) as grizz:
            assert await message_of(await grizz.player()) == "upstream 'main' accepted no connection within 0.4 s"
            assert await requests(grizz, "connect") == 1


async def test_what_hangs_before_its_first_word_is_answered_by_another_upstream() -> None:
    async with raw_upstream(drip_comments) as (sick, url):
        upstreams = {"main": {"base_url": url, "first_token_timeout_s": 0.4}, "backup": {"priority": 2}}
        async with running(upstreams) as grizz:
            assert text_of(await (await grizz.player()).ask("[[echo:there]]")) == "there"
            assert (sick.requests, grizz.asked()) == (1, {"backup": 1})


async def test_pooled_connections_that_the_server_drops_are_no_failures() -> None:
    async def behave(call: Call) -> None:
        if call.of_connection > 1:
            call.hang_up()
            return
        await asyncio.sleep(0.2)  # so that all of a round have connections of their own
        await call.answer(f"answer {call.number}")

    async with raw_upstream(behave) as (raw, url):
        async with running({"main": {"base_url": url, "breaker_failures": 1}}, **ONCE) as grizz:
            players = [await grizz.player() for _ in range(6)]
            for _ in range(2):
                answers = await asyncio.gather(*(player.ask("hello") for player in players))
                assert [events[-1]["type"] for events in answers] == ["response.completed"] * 6
            assert raw.connections == 12
            assert (await requests(grizz, "2xx"), await requests(grizz, "connect")) == (12, 0)
            assert await grizz.breaker("main") == "closed"


async def test_a_server_that_drops_every_connection_is_asked_a_bounded_number_of_times() -> None:
    async def behave(call: Call) -> None:
        call.hang_up()

    async with raw_upstream(behave) as (raw, url):
        async with running({"main": {"base_url": url}}, **ONCE) as grizz:
            assert await message_of(await grizz.player()) == "upstream 'main' dropped the connection"
            assert raw.requests == 2


async def test_a_server_that_still_loads_its_model_is_waited_for() -> None:
    async def behave(call: Call) -> None:
        if call.number < 3:
            body = b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}'
            await call.status("503 Service Unavailable", body)
        else:
            await call.answer("loaded")

    async with raw_upstream(behave) as (raw, url):
        async with running({"main": {"base_url": url}}) as grizz:
            assert text_of(await (await grizz.player()).ask("hello")) == "loaded"
            assert raw.requests == 3
            assert await grizz.metric("grizz_upstream_retries_total", upstream="main", reason="5xx") == 2


async def test_neither_the_address_nor_the_key_of_an_upstream_is_shown_to_clients() -> None:
    key = "sk-very-secret-key"

    async def behave(call: Call) -> None:
        body = b'{"error":{"message":"key ' + key.encode() + b" is bad at " + url.encode() + b"/chat for "
        await call.status("500 Oh", body + url.split("/")[2].encode() + b'"}}')

    async with raw_upstream(behave) as (_, url):
        async with running({"main": {"base_url": url, "api_key": key}}, **ONCE) as grizz:
            shown = await message_of(await grizz.player())
            assert shown == "upstream 'main' answered 500: key … is bad at …/chat for …"


async def test_a_server_that_breaks_at_each_request_gets_one_more_than_a_job_may_try() -> None:
    async def behave(call: Call) -> None:
        call.hang_up()

    async with raw_upstream(behave) as (raw, url):
        async with running({"main": {"base_url": url}}, upstream__max_retries=2) as grizz:
            assert await message_of(await grizz.player()) == "upstream 'main' dropped the connection"
            assert raw.requests == 1 + 2 + 1
            assert await grizz.metric("grizz_upstream_retries_total", upstream="main", reason="connect") == 2 + 1


async def test_a_retry_after_of_nothing_does_not_take_the_pause_between_tries_away() -> None:
    moments: list[float] = []

    async def behave(call: Call) -> None:
        moments.append(asyncio.get_running_loop().time())
        await call.status("503 Busy", b"{}", "Retry-After: 0")

    async with raw_upstream(behave) as (_, url):
        async with running({"main": {"base_url": url}}, upstream__loading_timeout_s=0) as grizz:
            await message_of(await grizz.player())
            assert len(moments) == 3
            assert moments[1] - moments[0] >= 0.24
            assert moments[2] - moments[1] >= 0.49


async def test_silence_until_the_end_of_the_jobs_time_counts_against_the_upstream() -> None:
    async with raw_upstream(silent) as (_, url):
        upstreams = {"main": {"base_url": url, "breaker_failures": 2, "breaker_first_s": 60}}
        async with running(upstreams, workers__job_timeout_s=0.4) as grizz:
            player = await grizz.player()
            for _ in range(2):
                assert await grizz.breaker("main") == "closed"
                await message_of(player)
            assert await requests(grizz, "timeout_total") == 2
            assert await grizz.breaker("main") == "open"


async def test_who_is_asked_when_the_jobs_time_is_nearly_over_is_not_blamed_for_it() -> None:
    async with raw_upstream(silent) as (_, one), raw_upstream(silent) as (late, two):
        upstreams = {
            "main": {"base_url": one, "first_token_timeout_s": 2},
            "late": {"base_url": two, "priority": 2, "breaker_failures": 1},
        }
        async with running(upstreams, workers__job_timeout_s=3) as grizz:
            await message_of(await grizz.player())
            assert late.requests == 1
            assert await grizz.metric("grizz_upstream_requests_total", upstream="late", result="timeout_total") == 1
            assert await grizz.breaker("late") == "closed"


async def test_an_answer_that_is_too_long_for_its_job_does_not_count_against_the_upstream() -> None:
    async with running({"main": {"breaker_failures": 1}}, workers__job_timeout_s=0.5) as grizz:
        await message_of(await grizz.player(), "[[words:1000]] [[rate:50]]")
        assert await requests(grizz, "timeout_total") == 1
        assert await grizz.breaker("main") == "closed"
