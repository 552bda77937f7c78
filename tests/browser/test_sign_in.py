"""Signing in and out in a real Chromium."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from grizz.config import KeySettings
from grizz.core.api_keys import hash_of, new_key
from tests.accounts import ACCOUNTS, ALICE
from tests.browser.conftest import CHROMIUM
from tests.conftest import Grizz

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
    pytest.mark.timeout(120),
]

LIVE = "#connection[data-state=live]"
ANSWER = ".message[data-role=assistant]"


@pytest.fixture
async def house(start_grizz) -> Grizz:
    return await start_grizz(environ=ACCOUNTS)


async def visit(browser: Browser, grizz: Grizz, complaints: list[str]) -> Page:
    """A newcomer's page; what it writes to the console lands in `complaints`."""
    page = await (await browser.new_context()).new_page()
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.goto(grizz.url)
    return page


async def sign_in(page: Page, key: str) -> None:
    """By the keyboard alone: the field has the focus."""
    await page.wait_for_selector("#sign-in[open]")
    await expect(page.locator("#key")).to_be_focused()
    await page.keyboard.insert_text(key)
    await page.keyboard.press("Enter")


async def ask(page: Page, text: str) -> None:
    await page.fill("#composer", text)
    await page.press("#composer", "Enter")
    await page.wait_for_selector(f"{ANSWER}[data-status=completed]")


async def test_a_newcomer_signs_in_asks_reloads_and_signs_out(browser: Browser, house: Grizz, tmp_path: Path) -> None:
    complaints: list[str] = []
    page = await visit(browser, house, complaints)
    await page.wait_for_selector("#sign-in[open]")
    await page.screenshot(path=tmp_path / "sign-in.png")
    await sign_in(page, ALICE)
    await page.wait_for_selector(LIVE)
    await ask(page, "[[echo:for alice]]")
    await expect(page.locator("#account")).to_have_text("Sign out")
    await page.screenshot(path=tmp_path / "signed-in.png")
    assert "grizz_session" not in await page.evaluate("document.cookie"), "no script can read it"
    stored = await page.evaluate("JSON.stringify({...localStorage, ...sessionStorage}) + document.body.outerHTML")
    assert ALICE not in stored
    (cookie,) = [one for one in await page.context.cookies() if one["name"] == "grizz_session"]
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/")
    await page.reload()
    await page.wait_for_selector(LIVE)
    await expect(page.locator("#sign-in")).to_be_hidden()
    await page.click("#account")
    await page.wait_for_selector("#sign-in[open]")
    assert [one for one in await page.context.cookies() if one["name"] == "grizz_session"] == []
    assert complaints == []


async def test_a_wrong_key_is_told_so_and_escape_leads_nowhere(browser: Browser, house: Grizz, tmp_path: Path) -> None:
    complaints: list[str] = []
    page = await visit(browser, house, complaints)
    await sign_in(page, new_key())
    await expect(page.locator("#sign-in-error")).to_have_text("This API key or token is not known here.")
    await page.screenshot(path=tmp_path / "wrong-key.png")
    for _ in range(3):
        await page.keyboard.press("Escape")
    await expect(page.locator("#sign-in")).to_be_visible()
    await expect(page.locator("#connection")).not_to_have_text("live")
    await page.fill("#key", "kéy with spaces")
    await page.keyboard.press("Enter")
    await expect(page.locator("#sign-in-error")).to_contain_text("no API key")
    await page.fill("#key", ALICE)
    await page.keyboard.press("Enter")
    await page.wait_for_selector(LIVE)
    assert [text for text in complaints if "401 (Unauthorized)" not in text] == []


async def test_when_the_key_goes_the_page_asks_for_another_and_goes_on(browser: Browser, house: Grizz) -> None:
    page = await visit(browser, house, [])
    await sign_in(page, ALICE)
    await page.wait_for_selector(LIVE)
    await ask(page, "[[echo:before]]")
    key = new_key()
    settings = house.app._settings
    house.app.reload(dataclasses.replace(settings, keys={"alice": KeySettings(hashes=(hash_of(key),))}))
    await sign_in(page, key)
    await page.wait_for_selector(LIVE)
    await ask(page, "[[echo:after]]")
    await expect(page.locator(f"{ANSWER} .text").last).to_have_text("after")


async def test_where_anybody_may_ask_signing_in_is_offered_and_not_demanded(browser: Browser, start_grizz) -> None:
    grizz = await start_grizz(environ=ACCOUNTS, server__allow_anonymous=True)
    complaints: list[str] = []
    page = await visit(browser, grizz, complaints)
    await page.wait_for_selector(LIVE)
    await expect(page.locator("#account")).to_have_text("Sign in")
    await page.click("#account")
    await page.wait_for_selector("#sign-in[open]")
    await page.keyboard.press("Escape")
    await expect(page.locator("#sign-in")).to_be_hidden()
    assert complaints == []


async def test_without_accounts_nothing_of_it_is_seen(browser: Browser, grizz: Grizz) -> None:
    complaints: list[str] = []
    page = await visit(browser, grizz, complaints)
    await page.wait_for_selector(LIVE)
    await expect(page.locator("#account")).to_be_hidden()
    await expect(page.locator("#sign-in")).to_be_hidden()
    assert complaints == []


async def test_who_signs_out_leaves_nothing_of_theirs_in_the_browser(browser: Browser, house: Grizz) -> None:
    complaints: list[str] = []
    page = await visit(browser, house, complaints)
    await sign_in(page, ALICE)
    await page.wait_for_selector(LIVE)
    await page.get_by_role("button", name="System prompt and temperature").click()
    await page.get_by_role("textbox", name="System prompt").fill("Call me Alice.")
    await page.get_by_role("button", name="Save").click()
    other = await page.context.new_page()
    await other.goto(house.url)
    await other.wait_for_selector(LIVE)
    await other.fill("#composer", "a draft of Alice")
    await page.fill("#composer", "[[words:500]] [[rate:50]]")
    await page.press("#composer", "Enter")  # still running when she leaves
    await page.wait_for_selector(f"{ANSWER}[data-status=in_progress]")
    await page.get_by_role("button", name="Sign out").click()
    for tab in (page, other):
        await tab.wait_for_selector("#sign-in[open]")
        left = await tab.evaluate(
            """async () => {
              const db = await new Promise((done) => {
                const asked = indexedDB.open("grizz", 1);
                asked.onsuccess = () => done(asked.result);
              });
              const all = db.transaction(["chats"]).objectStore("chats").getAll();
              const chats = await new Promise((done) => (all.onsuccess = () => done(all.result)));
              const draft = document.querySelector("#composer").value;
              return [chats.length, localStorage.getItem("grizz:options"), draft];
            }"""
        )
        assert left == [0, None, ""]
