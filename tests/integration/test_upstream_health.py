"""Breakers, pauses and full upstreams: who is left alone for how long, counted at the servers themselves."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.player import Player, text_of
from tests.raw_upstream import Call, raw_upstream
from tests.several import Several, dead_url, running

MAIN, BACKUP = {"priority": 1}, {"priority": 2}


async def error_of(player: Player, text: str = "[[echo:x]]") -> dict[str, str]:
    """Ask, and take the error of the failed response."""
    failed = (await player.ask(text))[-1]["response"]
    assert failed["status"] == "failed"
    return failed["error"]


async def until_breaker(grizz: Several, upstream: str, state: str) -> None:
    """Wait until the metrics show that state."""
    async with asyncio.timeout(5):
        while await grizz.breaker(upstream) != state:
            await asyncio.sleep(0.02)


async def fail_at_main(grizz: Several, player: Player, number: int) -> None:
    """One failure at main alone; the answer comes from the backup."""
    await grizz.spend("backup", text := f"[[error:500]] [[times:1]] [[echo:{number}]]")
    assert text_of(await player.ask(text)) == str(number)


async def transitions(grizz: Several, to: str) -> float:
    return await grizz.metric("grizz_breaker_transitions_total", upstream="main", to=to)


async def test_after_enough_failures_a_sick_upstream_is_left_alone() -> None:
    main = {**MAIN, "breaker_failures": 3, "breaker_first_s": 60}
    async with running({"main": main, "backup": BACKUP}) as grizz:
        player = await grizz.player()
        for number in range(3):
            assert await grizz.breaker("main") == "closed"
            await fail_at_main(grizz, player, number)
        assert await grizz.breaker("main") == "open"
        for _ in range(5):
            assert text_of(await player.ask("[[echo:well]]")) == "well"
        assert grizz.asked()["main"] == 3
        assert await transitions(grizz, "open") == 1
        assert await grizz.metric("grizz_upstream_failovers_total", upstream="main") == 3


async def test_a_success_between_failures_starts_their_count_anew() -> None:
    async with running({"main": {**MAIN, "breaker_failures": 2}, "backup": BACKUP}) as grizz:
        player = await grizz.player()
        for number in range(3):
            await fail_at_main(grizz, player, number)
            await player.ask("[[echo:well]]")
        assert await grizz.breaker("main") == "closed"


async def test_streams_that_all_begin_and_all_break_off_open_the_breaker_as_well() -> None:
    async with running({"main": {**MAIN, "breaker_failures": 2, "breaker_first_s": 60}}) as grizz:
        player = await grizz.player()
        for _ in range(2):
            await error_of(player, "[[words:20]] [[cut:7]]")
        assert await grizz.breaker("main") == "open"


async def test_after_its_rest_one_request_probes_a_sick_upstream_and_the_others_go_elsewhere() -> None:
    main = {**MAIN, "breaker_failures": 1, "breaker_first_s": 0.2}
    async with running({"main": main, "backup": BACKUP}) as grizz:
        players = [await grizz.player() for _ in range(6)]
        await fail_at_main(grizz, players[0], 0)
        await asyncio.sleep(0.3)
        before = grizz.asked()
        asking = [asyncio.create_task(player.ask("[[first:1]] [[echo:hi]]")) for player in players]
        await until_breaker(grizz, "main", "half_open")
        assert [text_of(await task) for task in asking] == ["hi"] * 6
        after = grizz.asked()
        assert (after["main"] - before["main"], after["backup"] - before["backup"]) == (1, 5)
        assert await grizz.breaker("main") == "closed"
        assert [await transitions(grizz, to) for to in ("open", "half_open", "closed")] == [1, 1, 1]


async def test_a_probe_that_fails_is_answered_elsewhere_and_the_rest_goes_on() -> None:
    main = {**MAIN, "breaker_failures": 1, "breaker_first_s": 0.2}
    async with running({"main": main, "backup": BACKUP}) as grizz:
        player = await grizz.player()
        await fail_at_main(grizz, player, 0)
        await asyncio.sleep(0.3)
        await fail_at_main(grizz, player, 1)
        assert grizz.asked()["main"] == 2
        assert [await transitions(grizz, to) for to in ("open", "half_open", "closed")] == [2, 1, 0]


async def test_without_another_upstream_a_short_rest_is_waited_for() -> None:
    main = {"breaker_failures": 1, "breaker_first_s": 1, "max_retries": 0}
    async with running({"main": main}) as grizz:
        players = [await grizz.player() for _ in range(4)]
        await error_of(players[0], "[[error:500]]")
        answers = await asyncio.gather(*(player.ask("[[echo:back]]") for player in players))
        assert [text_of(events) for events in answers] == ["back"] * 4
        assert grizz.asked()["main"] == 5
        assert await transitions(grizz, "half_open") == 1


async def test_a_long_rest_is_told_at_once_with_its_reason() -> None:
    async with running({"main": {"breaker_failures": 2, "breaker_first_s": 60, "max_retries": 0}}) as grizz:
        player = await grizz.player()
        for _ in range(2):
            await error_of(player, "[[error:500]]")
        error = await error_of(player)
        assert error["code"] == "server_error"
        start, _, end = error["message"].partition(" s ")
        assert start.startswith("no model server is available: main rests for ")
        assert 29 <= int(start.rsplit(" ", 1)[1]) <= 60
        assert end == "after 2 failures"
        assert grizz.asked()["main"] == 2


async def test_an_upstream_that_is_not_there_rests_and_is_found_again_when_it_comes_back() -> None:
    main = {"breaker_failures": 1, "breaker_first_s": 0.3, "max_retries": 0, "loading_timeout_s": 0}
    async with running({"main": main}) as grizz:
        demo, player = grizz.demos["main"], await grizz.player()
        await demo.stop()
        assert (await error_of(player))["message"] == "upstream 'main' could not be reached"
        await demo.start(port=int(demo.url.split(":")[2].split("/")[0]))
        assert text_of(await player.ask("[[echo:back]]")) == "back"
        assert await grizz.breaker("main") == "closed"


@pytest.mark.parametrize("fault", ["error:400", "error:401", "error:404", "error:422", "error:429", "error:context"])
async def test_what_is_no_fault_of_the_upstream_does_not_open_its_breaker(fault: str) -> None:
    async with running({"main": {"breaker_failures": 1, "max_retries": 0}}) as grizz:
        player = await grizz.player()
        await error_of(player, f"[[{fault}]]")
        assert await grizz.breaker("main") == "closed"


async def cancelled(grizz: Several, player: Player, text: str) -> None:
    """Ask, and cancel once the upstream has the request."""
    asked = grizz.asked()["main"]
    await player.create(text)
    created = await player.until("response.created")
    async with asyncio.timeout(5):
        while grizz.asked()["main"] == asked:
            await asyncio.sleep(0.01)
    await player.send({"type": "response.cancel", "response_id": created[0]["response"]["id"]})
    assert (await player.answer())[-1]["response"]["status"] == "cancelled"


async def test_a_users_cancel_is_no_failure() -> None:
    async with running({"main": {"breaker_failures": 1}}) as grizz:
        player = await grizz.player()
        for text in ("[[first:30]]", "[[stall:0]]", "[[words:20]] [[stall:5]]"):
            await cancelled(grizz, player, text)
        assert await grizz.breaker("main") == "closed"
        assert await grizz.metric("grizz_upstream_requests_total", upstream="main", result="cancelled") == 3


async def test_a_cancelled_probe_makes_room_for_the_next() -> None:
    async with running({"main": {"breaker_failures": 1, "breaker_first_s": 0.2, "max_retries": 0}}) as grizz:
        player = await grizz.player()
        await error_of(player, "[[error:500]]")
        await asyncio.sleep(0.3)
        await cancelled(grizz, player, "[[stall:0]]")
        assert await grizz.breaker("main") == "open"
        assert text_of(await player.ask("[[echo:next]]")) == "next"
        assert await grizz.breaker("main") == "closed"


# Pauses


async def test_an_upstream_that_asks_for_a_pause_gets_it_from_all_jobs() -> None:
    async with running({"main": MAIN, "backup": BACKUP}) as grizz:
        player, other = await grizz.player(), await grizz.player()
        await grizz.spend("backup", text := "[[error:429]] [[retry-after:20]] [[times:1]] [[echo:x]]")
        assert text_of(await player.ask(text)) == "x"
        for one in (player, other, player):
            assert text_of(await one.ask("[[echo:y]]")) == "y"
        assert grizz.asked() == {"main": 1, "backup": 4}
        assert 10 < await grizz.metric("grizz_upstream_pause_seconds", upstream="main") <= 20
        assert await grizz.metric("grizz_upstream_pause_seconds", upstream="backup") == 0
        assert await grizz.breaker("main") == "closed"


async def test_without_another_upstream_a_pause_is_waited_for_by_all() -> None:
    moments: list[float] = []

    async def behave(call: Call) -> None:
        moments.append(time.monotonic())
        if call.number == 1:
            await call.status("429 Too Many", b"{}", "Retry-After: 60", "Retry-After-Ms: 700")
        else:
            await call.answer("at last")

    async with raw_upstream(behave) as (_, url):
        async with running({"main": {"base_url": url}}) as grizz:
            players = [await grizz.player() for _ in range(4)]
            first = asyncio.create_task(players[0].ask("hello"))
            async with asyncio.timeout(5):
                while not moments:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            rest = await asyncio.gather(*(player.ask("hello") for player in players[1:]))
            assert [text_of(events) for events in [await first, *rest]] == ["at last"] * 4
            assert min(moments[1:]) - moments[0] >= 0.69
            assert len(moments) == 5


async def test_a_pause_that_is_too_long_is_told_with_its_length() -> None:
    async with running({"main": MAIN, "backup": {**BACKUP, "models": "grizz-demo"}}) as grizz:
        player = await grizz.player()
        error = await error_of(player, "[[error:429]] [[retry-after:100]]")
        assert error["code"] == "rate_limit_exceeded"
        assert error["message"].startswith("upstream 'backup' answered 429: ")
        pauses = "main asked for a pause of 100 s, backup asked for a pause of 100 s"
        assert await error_of(player) == {
            "code": "rate_limit_exceeded",
            "message": f"no model server is available: {pauses}",
        }
        assert grizz.asked() == {"main": 1, "backup": 1}


async def test_a_pause_beyond_the_time_of_a_job_is_not_waited_for() -> None:
    async with running({"main": {"max_retries": 0}}, workers__job_timeout_s=5) as grizz:
        player = await grizz.player()
        await error_of(player, "[[error:429]] [[retry-after:20]]")
        error = await error_of(player)
        assert error["message"].startswith("no model server is available: main asked for a pause of ")
        assert grizz.asked() == {"main": 1}


async def test_why_the_others_were_not_asked_is_told_with_the_failure() -> None:
    upstreams = {
        "main": {"base_url": dead_url(), "breaker_failures": 1, "breaker_first_s": 60, "max_retries": 0},
        "backup": {"priority": 2, "max_retries": 0},
    }
    async with running(upstreams) as grizz:
        player = await grizz.player()
        assert text_of(await player.ask("[[echo:x]]")) == "x"
        message = (await error_of(player, "[[error:500]]"))["message"]
        assert message.startswith("upstream 'backup' answered 500: ")
        assert "(main rests for " in message
        assert message.endswith(" s after 1 failure)")


# Bounds


async def test_an_upstream_with_all_its_connections_in_use_is_passed_over() -> None:
    async with running({"main": {**MAIN, "max_connections": 1}, "backup": BACKUP}) as grizz:
        player, other = await grizz.player(), await grizz.player()
        await player.create("[[words:5]] [[stall:3]]")
        await player.until("response.output_text.delta")
        assert text_of(await other.ask("[[echo:x]]")) == "x"
        assert grizz.asked() == {"main": 1, "backup": 1}
        assert await grizz.metric("grizz_upstream_requests_open", upstream="main") == 1


async def test_without_another_upstream_a_place_is_waited_for_and_then_the_reason_told() -> None:
    async with running({"main": {"max_connections": 1, "connect_timeout_s": 0.3}}) as grizz:
        player, other = await grizz.player(), await grizz.player()
        await player.create("[[words:5]] [[stall:3]]")
        created = await player.until("response.output_text.delta")
        assert await error_of(other) == {
            "code": "server_error",
            "message": "upstream 'main' is busy with 1 requests, and none ended within 0.3 s",
        }
        assert await grizz.metric("grizz_upstream_requests_total", upstream="main", result="busy") == 1
        assert await grizz.breaker("main") == "closed"
        await player.send({"type": "response.cancel", "response_id": created[0]["response"]["id"]})
        await player.answer()
        assert text_of(await other.ask("[[echo:free]]")) == "free"


async def test_the_metrics_of_every_upstream_are_there_from_the_start() -> None:
    async with running({"main": MAIN, "backup": BACKUP}) as grizz:
        for name in ("main", "backup"):
            assert await grizz.breaker(name) == "closed"
            assert await grizz.metric("grizz_upstream_failovers_total", upstream=name) == 0
            for result in ("timeout_first", "timeout_idle", "timeout_total", "connect", "busy"):
                assert await grizz.metric("grizz_upstream_requests_total", upstream=name, result=result) == 0
