"""The processes: a model, a Redis where there are several of Grizz, and what can be asked of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from tests.nodes import ROOT, Node
from tests.redis_servers import RedisServer

CHILD: dict[str, Any] = {"cwd": "/", "start_new_session": True, "stdin": subprocess.DEVNULL}
# How long it may take until nothing is left of a fault: Redis is tried again after up to 30 s.
SETTLED_S = 35.0


class Broken(Exception):
    """The suite itself cannot do what it must."""


def environ(**settings: object) -> dict[str, str]:
    """The environment of a child: nothing of the machine's owner, and `section__key=value` as variables."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("GRIZZ_", "OPENAI_"))}
    ours = {"GRIZZ_" + key.upper().replace("__", "_"): str(value) for key, value in settings.items()}
    return kept | {"PYTHONPATH": str(ROOT)} | ours


class Model:
    """The demo model as a process of its own."""

    def __init__(self, folder: Path) -> None:
        log = folder / f"model-{id(self)}.log"
        with log.open("wb") as out:
            command = [sys.executable, "-m", "grizz.upstream.demo"]
            self.popen = subprocess.Popen(command, stdout=out, stderr=out, env=environ(), **CHILD)
        self._log = log
        self.url = ""

    async def ready(self) -> None:
        async with asyncio.timeout(60):
            while not (match := re.search(r"http://\S+", self._log.read_text())):
                if self.popen.poll() is not None:
                    raise Broken(f"the model did not start: {self._log.read_text()}")
                await asyncio.sleep(0.02)
        self.url = match[0]

    async def stats(self, http: aiohttp.ClientSession) -> dict[str, Any]:
        async with http.get(self.url.removesuffix("/v1") + "/demo/stats") as answer:
            stats: dict[str, Any] = await answer.json()
            return stats

    def stop(self) -> None:
        self.popen.kill()
        self.popen.wait()


class Fleet:
    """Processes of Grizz that belong together.

    Attributes:
        live: those that should be well.
        held: sockets of its own that the suite has open, beside those of its askers.
    """

    def __init__(self, folder: Path, model: Model, redis: RedisServer | None, **settings: object) -> None:
        self.folder, self.model, self.redis = folder, model, redis
        self.settings: dict[str, object] = {
            "upstream__base_url": model.url,
            "upstream__api_key": "none",
            "upstream__model": "grizz-demo",
            **({"redis__url": redis.url} if redis else {}),
            **settings,
        }
        self.live: list[Node] = []
        self._all: list[Node] = []

    def launch(self, *launcher: str, **settings: object) -> Node:
        """Start one without waiting for it; `launcher` is what Python runs instead of grizz.py."""
        command = [sys.executable, *(launcher or (str(ROOT / "grizz.py"),)), "--port", "0", "--log-format", "text"]
        log = self.folder / f"node-{id(self)}-{len(self._all)}.log"
        with log.open("wb") as out:
            # Fleets side by side have a history each; only one process can have a file.
            env = environ(**(self.settings | settings)) | {"XDG_STATE_HOME": str(self.folder / f"state-{id(self)}")}
            node = Node(subprocess.Popen(command, stdout=out, stderr=out, env=env, **CHILD), log)
        self._all.append(node)
        return node

    async def start(self, *launcher: str, **settings: object) -> Node:
        """Start one more, and wait until it serves."""
        node = self.launch(*launcher, **settings)
        await node.ready()
        self.live.append(node)
        return node

    async def complete(self) -> None:
        """Wait until all that should be well serve."""
        for node in self.live:
            if not node.url:
                await node.ready()

    def stop(self) -> None:
        for node in self._all:
            if node.popen.poll() is None:
                node.kill()

    def logs(self) -> str:
        return "\n".join(f"--- {node.url}\n{node.log}" for node in self._all)

    async def troubles(self, http: aiohttp.ClientSession, held: int = 0) -> list[str]:
        """What is not as it should be once nobody asks anything; waits a while for it to become so.

        Args:
            held: sockets that the suite has open at the moment.
        """
        deadline = time.monotonic() + SETTLED_S
        while True:
            found = [f"the process at {node.url} ended" for node in self.live if node.popen.poll() is not None]
            if found:
                return found
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                found = await self._look(http, held)
                if not found:
                    return []
            if time.monotonic() > deadline:
                return found or ["a process does not answer"]
            await asyncio.sleep(0.1)

    async def _look(self, http: aiohttp.ClientSession, held: int) -> list[str]:
        found = []
        sockets = 0
        for node in self.live:
            async with http.get(f"{node.url}/readyz") as answer:
                body = await answer.json()
                if answer.status != 200 or body.get("degraded"):
                    found.append(f"/readyz says {answer.status} {body}")
            numbers = await metrics(http, node)
            sockets += int(numbers["grizz_connections_open"])
            errors = sum(value for name, value in numbers.items() if name.startswith("grizz_unhandled_errors_total"))
            if errors:
                found.append(f"{errors:.0f} unhandled errors at {node.url}")
            if lost := numbers["grizz_events_lost_total"]:
                found.append(f"{lost:.0f} events lost at {node.url}, as it says itself")
            for name in ("grizz_jobs_running", 'grizz_queue_depth{state="ready"}'):
                if numbers[name]:
                    found.append(f"{name} is {numbers[name]:.0f} at {node.url}")
        if sockets != held:
            found.append(f"{sockets} sockets are open instead of {held}")
        if active := (await self.model.stats(http))["active"]:
            found.append(f"{active} requests of the model are still open")
        return found


async def metrics(http: aiohttp.ClientSession, node: Node) -> dict[str, float]:
    async with http.get(f"{node.url}/metrics") as answer:
        lines = [line.rpartition(" ") for line in (await answer.text()).splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


@contextlib.asynccontextmanager
async def model_of(folder: Path) -> AsyncIterator[Model]:
    """A model."""
    model = Model(folder)
    try:
        await model.ready()
        yield model
    finally:
        model.stop()


@contextlib.asynccontextmanager
async def fleet_of(
    folder: Path,
    count: int,
    *launcher: str,
    model: Model | None = None,
    redis: RedisServer | None = None,
    **settings: object,
) -> AsyncIterator[Fleet]:
    """That many processes, with a model of their own unless one is given."""
    async with contextlib.AsyncExitStack() as stack:
        if model is None:
            model = await stack.enter_async_context(model_of(folder))
        fleet = Fleet(folder, model, redis, **settings)
        stack.callback(fleet.stop)
        fleet.live += [fleet.launch(*launcher) for _ in range(count)]
        await fleet.complete()
        yield fleet
