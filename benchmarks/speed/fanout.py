"""What many tabs on one answer cost without Grizz: the same frames to every socket by aiohttp, and nothing else.

`python -m benchmarks.speed.fanout` prints the address it serves. A client that sends `{"frames", "bytes", "pause_s"}`
has that sent to all who are connected.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc

import orjson
from aiohttp import web


async def serve() -> None:
    """Until it is ended."""
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
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    gc.collect()
    gc.freeze()
    print("http://{}:{}".format(*runner.addresses[0]), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    loop_factory = None
    with contextlib.suppress(ImportError):
        from uvloop import new_event_loop as loop_factory
    with asyncio.Runner(loop_factory=loop_factory) as runner, contextlib.suppress(KeyboardInterrupt):
        runner.run(serve())
