from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from grizz.engine import pulse as module
from grizz.engine.pulse import Pulse


class Clock:
    """`time`, as the pulse sees it; the event loop keeps the real one."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("grizz.engine.pulse.time", SimpleNamespace(monotonic=made.monotonic))
    monkeypatch.setattr(module, "_EVERY_S", 0.01)
    return made


class Gate:
    """Answers `may_speak` when it is opened."""

    def __init__(self) -> None:
        self.asked = 0
        self.open = asyncio.Event()

    async def __call__(self) -> bool:
        self.asked += 1
        await self.open.wait()
        return True


@asynccontextmanager
async def beating(pulse: Pulse) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(pulse.beat())
    await asyncio.sleep(0.03)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not what():
            await asyncio.sleep(0.005)


async def test_a_process_that_runs_is_sure_and_asks_nobody(clock):
    gate = Gate()
    pulse = Pulse(10.0, gate)
    assert pulse.is_sure
    async with beating(pulse):
        for _ in range(5):
            clock.now += 9.9
            await asyncio.sleep(0.03)
            assert pulse.is_sure
        async with asyncio.timeout(1):
            await pulse.sure()
    assert gate.asked == 0


async def test_one_that_stood_still_is_unsure_before_its_ticker_even_notices(clock):
    pulse = Pulse(10.0, Gate())
    clock.now += 10.1
    assert not pulse.is_sure


async def test_after_a_standstill_nobody_speaks_until_it_was_asked_who_may(clock, caplog):
    gate, after = Gate(), []
    pulse = Pulse(10.0, gate)
    pulse.after = lambda: after.append(pulse.is_sure)
    async with beating(pulse):
        clock.now += 60.0
        waiting = asyncio.create_task(pulse.sure())
        await until(lambda: gate.asked == 1)
        await asyncio.sleep(0.05)
        assert not pulse.is_sure
        assert not waiting.done()
        assert "unsure" in repr(pulse)
        gate.open.set()
        async with asyncio.timeout(1):
            await waiting
        assert pulse.is_sure
        await asyncio.sleep(0.05)
    assert gate.asked == 1
    assert after == [True]
    assert [record.gap_s for record in caplog.records] == [60.0]


async def test_time_that_passes_while_it_asks_is_no_second_standstill(clock):
    gate = Gate()
    pulse = Pulse(1.0, gate)
    async with beating(pulse):
        clock.now += 5.0
        await until(lambda: gate.asked == 1)
        clock.now += 2.0
        gate.open.set()
        await until(lambda: pulse.is_sure)
        await asyncio.sleep(0.05)
    assert gate.asked == 1


async def test_waiting_to_be_sure_can_be_cancelled(clock):
    pulse = Pulse(10.0, Gate())
    clock.now += 11.0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await pulse.sure()
