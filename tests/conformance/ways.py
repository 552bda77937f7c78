"""The transports by which one request can be made, each giving the events it showed and the Response it ended in."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from tests.conformance import judges
from tests.conftest import Grizz
from tests.player import Player

Object = dict[str, Any]
Way = Callable[[aiohttp.ClientSession, Grizz, Object], Awaitable[tuple[list[Object], Object]]]


async def whole(http: aiohttp.ClientSession, grizz: Grizz, body: Object) -> tuple[list[Object], Object]:
    """`POST`, one JSON answer."""
    async with http.post(f"{grizz.url}/v1/responses", json=body) as answer:
        found = await answer.json()
        assert answer.status == 200, found
    return [], found


async def sse(http: aiohttp.ClientSession, grizz: Grizz, body: Object) -> tuple[list[Object], Object]:
    """`POST` with `stream: true`."""
    async with http.post(f"{grizz.url}/v1/responses", json={**body, "stream": True}) as answer:
        events = await read_sse(answer)
    return events, events[-1]["response"]


async def background(http: aiohttp.ClientSession, grizz: Grizz, body: Object) -> tuple[list[Object], Object]:
    """`POST` with `background: true`, then all its events by `GET`, then the Response by `GET`."""
    async with http.post(f"{grizz.url}/v1/responses", json={**body, "background": True}) as answer:
        begun = await answer.json()
    judges.response(begun)
    assert begun["background"] is True
    events = await replay(http, grizz, begun["id"])
    return events, await fetch(http, grizz, begun["id"])


async def websocket(http: aiohttp.ClientSession, grizz: Grizz, body: Object) -> tuple[list[Object], Object]:
    """A `response.create` frame on the default lane."""
    return await _frame(http, grizz, body, None)


async def lane(http: aiohttp.ClientSession, grizz: Grizz, body: Object) -> tuple[list[Object], Object]:
    """A `response.create` frame on a named lane."""
    events, response = await _frame(http, grizz, {**body, "stream_id": "tab-1"}, "tab-1")
    return [{key: value for key, value in event.items() if key != "stream_id"} for event in events], response


async def _frame(
    http: aiohttp.ClientSession, grizz: Grizz, body: Object, name: str | None
) -> tuple[list[Object], Object]:
    player = await Player.connect(http, grizz.ws_url)
    await player.send({"type": "response.create", **body})
    events = await player.answer(name)
    assert await player.ws.close()
    for event in events:
        judges.websocket_event(event)
    return events, events[-1]["response"]


async def fetch(http: aiohttp.ClientSession, grizz: Grizz, response_id: str) -> Object:
    """The Response as it stands."""
    async with http.get(f"{grizz.url}/v1/responses/{response_id}") as answer:
        found: Object = await answer.json()
        assert answer.status == 200, found
    return found


async def replay(http: aiohttp.ClientSession, grizz: Grizz, response_id: str, after: int | None = None) -> list[Object]:
    """Its events from a number on."""
    query = {"stream": "true"} if after is None else {"stream": "true", "starting_after": str(after)}
    async with http.get(f"{grizz.url}/v1/responses/{response_id}", params=query) as answer:
        return await read_sse(answer)


async def read_sse(answer: aiohttp.ClientResponse) -> list[Object]:
    """A stream to its end, as it has to be spelled: `event:` and one `data:` line, and `[DONE]` at last."""
    assert answer.status == 200, await answer.text()
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert answer.headers["Cache-Control"] == "no-cache"
    blocks = [block for block in (await answer.text()).split("\n\n") if block and not block.startswith(":")]
    assert blocks.pop() == "data: [DONE]"
    events = []
    for block in blocks:
        named, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert named == f"event: {event['type']}"
        judges.sse_event(event)
        events.append(event)
    return events


WAYS: dict[str, Way] = {
    "JSON": whole,
    "SSE": sse,
    "background": background,
    "WebSocket": websocket,
    "WebSocket, a named lane": lane,
}
