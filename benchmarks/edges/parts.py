"""What edges.py is made of: server processes, raw WebSocket clients that may stop reading, the kernel's view."""

from __future__ import annotations

import re
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import orjson

from benchmarks.processes import Process

_UPGRADE = (
    b"GET /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nAccept: */*\r\n"
    b"Accept-Encoding: gzip, deflate\r\nUser-Agent: Python/3.11 aiohttp/3.14\r\n\r\n"
)
_ESTABLISHED = "01"


# Each token is an event of its own, and a slow client's socket is full within seconds.
UNBATCHED = {"GRIZZ_REPLIES_FLUSH_MS": "0"}
TERMINAL = ("response.completed", "response.failed", "response.incomplete", "error")


@dataclass
class Row:
    """One line of the table."""

    promise: str
    measured: str
    allowed: str
    kept: bool


def say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def scrape(url: str) -> str:
    with urlopen(Request(f"{url}/metrics", headers={"Accept": "application/openmetrics-text"}), timeout=60) as answer:
        text: str = answer.read().decode()
        return text


def metric(text: str, series: str) -> float:
    """The value of one series, named with its labels."""
    return float(re.findall(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)[0])


def create(client: RawClient, text: str) -> tuple[str, int, str]:
    """Ask for an answer and read until its first text; returns its id, the last event's number, and the text so far."""
    client.send({"type": "response.create", "input": text, "store": False})
    response_id = ""
    while True:
        event = client.read()
        if event["type"] == "response.created":
            response_id = str(event["response"]["id"])  # type: ignore[index]
        if event["type"] == "response.output_text.delta":
            return response_id, int(str(event["sequence_number"])), str(event["delta"])


@contextmanager
def grizz(upstream: str, **environ: str) -> Iterator[Process]:
    """A Grizz with these settings on a core of its own."""
    settings = {"OPENAI_BASE_URL": upstream, "OPENAI_API_KEY": "x", "GRIZZ_WORKERS_CONCURRENCY": "1000", **environ}
    process = Process(["grizz.py", "--port", "0", "--log-format", "text"], 1, **settings)
    try:
        yield process
    finally:
        process.stop()


@contextmanager
def demo() -> Iterator[Process]:
    """The demo upstream, as fast as it is asked to be, on the other core."""
    process = Process(["-m", "grizz.upstream.demo", "--tokens-per-second", "0"], 0)
    try:
        yield process
    finally:
        process.stop()


class RawClient:
    """A WebSocket client on a bare socket: it answers no ping, and reads only when told to.

    Args:
        receive_buffer: SO_RCVBUF in bytes; 0 leaves what the system gives.
    """

    def __init__(self, port: int, receive_buffer: int = 0) -> None:
        self._socket = socket.socket()
        if receive_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(10)
        self._socket.connect(("127.0.0.1", port))
        self._socket.sendall(_UPGRADE)
        self._data = b""
        while b"\r\n\r\n" not in self._data:
            self._fill()
        head, self._data = self._data.split(b"\r\n\r\n", 1)
        if not head.startswith(b"HTTP/1.1 101"):
            raise SystemExit(f"no upgrade: {head[:200]!r}")
        self.port: int = self._socket.getsockname()[1]

    def send(self, frame: dict[str, object]) -> None:
        """Send one text frame, masked with zeros."""
        body = orjson.dumps(frame)
        self._socket.sendall(struct.pack("!BBH4x", 0x81, 0x80 | 126, len(body)) + body)

    def read(self) -> dict[str, object]:
        """The next event.

        Raises:
            ConnectionError: the server closed.
        """
        while True:
            opcode, body = self._frame()
            if opcode == 1:
                event: dict[str, object] = orjson.loads(body)
                return event
            if opcode == 8:
                raise ConnectionError("closed")

    def close(self) -> None:
        """Close the socket without a word."""
        self._socket.close()

    def _frame(self) -> tuple[int, bytes]:
        first, second = self._take(2)
        size = second & 127
        if size == 126:
            size = int.from_bytes(self._take(2), "big")
        elif size == 127:
            size = int.from_bytes(self._take(8), "big")
        return first & 15, self._take(size)

    def _take(self, count: int) -> bytes:
        while len(self._data) < count:
            self._fill()
        taken, self._data = self._data[:count], self._data[count:]
        return taken

    def _fill(self) -> None:
        data = self._socket.recv(4096)
        if not data:
            raise ConnectionError("closed")
        self._data += data


def unsent(server_port: int) -> dict[int, int]:
    """Bytes in the server's kernel send queue by the client's port, for each established connection."""
    queues = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, queue, *_ = line.split()
        if state == _ESTABLISHED and int(local.split(":")[1], 16) == server_port:
            queues[int(remote.split(":")[1], 16)] = int(queue.split(":")[0], 16)
    return queues
