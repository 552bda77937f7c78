"""The one request that tries a sick upstream again: what it proves, and how long the others wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.player import Player, text_of
from tests.raw_upstream import END, HEADERS, ROLE, Call, RawUpstream, raw_upstream, word
from tests.several import Several, running

SICK = {"breaker_failures": 1, "breaker_first_s": 0.2, "max_retries": 0}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that wait for a rest for less than a second."""
    monkeypatch.setattr("grizz.engine.member.REST_PATIENCE_S", 0.8)
    monkeypatch.setattr("grizz.engine.member._LOOK_AGAIN_S", 0.1)


class Slow:
    """Fails once; then the first to ask waits for `go`, with or without headers, and the rest is answered at once."""

    def __init__(self, headers: bytes = HEADERS) -> None:
        self.go = asyncio.Event()
        self.ends = END
        self._headers = headers

    async def behave(self, call: Call) -> None:
        if call.number == 1:
            await call.status("500 Oh", b"{}")
        elif call.number == 2:
            await call.raw(self._headers)
            if self._headers:
                await call.part(ROLE)
            await self.go.wait()
            if self.ends:
                await call.part(word("slow") + self.ends)
                await call.raw(b"0\r\n\r\n")
            else:
                call.hang_up()
        else:
            await call.answer("quick")


async def until_asked(raw: RawUpstream, number: int) -> None:
    async with asyncio.timeout(5):
        while raw.requests < number:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def probing(slow: Slow) -> AsyncIterator[tuple[Several, RawUpstream, asyncio.Task[list[dict]], list[Player]]]:
    """A probe under way, and others who could ask."""
    async with raw_upstream(slow.behave) as (raw, url), running({"main": {"base_url": url, **SICK}}) as grizz:
        player, *others = [await grizz.player() for _ in range(4)]
        assert (await player.ask("hello"))[-1]["response"]["status"] == "failed"
        await asyncio.sleep(0.3)
        probe = asyncio.create_task(player.ask("hello"))
        await until_asked(raw, 2)
        yield grizz, raw, probe, others
        slow.go.set()
        await probe


async def test_while_a_probe_thinks_nobody_else_asks_and_nobody_fails() -> None:
    slow = Slow()
    async with probing(slow) as (grizz, raw, probe, others):
        asking = [asyncio.create_task(player.ask("hello")) for player in others]
        await asyncio.sleep(2)
        assert not any(task.done() for task in asking)
        assert (raw.requests, await grizz.breaker("main")) == (2, "half_open")
        slow.go.set()
        assert text_of(await probe) == "slow"
        assert [text_of(await task) for task in asking] == ["quick"] * 3
        assert await grizz.breaker("main") == "closed"


async def test_a_probe_that_breaks_its_promise_lets_those_who_waited_go() -> None:
    slow = Slow()
    slow.ends = b""
    async with probing(slow) as (grizz, raw, probe, others):
        asking = [asyncio.create_task(player.ask("hello")) for player in others]
        await asyncio.sleep(1.5)
        slow.go.set()
        assert (await probe)[-1]["response"]["status"] == "failed"
        assert [(await task)[-1]["response"]["status"] for task in asking] == ["failed"] * 3
        assert raw.requests == 2
        assert await grizz.metric("grizz_breaker_transitions_total", upstream="main", to="open") == 2


async def test_a_probe_without_so_much_as_headers_is_not_waited_for_long() -> None:
    async with probing(Slow(headers=b"")) as (_, raw, probe, others):
        failed = [(await player.ask("hello"))[-1]["response"] for player in others]
        texts = {response["error"]["message"] for response in failed}
        assert texts == {"no model server is available: main is being tried again after 1 failure"}
        assert (raw.requests, probe.done()) == (2, False)


@pytest.mark.parametrize("fault", ["error:400", "error:401", "error:404", "error:429", "error:quota", "error:context"])
async def test_a_probe_that_is_refused_has_found_a_server_that_lives(fault: str) -> None:
    async with running({"main": SICK}) as grizz:
        player = await grizz.player()
        await player.ask("[[error:500]]")
        await asyncio.sleep(0.3)
        failed = (await player.ask(f"[[{fault}]]"))[-1]["response"]
        assert failed["status"] == "failed"
        assert await grizz.breaker("main") == "closed"
        assert await grizz.metric("grizz_breaker_transitions_total", upstream="main", to="closed") == 1


async def test_a_pause_that_a_probe_is_told_is_kept() -> None:
    async with running({"main": SICK}, workers__job_timeout_s=5) as grizz:
        player = await grizz.player()
        await player.ask("[[error:500]]")
        await asyncio.sleep(0.3)
        await player.ask("[[error:429]] [[retry-after:20]]")
        message = (await player.ask("[[echo:x]]"))[-1]["response"]["error"]["message"]
        assert message.startswith("no model server is available: main asked for a pause of ")
        assert grizz.asked() == {"main": 2}
