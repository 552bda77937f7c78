"""The wire between a client and Grizz, which a test can cut, and lead to another process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_HOST = "127.0.0.1"


class Link:
    """Passes bytes on to a server, at an address of its own that stays.

    Attributes:
        url: what clients are given.
        target: the URL of the server behind it.
        cut_when: cuts all, once, when these bytes have come from a server; what they came with is not passed on.
        refuses: new connections end at once.
        connections: how many there have been.
        received: all bytes of clients.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.url = ""
        self.cut_when = b""
        self.refuses = False
        self.connections = 0
        self.received = bytearray()
        self._open: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """End all connections at once, as a lost network does when it comes back."""
        for writer in list(self._open):
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        port = int(self.target.rpartition(":")[2])
        with contextlib.suppress(OSError):
            if self.refuses:
                raise ConnectionRefusedError
            there, back = await asyncio.open_connection(_HOST, port)
            pair = {writer, back}
            self._open |= pair
            try:
                up = asyncio.create_task(self._up(reader, back))
                try:
                    await self._down(there, writer)
                finally:
                    up.cancel()
                    await asyncio.wait([up])
            finally:
                self._open -= pair
                back.transport.abort()
        writer.transport.abort()

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            self.received += data
            writer.write(data)
        writer.close()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tail = b""
        while data := await reader.read(65536):
            tail = tail[-100:] + data
            if self.cut_when and self.cut_when in tail:
                self.cut_when = b""
                self.cut()
                return
            writer.write(data)


@asynccontextmanager
async def link_to(target: str) -> AsyncIterator[Link]:
    """A link to that server."""
    link = Link(target)
    server = await asyncio.start_server(link.serve, _HOST, 0)
    link.url = f"http://{_HOST}:{server.sockets[0].getsockname()[1]}"
    try:
        yield link
    finally:
        server.close()
        link.cut()
        await server.wait_closed()
        await asyncio.sleep(0.01)
