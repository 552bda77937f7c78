"""What a token is on the wire, and what a long answer holds in memory."""

from __future__ import annotations

import asyncio

import aiohttp
import orjson

from benchmarks.speed.asks import create, prompt
from benchmarks.speed.subjects import Stage

_DELTA = '{"type":"response.output_text.delta"'
_END = '{"type":"response.completed"'


def frame_bytes(text: str) -> int:
    """A server's text frame with its header (RFC 6455 §5.2)."""
    size = len(text.encode())
    return size + (2 if size < 126 else 4 if size < 65536 else 10)


async def frames(http: aiohttp.ClientSession, url: str, text: str, **more: object) -> list[str]:
    """Every frame of one answer."""
    async with http.ws_connect(f"{url}/v1/responses", max_msg_size=0) as ws:
        await create(ws, text, **more)
        found: list[str] = []
        async for message in ws:
            found.append(message.data)
            if message.data.startswith(_END):
                return found
    raise SystemExit(f"the answer did not complete: {found[-1][:300] if found else 'nothing came'}")


async def delta_bytes(stage: Stage, flush_ms: int) -> float:
    """Bytes of delta frames for each token, at 50 tokens a second; the mean of ten answers at once."""
    words = 200
    process = stage.grizz(GRIZZ_REPLIES_FLUSH_MS=str(flush_ms))
    async with aiohttp.ClientSession() as http:
        answers = await asyncio.gather(*(frames(http, process.url, prompt(words, 50)) for _ in range(10)))
    deltas = [frame for answer in answers for frame in answer if frame.startswith(_DELTA)]
    assert sum(len(orjson.loads(frame)["delta"].split()) for frame in deltas) == words * len(answers)
    return sum(map(frame_bytes, deltas)) / (words * len(answers))


async def memory_of_wire(stage: Stage, words: int = 20_000, rate: float = 1000, count: int = 20) -> float:
    """What answers of so many words hold in memory once they have ended, as a multiple of their bytes on the wire."""
    process = stage.grizz()

    async def some(how_many: int, length: int) -> int:
        async with aiohttp.ClientSession(read_bufsize=2**18) as http:
            asked = (frames(http, process.url, prompt(length, rate), store=True) for _ in range(how_many))
            return sum(frame_bytes(frame) for answer in await asyncio.gather(*asked) for frame in answer)

    await some(count, 200)  # what the first answers hold for good
    before = process.rss_kib()
    wire = await some(count, words)
    await asyncio.sleep(1)
    return (process.rss_kib() - before) * 1024 / wire
