"""The floor: what Python cannot do with less. A relay from a model to WebSockets with no queue, log, limit or resume.

It opens requests through the openai package by `post`, as Grizz does, and reads raw chunks; or both with plain aiohttp.
It decodes each chunk and sends its words as a frame, at once: what Grizz gains by gathering, it has not.
`python -m benchmarks.speed.floor openai|aiohttp` prints the address it serves.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from functools import partial

import aiohttp
import httpx2
import openai
import orjson
from aiohttp import web

from benchmarks.serving import run

URL = os.environ.get("OPENAI_BASE_URL", "")


async def by_openai(client: openai.AsyncOpenAI, body: dict[str, object]) -> AsyncIterator[bytes]:
    """The chunks of an answer, by the package's request and raw reading."""
    answer = await client.post(
        f"{URL}/chat/completions",
        cast_to=httpx2.Response,
        content=orjson.dumps(body),
        options={"idempotency_key": "none"},
        stream=True,
    )
    try:
        async for data in answer.aiter_raw():
            yield data
    finally:
        await answer.aclose()


async def by_aiohttp(http: aiohttp.ClientSession, body: dict[str, object]) -> AsyncIterator[bytes]:
    """The same by aiohttp alone."""
    async with http.post(f"{URL}/chat/completions", json=body) as answer:
        async for data in answer.content.iter_any():
            yield data


async def relay(chunks: AsyncIterator[bytes], ws: web.WebSocketResponse) -> None:
    """Send each chunk's words as a frame of their own."""
    rest = b""
    async for data in chunks:
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data: {"):
                choices = orjson.loads(line[6:])["choices"]
                if choices and (words := choices[0]["delta"].get("content")):
                    event = {"type": "response.output_text.delta", "delta": words}
                    await ws.send_str(orjson.dumps(event).decode())
    await ws.send_str('{"type":"response.completed"}')


def make_app(kind: str) -> web.Application:
    package = openai.AsyncOpenAI(
        base_url=URL, api_key="none", http_client=openai.DefaultAioHttpClient(timeout=60), max_retries=0
    )
    http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    async def responses(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(compress=False, max_msg_size=0)
        await ws.prepare(request)
        async for message in ws:
            asked = orjson.loads(message.data)
            messages = [{"role": "user", "content": asked["input"]}]
            body = {"model": "m", "stream": True, "messages": messages}
            await relay(by_openai(package, body) if kind == "openai" else by_aiohttp(http, body), ws)
        return ws

    async def close(app: web.Application) -> None:
        await http.close()
        await package.close()

    app = web.Application()
    app.router.add_get("/v1/responses", responses)
    app.on_cleanup.append(close)
    return app


if __name__ == "__main__":
    sys.exit(run(partial(make_app, sys.argv[1])))
