"""A client that asked for it hears how many jobs come before its own."""

from __future__ import annotations

import aiohttp

from tests.player import Player, sequence

GRIZZ = ("responses", "grizz")


async def test_a_waiting_client_hears_its_position_and_how_it_gets_less(
    start_grizz, http: aiohttp.ClientSession
) -> None:
    grizz = await start_grizz(workers__concurrency=1)
    players = [await Player.connect(http, grizz.ws_url, protocols=GRIZZ) for _ in range(4)]
    for player in players:
        await player.create("[[words:40]] [[rate:50]]", stream_id="one")
        await player.until("response.created", lane="one")
    events = await players[3].answer("one")
    heard = [event for event in events if event["type"] == "grizz:queue"]
    positions = [event["position"] for event in heard]
    assert positions[0] == 2
    assert positions == sorted(positions, reverse=True)
    assert {event["response_id"] for event in heard} == {events[-1]["response"]["id"]}
    assert {event["sequence_number"] for event in heard} == {1}, "the number of response.queued, the last one it had"
    numbered = [event for event in players[3].events if event["type"] != "grizz:queue"]
    assert sequence(numbered) == list(range(len(numbered)))


async def test_a_stock_client_hears_nothing_of_positions(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(workers__concurrency=1)
    first, second = [await Player.connect(http, grizz.ws_url) for _ in range(2)]
    await first.create("[[words:60]] [[rate:50]]")
    await first.until("response.created")
    events = await second.ask("[[words:1]]")
    assert not [event for event in events if event["type"].startswith("grizz:")]
