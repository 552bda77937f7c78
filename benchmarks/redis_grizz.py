"""What Grizz sends to Redis: real processes, real WebSocket clients, every answer checked word by word."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import orjson
from redis_parts import REPLY_S, ROOT, TEXT, TOKENS, Broken, Process, Server, redis_server

TABS, HOME_REPLIES, TOGETHER = 1000, 20, 20
PER_PROCESS_HOUR = 12
# What is sent after an answer's last event (the settling of its job, its history) has been sent by then.
AFTER_S = 1.5
ENDS = ("response.completed", "response.incomplete", "response.failed", "error")

Say = Callable[[str], None]


class Check(NamedTuple):
    """One promise: what was measured and the most it may be; less than `least` would mean that Redis was not used."""

    name: str
    measured: float
    limit: float
    least: float = 0

    @property
    def kept(self) -> bool:
        return self.least <= self.measured <= self.limit

    @property
    def allowed(self) -> str:
        return f"{self.least:g} to {self.limit:g}" if self.least else f"at most {self.limit:g}"


@contextlib.asynccontextmanager
async def demo(folder: Path) -> AsyncIterator[str]:
    command = (sys.executable, "-m", "grizz.upstream.demo", "--port", "0", "--tokens-per-second", "50")
    async with Process("the demo model", *command, folder=folder) as process:
        yield await process.url()


class Nodes(contextlib.AsyncExitStack):
    """Grizz processes on one Redis, and how many commands each sent to start."""

    def __init__(self, server: Server, upstream: str, folder: Path) -> None:
        super().__init__()
        self._server, self._folder = server, folder
        self._environ = {"OPENAI_BASE_URL": upstream, "OPENAI_API_KEY": "none", "GRIZZ_SERVER_DRAIN_TIMEOUT_S": "1"}
        self.startup: dict[str, dict[str, int]] = {}

    async def start(self, name: str, **settings: str) -> str:
        """Start one with default settings, but for `settings`; returns its address."""
        before = await self._server.count()
        flags = ("--port", "0", "--redis-url", self._server.url, "--log-format", "text")
        command = (sys.executable, ROOT / "grizz.py", *flags)
        process = Process(f"Grizz ({name})", *command, folder=self._folder, **self._environ, **settings)
        url = await (await self.enter_async_context(process)).url()
        await asyncio.sleep(AFTER_S)
        self.startup[name] = dict(await self._server.count() - before)
        return url


async def ask(http: aiohttp.ClientSession, url: str, reply_s: float) -> None:
    """One answer of 500 words within `reply_s`, over a WebSocket of its own.

    Raises:
        Broken: it did not complete, or a word is lost or doubled.
    """
    prompt = f"[[words:{TOKENS}]] [[rate:{TOKENS / reply_s:g}]]"
    parts: list[str] = []
    event: dict[str, Any] = {"type": "no event"}
    async with asyncio.timeout(60), http.ws_connect(f"{url}/v1/responses", max_msg_size=0) as ws:
        await ws.send_json({"type": "response.create", "input": prompt})
        async for message in ws:
            event = orjson.loads(message.data)
            if event["type"] == "response.output_text.delta":
                parts.append(event["delta"])
            elif event["type"] in ENDS:
                break
    if event["type"] != "response.completed":
        raise Broken(f"an answer of Grizz ended with {event['type']}: {str(event)[:300]}")
    if "".join(parts) != TEXT:
        raise Broken(f"an answer of Grizz has lost or doubled words: {len(''.join(parts))} of {len(TEXT)} characters")


@contextlib.asynccontextmanager
async def idle_tabs(http: aiohttp.ClientSession, urls: list[str], count: int) -> AsyncIterator[None]:
    """Open WebSockets that only answer pings, spread over the nodes."""
    sockets: list[aiohttp.ClientWebSocketResponse] = []
    readers: list[asyncio.Task[None]] = []

    async def read(ws: aiohttp.ClientWebSocketResponse) -> None:
        async for _ in ws:
            pass

    try:
        for n in range(count):
            sockets.append(await http.ws_connect(f"{urls[n % len(urls)]}/v1/responses"))
            readers.append(asyncio.create_task(read(sockets[-1])))
        yield
        if lost := sum(ws.closed for ws in sockets):
            raise Broken(f"{lost} of {count} idle tabs were closed")
    finally:
        for at in range(0, count, 100):
            await asyncio.gather(*(ws.close() for ws in sockets[at : at + 100]), return_exceptions=True)
        await asyncio.gather(*readers, return_exceptions=True)


async def idle(server: Server, http: aiohttp.ClientSession, urls: list[str], window_s: float, say: Say) -> dict:
    """Commands of a window with one tab and with 1,000.

    The second window is counted again, once, if it has more: a timer of a process may have fallen into it, while what
    tabs cause comes again.
    """
    counts: dict[str, Any] = {"window_s": window_s, "windows": []}
    for tabs in (1, TABS, TABS):
        say(f"Grizz: {tabs} idle {'tab' if tabs == 1 else 'tabs'} on two nodes, {window_s:g} s")
        async with idle_tabs(http, urls, tabs):
            await asyncio.sleep(AFTER_S)
            commands = await server.during(window_s)
        counts["windows"].append({"tabs": tabs, "commands": dict(commands)})
        counts[str(tabs)] = min(commands.total(), counts.get(str(tabs), math.inf))
        if tabs == TABS and counts[str(TABS)] <= counts["1"]:
            break
    return counts


async def spent(server: Server, before: Counter[str]) -> Counter[str]:
    await asyncio.sleep(AFTER_S)
    return await server.count() - before


async def two_nodes(binary: Path, upstream: str, folder: Path, window_s: float, say: Say) -> dict[str, Any]:
    """A home that runs no jobs and a node that does: idle tabs, then replies that all run on the other node."""
    async with (
        redis_server(binary) as server,
        Nodes(server, upstream, folder) as nodes,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
    ):
        say("Grizz: two nodes start")
        urls = [
            await nodes.start("home", GRIZZ_WORKERS_CONCURRENCY="0"),
            await nodes.start("worker", GRIZZ_WORKERS_CONCURRENCY="32"),
        ]
        idle_counts = await idle(server, http, urls, window_s, say)
        say("Grizz: a lone reply on another node")
        before = await server.count()
        await ask(http, urls[0], REPLY_S)
        lone = await spent(server, before)
        say(f"Grizz: {TOGETHER} replies at once on another node")
        before = await server.count()
        async with asyncio.TaskGroup() as group:
            for _ in range(TOGETHER):
                group.create_task(ask(http, urls[0], REPLY_S))
        together = await spent(server, before)
        return {
            "startup": nodes.startup,
            "idle": idle_counts,
            "lone": lone.total(),
            "lone_commands": dict(lone),
            "together": together.total() / TOGETHER,
            "together_commands": dict(together),
        }


async def one_node(binary: Path, upstream: str, folder: Path, reply_s: float, say: Say) -> dict[str, Any]:
    """Replies one after the other at their home: default settings, free slots, stored history."""
    async with (
        redis_server(binary) as server,
        Nodes(server, upstream, folder) as nodes,
        aiohttp.ClientSession() as http,
    ):
        url = await nodes.start("alone")
        before, began = await server.count(), time.monotonic()
        for n in range(HOME_REPLIES):
            await ask(http, url, reply_s)
            say(f"Grizz: reply {n + 1} of {HOME_REPLIES} at home")
        commands = await spent(server, before)
        return {
            "startup": nodes.startup,
            "home": commands.total() / HOME_REPLIES,
            "home_commands": dict(commands),
            "home_reply_s": (time.monotonic() - began) / HOME_REPLIES,
        }


async def timers(folder: Path) -> list[str]:
    """The timed settings of Grizz's Redis section, as it prints them itself."""
    command = (sys.executable, str(ROOT / "grizz.py"), "--check-config")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, cwd=folder, stdout=pipe, stderr=asyncio.subprocess.DEVNULL)
    text = (await process.communicate())[0].decode()
    section = text.partition("[redis]\n")[2].partition("\n\n")[0]
    rows = [line.split() for line in section.splitlines()]
    return [f"{row[0]} = {row[1]}" for row in rows if row[0].endswith(("_s", "_ms"))]


