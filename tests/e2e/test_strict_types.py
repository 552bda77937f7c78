"""Every event of every flow is valid for two independent schemas: openai's own types, strict, and Open Responses'."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import openresponses_types as open_types
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests import grammar
from tests.conftest import Grizz
from tests.player import Player

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}
FLOWS = {
    "text": "[[words:20]]",
    "refusal": "[[refusal:no]]",
    "text then refusal": "[[echo:well]] [[refusal:no]]",
    "function call": '[[tool:f]] [[args:{"a":1}]]',
    "parallel calls": '[[tool:f]] [[args:{"a":1}]] [[tool:g]] [[args:{}]]',
    "whole call": "[[tool:f]] [[whole-tool]]",
    "late name": "[[tool:f]] [[late-name]]",
    "reasoning": "[[reasoning:hm]] [[echo:yes]]",
    "length": "[[words:20]] [[length:3]]",
    "filter": "[[words:20]] [[filter:3]]",
    "cut": "[[words:20]] [[cut:3]]",
    "failed": "[[error:400]]",
    "empty": "[[empty]]",
    "no usage": "[[words:2]] [[no-usage]]",
}


def openai_accepts(event: dict[str, Any]) -> None:
    EVENTS.validate_json(json.dumps(event), strict=True)
    if "response" in event:
        Response.model_validate_json(json.dumps(event["response"]), strict=True)


@pytest.mark.parametrize("name", FLOWS)
async def test_every_event_of_the_flow_is_valid_and_in_order(
    grizz: Grizz, http: aiohttp.ClientSession, name: str
) -> None:
    player = await Player.connect(http, grizz.ws_url)
    events = await player.ask(FLOWS[name], tools=[TOOL], reasoning={"effort": "low"}, metadata={"k": "v"})
    grammar.check(events)
    for event in events:
        openai_accepts(event)
        if "response" in event:
            open_types.ResponseResource.model_validate(event["response"])


async def test_raw_reasoning_and_a_queued_and_cancelled_response_are_valid_too(
    start_grizz, http: aiohttp.ClientSession
) -> None:
    grizz = await start_grizz(workers__concurrency=1)
    player = await Player.connect(http, grizz.ws_url)
    raw = await player.ask("[[reasoning:hm]] [[echo:yes]]", grizz_reasoning="raw")
    await player.create("[[words:9]] [[stall:3]]", stream_id="running")
    running = await player.until("response.output_text.delta", lane="running")
    await player.create("[[words:9]]", stream_id="queued")
    queued = await player.until("response.queued", lane="queued")
    for lane, started in (("queued", queued), ("running", running)):
        await player.send({"type": "response.cancel", "response_id": started[0]["response"]["id"]})
        started += await player.answer(lane)
        assert started[-1]["response"]["status"] == "cancelled"
    for events in (raw, queued, running):
        grammar.check(events)
        for event in events:
            openai_accepts(event)
