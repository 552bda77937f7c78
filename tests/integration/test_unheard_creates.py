"""A client that leaves while its request is written down leaves nothing behind: no job, and no record of one."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import running_grizz
from tests.contract.cast import until
from tests.player import Player
from tests.redis_servers import RedisServer


@pytest.mark.parametrize("waits", [True, False])
async def test_a_create_whose_client_leaves_before_it_is_written_down_is_withdrawn(
    tmp_path: Path, http: aiohttp.ClientSession, waits: bool
) -> None:
    path = str(tmp_path / "state" / "grizz.db")
    async with running_grizz(history__store="sqlite", history__path=path, workers__concurrency=1) as grizz:
        assert grizz.app.durable is not None
        store, engine = grizz.app.durable.store, grizz.app.engine
        busy = await Player.connect(http, grizz.ws_url)
        if waits:
            await busy.create("[[words:2000]] [[rate:10]]")
            await busy.until("response.output_text.delta")
        before = engine.replies.running
        go_on = threading.Event()
        stuck = store.writer.write(lambda db: go_on.wait(10))
        try:
            leaves = await Player.connect(http, grizz.ws_url)
            await leaves.create("[[words:2000]] [[rate:10]]")
            await until(lambda: engine.replies.running > before and len(store.journal._recorded) > before)
            await leaves.ws.close()
            await until(lambda: engine.replies.running == before)
        finally:
            go_on.set()
            await stuck
        depth = engine._transport.depth
        await until(lambda: (depth().queued, depth().leased) == (0, before))
        await until(lambda: len(store.journal._recorded) == before)
        await asyncio.sleep(0)
        rows = await store.writer.write(lambda db: db.execute("SELECT count(*) FROM jobs").fetchone()[0])
        assert rows == before
        await busy.ws.close()


async def test_so_it_is_with_a_redis_that_answers_late(own_redis: RedisServer, http: aiohttp.ClientSession) -> None:
    async with running_grizz(redis__url=own_redis.url, workers__concurrency=1) as grizz:
        transport, engine = grizz.app.transport, grizz.app.engine
        leaves = await Player.connect(http, grizz.ws_url)
        own_redis.command("CLIENT", "PAUSE", "1000", "WRITE")
        await leaves.create("[[words:2000]] [[rate:10]]")
        await until(lambda: engine.replies.running == 1)
        await leaves.ws.close()
        await until(lambda: engine.replies.running == 0)
        await until(lambda: (transport.depth().queued, transport.depth().leased) == (0, 0))
        await until(lambda: not [key for key in own_redis.command("KEYS", "*") if "records" in str(key)])
