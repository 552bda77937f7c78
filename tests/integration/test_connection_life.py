"""How a connection ends that nobody ends: idle, old, silent, slow to ask; and what is said before."""

from __future__ import annotations

import asyncio
import socket
import time

import aiohttp
import pytest

from tests.conftest import Grizz
from tests.player import Player, numbers, text_of

GRIZZ = ("responses", "grizz")


async def test_an_idle_connection_is_warned_and_closed_with_1000(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(server__idle_timeout_s=0.5)
    player = await Player.connect(http, grizz.ws_url, protocols=GRIZZ)
    assert await player.closed() == 1000
    (warning,) = player.events
    assert warning["type"] == "grizz:idle"
    assert 0 <= warning["closes_in_s"] <= 0.1


async def test_a_stock_client_is_closed_for_being_idle_without_an_event_it_does_not_know(
    start_grizz, http: aiohttp.ClientSession
) -> None:
    grizz = await start_grizz(server__idle_timeout_s=0.3)
    player = await Player.connect(http, grizz.ws_url)
    assert (await player.closed(), player.events) == (1000, [])


async def test_a_connection_is_never_idle_while_an_answer_runs_even_a_silent_one(
    start_grizz, http: aiohttp.ClientSession
) -> None:
    grizz = await start_grizz(server__idle_timeout_s=0.3)
    player = await Player.connect(http, grizz.ws_url, protocols=GRIZZ)
    await player.create("[[words:3]] [[delay:1.2]]")
    events = await player.answer()
    assert text_of(events) == numbers(3)
    assert "grizz:idle" not in [event["type"] for event in player.events]
    assert await player.closed() == 1000


async def test_any_frame_after_the_warning_keeps_the_connection(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(server__idle_timeout_s=1.0)
    player = await Player.connect(http, grizz.ws_url, protocols=GRIZZ)
    await player.until("grizz:idle")
    await player.send({"type": "grizz:presence", "state": "visible"})
    began = time.monotonic()
    await player.until("grizz:idle")
    assert time.monotonic() - began > 0.5, "the second warning comes a whole idle time later"
    assert await player.closed() == 1000


async def test_with_an_idle_timeout_of_0_a_connection_stays(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(server__idle_timeout_s=0, server__max_age_s=0)
    player = await Player.connect(http, grizz.ws_url)
    await asyncio.sleep(0.5)
    assert text_of(await player.ask("[[echo:still here]]")) == "still here"


async def test_an_old_connection_ends_with_1001_without_an_error_that_nobody_asked_for(
    start_grizz, http: aiohttp.ClientSession
) -> None:
    grizz = await start_grizz(server__max_age_s=0.3)
    player = await Player.connect(http, grizz.ws_url)
    assert (await player.closed(), player.events) == (1001, [])


async def test_an_old_connection_finishes_what_runs_and_takes_nothing_new(
    start_grizz, http: aiohttp.ClientSession
) -> None:
    grizz = await start_grizz(server__max_age_s=0.5)
    player = await Player.connect(http, grizz.ws_url)
    await player.create("[[words:60]] [[rate:40]]")
    seen = await player.until("response.output_text.delta")
    await asyncio.sleep(0.8)
    await player.create("[[echo:no]]", stream_id="new")
    refused = (await player.answer("new"))[-1]
    assert (refused["status"], refused["error"]["code"]) == (400, "websocket_connection_limit_reached")
    begun = [event for event in player.events if event.get("stream_id") is None]
    whole = begun if begun[-1]["type"] == "response.completed" else begun + await player.answer()
    assert seen[0] in whole
    assert text_of(whole) == numbers(60)
    assert await player.closed() == 1001


async def test_a_frame_that_is_too_big_is_counted_as_1009_even_if_the_client_never_closes(
    start_grizz, http: aiohttp.ClientSession
) -> None:
    grizz = await start_grizz(server__max_message_bytes=4096)
    reader, writer = await upgraded(grizz)
    writer.write(bytes([0x81, 0xFE, 0xFF, 0xFF, 0, 0, 0, 0]) + b"x" * 0xFFFF)
    assert (await read_frame(reader))[:2] == (1009).to_bytes(2, "big")
    writer.transport.abort()
    await closes(grizz, "server", "1009", 1)


async def upgraded(grizz: Grizz) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = grizz.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"GET /v1/responses HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """The payload of one short frame."""
    async with asyncio.timeout(5):
        _, length = await reader.readexactly(2)
        return await reader.readexactly(length)


async def closes(grizz: Grizz, by: str, code: str, count: int) -> None:
    async with asyncio.timeout(5):
        while (
            grizz.app.metrics.registry.get_sample_value("grizz_connection_closes_total", {"by": by, "code": code})
            != count
        ):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("sent", [b"", b"GET /v1/models HTTP/1.1\r\nHost: local", b"\x16\x03\x01"])
async def test_a_connection_that_asks_for_nothing_is_cut(start_grizz, sent: bytes) -> None:
    grizz = await start_grizz(server__request_timeout_s=0.3)
    host, port = grizz.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    async with asyncio.timeout(5):
        try:
            rest = await reader.read()
        except ConnectionError:
            rest = b""
    assert b"200" not in rest
    writer.close()


async def test_a_body_that_does_not_come_is_answered_408_and_the_connection_closed(start_grizz) -> None:
    grizz = await start_grizz(server__request_timeout_s=0.3)
    host, port = grizz.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b'POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{"input":')
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in head.lower()
    assert b"request_timeout" in await reader.readuntil(b"}}")
    writer.close()


async def test_more_connections_than_allowed_are_turned_away_and_those_there_go_on(
    start_grizz, http: aiohttp.ClientSession
) -> None:
    grizz = await start_grizz(limits__connections=3, server__request_timeout_s=30)
    player = await Player.connect(http, grizz.ws_url)
    host, port = grizz.url.removeprefix("http://").split(":")
    address = (host, int(port))
    silent = await asyncio.to_thread(lambda: [socket.create_connection(address, timeout=5) for _ in range(1100)])
    await asyncio.sleep(0.5)
    assert text_of(await player.ask("[[echo:fine]]")) == "fine"
    turned_away = 0
    for one in silent:
        one.setblocking(False)
        try:
            turned_away += one.recv(1) == b""
        except BlockingIOError:
            pass
        except ConnectionError:
            turned_away += 1
        one.close()
    assert turned_away >= 90


async def test_http_requests_that_wait_for_their_answer_hold_a_place(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(limits__connections=2)
    streams = [
        await http.post(f"{grizz.url}/v1/responses", json={"input": "[[stall:1]]", "stream": True}) for _ in range(2)
    ]
    async with http.get(f"{grizz.url}/v1/models") as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (503, "too_many_connections")
        assert int(answer.headers["Retry-After"]) >= 1
    for stream in streams:
        stream.close()
    async with asyncio.timeout(10):
        while True:
            async with http.get(f"{grizz.url}/v1/models") as answer:
                if answer.status == 200:
                    break
            await asyncio.sleep(0.05)


async def test_bytes_that_are_not_what_they_say_are_refused_and_leave_no_traceback_in_the_log(start_process) -> None:
    process = start_process("--demo")
    host, port = process.url.removeprefix("http://").split(":")
    junk_of_all_kinds = (
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"GET / HTTP/9.9.9\r\n\r\n",
        b"POST /v1/responses HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nxxxx",
    )
    for junk in junk_of_all_kinds:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(junk)
        async with asyncio.timeout(10):
            assert b" 400 " in await reader.read()
        writer.close()
    assert process.end() == 0
    assert not [line for line in process.log if "Traceback" in line or "error" in line]
