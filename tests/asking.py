"""The same request over each transport: its events, and how it ended."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from tests.conftest import Grizz
from tests.player import Event, Player

Ask = Callable[[dict[str, Any]], Awaitable[list[Event]]]


def events_of(stream: str) -> list[Event]:
    """The events of a whole SSE stream."""
    blocks = stream.strip().split("\n\n")
    assert blocks.pop() == "data: [DONE]"
    return [json.loads(block.partition("data: ")[2]) for block in blocks]


def over_sse(http: aiohttp.ClientSession, grizz: Grizz) -> Ask:
    """Ask over HTTP, streamed; a refusal is an `error` event, as over WebSocket."""

    async def ask(body: dict[str, Any]) -> list[Event]:
        async with http.post(f"{grizz.url}/v1/responses", json={**body, "stream": True}) as answer:
            if answer.status != 200:
                return [{"type": "error", "status": answer.status, **await answer.json()}]
            return events_of(await answer.text())

    return ask


def over_websocket(http: aiohttp.ClientSession, grizz: Grizz) -> Ask:
    """Ask over a connection of its own."""

    async def ask(body: dict[str, Any]) -> list[Event]:
        player = await Player.connect(http, grizz.ws_url)
        await player.send({"type": "response.create", **body})
        events = await player.answer()
        await player.ws.close()
        return events

    return ask


TRANSPORTS = {"sse": over_sse, "websocket": over_websocket}
