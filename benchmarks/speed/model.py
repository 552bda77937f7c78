"""A model server that costs next to nothing, so that the measured server is the one that is busy.

Speaks Chat Completions as OpenAI does, one chunk of some 300 bytes and one write for each token, and knows two
directives in the last message: `[[words:N]]` and `[[rate:N]]` (tokens a second; 0: as fast as the reader reads).
`python -m benchmarks.speed.model` prints the address it serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from typing import cast

import orjson

_WORDS, _RATE = re.compile(r"\[\[words:(\d+)\]\]"), re.compile(r"\[\[rate:([\d.]+)\]\]")
_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
# Tokens of a stream without a rate that go out at a time: what a server with a full socket does.
_AT_A_TIME = 64
_MODELS = orjson.dumps({"object": "list", "data": [{"id": "m", "object": "model", "created": 0, "owned_by": "bench"}]})


def word(n: int) -> str:
    """The token with the number `n`, counted from 0."""
    return f"w{n} "


def _chunk(delta: dict[str, str], finish: str | None = None, **more: object) -> bytes:
    body = {
        "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
        "object": "chat.completion.chunk",
        "created": 1741569952,
        "model": "gpt-5-mini-2025-08-07",
        "service_tier": "default",
        "system_fingerprint": "fp_44709d6fcb",
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
        **more,
    }
    return _framed(b"data: " + orjson.dumps(body) + b"\n\n")


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class _Words:
    """The chunks of all tokens; the same for every stream."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []

    def upto(self, count: int) -> list[bytes]:
        while len(self._chunks) < count:
            self._chunks.append(_chunk({"content": word(len(self._chunks))}))
        return self._chunks


_words = _Words()
_BEGIN = _chunk({"role": "assistant", "content": ""})


class _Connection(asyncio.Protocol):
    """One client's; one request at a time, kept open."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._timer: asyncio.TimerHandle | None = None
        self._full = False
        self._sent = self._count = 0
        self._rate = self._began = 0.0
        self._end = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none of its subclasses

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()
        self._full = True

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._go_on()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        size = re.search(rb"(?i)content-length: *(\d+)", head)
        body = rest[: int(size[1])] if size else b""
        if size and len(body) < int(size[1]):
            return
        self._buffer = rest[len(body) :]
        if head.startswith(b"GET"):
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(_MODELS), _MODELS))
        else:
            self._answer(orjson.loads(body))

    def _answer(self, asked: dict[str, object]) -> None:
        # Only the last message is looked at, however long the conversation is.
        text = str(asked["messages"][-1]["content"])  # type: ignore[index]
        words, rate = _WORDS.search(text), _RATE.search(text)
        self._count = int(words[1]) if words else 10
        self._rate = float(rate[1]) if rate else 0.0
        used = {"prompt_tokens": 10, "completion_tokens": self._count, "total_tokens": 10 + self._count}
        self._end = _chunk({}, "stop", usage=used) + _framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"
        self._sent, self._began = 0, self._loop.time()
        self._transport.write(_HEAD + _BEGIN)
        self._go_on()

    def _go_on(self) -> None:
        """Write what is due, and come again when the next is."""
        if self._timer:
            self._timer.cancel()
        chunks, due = _words.upto(self._count), self._count
        if self._rate:
            # The first token comes after one interval, as all others.
            due = min(self._count, int((self._loop.time() - self._began) * self._rate + 1e-6))
        while self._sent < due and not self._full:
            if self._rate:
                self._transport.write(chunks[self._sent])
                self._sent += 1
            else:
                self._transport.write(b"".join(chunks[self._sent : min(due, self._sent + _AT_A_TIME)]))
                self._sent = min(due, self._sent + _AT_A_TIME)
        if self._full:
            return
        if self._sent < self._count:
            self._timer = self._loop.call_at(self._began + (self._sent + 1) / self._rate, self._go_on)
        elif self._end:
            end, self._end = self._end, b""
            self._transport.write(end)


async def serve() -> None:
    """Until it is ended."""
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", 0, backlog=4096)
    print("http://{}:{}/v1".format(*server.sockets[0].getsockname()), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    loop_factory = None
    with contextlib.suppress(ImportError):
        from uvloop import new_event_loop as loop_factory
    with asyncio.Runner(loop_factory=loop_factory) as runner, contextlib.suppress(KeyboardInterrupt):
        runner.run(serve())
    sys.exit(0)
