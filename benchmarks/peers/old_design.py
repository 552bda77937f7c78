"""The design of the readiness report before its proposals, as a server: `python -m benchmarks.peers.old_design`.

    client → WebSocket → stream of jobs → worker → model → stream of results → WebSocket → client

A job is an entry in one stream of Redis, trimmed at every job; a worker reads it and asks the model by the openai
package's stream; every token is an entry in one stream of results that all clients share, and for every open tab a
listener reads that stream (at most ten entries at a time, blocking for 100 ms, then a sleep of 10 ms while nothing
comes: nine times a second) and sends on what is for its client.

Where the report leaves something open or broken, this takes what favours the old design:

- aiohttp and uvloop, not FastAPI; the worker is a task of the same process, so that one number is all of its CPU;
- the worker runs all of its jobs at once; the report's takes one after the other, so a fifth client would wait;
- jobs are read with a plain XREAD: no consumer group, no acknowledgement (and a job dies with the process);
- a listener's first id is pinned before its client can ask. Reading from "$" each time would lose what comes between
  two reads, and reading from the start would send it through the history of everybody;
- WORKER_COUNT, from which the report's client takes its limit of connections, is 500 (report: 4). Each listener holds
  a connection while it blocks, and the report's 13 would make the fourteenth tab an error;
- a final entry without text ends an answer, since a stream does not tell that a token is its last.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import openai
from aiohttp import WSMsgType, web
from redis.asyncio import Redis

from benchmarks.redis_parts import JOBS, RESULTS, Polling
from benchmarks.serving import run

BLOCK_MS, SLEEP_S, COUNT = 100, 0.01, 10

Chunk = dict[str, str]


def connect() -> Redis:
    workers = int(os.environ.get("WORKER_COUNT", "500"))
    # Workers + web servers + margin, as the report has it.
    return Redis.from_url(os.environ["REDIS_URL"], decode_responses=True, max_connections=workers * 2 + 5)


async def newest(redis: Redis, stream: str) -> str:
    """The id after which to read so that nothing is missed from now on."""
    entries = await redis.xrevrange(stream, count=1)
    return str(entries[0][0]) if entries else "0-0"


async def poll(redis: Redis, stream: str, last: str) -> AsyncIterator[Chunk]:
    """The report's loop, without an end."""
    while True:
        streams: Any = await redis.xread({stream: last}, count=COUNT, block=BLOCK_MS)
        if not streams:
            await asyncio.sleep(SLEEP_S)
            continue
        # A list of pairs or a dict of lists, by the protocol that was agreed on.
        entries = streams[stream][0] if isinstance(streams, dict) else streams[0][1]
        for entry, fields in entries:
            last = entry
            yield fields


async def enqueue_chat_job(redis: Redis, client_id: str, message: str) -> str:
    job = str(uuid.uuid4())
    await redis.xadd(JOBS, {"job_id": job, "client_id": client_id, "message": message})
    await redis.xtrim(JOBS, maxlen=10000, approximate=True)
    return job


async def listen_for_job_results(
    redis: Redis, last: str, client_id: str, result_callback: Callable[[str], Awaitable[None]]
) -> None:
    async for chunk in poll(redis, RESULTS, last):
        if chunk["client_id"] == client_id:
            await result_callback(json.dumps(chunk))


class Worker:
    """Takes jobs and runs each as a task of its own; what a job meets is its client's answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis, self._results, self._model = redis, Polling(redis), openai.AsyncOpenAI(max_retries=0)
        self._jobs: set[asyncio.Task[None]] = set()

    async def work(self, last: str) -> None:
        async for job in poll(self._redis, JOBS, last):
            task = asyncio.create_task(self._process_chat_job(job))
            self._jobs.add(task)
            task.add_done_callback(self._jobs.discard)

    async def _process_chat_job(self, job: Chunk) -> None:
        async def publish(chunk: str, final: bool = False, **more: str) -> None:
            named = {"job_id": job["job_id"], "client_id": job["client_id"]}
            # One XADD, and after the last one an XTRIM.
            await self._results.publish(
                job["client_id"], {**named, "chunk": chunk, "is_final": "true" if final else "false", **more}
            )

        try:
            stream = await self._model.chat.completions.create(
                model="m", stream=True, messages=[{"role": "user", "content": job["message"]}]
            )
            async for chunk in stream:
                if chunk.choices and (piece := chunk.choices[0].delta.content):
                    await publish(piece)
        except Exception as error:  # whatever it is, the asker hears of it
            await publish("", final=True, error=str(error))
        else:
            await publish("", final=True)


async def end(*tasks: asyncio.Task[None]) -> None:
    """Cancel until they have ended: on Python 3.11 a library's timeout can swallow a cancellation."""
    while left := [task for task in tasks if not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=0.5)
    await asyncio.gather(*tasks, return_exceptions=True)


async def converse(redis: Redis, client_id: str, ws: web.WebSocketResponse) -> None:
    """An open tab: its listener, and its messages as they come, until it or the listener ends."""

    async def take() -> None:
        async for message in ws:
            if message.type is WSMsgType.TEXT:
                await enqueue_chat_job(redis, client_id, json.loads(message.data)["message"])

    last = await newest(redis, RESULTS)
    listener = asyncio.create_task(listen_for_job_results(redis, last, client_id, ws.send_str))
    taker = asyncio.create_task(take())
    try:
        done, _ = await asyncio.wait((listener, taker), return_when=asyncio.FIRST_COMPLETED)
        # The tab may have gone while something was sent to it.
        with suppress(ConnectionError):
            for task in done:
                task.result()
    finally:
        await end(listener, taker)


def make_app() -> web.Application:
    redis = connect()

    async def socket(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        await converse(redis, str(uuid.uuid4()), ws)
        return ws

    async def worker(app: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(Worker(redis).work(await newest(redis, JOBS)))
        yield
        await end(task)
        await redis.aclose()

    app = web.Application()
    app.router.add_get("/ws", socket)
    app.cleanup_ctx.append(worker)
    return app


if __name__ == "__main__":
    sys.exit(run(make_app))
