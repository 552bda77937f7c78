"""Grizz's own JavaScript client in the Node that is installed, before real processes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from grizz.web.lean import lean
from tests.accounts import ACCOUNTS, ALICE
from tests.conftest import ROOT, Grizz, running_grizz
from tests.e2e.link import link_to
from tests.player import numbers
from tests.restarts import house_in

pytestmark = pytest.mark.timeout(300)

CLIENT = ROOT / "grizz" / "web" / "pages" / "grizz.js"
Fact = dict[str, Any]
Run = Callable[..., Awaitable[list[Fact]]]


class Script:
    """The script while it runs.

    Attributes:
        facts: what it has printed.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.facts: list[Fact] = []

    async def until(self, name: str) -> Any:
        """Wait for a fact of that name."""
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            while not (self.facts and name in self.facts[-1]):
                line = await self.process.stdout.readline()
                assert line, (self.facts, await self.errors())
                self.facts.append(json.loads(line))
        return self.facts[-1][name]

    async def errors(self) -> str:
        assert self.process.stderr is not None
        return (await self.process.stderr.read()).decode()

    async def end(self, within_s: float = 60) -> list[Fact]:
        """Wait until it ends by itself; all that it printed."""
        assert self.process.stdout is not None
        async with asyncio.timeout(within_s):
            async for line in self.process.stdout:
                self.facts.append(json.loads(line))
            problem = await self.errors()
            assert await self.process.wait() == 0, problem
        return self.facts


@pytest.fixture
def client_file(tmp_path: Path) -> Path:
    """As it is saved from /pages/grizz.js; Node takes a file of that name for a module."""
    file = tmp_path / "grizz.mjs"
    file.write_bytes(lean(CLIENT.read_bytes(), ".js"))
    return file


