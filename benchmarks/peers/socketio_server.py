"""python-socketio on aiohttp with its Redis manager: `.venv-peers/bin/python -m benchmarks.peers.socketio_server`.

Written as its documentation says: an `AsyncServer` attached to an aiohttp application, with `AsyncRedisManager` as its
client manager, which is what it asks for as soon as there is more than one process. One handler of the event `ask`
{"text"} emits to the room that the library makes for every client, its sid: one `delta` a chunk, then `done`, or
`failed` with what went wrong. The model is asked by the openai package's stream, in the handler, without a queue or a
worker. An emit goes through the manager: it delivers to clients of its own process and then publishes for the others,
and returns when Redis has taken it.

In Socket.IO's favour: uvloop, no access log, and no answer is kept anywhere, so one that breaks off is lost.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import openai
import socketio
from aiohttp import web

from benchmarks.serving import run


def make_app() -> web.Application:
    model = openai.AsyncOpenAI(max_retries=0)
    sio = socketio.AsyncServer(async_mode="aiohttp", client_manager=socketio.AsyncRedisManager(os.environ["REDIS_URL"]))

    @sio.event
    async def ask(sid: str, data: dict[str, Any]) -> None:
        try:
            stream = await model.chat.completions.create(
                model="m", stream=True, messages=[{"role": "user", "content": data["text"]}]
            )
            async for chunk in stream:
                if chunk.choices and (piece := chunk.choices[0].delta.content):
                    await sio.emit("delta", piece, to=sid)
        except Exception as error:  # whatever it is, the asker hears of it
            await sio.emit("failed", str(error), to=sid)
        else:
            await sio.emit("done", to=sid)

    app = web.Application()
    sio.attach(app)
    return app


if __name__ == "__main__":
    sys.exit(run(make_app))
