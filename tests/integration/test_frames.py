"""What goes out together, and in how many bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from benchmarks.speed.wire import frame_bytes, frames
from grizz.config import ServerSettings
from grizz.web.socket import Socket
from tests.conftest import running_grizz

WORDS, RATE = 100, 50
ASKED = f"[[words:{WORDS}]] [[rate:{RATE}]]"


@pytest.mark.parametrize(("flush_ms", "most"), [(50, 100), (100, 45)])
async def test_a_token_is_that_many_bytes_on_the_wire_at_most(
    http: aiohttp.ClientSession, flush_ms: int, most: int
) -> None:
    async with running_grizz(replies__flush_ms=flush_ms) as grizz:
        found = await frames(http, grizz.url, ASKED)
    deltas = [frame for frame in found if frame.startswith('{"type":"response.output_text.delta"')]
    assert sum(map(frame_bytes, deltas)) / WORDS <= most


@asynccontextmanager
async def serving(handler: Callable[[web.Request], Awaitable[Socket]]) -> AsyncIterator[str]:
    """The address of a server that has this handler alone."""
    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield "http://{}:{}/".format(*runner.addresses[0])
    finally:
        await runner.cleanup()


async def received(batches: Sequence[Sequence[bytes]], http: aiohttp.ClientSession) -> list[str]:
    """What a client gets of these sends."""

    async def handler(request: web.Request) -> Socket:
        ws = Socket(ServerSettings(), known=True)
        await ws.open(request)
        for batch in batches:
            await ws.send_texts(batch)
        await ws.close()
        return ws

    async with serving(handler) as url, http.ws_connect(url, max_msg_size=0) as ws:
        return [message.data async for message in ws]


async def test_messages_of_every_size_arrive_whole_and_in_order(http: aiohttp.ClientSession) -> None:
    sizes = (0, 1, 125, 126, 127, 65_535, 65_536, 300_000)
    one = [b"%d:" % n + b"x" * size for n, size in enumerate(sizes)]
    two = [b"y" * size for size in sizes]
    sent = [one, two[:1], [], two[1:]]
    assert await received(sent, http) == [data.decode() for batch in sent for data in batch]


async def test_messages_after_the_close_are_refused(http: aiohttp.ClientSession) -> None:
    refused: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    async def handler(request: web.Request) -> Socket:
        ws = Socket(ServerSettings(), known=True)
        await ws.open(request)
        await ws.close()
        try:
            await ws.send_texts([b"one", b"two"])
        except ConnectionResetError as error:
            refused.set_result(error)
        return ws

    async with serving(handler) as url, http.ws_connect(url) as ws:
        assert [message async for message in ws] == []
        async with asyncio.timeout(10):
            assert isinstance(await refused, ConnectionResetError)


async def test_the_events_that_end_an_answer_come_in_one_piece(http: aiohttp.ClientSession) -> None:
    """Seen on a bare socket: what is one write there is one read here."""
    async with running_grizz() as grizz:
        port = int(grizz.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        key = "dGhlIHNhbXBsZSBub25jZQ=="
        head = f"GET /v1/responses HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
        head += f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        writer.write(head.encode())
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"type":"response.create","input":"[[words:20]] [[rate:100]]"}'
        writer.write(bytes((0x81, 0x80 | len(body))) + bytes(4) + body)
        pieces = []
        async with asyncio.timeout(20):
            while not pieces or b'"type":"response.completed"' not in pieces[-1]:
                pieces.append(await reader.read(2**20))
        writer.close()
    for kind in (b"output_text.done", b"content_part.done", b"output_item.done", b"response.completed"):
        assert kind in pieces[-1]
