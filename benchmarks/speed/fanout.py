"""What many tabs on one answer cost without Grizz: the same frames to every socket by aiohttp, and nothing else.

`python -m benchmarks.speed.fanout` prints the address it serves. A client that sends `{"frames", "bytes", "pause_s"}`
has that sent to all who are connected.
"""

from __future__ import annotations

import asyncio
import sys

import orjson
from aiohttp import web

from benchmarks.serving import run


def make_app() -> web.Application:
    sockets: list[web.WebSocketResponse] = []

    async def listen(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(compress=False)
        await ws.prepare(request)
        sockets.append(ws)
        async for message in ws:
            asked = orjson.loads(message.data)
            text = "x" * asked["bytes"]
            for _ in range(asked["frames"]):
                for one in sockets:
                    await one.send_str(text)
                await asyncio.sleep(asked["pause_s"])
            await ws.send_str("end")
        sockets.remove(ws)
        return ws

    app = web.Application()
    app.router.add_get("/", listen)
    return app


if __name__ == "__main__":
    sys.exit(run(make_app))
