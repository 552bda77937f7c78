"""A real Chromium, and the chat page in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, Page, async_playwright

from tests.conftest import Grizz

LIVE = "#connection[data-state=live]"
ANSWER = ".message[data-role=assistant]"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    flags = ["--disable-dev-shm-usage", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        await browser.close()


@pytest.fixture
async def complaints() -> AsyncIterator[list[str]]:
    """What the page wrote to the console; a page must be silent, except when a test takes its network away."""
    said: list[str] = []
    yield said
    assert said == []


def listen(page: Page, url: str, complaints: list[str]) -> None:
    """Write down what a page says to the console, and what it asks of anybody but its own server."""
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda request: None if request.url.startswith((url, "data:", "blob:")) else complaints.append(request.url),
    )


@pytest.fixture
async def page(browser: Browser, grizz: Grizz, complaints: list[str]) -> Page:
    """The chat page of a newcomer, connected."""
    page = await (await browser.new_context()).new_page()
    listen(page, grizz.url, complaints)
    await page.goto(grizz.url)
    await page.wait_for_selector(LIVE)
    return page


async def ask(page: Page, text: str) -> None:
    """Type a question and send it."""
    await page.fill("#composer", text)
    await page.press("#composer", "Enter")


async def answered(page: Page) -> str:
    """The text of the last answer, once it is complete."""
    last = f"{ANSWER}:last-child"
    await page.wait_for_selector(f"{last}[data-status=completed]")
    return (await page.text_content(f"{last} .body > .text") or "").strip()
