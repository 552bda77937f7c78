"""One Grizz process after the other on the same file: what the restart tests are made of."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from grizz.upstream.demo import DemoServer
from tests.nodes import Client, Node, forked


class House:
    """Starts processes on one file, with a model that outlives them and is counted.

    Attributes:
        file: the history's.
        demo: the model.
        node: the process that runs, or the last one.
    """

    def __init__(self, directory: Path, demo: DemoServer, settings: dict[str, object]) -> None:
        self.file = directory / "state" / "grizz.db"
        self.demo = demo
        self._directory = directory
        self._settings = settings
        self._all: list[Node] = []

    @property
    def node(self) -> Node:
        return self._all[-1]

    async def start(self, **settings: object) -> Node:
        """Start the next process and wait for it; settings are `section__key=value`."""
        self.launch(**settings)
        await self.node.ready(within_s=90)
        return self.node

    def launch(self, **settings: object) -> None:
        """Start the next process."""
        environ = {**os.environ, "GRIZZ_UPSTREAM_BASE_URL": self.demo.url, "GRIZZ_UPSTREAM_API_KEY": "test"}
        environ |= {"GRIZZ_UPSTREAM_MODEL": "grizz-demo"}
        environ |= {"GRIZZ_HISTORY_STORE": "sqlite", "GRIZZ_HISTORY_PATH": str(self.file)}
        given = self._settings | settings
        environ |= {"GRIZZ_" + key.upper().replace("__", "_"): str(value) for key, value in given.items()}
        port = ["--port", str(given["server__port"])] if "server__port" in given else []
        self._all.append(forked(environ, self._directory / f"process-{len(self._all)}.log", *port))

    async def killed(self, client: Client | None = None, **settings: object) -> Node:
        """kill -9 and start the next one, to which the client comes back."""
        self.node.kill()
        node = await self.start(**settings)
        if client is not None:
            client.nodes[:] = [node]
        return node

    def rows(self, query: str) -> list[Any]:
        """What stands in the file."""
        db = sqlite3.connect(self.file)
        try:
            return db.execute(query).fetchall()
        finally:
            db.close()

    def stop(self) -> None:
        """Kill what still runs."""
        for node in self._all:
            if node.popen.poll() is None:
                node.kill()

    def logs(self) -> str:
        """Everything that was logged, for a failing test."""
        return "\n".join(f"--- process {index}\n{node.log}" for index, node in enumerate(self._all))


@asynccontextmanager
async def house_in(directory: Path, **settings: object) -> AsyncIterator[House]:
    """A house whose processes keep their history in that directory."""
    demo = DemoServer(tokens_per_second=0)
    await demo.start()
    house = House(directory, demo, settings)
    try:
        yield house
    except BaseException:
        print(house.logs())
        raise
    finally:
        house.stop()
        await demo.stop()


async def get(http: aiohttp.ClientSession, url: str) -> tuple[int, Any]:
    """Status and body."""
    async with http.get(url) as answer:
        return answer.status, await answer.json()
