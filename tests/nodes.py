"""Several Grizz processes on one Redis, and clients that come back: what the fault tests are made of."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from grizz.upstream.demo import DemoServer
from tests.forks import Fork
from tests.player import TERMINAL, text_of

ROOT = Path(__file__).parent.parent
PROTOCOLS = ("responses", "grizz")
Event = dict[str, Any]


class Node:
    """One process. Its log is read by a task, so that the pipe never fills."""

    def __init__(self, popen: Fork | subprocess.Popen[bytes], log: Path) -> None:
        self.popen = popen
        self._log = log
        self.url = ""

    @property
    def log(self) -> str:
        """What it has written."""
        return self._log.read_text()

    async def ready(self, within_s: float = 60) -> None:
        """Wait until it listens."""
        async with asyncio.timeout(within_s):
            while (match := re.search(r"url=(http://\S+?)/(\s|$)", self.log)) is None:
                assert self.popen.poll() is None, self.log
                await asyncio.sleep(0.02)
        self.url = match[1]

    def signal(self, number: int) -> None:
        """Send a signal to this process only."""
        self.popen.send_signal(number)

    def kill(self) -> None:
        """As the kernel would: at once, without a word."""
        self.popen.kill()
        self.popen.wait()

    async def end(self, within_s: float = 30) -> int:
        """SIGTERM, and wait for the end; the exit status."""
        self.popen.terminate()
        return await asyncio.to_thread(self.popen.wait, within_s)


def forked(environ: Mapping[str, str], log: Path, *arguments: str) -> Node:
    """Start one with that environment, without waiting for it; it writes its log there."""
    return Node(Fork(["--port", "0", "--log-format", "text", *arguments], environ, log), log)


class Nodes:
    """Starts nodes that share a Redis and a model that is counted."""

    def __init__(self, redis_url: str, demo: DemoServer, directory: Path) -> None:
        self.redis_url = redis_url
        self.demo = demo
        self._directory = directory
        self.all: list[Node] = []

    async def start(self, *arguments: str, redis_url: str | None = None, **settings: object) -> Node:
        """Start one; settings are `section__key=value`."""
        node = self.launch(*arguments, redis_url=redis_url, **settings)
        await node.ready()
        return node

    def launch(self, *arguments: str, redis_url: str | None = None, **settings: object) -> Node:
        """Start one without waiting for it."""
        environ = self.environ(redis_url=redis_url, **settings)
        node = forked(environ, self._directory / f"node-{len(self.all)}.log", *arguments)
        self.all.append(node)
        return node

    def environ(self, *, redis_url: str | None = None, **settings: object) -> dict[str, str]:
        """What such a node finds in its environment."""
        environ = {**os.environ, "GRIZZ_UPSTREAM_BASE_URL": self.demo.url, "GRIZZ_UPSTREAM_API_KEY": "test"}
        environ |= {"GRIZZ_UPSTREAM_MODEL": "grizz-demo", "GRIZZ_REDIS_URL": redis_url or self.redis_url}
        environ["GRIZZ_HISTORY_STORE"] = "redis"
        return environ | {"GRIZZ_" + key.upper().replace("__", "_"): str(value) for key, value in settings.items()}

    def stop(self) -> None:
        """Kill what still runs."""
        for node in self.all:
            if node.popen.poll() is None:
                node.popen.send_signal(signal.SIGCONT)
                node.popen.kill()
            node.popen.wait()

    def logs(self) -> str:
        """Everything every node has written, for a failing test."""
        return "\n".join(f"--- node {index} {node.url}\n{node.log}" for index, node in enumerate(self.all))


@asynccontextmanager
async def nodes_on(redis_url: str, directory: Path, tokens_per_second: float = 0) -> AsyncIterator[Nodes]:
    """Nodes on that Redis, all with the same demo model, which runs here and counts its requests."""
    demo = DemoServer(tokens_per_second=tokens_per_second)
    await demo.start()
    nodes = Nodes(redis_url, demo, directory)
    try:
        yield nodes
    except BaseException:
        print(nodes.logs())
        raise
    finally:
        nodes.stop()
        await demo.stop()


class Client:
    """A client as ours behave: it resumes where it was, at any node, until it has the end.

    Attributes:
        events: every event of the response, in the order it came.
        attached: the `grizz:attached` notices.
        denied: the answers that a response is unknown, which it never is.
        closes: the close codes seen.
        pauses: the longest silence between two events, in seconds.
    """

    def __init__(self, http: aiohttp.ClientSession, nodes: list[Node]) -> None:
        self._http = http
        self.nodes = nodes
        self.events: list[Event] = []
        self.attached: list[Event] = []
        self.errors: list[Event] = []
        self.denied: list[Event] = []
        self.closes: list[int | None] = []
        self.longest_pause_s = 0.0
        self.headers: dict[str, str] = {}
        self.response_id = ""
        self.last = -1
        self._last_at = 0.0

    async def ask(self, text: str, within_s: float = 40, **fields: Any) -> list[Event]:
        """Ask at the first node, go on at the others; all events up to the terminal one."""
        async with asyncio.timeout(within_s):
            turn = 0
            while True:
                node = self.nodes[turn % len(self.nodes)]
                try:
                    if await self._once(node, text, fields):
                        return self.events
                except (aiohttp.ClientError, OSError):
                    self.closes.append(None)
                turn += 1
                await asyncio.sleep(0.2)

    async def _once(self, node: Node, text: str, fields: dict[str, Any]) -> bool:
        url = node.url.replace("http", "ws") + "/v1/responses"
        options = {"headers": self.headers} if self.headers else {}
        async with self._http.ws_connect(url, protocols=PROTOCOLS, max_msg_size=0, **options) as ws:
            if self.response_id:
                attach = {"type": "grizz:attach", "response_id": self.response_id, "starting_after": self.last}
                await ws.send_json(attach)
            else:
                await ws.send_json({"type": "response.create", "input": text, **fields})
            self._last_at = time.monotonic()
            async for message in ws:
                if self._take(message.json()):
                    return True
                if self.errors and self.errors[-1]["error"]["code"] == "response_not_found":
                    self.denied.append(self.errors.pop())
                    return False
            self.closes.append(ws.close_code)
        return False

    def _take(self, event: Event) -> bool:
        kind = event["type"]
        if kind == "grizz:attached":
            self.attached.append(event)
            return False
        if kind.startswith("grizz:"):
            return False  # about the connection or the queue: no event of the response
        if kind == "error":
            self.errors.append(event)
            return event["error"]["code"] not in ("response_not_found", "server_is_overloaded")
        now = time.monotonic()
        self.longest_pause_s = max(self.longest_pause_s, now - self._last_at)
        self._last_at = now
        if "response" in event:
            self.response_id = event["response"]["id"]
        self.events.append(event)
        self.last = event["sequence_number"]
        return kind in TERMINAL

    @property
    def text(self) -> str:
        """The text of the last attempt: what a page shows at the end."""
        start = max((i for i, e in enumerate(self.events) if e["type"] == "response.created"), default=0)
        return text_of(self.events[start:])

    def check(self) -> None:
        """Every event once and in order, one terminal event, nothing after it."""
        numbers = [event["sequence_number"] for event in self.events]
        assert numbers == sorted(set(numbers)), f"out of order or doubled: {numbers}"
        pairs = zip(numbers, self.events[1:], strict=False)
        jumps = [(a, e["sequence_number"]) for a, e in pairs if not _follows(a, e)]
        assert not jumps, f"gaps: {jumps}"
        terminal = [event["type"] for event in self.events if event["type"] in TERMINAL]
        assert len(terminal) == 1 and self.events[-1]["type"] == terminal[0], terminal
        assert not self.errors and not self.denied, [*self.errors, *self.denied]


def _follows(before: int, event: Event) -> bool:
    """May it come right after that number? What begins anew has a higher one, as has a delta that stands for several.

    Who takes a write slowly gets deltas as one (a word at least for each): on a machine that is held up, anybody may.
    """
    number, skipped = event["sequence_number"], event["sequence_number"] - before - 1
    merged = event["type"] == "response.output_text.delta" and len(event["delta"].split()) > skipped
    return skipped == 0 or number % 1_000_000 == 0 or merged


async def metric(http: aiohttp.ClientSession, node: Node, name: str) -> float:
    """A figure without labels, as a scrape shows it."""
    async with http.get(f"{node.url}/metrics") as answer:
        for line in (await answer.text()).splitlines():
            if line.startswith(name + " "):
                return float(line.split()[-1])
    raise AssertionError(f"no metric {name}")


async def busy_one(http: aiohttp.ClientSession, nodes: Sequence[Node]) -> Node:
    """The one of these that runs an answer."""
    (busy,) = [node for node in nodes if await metric(http, node, "grizz_jobs_running")]
    return busy
