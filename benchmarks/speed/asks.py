"""Clients: each asks for one answer and says every piece of text as it arrives.

They do as little as a client can, since they share their core with the model.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import aiohttp
import orjson

# Called with each piece of an answer's text, when it comes; and with "" when the request goes out, by clients that
# connect first, as an open page has.
Heard = Callable[[str], None]
# The session, the server's address, what the user says, and who hears the answer.
Ask = Callable[[aiohttp.ClientSession, str, str, Heard], Awaitable[None]]

_ENDS = ("response.failed", "response.incomplete", "response.cancelled", "error")


def prompt(words: int, rate: float) -> str:
    """What to say for an answer of so many words, at so many a second; 0 is as fast as they can be read."""
    return f"[[words:{words}]] [[rate:{rate:g}]]"


class Refused(Exception):
    """The server did not answer, or not to the end: the message is what it said."""


async def direct(http: aiohttp.ClientSession, url: str, text: str, heard: Heard) -> None:
    """The model itself, over Chat Completions."""
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": text}]}
    async with http.post(f"{url}/chat/completions", json=body) as answer:
        async for line in answer.content:
            if line.startswith(b"data: {"):
                choices = orjson.loads(line[6:])["choices"]
                if choices and (content := choices[0]["delta"].get("content")):
                    heard(content)


async def over_sse(http: aiohttp.ClientSession, url: str, text: str, heard: Heard) -> None:
    """The Responses API over HTTP."""
    async with http.post(f"{url}/v1/responses", json={"input": text, "stream": True, "store": False}) as answer:
        async for line in answer.content:
            if not line.startswith(b"data: {"):
                continue
            event = orjson.loads(line[6:])
            if event["type"] == "response.output_text.delta":
                heard(event["delta"])
            elif event["type"] in _ENDS:
                raise Refused(line.decode())


async def over_websocket(http: aiohttp.ClientSession, url: str, text: str, heard: Heard) -> None:
    """The Responses API over a WebSocket of its own."""
    async with http.ws_connect(f"{url}/v1/responses", max_msg_size=0, compress=0) as ws:
        heard("")
        await create(ws, text)
        await read_on(ws, heard)


async def create(ws: aiohttp.ClientWebSocketResponse, text: str, **more: object) -> None:
    """Ask for an answer."""
    await ws.send_str(orjson.dumps({"type": "response.create", "input": text, "store": False, **more}).decode())


async def read_on(ws: aiohttp.ClientWebSocketResponse, heard: Heard) -> dict[str, object]:
    """Read to the end of an answer; returns the terminal event.

    Raises:
        Refused: it ended otherwise.
    """
    while True:
        message = await ws.receive()
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise Refused(f"closed with {ws.close_code}")
        event: dict[str, object] = orjson.loads(message.data)
        kind = event["type"]
        if kind == "response.output_text.delta":
            heard(str(event["delta"]))
        elif kind == "response.completed":
            return event
        elif kind in _ENDS:
            raise Refused(message.data)


async def whole(ask: Ask, http: aiohttp.ClientSession, url: str, text: str) -> str:
    """The text of one answer."""
    pieces: list[str] = []
    await ask(http, url, text, pieces.append)
    return "".join(pieces)
