"""One answer on its way to its client: waiting, pacing, stalling, cutting."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator
from itertools import chain, islice

import orjson
from aiohttp import web

from grizz.upstream.demo import responses, wire
from grizz.upstream.demo.answer import Answer
from grizz.upstream.demo.conversation import Chat
from grizz.upstream.demo.directives import Script

_BLOCK = 64  # most events in one write; between two writes other tasks get their turn
_GARBAGE = b'{"id":"chatcmpl-demo","choices":[{"index":0,"delta":{"content'
_FINISH_REASONS = {"content_filter", "length", "stop", "tool_calls"}


class Exchange:
    """A request that is being answered. Used once.

    Attributes:
        finished: whether the answer ended as an answer should; False after an error, a cut or a stop half-way.
    """

    def __init__(self, request: web.Request, chat: Chat, script: Script, answer: Answer, rate: float) -> None:
        """`rate` is in tokens per second, 0 for as fast as possible."""
        self.finished = False
        self.speaks_responses = request.path.endswith("/responses")
        self._request = request
        self._chat = chat
        self._script = script
        self._answer = answer
        self._rate = rate
        self._sent = 0
        self._ident = f"chatcmpl-{uuid.uuid4().hex}"
        self._created_s = int(time.time())

    async def run(self) -> web.StreamResponse:
        """Answer, and return the response for aiohttp to finish.

        Cancel-safe: nothing is left behind. Raises ConnectionError when the client is gone.
        """
        await asyncio.sleep(self._script.delay)
        error = self._script.error
        if self._script.window is not None and self._chat.prompt_tokens > self._script.window:
            error = "context"
        if error is not None:
            status, body = wire.error(error)
            return _json(status, body, self._headers())
        return await (self._stream() if self._chat.stream else self._whole())

    def _headers(self) -> dict[str, str]:
        if self._script.retry_after is None:
            return {}
        return {"Retry-After": f"{self._script.retry_after:g}"}

    def _limit(self) -> tuple[int | None, str | None]:
        """After how many deltas the script ends the answer, and how; the failure goes first where two coincide."""
        script = self._script
        ends = (
            (script.stall, "stall"),
            (script.cut, "cut"),
            (script.eof, "eof"),
            (script.midstream_error, "midstream-error"),
            (script.filter, "content_filter"),
            (script.length, "length"),
        )
        given = [(after, how) for after, how in ends if after is not None]
        return min(given, key=lambda end: end[0], default=(None, None))

    def _plan(self) -> tuple[Iterator[bytes], Iterator[bytes], str | None]:
        """All deltas, the prefix of them that may be sent, and the end of the script if it comes before max_tokens."""
        after, how = self._limit()
        everything = wire.deltas(self._answer, self._script)
        most = self._chat.max_tokens
        if after is not None and (most is None or after <= most):
            return everything, islice(everything, after), how
        return everything, islice(everything, most), None

    def _how_it_ends(self, everything: Iterator[bytes], scripted: str | None) -> str:
        """Asked after the last delta: the script's end, `length` if max_tokens left something unsaid, or natural."""
        if scripted is not None:
            return scripted
        if self._chat.max_tokens is not None and next(everything, None) is not None:
            return "length"
        # A script's end beyond what there was to say comes now.
        return self._limit()[1] or self._answer.finish_reason

    def _usage(self) -> dict[str, object]:
        reasoning = min(self._sent, len(self._answer.reasoning))
        return wire.usage(self._chat.prompt_tokens, self._sent, reasoning)

    async def _stream(self) -> web.StreamResponse:
        script = self._script
        with_usage = self._chat.include_usage and not script.no_usage
        chunks = self._writer(usage_field=with_usage)
        headers = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", **self._headers()}
        response = web.StreamResponse(headers=headers)
        await response.prepare(self._request)
        await asyncio.sleep(script.first)
        await self._write(response, chunks.head())
        everything, allowed, scripted = self._plan()
        events: Iterator[bytes] = map(chunks.delta, self._counted(allowed))
        if script.garbage is not None:
            events = chain(islice(events, script.garbage), [chunks.data(_GARBAGE)], events)
        await self._pace(response, events)
        await self._end(response, chunks, self._how_it_ends(everything, scripted), with_usage=with_usage)
        return response

    def _writer(self, *, usage_field: bool) -> wire.Chunks | responses.Events:
        if self.speaks_responses:
            return responses.Events(self._created_s, self._chat.model, self._script)
        return wire.Chunks(
            self._ident,
            self._created_s,
            self._chat.model,
            self._script,
            usage_field=usage_field,
            top_logprobs=self._chat.top_logprobs,
        )

    def _counted(self, deltas: Iterator[bytes]) -> Iterator[bytes]:
        for delta in deltas:
            self._sent += 1
            yield delta

    async def _pace(self, response: web.StreamResponse, events: Iterator[bytes]) -> None:
        """Write every event at its time. Times count from the start, so that late wake-ups don't add up."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        rate = self._rate
        written = 0
        # `head` is taken before the wait: nothing is waited for that will not come.
        for head in events:
            count = _BLOCK
            await asyncio.sleep(max(0.0, start + written / rate - loop.time()) if rate else 0)
            if rate:
                due = (loop.time() - start) * rate - written
                count = max(0, int(min(due, _BLOCK - 1))) + 1
            block = [head, *islice(events, count - 1)]
            await self._write(response, b"".join(block))
            written += len(block)

    async def _end(
        self, response: web.StreamResponse, chunks: wire.Chunks | responses.Events, how: str, *, with_usage: bool
    ) -> None:
        if how in _FINISH_REASONS:
            await self._write(response, chunks.end(how, self._usage() if with_usage else None))
            self.finished = True
        elif how == "midstream-error":
            await self._write(response, chunks.failure())
        elif how == "stall":
            await _forever()
        elif how == "cut":
            self._hang_up()

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        step = self._script.split
        if step is None:
            if data:
                await response.write(data)
            return
        for at in range(0, len(data), step):
            await response.write(data[at : at + step])
            # A turn of the loop, so that a piece has a chance to arrive alone.
            await asyncio.sleep(0)

    async def _whole(self) -> web.StreamResponse:
        """The answer in one JSON body, after the time that streaming it would take."""
        everything, allowed, scripted = self._plan()
        said = list(self._counted(allowed))
        how = self._how_it_ends(everything, scripted)
        await asyncio.sleep(self._script.first + (self._sent / self._rate if self._rate else 0.0))
        if how == "stall":
            await _forever()
        if how == "cut":
            self._hang_up()
        if how == "midstream-error":
            return _json(*wire.error("500"), self._headers())
        if self.speaks_responses:
            self.finished = how in _FINISH_REASONS
            events = responses.Events(self._created_s, self._chat.model, self._script)
            return _json(200, events.whole(said, how, self._usage()), self._headers())
        body = {
            "id": self._ident,
            "object": "chat.completion",
            "created": self._created_s,
            "model": self._chat.model,
            "choices": [{"index": 0, "message": wire.message(said), "logprobs": None, "finish_reason": how}],
        }
        if not self._script.no_usage:
            body["usage"] = self._usage()
        raw = orjson.dumps(body)
        if how == "eof" or self._script.garbage is not None:
            # Half a body is what the same faults come to without a stream.
            raw = raw[: len(raw) // 2]
        self.finished = how in _FINISH_REASONS
        return web.Response(body=raw, content_type="application/json", headers=self._headers())

    def _hang_up(self) -> None:
        """Close the connection once what was written has left; aiohttp can then write no end to the body."""
        if self._request.transport is not None:
            self._request.transport.close()


async def _forever() -> None:
    await asyncio.Event().wait()


def _json(status: int, body: object, headers: dict[str, str]) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(body), content_type="application/json", headers=headers)
