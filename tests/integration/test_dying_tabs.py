"""A tab that dies while it is written to: its end is nobody else's business."""

from __future__ import annotations

import asyncio
import socket
import struct

import aiohttp
import orjson

from grizz.protocol.events import Event
from grizz.web.writer import _batches
from tests.conftest import Grizz
from tests.player import numbers

WORDS = 100


async def text_on(ws: aiohttp.ClientWebSocketResponse) -> str:
    pieces = []
    async for message in ws:
        event = orjson.loads(message.data)
        if event["type"] == "response.output_text.delta":
            pieces.append(event["delta"])
        elif event["type"] == "response.completed":
            return "".join(pieces)
    raise AssertionError("closed before the end")


def reset(ws: aiohttp.ClientWebSocketResponse) -> None:
    """Cut the connection as a crashed client's system does: with RST, so that the next write fails."""
    found = ws.get_extra_info("socket")
    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport = ws._writer.transport
    transport.abort()


async def test_tabs_with_two_lanes_on_an_answer_that_are_cut_off_disturb_nobody(
    grizz: Grizz, http: aiohttp.ClientSession
) -> None:
    asked = {"type": "response.create", "input": f"[[words:{WORDS}]] [[rate:50]]"}
    async with http.ws_connect(grizz.ws_url) as own, http.ws_connect(grizz.ws_url) as other:
        await own.send_json(asked)
        created = orjson.loads((await own.receive()).data)
        await other.send_json(asked)
        readers = [asyncio.create_task(text_on(ws)) for ws in (own, other)]
        for _ in range(20):
            ws = await http.ws_connect(grizz.ws_url)
            for lane in ("one", "two"):
                attach = {"type": "grizz:attach", "response_id": created["response"]["id"], "stream_id": lane}
                await ws.send_json(attach)
            for _ in range(4):
                await ws.receive()
            reset(ws)
            await asyncio.sleep(0.02)
        async with asyncio.timeout(20):
            assert await asyncio.gather(*readers) == [numbers(WORDS)] * 2


def test_a_write_is_a_batch_or_one_event_that_is_larger() -> None:
    sizes = (10, 16_000, 500, 300_000, 10, 10, 16_384, 1)
    events = [Event(seq, "x", b"x" * size) for seq, size in enumerate(sizes)]
    batches = list(_batches(events))
    assert [data for batch in batches for data in batch] == [event.data for event in events]
    assert [[len(data) for data in batch] for batch in batches] == [
        [10, 16_000],
        [500],
        [300_000],
        [10, 10],
        [16_384],
        [1],
    ]
