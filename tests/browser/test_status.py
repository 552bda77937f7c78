"""The status page in a real Chromium, before a real Grizz."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import Browser, Page, expect

from tests.accounts import ACCOUNTS, ALICE
from tests.browser.conftest import CHROMIUM
from tests.conftest import Grizz
from tests.several import dead_url, running

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
    pytest.mark.timeout(120),
]

SCREENS = {"phone": {"width": 360, "height": 780}, "desktop": {"width": 1440, "height": 1000}}
# A machine that has too much to do is not well, and the page says so.
WELL = re.compile("All is well|The event loop")
ROLLS_AWAY = "document.documentElement.scrollWidth > document.documentElement.clientWidth"


@pytest.fixture
async def complaints() -> AsyncIterator[list[str]]:
    """What the page wrote to the console, and what it asked another host; nothing, that is."""
    said: list[str] = []
    yield said
    assert said == []


async def visit(browser: Browser, url: str, complaints: list[str], **context: object) -> Page:
    page = await (await browser.new_context(**context)).new_page()
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(url) else complaints.append(request.url))
    await page.goto(f"{url}/status")
    return page


def tile(page: Page, name: str):
    return page.locator(f'[data-tile="{name}"]')


async def ask(http: aiohttp.ClientSession, url: str, text: str) -> None:
    async with http.post(f"{url}/v1/responses", json={"input": text, "stream": True}) as answer:
        await answer.read()


def fill_the_hour(grizz: Grizz) -> None:
    """As after a while: samples of what the process shows now."""
    vitals = grizz.app.server._status._vitals
    for _ in range(60):
        vitals._hour.add(vitals._reading())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
async def test_it_shows_live_values_and_fits_the_screen(
    scheme: str, screen: str, browser: Browser, grizz: Grizz, http: aiohttp.ClientSession, complaints, tmp_path: Path
) -> None:
    await ask(http, grizz.url, "[[words:30]] [[rate:100]]")
    fill_the_hour(grizz)
    page = await visit(browser, grizz.url, complaints, viewport=SCREENS[screen], color_scheme=scheme)
    await expect(page.locator("#headline")).to_have_text(WELL)
    await expect(tile(page, "tokens").locator(".note")).to_have_text("1 answer in the last hour")
    await expect(tile(page, "queue").locator(".level")).to_have_text("good")
    await expect(tile(page, "connections").locator(".value")).to_have_text("0WebSockets")
    async with http.ws_connect(grizz.ws_url):
        await expect(tile(page, "connections").locator(".value")).to_have_text("1WebSockets", timeout=15_000)
    assert not await page.evaluate(ROLLS_AWAY), "the page is wider than the screen"
    await page.screenshot(path=tmp_path / f"status-{screen}-{scheme}.png", full_page=True)


async def test_a_chart_is_told_in_words_and_read_by_keyboard_and_pointer(
    browser: Browser, grizz: Grizz, http: aiohttp.ClientSession, complaints
) -> None:
    await ask(http, grizz.url, "[[words:30]] [[rate:100]]")
    fill_the_hour(grizz)
    page = await visit(browser, grizz.url, complaints)
    figure = page.locator("figure").first
    chart = figure.locator("svg")
    await expect(chart).to_have_attribute("role", "img")
    label = await chart.get_attribute("aria-label") or ""
    assert label.startswith("First token") and "p95: from" in label and "last" in label, label
    assert await figure.locator(".cursor").count() == 0
    await chart.focus()
    await page.keyboard.press("ArrowLeft")
    await expect(figure.locator(".cursor")).to_have_count(1)
    by_key = await figure.locator("figcaption").inner_text()
    assert ":" in by_key
    await page.keyboard.press("Escape")
    await expect(figure.locator(".cursor")).to_have_count(0)
    await chart.hover()
    await expect(figure.locator(".cursor")).to_have_count(1)


async def test_what_is_wrong_stands_at_the_top_and_beside_its_tile(
    browser: Browser, http: aiohttp.ClientSession, complaints, tmp_path: Path
) -> None:
    upstreams = {"dead": {"base_url": dead_url(), "breaker_failures": 1, "max_retries": 0}, "spare": {}}
    async with running(upstreams) as several:
        await ask(http, several.url, "[[words:3]]")
        page = await visit(browser, several.url, complaints)
        await expect(page.locator("#headline")).to_contain_text(
            re.compile("The breaker of dead is open|The event loop")
        )
        await expect(page.locator("#verdict")).to_contain_text("The breaker of dead is open")
        await expect(page.locator("#verdict")).to_have_attribute("data-level", re.compile("warn|bad"))
        await expect(tile(page, "upstreams").locator(".value")).to_have_text("1of 2")
        await expect(tile(page, "upstreams").locator(".level")).to_have_text("warning")
        await expect(page.locator("#upstreams tbody tr").first).to_contain_text("dead")
        await page.screenshot(path=tmp_path / "breaker.png", full_page=True)


async def test_when_the_server_is_gone_it_says_since_when_and_shows_the_last_state(
    browser: Browser, start_process, tmp_path: Path
) -> None:
    process = start_process("--demo")
    page = await visit(browser, process.url, [])
    await expect(page.locator("#headline")).to_have_text(WELL)
    await asyncio.to_thread(process.end)
    away = page.locator("#away")
    await expect(away).to_contain_text("Server not reachable since", timeout=15_000)
    await expect(away).to_contain_text("showing the last state")
    await expect(tile(page, "queue")).to_be_visible()
    await page.screenshot(path=tmp_path / "away.png")


async def test_a_page_that_nobody_sees_asks_nothing(browser: Browser, grizz: Grizz, complaints) -> None:
    page = await visit(browser, grizz.url, complaints)
    await expect(page.locator("#headline")).to_have_text(WELL)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await page.evaluate(
        "Object.defineProperty(document, 'hidden', {get: () => window.unseen});"
        "window.unseen = true; document.dispatchEvent(new Event('visibilitychange'))"
    )
    await asyncio.sleep(6)  # longer than between two looks
    assert asked == []
    await page.evaluate("window.unseen = false; document.dispatchEvent(new Event('visibilitychange'))")
    async with asyncio.timeout(10):
        while not asked:
            await asyncio.sleep(0.05)


async def test_where_there_are_accounts_it_asks_for_a_key_first(browser: Browser, start_grizz, tmp_path: Path) -> None:
    grizz = await start_grizz(environ=ACCOUNTS)
    complaints: list[str] = []
    page = await visit(browser, grizz.url, complaints)
    await page.wait_for_selector("#sign-in[open]")
    assert await page.locator(".tile").count() == 0
    await page.fill("#key", ALICE)
    await page.keyboard.press("Enter")
    await expect(page.locator("#headline")).to_have_text(WELL)
    await expect(page.locator("#account")).to_have_text("Sign out")
    await page.screenshot(path=tmp_path / "signed-in.png")
    assert complaints == []