def checks(pair: dict[str, Any] | None, single: dict[str, Any] | None) -> list[Check]:
    """Every promise that could be measured."""
    found: list[Check] = []
    started = {**(pair or {}).get("startup", {}), **(single or {}).get("startup", {})}
    for name, commands in started.items():
        found.append(Check(f"start of a process ({name})", sum(commands.values()), 8, 1))
    if pair:
        one, many, window_s = pair["idle"]["1"], pair["idle"][str(TABS)], pair["idle"]["window_s"]
        # All windows and both processes together: even a command a minute from each would show.
        process_s = 2 * window_s * len(pair["idle"]["windows"])
        in_all = sum(sum(window["commands"].values()) for window in pair["idle"]["windows"])
        allowed = max(1, math.ceil(PER_PROCESS_HOUR * process_s / 3600))
        found += [
            Check(f"{TABS:,} idle tabs more than 1 idle tab, in {window_s:g} s", max(0, many - one), 0),
            Check(f"idle processes, in {process_s:g} process-seconds", in_all, allowed),
            Check("a lone reply on another node", pair["lone"], 50, 1),
            Check(f"a reply on another node, {TOGETHER} at once", pair["together"], 4, 1),
        ]
    if single:
        found.append(Check(f"a reply at home, mean of {HOME_REPLIES}", single["home"], 3, 1))
    return found
