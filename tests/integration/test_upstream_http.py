"""What a model API does at the level of HTTP, against a server that writes bytes."""

from __future__ import annotations

import asyncio
import gc
import gzip
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import uvloop

from grizz.errors import UpstreamError
from grizz.upstream.openai import OpenAIUpstream
from tests.raw_upstream import END, HEADERS, ROLE, Call, RawUpstream, raw_upstream, word

BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": True}


@asynccontextmanager
async def upstream_of(
    behave: Callable[[Call], Awaitable[None]], idle_timeout_s: float = 5
) -> AsyncIterator[tuple[OpenAIUpstream, RawUpstream]]:
    async with raw_upstream(behave) as (raw, url):
        upstream = OpenAIUpstream(
            name="raw", base_url=url, api_key="k", connect_timeout_s=1, idle_timeout_s=idle_timeout_s, max_connections=1
        )
        yield upstream, raw
        await upstream.close()


async def read(upstream: OpenAIUpstream) -> bytes:
    async with upstream.open(BODY, lambda: False) as chunks:
        return b"".join([data async for data in chunks])


async def test_an_error_counts_by_its_status_even_if_its_body_breaks_off() -> None:
    async def behave(call: Call) -> None:
        await call.raw(b'HTTP/1.1 503 Busy\r\nContent-Length: 100\r\n\r\n{"error"')
        call.hang_up()

    async with upstream_of(behave) as (upstream, _):
        with pytest.raises(UpstreamError, match="the upstream answered 503") as caught:
            await read(upstream)
    assert caught.value.result == "5xx"


async def test_an_error_whose_body_has_no_end_is_read_so_far_and_no_further() -> None:
    written = 0

    async def behave(call: Call) -> None:
        nonlocal written
        await call.raw(b"HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await call.part(b"x" * 65536)
            written += 65536

    async with asyncio.timeout(10), upstream_of(behave) as (upstream, _):
        with pytest.raises(UpstreamError, match="the upstream answered 400"):
            await read(upstream)
        assert upstream.busy == 0
    assert written < 64 * 2**20


@pytest.mark.parametrize("status", ["200 OK", "500 Oh"])
async def test_who_is_cancelled_while_a_body_comes_leaves_no_connection_behind(status: str) -> None:
    begun = asyncio.Event()

    async def behave(call: Call) -> None:
        await call.raw(f"HTTP/1.1 {status}\r\nContent-Length: 100\r\n\r\n{{".encode())
        begun.set()

    async with upstream_of(behave) as (upstream, raw):
        task = asyncio.create_task(read(upstream))
        await begun.wait()
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(5):
            while raw.open:
                await asyncio.sleep(0.01)
    gc.collect()  # a connection that was forgotten warns then, and a warning is an error


async def test_a_compressed_stream_is_read_as_what_it_says() -> None:
    said = ROLE + word("hello") + END

    async def behave(call: Call) -> None:
        await call.raw(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n")
        await call.part(gzip.compress(said))
        await call.raw(b"0\r\n\r\n")

    async with upstream_of(behave) as (upstream, _):
        assert await read(upstream) == said


@pytest.mark.parametrize("words", [0, 3])
async def test_silence_is_noticed_after_the_idle_timeout_wherever_it_begins(words: int) -> None:
    async def behave(call: Call) -> None:
        await call.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(words):
            await asyncio.sleep(0.2)
            await call.part(word("hello"))
        await asyncio.sleep(5)

    async with upstream_of(behave, idle_timeout_s=0.3) as (upstream, _):
        began = asyncio.get_running_loop().time()
        with pytest.raises(UpstreamError, match=r"silent for 0\.3 s"):
            await read(upstream)
        assert asyncio.get_running_loop().time() - began >= words * 0.2 + 0.3


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_process_that_is_busy_does_not_take_that_for_the_upstreams_silence(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    with writes_all_the_time() as url, asyncio.Runner(loop_factory=new_loop) as runner:
        words = runner.run(read_while_busy(url))
    assert words.count(b"word") == 40


async def read_while_busy(url: str) -> bytes:
    """Read a stream in rounds of the loop that take longer each than a timer waits for what has come."""
    loop = asyncio.get_running_loop()
    upstream = OpenAIUpstream(
        name="raw", base_url=url, api_key="k", connect_timeout_s=1, idle_timeout_s=0.3, max_connections=1
    )
    rounds = 0

    def busy() -> None:
        nonlocal rounds
        rounds += 1
        time.sleep(0.15)
        if rounds < 6:
            loop.call_soon(busy)

    async with upstream.open(BODY, lambda: False) as chunks:
        read = await anext(chunks)
        chunks.pause()
        loop.call_later(0.05, chunks.resume)
        loop.call_soon(busy)
        time.sleep(0.5)  # noqa: ASYNC251  # the point is to hold up the loop
        async for data in chunks:
            read += data
    await upstream.close()
    return read


@contextmanager
def writes_all_the_time() -> Iterator[str]:
    """A model API in a thread of its own, which no loop holds up."""

    def serve(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(HEADERS)
            for _ in range(40):
                piece = word("word ")
                connection.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                time.sleep(0.05)
            connection.sendall(b"0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,), name="model API")
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        thread.join(timeout=10)
