"""Grizz in this process with several upstreams, and what its metrics say."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from grizz.app import App
from grizz.config import load
from grizz.upstream.demo import DemoServer
from tests.player import Player


def dead_url() -> str:
    """The URL of a port on which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{held.getsockname()[1]}/v1"


class Several:
    """Grizz, a client on it, and the demo servers among its upstreams by name."""

    def __init__(self, app: App, port: int, http: aiohttp.ClientSession) -> None:
        self.app = app
        self.url = f"http://127.0.0.1:{port}"
        self.http = http
        self.demos: dict[str, DemoServer] = {}

    async def player(self) -> Player:
        """A connection."""
        return await Player.connect(self.http, f"{self.url.replace('http', 'ws', 1)}/v1/responses")

    async def spend(self, name: str, text: str) -> None:
        """Let a demo server see a message with `[[times:1]]` once, so that there it goes wrong no more."""
        body = {"model": "grizz-demo", "stream": True, "messages": [{"role": "user", "content": text}]}
        with contextlib.suppress(aiohttp.ClientError):
            async with self.http.post(f"{self.demos[name].url}/chat/completions", json=body) as response:
                await response.read()
        self.demos[name].reset()

    def asked(self) -> dict[str, int]:
        """How many requests each demo server got."""
        return {name: demo.requests for name, demo in self.demos.items()}

    async def metric(self, name: str, **labels: str) -> float:
        """The value of one series."""
        async with self.http.get(f"{self.url}/metrics") as response:
            text = await response.text()
        found = [
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert len(found) == 1, f"{name} {labels}: {found}"
        return found[0]

    async def breaker(self, upstream: str) -> str:
        """The state that the metrics show."""
        states = ("closed", "open", "half_open")
        shown = [s for s in states if await self.metric("grizz_breaker_state", upstream=upstream, state=s)]
        assert len(shown) == 1
        return shown[0]


@asynccontextmanager
async def running(upstreams: Mapping[str, Mapping[str, object]], **overrides: object) -> AsyncIterator[Several]:
    """Start it. An upstream without `base_url` gets a demo server of its own; overrides are as in `running_grizz`."""
    async with AsyncExitStack() as stack:
        demos: dict[str, DemoServer] = {}
        environ: dict[str, str] = {}
        for name, given in upstreams.items():
            settings: dict[str, Any] = dict(given)
            if "base_url" not in settings:
                demos[name] = DemoServer(tokens_per_second=0)
                await demos[name].start()
                stack.push_async_callback(demos[name].stop)
                settings["base_url"] = demos[name].url
            for key, value in settings.items():
                environ[f"GRIZZ_UPSTREAMS_{name.upper()}_{key.upper()}"] = str(value)
        flags: dict[str, object] = {"server.port": 0, "server.drain_timeout_s": 0.2, "upstream.model": "grizz-demo"}
        flags["history.store"] = "memory"
        flags |= {key.replace("__", "."): value for key, value in overrides.items()}
        app = App(load(flags, environ, None).settings)
        stack.push_async_callback(app.stop)
        port = await app.start()
        stack.push_async_callback(app.drain)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        several = Several(app, port, http)
        several.demos = demos
        yield several
