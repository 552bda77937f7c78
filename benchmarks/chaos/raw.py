"""WebSocket clients without manners: sockets of which every byte is ours."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import time
from typing import Any
from urllib.parse import urlsplit

from benchmarks.chaos.judge import ENDS, Event, Seen
from grizz.web.auth.door import OWNER_COOKIE

AGAIN_S = 0.2
HANDSHAKE = (
    b"GET /v1/responses HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 0


def frame(opcode: int, payload: bytes = b"", *, last: bool = True, reserved: int = 0, masked: bool = True) -> bytes:
    """One frame; the mask is of zeros, so that the payload stays what it is."""
    size, mask = len(payload), 0x80 if masked else 0
    head = bytes([(0x80 if last else 0) | reserved << 4 | opcode])
    if size < 126:
        head += bytes([mask | size])
    elif size < 1 << 16:
        head += bytes([mask | 126]) + struct.pack("!H", size)
    else:
        head += bytes([mask | 127]) + struct.pack("!Q", size)
    return head + (bytes(4) if masked else b"") + payload


def text(body: Any) -> bytes:
    """A frame of JSON."""
    return frame(TEXT, json.dumps(body).encode())


class Raw:
    """One such client.

    Attributes:
        code: the close code it was sent, None while it was sent none.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.code: int | None = None

    @classmethod
    async def connect(cls, url: str, *, narrow: bool = False) -> Raw:
        """A TCP connection; `narrow`: with as small buffers as can be, so that not reading is felt at once."""
        sock = socket.socket()
        if narrow:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, _address(url))
        return cls(*await asyncio.open_connection(sock=sock, limit=1024 if narrow else 1 << 16))

    @classmethod
    async def open(cls, url: str, *, narrow: bool = False) -> Raw:
        """A WebSocket."""
        raw = await cls.connect(url, narrow=narrow)
        await raw.send(HANDSHAKE)
        await raw._reader.readuntil(b"\r\n\r\n")
        return raw

    async def send(self, data: bytes) -> None:
        """Bytes as they are; a server that has closed meanwhile is no error here."""
        with contextlib.suppress(ConnectionError):
            self._writer.write(data)
            await self._writer.drain()

    async def receive(self) -> tuple[int, bytes]:
        """The next frame: opcode and payload.

        Raises:
            EOFError, ConnectionError: the connection is over.
        """
        first, second = await self._reader.readexactly(2)
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", await self._reader.readexactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await self._reader.readexactly(8))
        payload = await self._reader.readexactly(size)
        if first & 0xF == CLOSE and size >= 2:
            (self.code,) = struct.unpack("!H", payload[:2])
        return first & 0xF, payload

    async def event(self) -> Event:
        """The next event, past everything else."""
        while True:
            opcode, payload = await self.receive()
            if opcode == TEXT:
                event: Event = json.loads(payload)
                return event

    async def closed(self) -> None:
        """Read until the server has closed."""
        with contextlib.suppress(EOFError, ConnectionError):
            while (await self.receive())[0] != CLOSE:
                pass

    async def everything(self) -> bytes:
        """What comes until the server closes."""
        with contextlib.suppress(ConnectionError):
            return await self._reader.read()
        return b""

    def vanish(self) -> None:
        """Go without a word: the server sees a reset."""
        with contextlib.suppress(OSError):  # it is closed already
            sock = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


def shout(url: str, data: bytes) -> int | None:
    """Send all that after a handshake, listening only afterwards; the close code.

    In blocking calls, to be run in a thread: a server that closes while it is sent megabytes resets the connection,
    and asyncio then drops what had come before.
    """
    with socket.create_connection(_address(url), timeout=10) as sock:
        sock.sendall(HANDSHAKE)
        while b"\r\n\r\n" not in sock.recv(4096):
            pass
        with contextlib.suppress(ConnectionError):
            sock.sendall(data)
        with contextlib.suppress(ConnectionError):
            answer = sock.recv(4096)
            if answer[:1] == bytes([0x80 | CLOSE]):
                return int.from_bytes(answer[2:4], "big")
    return None


