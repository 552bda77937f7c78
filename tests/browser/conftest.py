"""A real Chromium, and the chat page in it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from threading import Thread

import pytest
from playwright.async_api import Browser, Page, async_playwright

from tests.conftest import Grizz

LIVE = "#connection[data-state=live]"
ANSWER = ".message[data-role=assistant]"
# The shell is the same browser without its window's furniture: a third less time for these tests (measured).
CHROMIUM = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)


FLAGS = (
    *("--headless", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    # A mouse, as most desktops have one: without, pages take it for a phone.
    "--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4",
)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One process for all tests of a worker, since its start costs as much as a test; each gets contexts of its own."""
    assert CHROMIUM is not None
    profile = tmp_path_factory.mktemp("chromium")
    command = [CHROMIUM, *FLAGS, "--remote-debugging-port=0", f"--user-data-dir={profile}"]
    if os.geteuid() == 0:
        command.append("--no-sandbox")
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        said = iter(process.stderr.readline, "")
        address = next(line.split()[-1] for line in said if line.startswith("DevTools listening on"))
        Thread(target=process.stderr.read, name="what Chromium says", daemon=True).start()
        yield address
        os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
async def browser(chromium: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.connect_over_cdp(chromium)
        yield browser
        for context in browser.contexts[1:]:  # the first is the profile's own
            await context.close()


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


async def retry(page: Page) -> None:
    """Ask the last question again, and wait until the old answer has given way."""
    old = await page.locator(ANSWER).last.element_handle()
    await page.get_by_role("button", name="Retry").last.click()
    await old.wait_for_element_state("hidden")
