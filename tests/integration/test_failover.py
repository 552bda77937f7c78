"""Several upstreams: who is asked first, who next, and what a client sees of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from tests import grammar
from tests.player import Player, numbers, text_of
from tests.raw_upstream import HEADERS, ROLE, Call, raw_upstream
from tests.several import dead_url, running

MAIN, BACKUP = {"priority": 1}, {"priority": 2}


def types_of(events: list[dict]) -> list[str]:
    return [event["type"] for event in events]


@pytest.mark.parametrize(
    "fault",
    [
        *("error:500", "error:503", "error:429", "error:quota", "error:401", "error:403", "error:404"),
        *("cut:0", "eof:0", "midstream-error:0", "garbage:0"),
    ],
)
async def test_what_fails_at_one_upstream_before_the_first_word_is_answered_by_the_next(fault: str) -> None:
    async with running({"main": MAIN, "backup": BACKUP}) as grizz:
        player = await grizz.player()
        await grizz.spend("backup", text := f"[[words:30]] [[{fault}]] [[times:1]]")
        events = await player.ask(text)
        grammar.check(events)
        assert text_of(events) == numbers(30)
        assert types_of(events).count("response.created") == 1
        assert events[-1]["type"] == "response.completed"
        assert grizz.asked() == {"main": 1, "backup": 1}
        assert await grizz.metric("grizz_upstream_failovers_total", upstream="main") == 1
        assert await grizz.metric("grizz_upstream_retries_total", upstream="main", reason="5xx") == 0


async def test_an_upstream_that_is_not_there_is_passed_over() -> None:
    async with running({"main": {"base_url": dead_url()}, "backup": BACKUP}) as grizz:
        player = await grizz.player()
        assert text_of(await player.ask("[[echo:here]]")) == "here"
        assert await grizz.metric("grizz_upstream_requests_total", upstream="main", result="connect") == 1
        assert await grizz.metric("grizz_upstream_requests_total", upstream="backup", result="2xx") == 1


@pytest.mark.parametrize("fault", ["cut:7", "eof:7", "midstream-error:7", "garbage:7"])
async def test_after_the_first_word_no_other_upstream_is_asked(fault: str) -> None:
    async with running({"main": MAIN, "backup": BACKUP}) as grizz:
        player = await grizz.player()
        events = await player.ask(f"[[words:20]] [[{fault}]]")
        grammar.check(events)
        assert events[-1]["type"] == "response.failed"
        assert "upstream 'main'" in events[-1]["response"]["error"]["message"]
        assert text_of(events) == numbers(7)
        assert grizz.asked() == {"main": 1, "backup": 0}


@pytest.mark.parametrize(
    ("fault", "code"),
    [("error:400", "invalid_prompt"), ("error:422", "invalid_prompt"), ("error:context", "context_length_exceeded")],
)
async def test_what_is_wrong_with_the_request_itself_is_not_asked_elsewhere(fault: str, code: str) -> None:
    async with running({"main": MAIN, "backup": BACKUP}) as grizz:
        player = await grizz.player()
        failed = (await player.ask(f"[[{fault}]]"))[-1]["response"]
        assert failed["error"]["code"] == code
        assert grizz.asked() == {"main": 1, "backup": 0}


async def test_when_all_fail_each_is_tried_once_and_the_repeats_are_bounded_together() -> None:
    async with running({"main": MAIN, "backup": BACKUP}, upstream__max_retries=1) as grizz:
        player = await grizz.player()
        failed = (await player.ask("[[error:500]] [[retry-after:0]]"))[-1]["response"]
        assert failed["error"]["code"] == "server_error"
        assert "' answered 500: " in failed["error"]["message"]
        # Which of them is asked again is up to the length of their pauses.
        assert sorted(grizz.asked().values()) == [1, 2]


async def test_a_refused_key_is_shown_to_the_operator_and_named_to_the_client(caplog) -> None:
    async with running({"main": {**MAIN, "api_key": "sk-very-secret"}}) as grizz:
        player = await grizz.player()
        failed = (await player.ask("[[error:401]]"))[-1]["response"]
        assert failed["error"]["message"] == "upstream 'main' refused this server's API key"
        complaints = [record for record in caplog.records if "refuses this server's key" in record.message]
        assert [(record.levelname, record.upstream) for record in complaints] == [("ERROR", "main")]
        assert "sk-very-secret" not in str([vars(record) for record in caplog.records])


async def test_lower_priorities_go_first_and_equal_ones_take_turns() -> None:
    upstreams = {"a": {"priority": 2}, "b": {"priority": 2}, "c": {"priority": 3}}
    async with running(upstreams) as grizz:
        player = await grizz.player()
        for _ in range(6):
            await player.ask("[[echo:x]]")
        assert grizz.asked() == {"a": 3, "b": 3, "c": 0}


async def test_an_upstream_is_asked_for_the_models_it_has_by_the_names_it_knows() -> None:
    upstreams = {"main": {**MAIN, "models": "big"}, "backup": {**BACKUP, "models": "big=llama,small=phi"}}
    async with running(upstreams, upstream__model="small") as grizz:
        player = await grizz.player()
        done = (await player.ask("[[echo:x]]"))[-1]["response"]
        assert done["model"] == "small"
        assert grizz.demos["backup"].last_request["model"] == "phi"
        await player.ask("[[echo:x]]", model="big")
        assert grizz.demos["main"].last_request["model"] == "big"
        assert grizz.asked() == {"main": 1, "backup": 1}
        await player.ask("[[error:500]] [[times:1]]", model="big")
        assert grizz.demos["backup"].last_request["model"] == "llama"


async def test_a_model_that_no_upstream_has_is_not_found_and_the_others_are_named() -> None:
    async with running({"main": {"models": "big,small=phi"}}) as grizz:
        player = await grizz.player()
        failed = (await player.ask("hello", model="huge"))[-1]["response"]
        assert failed["error"] == {
            "code": "model_not_found",
            "message": "no model server has the model 'huge'; there are: big, small",
        }
        assert grizz.asked() == {"main": 0}


async def test_the_list_of_models_is_that_of_all_upstreams_and_one_that_is_down_hides_no_other() -> None:
    upstreams = {
        "gone": {"base_url": dead_url(), "priority": 1},
        "named": {"priority": 2, "models": "big,small=phi"},
        "open": {"priority": 3},
    }
    async with running(upstreams, upstream__model="small") as grizz:
        async with grizz.http.get(f"{grizz.url}/v1/models") as response:
            listed = (await response.json())["data"]
        assert [(model["id"], model["owned_by"]) for model in listed] == [
            ("small", "named"),
            ("big", "named"),
            ("grizz-demo", "grizz"),
        ]


async def test_without_a_configured_model_the_first_of_the_best_upstream_answers() -> None:
    upstreams = {"gone": {"base_url": dead_url()}, "backup": {"priority": 2, "models": "one,two"}}
    async with running(upstreams, upstream__model="") as grizz:
        player = await grizz.player()
        assert (await player.ask("[[echo:x]]"))[-1]["response"]["model"] == "one"


async def test_the_demo_model_answers_alone_when_it_is_enabled() -> None:
    async with running({"main": {"base_url": dead_url()}}, demo__enabled=True) as grizz:
        player = await grizz.player()
        assert text_of(await player.ask("[[echo:demo]]")) == "demo"
        assert await grizz.metric("grizz_upstream_requests_total", upstream="demo", result="2xx") == 1


def flaky(seed: int) -> Callable[[Call], Awaitable[None]]:
    """A server that fails in a new way each time, never after the first word, and now and then answers."""
    dice = random.Random(seed)

    async def behave(call: Call) -> None:
        match dice.randrange(7):
            case 0:
                await call.status("500 Oh", b'{"error":{"message":"oh"}}')
            case 1:
                await call.status("429 Too Many", b"{}", "Retry-After-Ms: 50")
            case 2:
                call.hang_up()
            case 3:
                await call.raw(HEADERS)
                await call.part(ROLE + b"data: {not json\n\n")
                call.hang_up()
            case 4:
                await call.raw(HEADERS)
                await call.part(ROLE)
                call.hang_up()
            case 5:
                await call.status("404 Not Found", b'{"error":{"message":"no such model"}}')
            case _:
                await call.answer("right")

    return behave


async def test_with_one_healthy_upstream_no_job_fails_however_the_others_behave() -> None:
    async with raw_upstream(flaky(1)) as (first, one), raw_upstream(flaky(2)) as (second, two):
        sick = {"breaker_failures": 2, "breaker_first_s": 0.1, "breaker_longest_s": 0.2}
        upstreams = {"a": {"base_url": one, **sick}, "b": {"base_url": two, **sick}, "c": BACKUP}
        async with running(upstreams) as grizz:
            players = [await grizz.player() for _ in range(10)]

            async def talk(player: Player) -> None:
                for _ in range(12):
                    events = await player.ask("[[echo:right]]")
                    grammar.check(events)
                    assert text_of(events) == "right"
                    assert types_of(events).count("response.created") == 1
                    assert events[-1]["type"] == "response.completed"

            async with asyncio.TaskGroup() as group:
                for player in players:
                    group.create_task(talk(player))
            assert first.requests > sick["breaker_failures"], "asked again after its rest"
            assert second.requests > sick["breaker_failures"], "asked again after its rest"
            assert await grizz.metric("grizz_breaker_transitions_total", upstream="a", to="half_open") > 0
            assert await grizz.metric("grizz_unhandled_errors_total", where="worker") == 0
