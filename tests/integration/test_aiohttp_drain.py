"""Why there is never a timeout around a socket send: what aiohttp does to the others when one sender is cancelled.

All senders of one connection await one future (aiohttp, base_protocol.py). Grizz therefore lets a watchdog abort the
transport instead (grizz/web/watchdog.py). When the first test fails, aiohttp has changed, and that rule can be thought
over anew.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

FIXED = "aiohttp no longer lets one cancelled sender hit the others: the rule 'never a timeout around a send' can go"


@asynccontextmanager
async def stalled_client() -> AsyncIterator[tuple[web.WebSocketResponse, asyncio.Transport]]:
    """The server's side of a WebSocket whose client has stopped reading, before anything was sent."""
    arrived: asyncio.Future[tuple[web.WebSocketResponse, asyncio.Transport]]
    arrived = asyncio.get_running_loop().create_future()
    leave = asyncio.Event()

    async def accept(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(writer_limit=1024)
        await ws.prepare(request)
        assert request.transport is not None
        request.transport.set_write_buffer_limits(high=1024)
        arrived.set_result((ws, request.transport))
        transport = request.transport
        await leave.wait()
        transport.abort()
        return ws

    app = web.Application()
    app.router.add_get("/", accept)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    client = socket.create_connection(runner.addresses[0][:2])
    try:
        client.sendall(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        yield await arrived
    finally:
        leave.set()
        client.close()
        await runner.cleanup()


async def fill(ws: web.WebSocketResponse) -> asyncio.Task[None]:
    """Send until the socket takes no more; returns the send that is blocked."""
    while True:
        sending = asyncio.create_task(ws.send_bytes(bytes(1 << 20)))
        await asyncio.wait({sending}, timeout=0.3)
        if not sending.done():
            return sending


async def outcome(sending: Awaitable[None]) -> type[BaseException] | None:
    """How a send ended: what it raised, or None."""
    try:
        await sending
    except (asyncio.CancelledError, ConnectionError) as error:
        return type(error)
    return None


async def _cancel(sender: asyncio.Task[None]) -> None:
    sender.cancel()


async def _time_out(sender: asyncio.Task[None]) -> None:
    # As code would that wraps a send in a timeout.
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(sender, 0.05)


@pytest.mark.parametrize("end", [_cancel, _time_out])
async def test_cancelling_one_sender_still_cancels_the_others_and_every_later_one(
    end: Callable[[asyncio.Task[None]], Awaitable[None]],
) -> None:
    async with stalled_client() as (ws, transport):
        first = await fill(ws)
        second = asyncio.create_task(ws.send_bytes(b"x" * 2048))
        await asyncio.sleep(0.05)
        assert not second.done(), "the second sender did not wait for the socket"
        await end(first)
        done, _ = await asyncio.wait({second}, timeout=1)
        assert done, FIXED
        assert await outcome(second) is asyncio.CancelledError, FIXED
        assert second.cancelling() == 0, "somebody did cancel the second sender"
        third = asyncio.create_task(ws.send_bytes(b"x" * 2048))
        done, _ = await asyncio.wait({third}, timeout=1)
        assert done, FIXED
        assert await outcome(third) is asyncio.CancelledError, FIXED
        assert not transport.is_closing(), "the connection itself is well, only nobody can send on it"


async def test_closing_to_a_client_that_does_not_read_does_not_end_by_itself() -> None:
    async with stalled_client() as (ws, transport):
        sending = await fill(ws)
        closing = asyncio.create_task(ws.close())
        done, _ = await asyncio.wait({closing}, timeout=1)
        assert not done, "aiohttp now bounds the drain of close(): grizz.web.watchdog.Guard.close could be simpler"
        transport.abort()
        async with asyncio.timeout(5):
            await outcome(sending)
            await closing


async def test_aborting_the_transport_ends_every_blocked_send_and_the_next_one_fails() -> None:
    async with stalled_client() as (ws, transport):
        first = await fill(ws)
        second = asyncio.create_task(ws.send_bytes(b"x" * 2048))
        await asyncio.sleep(0.05)
        transport.abort()
        async with asyncio.timeout(5):
            ends = {await outcome(first), await outcome(second)}
            assert asyncio.CancelledError not in ends
            assert await outcome(ws.send_bytes(b"x")) is aiohttp.ClientConnectionResetError
