"""`response.steer`: refused, each time with the reason that the API has a code for."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from openai.types.responses import ResponseSteerFailedEvent

from tests.accounts import ACCOUNTS, ALICE, BOB, bearer
from tests.conftest import Grizz
from tests.player import Player


async def steer(player: Player, lane: str | None = None, **fields: Any) -> tuple[str, dict[str, Any]]:
    frame = {"type": "response.steer", **fields}
    await player.send(frame)
    (event, *_) = (await player.until("response.steer.failed", lane=lane))[-1:]
    assert event["steer"] == {name: fields.get(name) for name in ("previous_response_id", "input")}
    return event["error"]["code"], event


async def test_a_running_response_takes_no_more_input(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    player = await Player.connect(http, grizz.ws_url)
    await player.create("[[words:9]] [[stall:4]]", stream_id="a")
    running = (await player.until("response.output_text.delta", lane="a"))[0]["response"]["id"]
    code, event = await steer(player, "a", previous_response_id=running, input="left")
    assert code == "steering_not_supported"
    ResponseSteerFailedEvent.model_validate(event, strict=True)
    other = await Player.connect(http, grizz.ws_url)
    items = [{"type": "message", "role": "user", "content": "left"}]
    assert (await steer(other, previous_response_id=running, input=items))[0] == "steering_not_supported"
    await player.send({"type": "response.cancel", "response_id": running})
    assert (await player.answer("a"))[-1]["response"]["status"] == "cancelled"


async def test_one_that_has_ended_is_said_to(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    player = await Player.connect(http, grizz.ws_url)
    ended = (await player.ask("hello"))[-1]["response"]["id"]
    code, _ = await steer(player, previous_response_id=ended, input="left")
    assert code == "response_already_completed"


async def test_a_foreign_one_is_an_unknown_one(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(environ=ACCOUNTS)
    alice = await Player.connect(http, grizz.ws_url, headers=bearer(ALICE))
    bob = await Player.connect(http, grizz.ws_url, headers=bearer(BOB))
    await alice.create("[[words:9]] [[stall:4]]")
    running = (await alice.until("response.output_text.delta"))[0]["response"]["id"]
    told = []
    for response_id in (running, "resp_00000000"):
        code, event = await steer(bob, previous_response_id=response_id, input="left")
        told.append((code, event["error"]["message"].replace(response_id, "ID")))
    assert told[0] == told[1] and told[0][0] == "response_not_found"


@pytest.mark.parametrize("fields", [{}, {"input": ""}, {"input": []}, {"input": 5}, {"input": [{"role": "nobody"}]}])
async def test_what_is_no_input_is_said_to_be_none(
    grizz: Grizz, http: aiohttp.ClientSession, fields: dict[str, Any]
) -> None:
    player = await Player.connect(http, grizz.ws_url)
    assert (await steer(player, previous_response_id="resp_x", **fields))[0] == "invalid_input"
    assert (await steer(player, input="left"))[0] == "invalid_input"
