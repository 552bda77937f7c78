"""What comes through from a server that speaks the Responses API is valid for independent schemas and SDKs.

The demo server that plays that server is checked by the same SDK first.
"""

from __future__ import annotations

from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError

from grizz.upstream.demo import DemoServer
from tests import grammar
from tests.conformance import judges
from tests.conformance.flows import TEXTS, WEATHER, WHAT_IS_ASKED
from tests.player import numbers
from tests.several import running

THERE = {"there": {"api": "responses"}}
MORE = {
    "hosted": "[[hosted]] [[words:5]]",
    "encrypted": "[[encrypted]] [[words:5]]",
    "raw reasoning": "[[reasoning:hm]] [[reasoning-form:open]] [[words:5]]",
    **{f"without {name}": f"[[skip:{name}]] [[words:5]]" for name in ("item", "part", "text_done", "part_done")},
    "cut in a call": "[[tool:f]] [[args:[1,2,3,4,5,6,7,8,9]]] [[cut:2]]",
}


@pytest.mark.parametrize("name", [*TEXTS, *MORE])
async def test_every_event_of_the_flow_is_valid(name: str) -> None:
    async with running(THERE) as grizz:
        player = await grizz.player()
        events = await player.ask({**TEXTS, **MORE}[name], tools=[WEATHER], reasoning={"effort": "low"})
        grammar.check(events)
        for event in events:
            judges.hosted_event(event)


@pytest.mark.parametrize("name", WHAT_IS_ASKED)
async def test_the_shapes_of_open_responses_come_through(name: str) -> None:
    async with running(THERE) as grizz:
        player = await grizz.player()
        await player.send({"type": "response.create", **WHAT_IS_ASKED[name].body})
        for event in await player.answer():
            judges.websocket_event(event)
        assert event["response"]["status"] == "completed"


async def read(client: AsyncOpenAI, text: str, **fields: Any) -> Any:
    async with client.responses.stream(model="grizz-demo", input=text, **fields) as stream:
        async for _ in stream:
            pass
        return await stream.get_final_response()


async def test_the_demo_server_is_a_responses_api_to_the_sdk() -> None:
    demo = DemoServer(tokens_per_second=0)
    await demo.start()
    try:
        async with AsyncOpenAI(base_url=demo.url, api_key="none", max_retries=0) as client:
            text = "[[hosted]] [[reasoning:hm]] [[words:20]]"
            final = await read(client, text)
            assert final.output_text == numbers(20)
            assert [item.type for item in final.output] == ["web_search_call", "reasoning", "message"]
            whole = await client.responses.create(model="grizz-demo", input=text)
            assert whole.output_text == numbers(20)
            assert whole.usage is not None and whole.usage.output_tokens == final.usage.output_tokens
            with pytest.raises(BadRequestError, match="stores nothing"):
                await client.responses.create(model="grizz-demo", input="x", previous_response_id=final.id)
            assert demo.snapshot()["requests"] == 3
    finally:
        await demo.stop()


@pytest.mark.parametrize("text", ["[[hosted]] [[reasoning:hm]] [[words:20]]", "[[collide]] [[skip:part]] [[words:20]]"])
async def test_the_sdks_helper_reads_it_through_grizz(text: str) -> None:
    async with running(THERE) as grizz:
        async with AsyncOpenAI(base_url=f"{grizz.url}/v1", api_key="none", max_retries=0) as client:
            assert (await read(client, text)).output_text == numbers(20)
