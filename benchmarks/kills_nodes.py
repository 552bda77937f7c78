"""The processes that are killed, and what the Redis has of them."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import defaultdict
from pathlib import Path

import orjson
import redis_parts as parts
from redis.asyncio import Redis

TAG = "{grizz}:"
JOBS, GROUP = f"{TAG}jobs", "grizz"
_MAY_STAY = tuple(TAG + name for name in ("history:", "turn:", "heir:"))


class Node(parts.Process):
    """A Grizz process whose log is kept."""

    def __init__(self, number: int, *command: str | Path, folder: Path, runs_jobs: bool, **environ: str) -> None:
        super().__init__(f"Grizz {number}", *command, folder=folder, **environ)
        self.number, self.runs_jobs = number, runs_jobs
        self.log = folder / f"node-{number}.log"
        self.url = ""  # type: ignore[assignment]  # once it serves; what tests/nodes.py asks a node for
        self.ids: set[str] = set()

    async def ready(self) -> None:
        self.url = await super().url()  # type: ignore[assignment]

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def drained(self, within_s: float) -> int | None:
        """SIGTERM, and the exit status; None when it does not end."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                return await self._process.wait()
        return None

    async def _read(self) -> None:
        assert self._process.stdout is not None
        stream = asyncio.StreamReader()
        outer, self._process.stdout = self._process.stdout, stream
        parsed = asyncio.create_task(super()._read())
        try:
            with self.log.open("wb", buffering=0) as out:
                while line := await outer.readline():
                    out.write(line)
                    stream.feed_data(line)
            stream.feed_eof()
            await parsed
        finally:
            parsed.cancel()


class Fleet(contextlib.AsyncExitStack):
    """The processes: those that live, and the one that is to come for each that was killed."""

    def __init__(self, server: parts.Server, upstream: str, folder: Path, settings: dict[str, str]) -> None:
        super().__init__()
        self._server, self._folder = server, folder
        common = {"GRIZZ_UPSTREAM_BASE_URL": upstream, "GRIZZ_UPSTREAM_API_KEY": "none"}
        self._environ = common | {"GRIZZ_UPSTREAM_MODEL": "grizz-demo"} | settings
        self.redis = Redis.from_url(server.url, protocol=2, decode_responses=True)
        self.live: list[Node] = []
        self.all: list[Node] = []
        self._seen: set[str] = set()
        self._starting = asyncio.Lock()

    async def start(self, runs_jobs: bool) -> Node:
        async with self._starting:  # one at a time: the channel that is new is its own
            flags = ("--port", "0", "--redis-url", self._server.url, "--log-format", "text")
            environ = self._environ | ({} if runs_jobs else {"GRIZZ_WORKERS_CONCURRENCY": "0"})
            command = (sys.executable, parts.ROOT / "grizz.py", *flags)
            node = Node(len(self.all), *command, folder=self._folder, runs_jobs=runs_jobs, **environ)
            self.all.append(node)
            await self.enter_async_context(node)
            await node.ready()
            channels = await self.redis.execute_command("PUBSUB", "CHANNELS", f"{TAG}n:*")
            ids = {str(name).removeprefix(f"{TAG}n:") for name in channels}
            node.ids, self._seen = ids - self._seen, self._seen | ids
            self.live.append(node)
            return node

    async def held(self) -> dict[str, set[str]]:
        """Who has which response to run, as it stands in the Redis: node ids by response id."""
        held: dict[str, set[str]] = defaultdict(set)
        async for key in self.redis.scan_iter(f"{TAG}records:*", count=1000):
            names = key.removeprefix(f"{TAG}records:").split(":")
            for response_id in await self.redis.hkeys(key):
                held[response_id].add(names[-1])
        with contextlib.suppress(parts.RedisError):
            pending = await self.redis.xpending_range(JOBS, GROUP, "-", "+", 1000)
            entries = dict(await self.redis.xrange(JOBS, count=1000))
            for row in pending:
                if fields := entries.get(row["message_id"]):
                    held[orjson.loads(fields["job"])["id"]].add(row["consumer"])
        return held

    async def heirs(self) -> dict[str, str]:
        keys = [key async for key in self.redis.scan_iter(f"{TAG}heir:*", count=1000)]
        values = await self.redis.mget(keys) if keys else []
        return {key.removeprefix(f"{TAG}heir:"): value for key, value in zip(keys, values, strict=True) if value}

    async def leftovers(self) -> list[str]:
        """What stands in the Redis that nobody needs any more."""
        left = []
        async for key in self.redis.scan_iter("*", count=1000):
            if key not in (JOBS, f"{TAG}dead") and not key.startswith(_MAY_STAY):
                left.append(key)
        if await self.redis.exists(JOBS):
            for entry, fields in await self.redis.xrange(JOBS):
                left.append(f"entry {entry} of {orjson.loads(fields['job'])['id']}")
            for row in await self.redis.xpending_range(JOBS, GROUP, "-", "+", 1000):
                left.append(f"pending {row['message_id']} of {row['consumer']}")
        return sorted(left)
