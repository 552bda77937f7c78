"""A worker that dies in the middle of an answer: the next attempt goes on, honestly and legally."""

from __future__ import annotations

import aiohttp

from tests import grammar
from tests.player import Player, numbers


async def test_a_lost_worker_is_replaced_and_the_stream_stays_legal(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(workers__lease_s=0.3)
    player = await Player.connect(http, grizz.ws_url)
    await player.create("[[words:20]] [[stall:6]] [[times:1]]")
    seen = await player.until("response.output_text.delta")
    grizz.app.pool._runs.clear()  # its run is forgotten: nobody renews the lease any more, as if the worker hung
    seen += await player.answer()
    grammar.check(seen)
    output = seen[-1]["response"]["output"]
    assert [item["status"] for item in output] == ["incomplete", "completed"]
    assert output[1]["content"][0]["text"] == numbers(20)
    assert grizz.demo.requests == 2
