"""Real parts for every test: Grizz in this process or as a process of its own, always on free ports of loopback."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from grizz.app import App
from grizz.config import load
from grizz.upstream.demo import DemoServer
from tests.redis_fixtures import own_redis, redis_process, redis_server  # noqa: F401

ROOT = Path(__file__).parent.parent

# Tests must not depend on, nor spend, what the machine's owner has set.
for name in [name for name in os.environ if name.startswith(("OPENAI_", "GRIZZ_"))]:
    del os.environ[name]
# Nor leave a file in the home of who runs them: a test about the file says where it is. One with a Redis says so too.
os.environ["GRIZZ_HISTORY_STORE"] = "memory"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the tests that mostly wait (for leases, for silence) over all others: both cores have work to the end."""
    waiting = [item for item in items if item.path.parent.name == "faults"]
    working = [item for item in items if item.path.parent.name != "faults"]
    places = {item: (place + 0.5) / len(group) for group in (waiting, working) for place, item in enumerate(group)}
    items.sort(key=places.__getitem__)


class Grizz:
    """Grizz in this process, with the demo model behind it at full speed."""

    def __init__(self, app: App, demo: DemoServer, port: int) -> None:
        self.app = app
        self.demo = demo
        self.url = f"http://127.0.0.1:{port}"
        self.ws_url = f"ws://127.0.0.1:{port}/v1/responses"


@asynccontextmanager
async def running_grizz(environ: Mapping[str, str] | None = None, **overrides: object) -> AsyncIterator[Grizz]:
    """Start Grizz here; overrides are dotted settings with `__` for the dot, such as `workers__concurrency=1`.

    What no flag may carry, such as keys and secrets, goes into `environ`.
    """
    demo = DemoServer(tokens_per_second=0)
    await demo.start()
    flags: dict[str, object] = {"server.port": 0, "server.drain_timeout_s": 0.2, "upstream.model": "grizz-demo"}
    flags |= {key.replace("__", "."): value for key, value in overrides.items()}
    if "redis.url" not in flags:
        flags.setdefault("history.store", "memory")
    environ = {"GRIZZ_UPSTREAM_BASE_URL": demo.url, "GRIZZ_UPSTREAM_API_KEY": "test", **(environ or {})}
    app = App(load(flags, environ, None).settings)
    try:
        port = await app.start()
        yield Grizz(app, demo, port)
        await app.drain()
    finally:
        await app.stop()
        await demo.stop()
        await asyncio.sleep(0)
        left = [
            task for task in asyncio.all_tasks() if task.get_name().startswith(("grizz:", "worker:", "connection:"))
        ]
        assert not left, f"tasks outlived Grizz: {left}"


@pytest.fixture
async def grizz() -> AsyncIterator[Grizz]:
    """Grizz with default settings."""
    async with running_grizz() as running:
        yield running


@pytest.fixture
async def start_grizz() -> AsyncIterator[Callable[..., Awaitable[Grizz]]]:
    """Start Grizz with settings of the test's own: `await start_grizz(workers__concurrency=1)`."""
    exits: list[Any] = []

    async def start(**overrides: object) -> Grizz:
        context = running_grizz(**overrides)
        running = await context.__aenter__()
        exits.append(context)
        return running

    yield start
    for context in reversed(exits):
        await context.__aexit__(None, None, None)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP and WebSocket client."""
    async with aiohttp.ClientSession() as session:
        yield session


class Process:
    """`python grizz.py` as a user starts it."""

    def __init__(self, *arguments: str, environ: dict[str, str] | None = None) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, str(ROOT / "grizz.py"), "--port", "0", "--log-format", "text", *arguments],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            cwd="/",
            env={**os.environ, **(environ or {})},
        )
        self.log: list[str] = []
        self.url = self._wait_for_url()

    def _wait_for_url(self) -> str:
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            self.log.append(line)
            if match := re.search(r"""url(?:=|": ")(https?://\S+?)/(\s|"|$)""", line):
                return match[1]
        raise AssertionError(f"Grizz did not start: {self.log}")

    def end(self, number: int = signal.SIGTERM, within_s: float = 30) -> int:
        """Send a signal, wait for the end, keep the rest of the log; returns the exit status."""
        self.popen.send_signal(number)
        _, rest = self.popen.communicate(timeout=within_s)
        self.log += rest.splitlines(keepends=True)
        return self.popen.returncode


@pytest.fixture
def start_process() -> Iterator[Callable[..., Process]]:
    """Start Grizz as a process: `start_process("--demo", environ={...})`; killed at the end if it still runs."""
    started: list[Process] = []

    def start(*arguments: str, environ: dict[str, str] | None = None) -> Process:
        started.append(Process(*arguments, environ=environ))
        return started[-1]

    yield start
    for process in started:
        if process.popen.poll() is None:
            process.popen.kill()
        process.popen.communicate()
