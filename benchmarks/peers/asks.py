"""One question to each peer: connect, ask, hand on every piece of text as it comes, return at the end of the answer.

All of them raise Failed when the peer says that it failed, answers with something else, or ends before the answer does,
and aiohttp's errors when the connection breaks. They need aiohttp and orjson alone, and may be cancelled at any point:
that closes the connection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import orjson

Heard = Callable[[str], None]


class Failed(Exception):
    """The peer did not give its whole answer; the message is what it said instead."""


async def litellm_chat(http: aiohttp.ClientSession, url: str, text: str, heard: Heard) -> None:
    """Chat Completions, streamed."""
    body = {"model": "chat", "stream": True, "messages": [{"role": "user", "content": text}]}
    finished = False
    async for event in _events(http, f"{url}/v1/chat/completions", body):
        if "error" in event:
            raise Failed(event["error"])
        for choice in event["choices"]:
            if piece := choice["delta"].get("content"):
                heard(piece)
            finished = finished or choice.get("finish_reason") == "stop"
    if not finished:
        raise Failed("the stream ended without a finish_reason of stop")


async def litellm_responses(http: aiohttp.ClientSession, url: str, text: str, heard: Heard) -> None:
    """The Responses API, streamed."""
    body = {"model": "responses", "stream": True, "store": False, "input": text}
    finished = False
    async for event in _events(http, f"{url}/v1/responses", body):
        match event.get("type"):
            case "response.output_text.delta":
                heard(event["delta"])
            case "response.completed":
                finished = True
            case "response.failed" | "response.incomplete" | "error" | None:
                raise Failed(event)
    if not finished:
        raise Failed("the stream ended without response.completed")


async def socketio_ws(http: aiohttp.ClientSession, url: str, text: str, heard: Heard) -> None:
    """Socket.IO 5 in Engine.IO 4, over a WebSocket from the first byte on.

    A frame begins with Engine.IO's type: 0 open, 1 close, 2 ping, 3 pong, 4 message. A message begins with Socket.IO's:
    0 connect, 1 disconnect, 2 event, 4 refused.
    """
    async with http.ws_connect(f"{url}/socket.io/?EIO=4&transport=websocket", max_msg_size=0) as ws:
        async for frame in ws:
            if frame.type is not aiohttp.WSMsgType.TEXT:
                raise Failed(f"a frame of type {frame.type.name}")
            packet: str = frame.data
            if packet.startswith("42"):
                name, *arguments = orjson.loads(packet[2:])
                if name == "delta":
                    heard(arguments[0])
                elif name == "done":
                    return
                else:
                    raise Failed(packet)
            elif packet.startswith("0"):
                await ws.send_str("40")
            elif packet.startswith("40"):
                await ws.send_str("42" + orjson.dumps(["ask", {"text": text}]).decode())
            elif packet == "2":
                await ws.send_str("3")
            else:
                raise Failed(packet)
    raise Failed(f"the connection ended before the answer, with {ws.close_code}")


async def old_design(http: aiohttp.ClientSession, url: str, text: str, heard: Heard) -> None:
    """The readiness report's WebSocket: every token is a JSON object with all fields of its entry."""
    async with http.ws_connect(f"{url}/ws", max_msg_size=0) as ws:
        await ws.send_str(orjson.dumps({"message": text}).decode())
        async for frame in ws:
            if frame.type is not aiohttp.WSMsgType.TEXT:
                raise Failed(f"a frame of type {frame.type.name}")
            chunk = orjson.loads(frame.data)
            if "error" in chunk:
                raise Failed(chunk["error"])
            if chunk["chunk"]:
                heard(chunk["chunk"])
            if chunk["is_final"] == "true":
                return
    raise Failed(f"the connection ended before the answer, with {ws.close_code}")


async def _events(http: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of a stream of Server-Sent Events, each on one line, up to the end of the body."""
    async with http.post(url, json=body) as answer:
        if answer.status != 200:
            raise Failed(f"{answer.status}: {(await answer.text())[:500]}")
        async for line in answer.content:
            if line.startswith(b"data: {"):
                yield orjson.loads(line[6:])
