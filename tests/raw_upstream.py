"""A model API with any manners: a TCP server whose every byte a test decides."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import orjson

HEADERS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
COMMENT = b": still there\n\n"


def chunk(**choice: object) -> bytes:
    """One SSE event with a chat.completion.chunk."""
    body = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {}, **choice}]}
    return b"data: " + orjson.dumps(body) + b"\n\n"


def word(text: str) -> bytes:
    """An event with content."""
    return chunk(delta={"content": text})


ROLE = chunk(delta={"role": "assistant", "content": ""})
END = chunk(finish_reason="stop") + b"data: [DONE]\n\n"


class Call:
    """One request that arrived. `number` counts all, `of_connection` those on its connection, both from 1;
    `head` is what came before its body."""

    def __init__(
        self, writer: asyncio.StreamWriter, number: int, of_connection: int, head: str = "", body: bytes = b""
    ) -> None:
        self.head = head
        self.body = body
        self.number = number
        self.of_connection = of_connection
        self._writer = writer

    async def raw(self, data: bytes) -> None:
        """Write as it is."""
        self._writer.write(data)
        await self._writer.drain()

    async def part(self, data: bytes) -> None:
        """Write as one chunk of a body."""
        await self.raw(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    async def answer(self, text: str) -> None:
        """A whole answer; the connection stays open."""
        await self.raw(HEADERS)
        await self.part(ROLE + word(text) + END)
        await self.raw(b"0\r\n\r\n")

    async def late(self) -> None:
        """An answer of one who came late."""
        await self.answer("late")

    async def status(self, line: str, body: bytes = b"", *headers: str) -> None:
        """An answer without a stream; the connection stays open."""
        head = [f"HTTP/1.1 {line}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
        await self.raw("\r\n".join(head).encode() + b"\r\n\r\n" + body)

    def hang_up(self) -> None:
        """Close the connection."""
        self._writer.close()


class RawUpstream:
    """Counts what comes; `behave` answers each chat request, or with `every` each request."""

    def __init__(self, behave: Callable[[Call], Awaitable[None]], *, every: bool = False) -> None:
        self._every = every
        self.requests = 0
        self.connections = 0
        self.open = 0
        self._behave = behave

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        self.open += 1
        try:
            await self._serve(reader, writer)
        finally:
            self.open -= 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        of_connection = 0
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                sizes = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                body = await reader.readexactly(int(sizes[0].split(b":")[1]) if sizes else 0)
                if not (self._every or head.startswith(b"POST ")):
                    await Call(writer, 0, 0).status("404 Not Found")
                    continue
                self.requests += 1
                of_connection += 1
                await self._behave(Call(writer, self.requests, of_connection, head.decode(), body))
        writer.close()


@asynccontextmanager
async def raw_upstream(
    behave: Callable[[Call], Awaitable[None]],
    *,
    port: int = 0,
    every: bool = False,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[tuple[RawUpstream, str]]:
    """Listen, for https if `tls` is given; gives the server and its base URL."""
    upstream = RawUpstream(behave, every=every)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await upstream.serve(reader, writer)
        except asyncio.CancelledError:
            writer.close()
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", port, ssl=tls)
    try:
        yield upstream, f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5)


@contextmanager
def deaf_url() -> Iterator[str]:
    """The URL of a port that lets nobody in and refuses nobody: its queue of connections is full."""
    with socket.socket() as listening, contextlib.ExitStack() as stack:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
