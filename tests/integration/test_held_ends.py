"""An end is held until it is stored: whatever happens meanwhile, it is told once, and only by who speaks for it."""

from __future__ import annotations

import threading
from pathlib import Path

import aiohttp
import pytest

from grizz.engine import engine as engine_module
from grizz.engine.worker import STOPPED
from grizz.transport.base import Cause
from tests.conftest import running_grizz
from tests.contract.cast import until
from tests.player import Player


async def test_an_answer_that_comes_back_under_its_id_while_its_old_end_is_held_ends_as_well(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    path = str(tmp_path / "state" / "grizz.db")
    async with running_grizz(history__store="sqlite", history__path=path) as grizz:
        assert grizz.app.durable is not None
        store, engine = grizz.app.durable.store, grizz.app.engine
        player = await Player.connect(http, grizz.ws_url)
        await player.create("[[words:20]] [[rate:20]]")
        await player.until("response.output_text.delta")
        ((job, _),) = grizz.app.transport._ledger.jobs()
        go_on = threading.Event()
        stuck = store.writer.write(lambda db: go_on.wait(10))
        await until(lambda: engine.home._ending)
        engine.home.deposed()
        assert engine.home.adopt(job, 2, None) is not None
        again = engine.replies.get(job.id)
        assert again is not None
        engine.home.end(job.id, STOPPED[Cause.SHUTDOWN])
        go_on.set()
        await stuck
        await until(lambda: again.ended)
        await until(lambda: not engine.home._ending)
        await player.ws.close()


async def test_a_drain_waits_for_an_end_that_a_slow_disk_holds(
    tmp_path: Path, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "_END_WITHIN_S", 0.3)
    path = str(tmp_path / "state" / "grizz.db")
    async with running_grizz(history__store="sqlite", history__path=path) as grizz:
        assert grizz.app.durable is not None
        store, engine = grizz.app.durable.store, grizz.app.engine
        player = await Player.connect(http, grizz.ws_url)
        await player.create("[[words:2000]] [[rate:10]]")
        await player.until("response.output_text.delta")
        (reply,) = engine.replies.all_running()
        store.journal.forget(reply.id)  # as if the disk had been too slow for it from the start
        go_on = threading.Event()
        stuck = store.writer.write(lambda db: go_on.wait(10))
        await engine.drain(0)
        go_on.set()
        assert reply.ended
        await stuck
        await player.ws.close()
