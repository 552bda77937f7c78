"""A WebSocket client for tests: sends frames, collects events by lane, and waits with a deadline."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp

Event = dict[str, Any]
TERMINAL = ("response.completed", "response.incomplete", "response.failed")
WITHIN_S = 10.0


class Player:
    """One connection.

    Attributes:
        events: everything that came, in order.
    """

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws
        self.events: list[Event] = []

    @classmethod
    async def connect(cls, http: aiohttp.ClientSession, url: str, **options: Any) -> Player:
        """Open a socket; options go to `ws_connect`."""
        return cls(await http.ws_connect(url, max_msg_size=0, **options))

    async def send(self, frame: dict[str, Any]) -> None:
        """Send one frame."""
        await self.ws.send_json(frame)

    async def create(self, text: str, **fields: Any) -> None:
        """Ask something."""
        await self.send({"type": "response.create", "input": text, **fields})

    async def next(self) -> Event:
        """The next event."""
        async with asyncio.timeout(WITHIN_S):
            message = await self.ws.receive()
        assert message.type is aiohttp.WSMsgType.TEXT, f"instead of an event: {message}"
        event: Event = message.json()
        self.events.append(event)
        return event

    async def until(self, *types: str, lane: str | None = None) -> list[Event]:
        """Events of a lane up to one of those types, that one included; other lanes' events are only kept."""
        seen = []
        while True:
            event = await self.next()
            if event.get("stream_id") == lane:
                seen.append(event)
                if event["type"] in types:
                    return seen

    async def answer(self, lane: str | None = None) -> list[Event]:
        """Events of a lane up to its terminal event or error."""
        return await self.until(*TERMINAL, "error", lane=lane)

    async def ask(self, text: str, **fields: Any) -> list[Event]:
        """Ask something and take the whole answer."""
        await self.create(text, **fields)
        return await self.answer(fields.get("stream_id"))

    async def closed(self) -> int | None:
        """Read on until the server closes; the close code.

        The code of its frame: the client's own becomes 1006 when the server is gone before the reply to it.
        """
        async with asyncio.timeout(WITHIN_S):
            while (message := await self.ws.receive()).type is aiohttp.WSMsgType.TEXT:
                self.events.append(message.json())
        return message.data if message.type is aiohttp.WSMsgType.CLOSE else self.ws.close_code


def text_of(events: list[Event]) -> str:
    """The text that the deltas make."""
    return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")


def numbers(count: int) -> str:
    """What the demo model answers to `[[words:count]]`."""
    return "".join(f"w{n} " for n in range(count))


def sequence(events: list[Event]) -> list[int]:
    """The sequence numbers."""
    return [event["sequence_number"] for event in events]