@pytest.fixture
def start(node_clients: Path, client_file: Path) -> Callable[..., Any]:
    """Start a scenario of the script: `async with start("plain", url) as script`."""

    @asynccontextmanager
    async def started(scenario: str, url: str, argument: str = "") -> AsyncIterator[Script]:
        command = ["node", "grizz.mjs", scenario, url, str(client_file), argument]
        process = await asyncio.create_subprocess_exec(
            *command, cwd=node_clients, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        try:
            yield Script(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    return started


@pytest.fixture
def run(start: Callable[..., Any]) -> Run:
    async def whole(scenario: str, url: str, argument: str = "") -> list[Fact]:
        async with start(scenario, url, argument) as script:
            facts: list[Fact] = await script.end()
            return facts

    return whole


async def test_the_server_gives_the_file_out(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    async with http.get(f"{grizz.url}/pages/grizz.js") as answer:
        assert answer.content_type == "text/javascript"
        assert await answer.read() == lean(CLIENT.read_bytes(), ".js")


async def test_a_loop_gives_every_event_and_the_rest_of_the_api_is_at_hand(grizz: Grizz, run: Run) -> None:
    assert await run("plain", grizz.url) == [
        {
            "text": numbers(50),
            "end": "done",
            "status": "completed",
            "again": "completed",
            "models": ["grizz-demo"],
            "model": "grizz-demo",
            "title": "Bears",
            "error": [True, 404, "conversation_not_found", True],
        }
    ]


async def test_a_cancelled_answer_ends_with_what_it_had_said(grizz: Grizz, run: Run) -> None:
    (fact,) = await run("cancel", grizz.url)
    assert (fact["end"], fact["status"]) == ("done", "cancelled")
    assert numbers(3) in fact["text"] and len(fact["text"]) < len(numbers(900))


async def test_leaving_a_loop_cancels_what_it_made_and_not_what_it_only_watched(grizz: Grizz, run: Run) -> None:
    (fact,) = await run("leave", grizz.url)
    assert fact == {"watched": 3, "running": "in_progress", "left": "detached", "end": "done", "status": "cancelled"}


@pytest.mark.parametrize("at", [b'"delta":"w0', b"w40 ", b"response.completed"])
async def test_a_cut_network_costs_no_event_and_doubles_none(grizz: Grizz, start: Any, at: bytes) -> None:
    async with link_to(grizz.url) as link:
        link.cut_when = at
        async with start("read", link.url, "[[words:120]] [[rate:200]]") as script:
            facts = await script.end()
        assert link.connections >= 2
    assert whole(facts[-1]) == numbers(120)


async def test_an_answer_is_exact_however_often_the_network_is_cut(grizz: Grizz, start: Any) -> None:
    async with link_to(grizz.url) as link, start("read", link.url, "[[words:300]] [[rate:100]]") as script:
        await script.until("seen")
        for _ in range(6):
            await asyncio.sleep(0.2)
            link.cut()
        assert whole((await script.end())[-1]) == numbers(300)
        assert bytes(link.received).count(b"GET /v1/responses") >= 2


async def test_a_create_that_was_not_confirmed_is_unknown_and_never_sent_again(grizz: Grizz, start: Any) -> None:
    async with link_to(grizz.url) as link:
        link.cut_when = b"response.created"
        async with start("read", link.url, "[[words:20]]") as script:
            facts = await script.end()
    assert (facts[-1]["end"], facts[-1]["count"], facts[-1]["ends"]) == ("unknown", 0, 1)
    assert grizz.demo.requests == 1


async def test_after_a_kill_the_final_text_is_exact_and_the_end_comes_once(tmp_path: Path, start: Any) -> None:
    async with house_in(tmp_path) as house:
        node = await house.start()
        async with (
            link_to(node.url) as link,
            start("read", link.url, "[[words:200]] [[rate:100]]") as script,
        ):
            await script.until("seen")
            house.node.kill()
            link.cut()
            link.target = (await house.start()).url
            facts = await script.end()
    end = facts[-1]
    assert (end["end"], end["status"], end["ends"], end["begun"]) == ("done", "completed", 1, 2)
    assert end["text"] == numbers(200)
    assert end["inOrder"] and end["gaps"] == [1_000_000]


async def test_a_second_client_sees_all_of_a_response_or_the_rest_of_it(grizz: Grizz, run: Run) -> None:
    facts = await run("attach", grizz.url)
    assert facts[-1] == {"same": True, "rest": 8, "all": 0}
    ends = [fact for fact in facts if "end" in fact]
    assert [(end["ends"], end["inOrder"], end["gaps"]) for end in ends] == [(1, True, [])] * 3
    assert grizz.demo.requests == 1


async def test_a_hidden_page_gets_the_same_text_in_fewer_events(grizz: Grizz, run: Run) -> None:
    fact = (await run("presence", grizz.url))[-1]
    assert fact["text"] == numbers(300)
    assert fact["hidden"] < fact["visible"] / 2


async def test_a_place_in_the_queue_reaches_its_stream(start: Any, http: aiohttp.ClientSession) -> None:
    async with running_grizz(workers__concurrency=1) as grizz:
        body = {"input": "[[words:9]] [[stall:2]]", "background": True}
        async with http.post(f"{grizz.url}/v1/responses", json=body) as answer:
            first = (await answer.json())["id"]
        async with start("read", grizz.url, "[[words:40]]") as second:
            assert await second.until("position") == 0
            async with http.post(f"{grizz.url}/v1/responses/{first}/cancel") as answer:
                assert answer.status == 200
            assert whole((await second.end())[-1]) == numbers(40)


async def test_a_loop_that_falls_behind_holds_little_and_misses_nothing(grizz: Grizz, run: Run) -> None:
    (fact,) = await run("slow", grizz.url)
    assert fact == {"paused": True, "all": True, "gapless": True, "end": "done", "status": "completed"}


async def test_more_streams_than_a_connection_has_names_for_go_to_another(grizz: Grizz, run: Run) -> None:
    facts = await run("many", grizz.url)
    assert facts[-1]["left"] > 32  # the rest had ended before they could be left
    assert whole(facts[-2]) == numbers(300)


async def test_a_refusal_is_thrown_by_the_loop(grizz: Grizz, run: Run) -> None:
    assert await run("refused", grizz.url) == [{"kind": "refused", "code": "invalid_type", "status": 400}]


async def test_a_create_that_waits_for_its_turn_can_be_stopped(grizz: Grizz, run: Run) -> None:
    assert await run("withdraw", grizz.url) == [{"second": "cancelled", "first": "open"}]


@pytest.mark.parametrize("anonymous", [False, True])
async def test_an_api_key_opens_socket_and_http(run: Run, anonymous: bool) -> None:
    environ = {**ACCOUNTS, "GRIZZ_SERVER_ALLOW_ANONYMOUS": str(anonymous).lower()}
    async with running_grizz(environ) as grizz:
        assert await run("account", grizz.url, f"key:{ALICE}") == [{"text": numbers(5), "models": ["grizz-demo"]}]
        wrong = (await run("stranger", grizz.url, "key:grizz-wrong"))[-1]
        assert (wrong["end"], wrong["code"], wrong["state"]) == ("refused", "connection_refused", "refused")
        assert "key" in wrong["reason"]


async def test_a_key_that_no_header_can_carry_is_refused_and_ends_no_process(grizz: Grizz, run: Run) -> None:
    (said,) = await run("stranger", grizz.url, "key:two words")
    assert (said["end"], said["code"], said["state"]) == ("refused", "connection_refused", "refused")


async def test_close_ends_streams_and_lets_the_process_end(grizz: Grizz, start: Any) -> None:
    async with start("close", grizz.url) as script:
        assert await script.end(within_s=20) == [{"end": "closed", "state": "closed"}]


async def test_close_without_a_server_lets_the_process_end(grizz: Grizz, start: Any) -> None:
    async with link_to(grizz.url) as link:
        link.refuses = True
        async with start("unreachable", link.url) as script:
            assert await script.end(within_s=20) == [
                {"state": "reconnecting", "code": "unreachable", "status": None},
                {"end": "closed"},
            ]


def test_it_stays_small() -> None:
    assert len(CLIENT.read_bytes()) <= 24 * 1024


def whole(end: Fact) -> str:
    """The text of an answer that came once, in order and without gaps."""
    facts = {name: end[name] for name in ("end", "status", "begun", "ends", "inOrder", "gaps")}
    expected = {"end": "done", "status": "completed", "begun": 1, "ends": 1, "inOrder": True, "gaps": []}
    assert facts == expected
    text: str = end["text"]
    return text
