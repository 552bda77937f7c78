"""The shapes that Open Responses asks of a server, against its own published types, over SSE and WebSocket."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import openresponses_types as open_types
import pytest

from tests.conftest import Grizz
from tests.player import Player

BY_TYPE = {
    str(*model.model_fields["type"].annotation): model
    for name, model in vars(open_types).items()
    if name.endswith("StreamingEvent")
}
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "The current weather of a place",
    "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
}


def say(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": content, **more}


REQUESTS: dict[str, dict[str, Any]] = {
    "basic": {"input": [say("user", "Say hello.")]},
    "system prompt": {"input": [say("system", "You are a pirate."), say("user", "Say hello.")]},
    "developer prompt": {"input": [say("developer", "Be short."), say("user", "Say hello.")]},
    "tool": {"input": [say("user", "How is the weather in San Francisco?")], "tools": [TOOL]},
    "forced tool": {
        "input": "Anything.",
        "tools": [TOOL],
        "tool_choice": {"type": "function", "name": "get_weather"},
    },
    "image": {
        "input": [
            say(
                "user",
                [{"type": "input_text", "text": "What is it?"}, {"type": "input_image", "image_url": PIXEL}],
            )
        ]
    },
    "history": {
        "input": [say("user", "I am Alice."), say("assistant", "Hello Alice!"), say("user", "Who am I?")],
    },
    "phase": {
        "input": [
            say("user", "Hi."),
            say("assistant", "Let me see.", phase="commentary"),
            say("assistant", "Done.", phase="final_answer"),
            say("user", "Thanks."),
        ]
    },
    "function round trip": {
        "input": [
            say("user", "Weather?"),
            {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
        ],
        "tools": [TOOL],
    },
    # Not json_schema: there the two dialects disagree on echoing the schema, and Grizz follows OpenAI's.
    "json object": {"input": "Anything, as JSON.", "text": {"format": {"type": "json_object"}}},
}


def check(event: dict[str, Any]) -> None:
    BY_TYPE[event["type"]].model_validate(event)


@pytest.mark.parametrize("name", REQUESTS)
async def test_every_event_over_sse_and_websocket_is_valid(
    grizz: Grizz, http: aiohttp.ClientSession, name: str
) -> None:
    async with http.post(f"{grizz.url}/v1/responses", json={**REQUESTS[name], "stream": True}) as stream:
        assert stream.status == 200
        assert stream.content_type == "text/event-stream"
        blocks = (await stream.text()).strip().split("\n\n")
    assert blocks.pop() == "data: [DONE]"
    for block in blocks:
        named, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert named == f"event: {event['type']}"
        check(event)
    assert event["response"]["status"] == "completed"
    player = await Player.connect(http, grizz.ws_url)
    await player.send({"type": "response.create", **REQUESTS[name]})
    for event in await player.answer():
        check(event)
    if "tool" in name:
        assert event["response"]["output"][0]["type"] == "function_call"


async def test_a_plain_response_is_a_valid_resource(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    async with http.post(f"{grizz.url}/v1/responses", json=REQUESTS["basic"]) as answer:
        open_types.ResponseResource.model_validate(await answer.json())
