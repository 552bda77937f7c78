"""The chat page before several nodes: it goes on through a dead node, and says when its server works alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from tests.browser.conftest import CHROMIUM
from tests.nodes import Node, nodes_on
from tests.redis_servers import RedisServer

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
    pytest.mark.timeout(120),
]


class Balancer:
    """One address for several nodes, as a load balancer gives: a connection goes to the first node that takes it."""

    def __init__(self, nodes: list[Node]) -> None:
        self._nodes = nodes
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            for node in self._nodes:
                try:
                    upstream = await asyncio.open_connection("127.0.0.1", int(node.url.rpartition(":")[2]))
                except OSError:
                    continue
                await asyncio.gather(_copy(reader, upstream[1]), _copy(upstream[0], writer))
                return
        finally:
            writer.close()
            self._tasks.discard(task)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        return
    finally:
        writer.close()


async def test_an_answer_goes_on_at_another_node_and_says_that_it_was_interrupted(
    own_redis: RedisServer, tmp_path: Path, browser: Browser
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes:
        names = {"server__allowed_hosts": "127.0.0.1"}
        both = [await nodes.start(**names), await nodes.start(**names)]
        async with Balancer(both) as url:
            page = await browser.new_page()
            await page.goto(url)
            await page.wait_for_selector("#connection[data-state=live]")
            await page.fill("#composer", "[[words:150]] [[rate:25]]")
            await page.press("#composer", "Enter")
            answer = page.get_by_test_id("answer").last
            await expect(answer).to_contain_text("w20", timeout=15_000)
            both[0].kill()
            await expect(answer).to_contain_text("Interrupted attempt", timeout=20_000)
            await expect(answer).to_contain_text("w149", timeout=30_000)
            await expect(page.locator("#connection")).to_have_text("live")
            await page.screenshot(path=tmp_path / "interrupted.png")
            await asyncio.to_thread(own_redis.kill)
            await expect(page.locator("#connection")).to_have_text("live, degraded", timeout=40_000)
            await page.screenshot(path=tmp_path / "degraded.png")
