"""The chat page through what happens to servers: killed, restarted, deployed, gone for a while."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.conftest import ANSWER, CHROMIUM, LIVE, answered, ask
from tests.player import numbers
from tests.restarts import House, house_in

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
    pytest.mark.timeout(180),
]

PILL = "#connection"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Processes that follow each other at one address, as with systemd."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with house_in(tmp_path, server__port=port, server__drain_timeout_s=0.2) as house:
        await house.start()
        yield house


@pytest.fixture
async def page(browser: Browser, house: House) -> Page:
    page = await browser.new_page()
    await page.goto(house.node.url)
    await page.wait_for_selector(LIVE)
    return page


async def until_it_writes(page: Page) -> None:
    await ask(page, "[[words:120]] [[rate:40]]")
    await expect(page.locator(f"{ANSWER} .text")).to_contain_text("w9 ")


async def test_a_killed_server_comes_back_and_its_answer_is_whole(page: Page, house: House) -> None:
    await until_it_writes(page)
    house.node.kill()
    await expect(page.locator(PILL)).to_contain_text("reconnecting")
    await expect(page.locator(f"{ANSWER} .text")).to_contain_text("w9 ")  # what was shown stays
    await house.start()
    assert await answered(page) == numbers(120).strip()
    await page.reload()
    await page.wait_for_selector(LIVE)
    assert await answered(page) == numbers(120).strip()
    await ask(page, "[[echo:and on]]")
    assert await answered(page) == "and on"


async def test_a_deploy_is_told_in_words_and_its_answer_is_whole(page: Page, house: House) -> None:
    await until_it_writes(page)
    house.node.popen.send_signal(signal.SIGTERM)
    await expect(page.locator(PILL)).to_have_text("server restarting")
    await asyncio.to_thread(house.node.popen.wait, 30)
    await house.start()
    await expect(page.locator(PILL)).to_have_text("live", timeout=30_000)
    assert await answered(page) == numbers(120).strip()


async def test_what_is_asked_while_the_server_is_away_waits_for_it(page: Page, house: House) -> None:
    house.node.kill()
    await expect(page.locator(PILL)).not_to_have_text("live")
    await ask(page, "[[echo:at last]]")
    await expect(page.locator(f"{ANSWER} .wait")).to_have_text("Waiting for the connection")
    await house.start()
    assert await answered(page) == "at last"
    assert house.demo.requests == 1
