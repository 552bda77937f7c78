"""The shared ticker: everything is flushed once, in time, and nothing ticks for nothing."""

from __future__ import annotations

import asyncio

import pytest

from grizz.engine.flusher import Flusher


async def settled(flusher: Flusher) -> None:
    """Wait until nothing waits any more, and somewhat longer: what came too much shall show."""
    async with asyncio.timeout(10):
        while flusher._timer is not None:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert flusher._timer is None, "nothing waits, so nothing ticks"


@pytest.mark.parametrize("interval_s", [0.0, 0.05])
async def test_what_is_added_is_called_once_however_often_it_was_added(interval_s: float) -> None:
    flusher, called = Flusher(interval_s), []
    flushes = [lambda number=number: called.append(number) for number in range(3)]
    for flush in (*flushes, *flushes):
        flusher.add(flush)
    await settled(flusher)
    assert sorted(called) == [0, 1, 2]


async def test_what_is_added_at_different_times_is_not_called_in_one_go() -> None:
    flusher, loop = Flusher(0.2), asyncio.get_running_loop()
    goes: list[float] = []
    for _ in range(10):
        flusher.add(lambda: goes.append(loop.time()))
        await asyncio.sleep(0.02)
    await settled(flusher)
    assert len(goes) == 10
    assert max(goes) - min(goes) > 0.05


async def test_what_adds_itself_again_while_it_is_called_is_called_again() -> None:
    flusher, called = Flusher(0.01), []

    def flush() -> None:
        called.append(1)
        if len(called) < 3:
            flusher.add(flush)

    flusher.add(flush)
    await settled(flusher)
    assert len(called) == 3


async def test_one_that_fails_holds_up_none_of_the_others(caplog: pytest.LogCaptureFixture) -> None:
    flusher, called = Flusher(0.05), []

    def fail() -> None:
        raise ValueError("broken")

    for flush in (fail, lambda: called.append(1)):
        flusher.add(flush)
    await settled(flusher)
    assert called == [1]
    assert "a flush failed" in caplog.text
