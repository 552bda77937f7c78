"""The chat page in a real Chromium, against a real Grizz."""

from __future__ import annotations

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.conftest import ANSWER, CHROMIUM, LIVE, ask, listen, retry
from tests.conftest import Grizz
from tests.player import numbers

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
    pytest.mark.timeout(120),
]


async def test_a_newcomer_asks_and_reads_the_answer(page: Page) -> None:
    await ask(page, "[[words:100]] [[rate:200]]")
    await page.wait_for_selector(f"{ANSWER}[data-status=in_progress]")
    await page.wait_for_selector(f"{ANSWER}[data-status=completed]")
    assert (await page.text_content(f"{ANSWER} .text") or "").strip() == numbers(100).strip()


async def test_a_question_asked_before_the_browsers_storage_answers_is_answered(browser: Browser, grizz: Grizz) -> None:
    context = await browser.new_context()
    await context.add_init_script("IDBFactory.prototype.open = () => ({})")  # it never calls back
    page = await context.new_page()
    await page.goto(grizz.url)
    await page.wait_for_selector(LIVE)
    await ask(page, "[[echo:at once]]")
    await expect(page.locator(f"{ANSWER} .text")).to_have_text("at once")
    assert grizz.demo.requests == 1
    await context.close()


async def test_stop_keeps_the_partial_text_and_stops_the_upstream(page: Page, grizz: Grizz) -> None:
    await ask(page, "[[words:500]] [[rate:20]]")
    await expect(page.locator(f"{ANSWER} .text")).to_contain_text("w5 ")
    await page.click("#stop")
    await page.wait_for_selector(f"{ANSWER}[data-status=cancelled]")
    assert (await page.text_content(f"{ANSWER} .text") or "").startswith(numbers(5))
    assert grizz.demo.disconnected == 1


async def test_a_reload_in_the_middle_of_an_answer_loses_nothing(page: Page, grizz: Grizz) -> None:
    await ask(page, "[[words:120]] [[rate:60]]")
    await expect(page.locator(f"{ANSWER} .text")).to_contain_text("w5 ")
    await page.reload()
    await page.wait_for_selector(f"{ANSWER}[data-status=completed]")
    assert (await page.text_content(f"{ANSWER} .text") or "").strip() == numbers(120).strip()
    assert grizz.demo.requests == 1


async def test_a_dropped_connection_is_shown_and_the_answer_resumes_in_the_middle(page: Page, grizz: Grizz) -> None:
    await ask(page, "[[words:200]] [[rate:50]]")
    await expect(page.locator(f"{ANSWER} .text")).to_contain_text("w5 ")
    await page.evaluate(
        "new MutationObserver((_, watching) => { document.documentElement.dataset.wasDown = 1; watching.disconnect() })"
        ".observe(document.querySelector('#connection'), {attributes: true})"
    )
    for connection in list(grizz.app.server._sockets._open):
        connection._guard.abort()
    await page.wait_for_selector("html[data-was-down]")
    await page.wait_for_selector(f"{ANSWER}[data-status=completed]")
    assert (await page.text_content(f"{ANSWER} .text") or "").strip() == numbers(200).strip()
    assert grizz.demo.requests == 1


async def test_the_conversation_goes_on_with_what_was_said_before(page: Page, grizz: Grizz) -> None:
    await ask(page, "[[echo:first answer]]")
    await page.wait_for_selector(f"{ANSWER}[data-status=completed]")
    await ask(page, "[[echo:second answer]]")
    await expect(page.locator(ANSWER).nth(1)).to_have_attribute("data-status", "completed")
    roles = [message["role"] for message in grizz.demo.last_request["messages"]]
    assert roles == ["user", "assistant", "user"]


async def test_a_failure_is_shown_with_its_reason_and_can_be_retried(page: Page) -> None:
    await ask(page, "[[error:400]] [[times:1]] [[echo:now it works]]")
    await page.wait_for_selector(f"{ANSWER}[data-status=failed]")
    await retry(page)
    await page.wait_for_selector(f"{ANSWER}[data-status=completed]")
    await expect(page.locator(f"{ANSWER} .text").last).to_have_text("now it works")


async def test_hostile_markdown_stays_text(page: Page) -> None:
    hostile = "<img src=x onerror=alert(1)> <script>alert(2)</script> [x](javascript:alert(3))"
    await ask(page, f"[[echo]]{hostile}")
    await page.wait_for_selector(f"{ANSWER}[data-status=completed]")
    assert await page.locator(f"{ANSWER} .text img, {ANSWER} .text script").count() == 0
    assert await page.locator(f"{ANSWER} .text a[href^=javascript]").count() == 0
    await expect(page.locator(f"{ANSWER} .text")).to_contain_text("<script>")


async def test_a_page_that_was_closed_for_being_idle_connects_again_with_the_next_question(
    browser: Browser, start_grizz, complaints: list[str]
) -> None:
    grizz = await start_grizz(server__idle_timeout_s=1.0)
    page = await browser.new_page()
    listen(page, grizz.url, complaints)
    await page.goto(grizz.url)
    await page.wait_for_selector("#connection[data-state=asleep]")
    await expect(page.locator("#connection")).to_have_text("idle")
    await ask(page, "[[echo:awake again]]")
    await page.wait_for_selector(f"{ANSWER}[data-status=completed]")
    assert (await page.text_content(f"{ANSWER} .text") or "").strip() == "awake again"
