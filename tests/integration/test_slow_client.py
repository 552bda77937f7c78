"""Clients that read slowly, not at all, or vanish: they cost one cursor, and the answer goes on."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import aiohttp
import pytest

from grizz.web.socket import Socket
from tests.conftest import Grizz
from tests.player import Player, numbers, text_of


class Stalled:
    """A raw socket with a tiny receive buffer, which reads only when told to."""

    def __init__(self, grizz: Grizz) -> None:
        port = int(grizz.url.rsplit(":", 1)[1])
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.sock.setblocking(False)
        self.port = port

    async def ask(self, text: str) -> str:
        """Connect, ask, read up to the response's id; returns the id."""
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self.sock, ("127.0.0.1", self.port))
        await loop.sock_sendall(
            self.sock,
            b"GET /v1/responses HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        )
        payload = b'{"type":"response.create","input":"' + text.encode() + b'"}'
        await loop.sock_sendall(self.sock, bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload)
        seen = b""
        while b'"id":"resp_' not in seen:
            seen += await loop.sock_recv(self.sock, 1024)
        start = seen.index(b'"id":"resp_') + 6
        return seen[start : seen.index(b'"', start)].decode()


async def test_a_client_that_stops_reading_is_cut_off_and_its_answer_can_be_resumed(
    start_grizz, http: aiohttp.ClientSession
) -> None:
    grizz = await start_grizz(server__stall_timeout_s=0.5, replies__max_reply_bytes=64 * 1024 * 1024)
    stalled = Stalled(grizz)
    response_id = await stalled.ask("[[words:60000]]")
    async with asyncio.timeout(20):
        while grizz.app.metrics.registry.get_sample_value("grizz_client_drops_total", {"reason": "write_stall"}) != 1:
            await asyncio.sleep(0.05)
    player = await Player.connect(http, grizz.ws_url)
    await player.send({"type": "grizz:attach", "response_id": response_id})
    assert text_of(await player.answer()) == numbers(60000)
    stalled.sock.close()


async def test_a_client_that_stops_reading_is_cut_off_also_while_the_answer_is_quiet(
    start_grizz, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its socket is filled by the last event before a silence, which was written without anybody waiting for it."""
    write = Socket.write_now

    def fill(ws: Socket, messages: Sequence[bytes], most_bytes: int) -> bool:
        written = write(ws, messages, most_bytes)
        if b"w7 " in messages[-1]:
            assert written
            ws._writer.transport.write(bytes(16 * 1024 * 1024))
        return written

    monkeypatch.setattr(Socket, "write_now", fill)
    grizz = await start_grizz(server__stall_timeout_s=0.5)
    stalled = Stalled(grizz)
    await stalled.ask("[[words:20]] [[rate:20]] [[stall:8]]")
    async with asyncio.timeout(20):
        while grizz.app.metrics.registry.get_sample_value("grizz_client_drops_total", {"reason": "write_stall"}) != 1:
            await asyncio.sleep(0.05)
    stalled.sock.close()


async def test_a_stalled_client_does_not_slow_the_others(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(replies__max_reply_bytes=64 * 1024 * 1024)
    stalled = Stalled(grizz)
    await stalled.ask("[[words:60000]]")
    player = await Player.connect(http, grizz.ws_url)
    for n in range(20):
        assert text_of(await player.ask(f"[[echo:{n}]]")) == str(n)
    stalled.sock.close()


async def test_a_vanished_client_leaves_nothing_behind(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    for _ in range(20):
        player = await Player.connect(http, grizz.ws_url)
        await player.create("[[echo:x]]")
        assert player.ws._response.connection is not None
        player.ws._response.connection.transport.abort()
    async with asyncio.timeout(10):
        while grizz.app.metrics.registry.get_sample_value("grizz_connections_open") != 0:
            await asyncio.sleep(0.02)