class Idle(asyncio.Protocol):
    """A WebSocket that says nothing after the handshake; five thousand of them cost little here."""

    def __init__(self) -> None:
        self.opened: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(HANDSHAKE)

    def data_received(self, data: bytes) -> None:
        if not self.opened.done():
            self.opened.set_result(data.startswith(b"HTTP/1.1 101"))

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if not self.opened.done():
            self.opened.set_result(False)

    def drop(self) -> None:
        """Lose the socket."""
        if self.transport:
            self.transport.abort()


class Follower(asyncio.Protocol):
    """Follows one response; of the cheapest kind, so that thousands can come back in one moment.

    Attributes:
        owner: whose cookie it shows.
        seen: what it saw.
        on_line: whether it has a socket that was accepted.
    """

    seen: Seen

    def __init__(self, url: str, owner: str) -> None:
        self._where = _address(url)
        self._handshake = HANDSHAKE[:-2] + f"Cookie: {OWNER_COOKIE}={owner}\r\n\r\n".encode()
        self.on_line = False
        self._ident = ""
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._dropped = False

    @property
    def following(self) -> bool:
        """Was it told what to follow?"""
        return bool(self._ident)

    @property
    def over(self) -> bool:
        """Has what it follows ended, or was it refused?"""
        return self.following and bool(self.seen.over_at or self.seen.refused)

    async def come(self) -> None:
        """Connect; once on line it goes on with what it followed."""
        self._dropped = False
        await asyncio.get_running_loop().create_connection(lambda: self, *self._where)

    def follow(self, response_id: str, seen: Seen) -> None:
        """Attach, from the first event on."""
        self._ident, self.seen = response_id, seen
        self._attach()

    def _attach(self) -> None:
        last = self.seen.events[-1]["sequence_number"] if self.seen.events else -1
        if self._transport:
            self._transport.write(text({"type": "grizz:attach", "response_id": self._ident, "starting_after": last}))

    def drop(self) -> None:
        """Lose the socket."""
        self._dropped = True
        if self._transport:
            if self.following and not self.seen.ended:
                self.seen.cuts += 1
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._buffer.clear()
        transport.write(self._handshake)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport, self.on_line = None, False
        if not self._dropped and self.following:
            # A listening socket whose queue is full resets some of those that took themselves for accepted.
            self.seen.cuts += 1
            asyncio.get_running_loop().call_later(AGAIN_S, self._come_again)

    def _come_again(self) -> None:
        if not self._dropped:
            self._coming = asyncio.create_task(self._try())

    async def _try(self) -> None:
        try:
            await self.come()
        except OSError:
            asyncio.get_running_loop().call_later(AGAIN_S, self._come_again)

    def data_received(self, data: bytes) -> None:
        if self._dropped:
            return
        self._buffer += data
        if not self.on_line:
            head, end, rest = bytes(self._buffer).partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self.seen.refused.append(head[:40].decode(errors="replace"))
                self.drop()
                return
            self.on_line, self._buffer = True, bytearray(rest)
            if self.following:
                self._attach()
        while (payload := self._next()) is not None:
            self._take(json.loads(payload))

    def _next(self) -> bytes | None:
        """The payload of the next frame, if all of it is there; servers mask nothing."""
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        size, start = buffer[1], 2
        if size > 125:
            start = 4 if size == 126 else 10
            size = int.from_bytes(buffer[2:start], "big")
        if len(buffer) < start + size:
            return None
        payload = bytes(buffer[start : start + size])
        opcode = buffer[0] & 0xF
        del buffer[: start + size]
        return payload if opcode == TEXT else self._next()

    def _take(self, event: Event) -> None:
        if event["type"] == "error":
            self.seen.refused.append(event["error"]["code"])
            self.drop()
        elif "sequence_number" in event and not event["type"].startswith("grizz:"):
            self.seen.events.append(event)
            self.seen.times.append(time.monotonic())
            if event["type"] in ENDS:
                self.seen.over_at = time.monotonic()
                self.drop()


async def open_idle(url: str, count: int) -> list[Idle]:
    """That many sockets, a few hundred at a time; those that were refused too."""
    loop = asyncio.get_running_loop()
    host, port = _address(url)
    found: list[Idle] = []
    for _ in range(0, count, 250):
        made = [loop.create_connection(Idle, host, port) for _ in range(min(250, count - len(found)))]
        fresh = [protocol for _, protocol in await asyncio.gather(*made)]
        await asyncio.gather(*(idle.opened for idle in fresh))
        found += fresh
    return found
