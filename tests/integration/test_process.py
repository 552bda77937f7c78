"""`python grizz.py` as a user or an init system runs it: start, signals, exit."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time

import aiohttp
import pytest

from tests.conftest import ROOT
from tests.player import Player, numbers, text_of


def websocket_url(url: str) -> str:
    return url.replace("http", "ws", 1) + "/v1/responses"


async def test_without_a_key_the_demo_model_answers_and_log_and_page_say_so(
    start_process, http: aiohttp.ClientSession
) -> None:
    process = start_process()
    async with http.get(f"{process.url}/pages/info.json") as answer:
        assert (await answer.json())["demo"] is True
    player = await Player.connect(http, websocket_url(process.url))
    assert "demo model" in text_of(await player.ask("Who are you?"))
    assert any("demo model" in line for line in process.log)
    await player.ws.close()


async def test_sigterm_lets_running_answers_finish_then_closes_1012_and_exits_0(
    start_process, http: aiohttp.ClientSession
) -> None:
    process = start_process("--drain-timeout", "20")
    busy = await Player.connect(http, websocket_url(process.url))
    idle = await Player.connect(http, websocket_url(process.url))
    await busy.create("[[words:60]] [[rate:40]]")
    seen = await busy.until("response.output_text.delta")
    process.popen.send_signal(signal.SIGTERM)
    seen += await busy.answer()
    assert text_of(seen) == numbers(60)
    assert seen[-1]["type"] == "response.completed"
    assert await busy.closed() == 1012
    assert await idle.closed() == 1012
    assert await asyncio.to_thread(process.popen.wait, 10) == 0


async def test_new_work_is_refused_while_draining_and_readiness_says_so(
    start_process, http: aiohttp.ClientSession
) -> None:
    process = start_process("--drain-timeout", "20")
    player = await Player.connect(http, websocket_url(process.url))
    await player.create("[[words:40]] [[rate:40]]", stream_id="old")
    await player.until("response.output_text.delta", lane="old")
    process.popen.send_signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        while (events := await player.ask("[[echo:x]]", stream_id="new"))[-1]["type"] != "error":
            pass
    assert (events[-1]["status"], events[-1]["error"]["code"]) == (503, "server_is_overloaded")
    assert (await player.answer("old"))[-1]["type"] == "response.completed"
    assert await player.closed() == 1012


async def test_what_cannot_finish_in_the_drain_ends_honestly_as_failed(
    start_process, http: aiohttp.ClientSession
) -> None:
    process = start_process("--drain-timeout", "0.3")
    player = await Player.connect(http, websocket_url(process.url))
    await player.create("[[words:50]] [[stall:5]]")
    await player.until("response.output_text.delta")
    began = time.monotonic()
    process.popen.send_signal(signal.SIGTERM)
    failed = (await player.answer())[-1]
    assert failed["type"] == "response.failed"
    assert "restarted" in failed["response"]["error"]["message"]
    assert await player.closed() == 1012
    assert await asyncio.to_thread(process.popen.wait, 10) == 0
    assert time.monotonic() - began < 8


async def test_a_client_that_reads_nothing_does_not_hold_the_exit(start_process) -> None:
    process = start_process("--drain-timeout", "1")
    host, port = process.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    writer.write(
        b"GET /v1/responses HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    payload = b'{"type":"response.create","input":"[[words:400000]] [[rate:0]]"}'
    writer.write(bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload)
    await reader.readexactly(2000)
    # From here on it reads nothing.
    began = time.monotonic()
    process.popen.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.popen.wait, 20) == 0
    assert time.monotonic() - began < 15
    writer.transport.abort()


def test_a_second_signal_exits_at_once(start_process) -> None:
    process = start_process("--drain-timeout", "60")
    host, port = process.url.removeprefix("http://").split(":")
    client = socket.create_connection((host, int(port)))
    body = b'{"input":"[[stall:1]]","stream":true}'
    client.sendall(
        b"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    assert client.recv(200)
    process.popen.send_signal(signal.SIGINT)
    assert process.popen.stderr is not None
    for line in process.popen.stderr:
        if "stopping" in line:
            break
    began = time.monotonic()
    assert process.end(signal.SIGINT) == 1
    assert time.monotonic() - began < 3
    client.close()


def test_a_taken_port_is_said_in_one_line_and_exits_1(start_process) -> None:
    port = start_process().url.rsplit(":", 1)[1]
    second = subprocess.run(
        [sys.executable, str(ROOT / "grizz.py"), "--port", port, "--log-format", "text"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert second.returncode == 1
    assert f"port={port}" in second.stderr
    assert "Traceback" not in second.stderr


@pytest.mark.parametrize("command", [["-m", "grizz"], [str(ROOT / "grizz.py")]])
def test_every_way_to_start_it_shows_the_same_help(command: list[str]) -> None:
    shown = subprocess.run(
        [sys.executable, *command, "--help"], capture_output=True, text=True, timeout=30, check=True, cwd=ROOT
    )
    assert "--check-config" in shown.stdout


async def test_a_standard_error_that_nobody_empties_holds_up_no_answer(
    start_process, http: aiohttp.ClientSession
) -> None:
    process = start_process("--demo")  # its log is read up to `ready`, and a pipe takes 64 KiB
    player = await Player.connect(http, websocket_url(process.url))
    for _ in range(1000):
        await player.send({"type": "nonsense"})
        assert (await player.next())["type"] == "error"
    assert text_of(await player.ask("[[echo:still here]]")) == "still here"
    await player.ws.close()
    assert await asyncio.to_thread(process.end) == 0
    assert sum("request refused" in line for line in process.log) == 1000
