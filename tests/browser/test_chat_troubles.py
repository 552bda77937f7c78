"""Chats through what goes wrong: half answers, a question asked twice, a dead database, an upload that takes long."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from playwright.async_api import Browser, Locator, Page, expect

from tests.browser.conftest import ANSWER, CHROMIUM, LIVE, answered, ask, listen, retry
from tests.browser.test_chats import QUESTION, act, conversations, kept, titles_become
from tests.conftest import Grizz

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
    pytest.mark.timeout(120),
]


# How many chats this browser keeps.
COUNT = """new Promise((done) => {
  indexedDB.open("grizz", 1).onsuccess = ({ target: { result: db } }) => {
    db.transaction("entries").objectStore("entries").count().onsuccess = ({ target: { result } }) => {
      db.close();
      done(result);
    };
  };
})"""


async def reload(page: Page) -> None:
    """Come again, and wait until the server was asked what it has."""
    await page.reload()
    await page.wait_for_selector(LIVE)
    await page.wait_for_load_state("networkidle")


async def until(page: Page, expression: str) -> None:
    """Wait for something in the page; its policy forbids what Playwright would do itself."""
    async with asyncio.timeout(20):
        while not await page.evaluate(f"Boolean({expression})"):
            await asyncio.sleep(0.05)


async def leave_at(page: Page, count: int, what: str, then: Locator) -> None:
    """Do something, and reload the page in the very moment in which it shows so many of something."""
    watch = """([what, count]) => new MutationObserver((_, watcher) => {
        if (document.querySelectorAll(what).length !== count) return;
        watcher.disconnect();
        location.reload();
      }).observe(document.body, {childList: true, subtree: true})"""
    async with page.expect_navigation():
        await page.evaluate(watch, [what, count])
        await then.click()


async def test_a_branch_at_an_answer_that_broke_off_has_all_that_came_before(page: Page) -> None:
    await ask(page, "[[echo:one]]")
    await answered(page)
    await ask(page, "[[words:20]] [[midstream-error:5]]")
    await page.wait_for_selector(f"{ANSWER}[data-status=failed]")
    await leave_at(page, 2, "#chat-list li", page.get_by_role("button", name="Branch").last)
    await expect(page.locator(f"{QUESTION} .text")).to_have_text(["[[echo:one]]", "[[words:20]] [[midstream-error:5]]"])
    assert await kept(page) == ["[[echo:one]]", "one"]


@pytest.mark.parametrize("before", [0, 1], ids=["first", "second"])
async def test_a_question_is_not_lost_when_the_page_is_left_in_the_moment_it_is_sent(page: Page, before: int) -> None:
    for _ in range(before):
        await ask(page, "[[echo:one]]")
        await answered(page)
    await page.fill("#composer", "[[echo:two]]")
    await leave_at(page, 1 + before, QUESTION, page.locator("#send"))
    await expect(page.locator(f"{QUESTION} .text")).to_have_text([*["[[echo:one]]"] * before, "[[echo:two]]"])


async def test_what_is_deleted_is_deleted_on_the_server_though_the_page_is_left_in_that_moment(page: Page) -> None:
    await ask(page, "[[echo:one]]")
    await answered(page)
    await act(page, "[[echo:one]]", "Delete")
    await leave_at(page, 0, "#chat-list li", page.get_by_role("button", name="Delete", exact=True))
    await titles_become(page)
    await page.reload()
    await page.wait_for_selector(LIVE)
    await expect(page.locator("#no-chats")).to_be_visible()


async def test_a_tab_finds_its_chat_again_though_its_copy_in_the_browser_is_gone(page: Page) -> None:
    await page.add_init_script("indexedDB.open = () => { throw new DOMException('denied', 'SecurityError'); }")
    await page.reload()
    await page.wait_for_selector(LIVE)
    await ask(page, "[[echo:one]]")
    await answered(page)
    await page.reload()
    await expect(page.locator(f"{QUESTION} .text")).to_have_text(["[[echo:one]]"])
    assert await answered(page) == "one"


async def test_a_refused_question_and_the_same_again_are_two_after_the_server_was_asked(
    page: Page, grizz: Grizz
) -> None:
    refuse = """() => {
      const send = WebSocket.prototype.send;
      WebSocket.prototype.send = function (data) {
        WebSocket.prototype.send = send;
        send.call(this, data.replace('"type":"response.create"', '"type":"response.create","temperature":9'));
      };
    }"""
    await page.evaluate(refuse)
    await ask(page, "[[echo:hi]]")
    await page.wait_for_selector(f"{ANSWER}[data-status=failed]")
    await ask(page, "[[echo:hi]]")
    await answered(page)
    await reload(page)
    await expect(page.locator(f"{QUESTION} .text")).to_have_text(["[[echo:hi]]", "[[echo:hi]]"])
    await expect(page.locator(ANSWER)).to_have_count(2)
    await retry(page)
    await expect(page.locator(ANSWER)).to_have_count(2)
    assert await answered(page) == "hi"
    assert await kept(page) == ["[[echo:hi]]", "hi"]
    assert grizz.demo.requests == 2


async def test_a_message_that_takes_long_to_upload_is_not_taken_for_a_dead_connection(
    browser: Browser, grizz: Grizz
) -> None:
    # The page's own clock runs a minute in a few seconds; its socket says that it still has something to send.
    page = await (await browser.new_context()).new_page()
    await page.clock.install()
    await page.goto(grizz.url)
    await page.wait_for_selector(LIVE)
    await page.evaluate(
        """() => {
          let left = 9_000_000;
          window.sent = [];
          const send = WebSocket.prototype.send;
          WebSocket.prototype.send = function (data) {
            if (!data.includes('"response.create"')) return void window.sent.push(data);
            Object.defineProperty(this, "bufferedAmount", {get: () => (left -= 1000)});
            window.arrive = () => { WebSocket.prototype.send = send; send.call(this, data); };
          };
        }"""
    )
    await ask(page, "[[echo:large]]")
    await expect(page.locator(f"{QUESTION} .text")).to_have_text("[[echo:large]]")
    await until(page, "window.arrive")
    for _ in range(12):
        await page.clock.fast_forward(5_000)
        await asyncio.sleep(0.05)
    assert await page.evaluate("window.sent.filter((data) => data.includes('probe'))") == []
    await expect(page.locator(".problem")).to_have_count(0)
    await page.evaluate("window.arrive()")
    assert await answered(page) == "large"
    assert grizz.demo.requests == 1


async def test_a_database_that_the_browser_closed_is_opened_again(page: Page, complaints: list[str]) -> None:
    close = """() => {
      const begin = IDBDatabase.prototype.transaction;
      IDBDatabase.prototype.transaction = function (...all) {
        IDBDatabase.prototype.transaction = begin;
        this.close();
        return begin.apply(this, all);
      };
    }"""
    await ask(page, "[[echo:one]]")
    await answered(page)
    await page.click("#new-chat")
    await page.evaluate(close)
    await page.click("#chat-list .open")
    await expect(page.locator(ANSWER)).to_have_count(1)
    await page.evaluate(close)
    await ask(page, "[[echo:two]]")
    await answered(page)
    await page.evaluate(close)
    await act(page, "[[echo:one]]", "Delete")
    await page.get_by_role("button", name="Delete", exact=True).click()
    await expect(page.locator("#chat-list li")).to_have_count(0)
    await titles_become(page)
    async with asyncio.timeout(10):
        while await page.evaluate(COUNT):  # to open the database again takes a moment, which the row does not wait for
            await asyncio.sleep(0.05)
    await reload(page)
    await expect(page.locator("#chat-list li")).to_have_count(0)


async def test_without_any_storage_the_page_works_until_it_is_left(
    browser: Browser, grizz: Grizz, complaints: list[str]
) -> None:
    page = await (await browser.new_context()).new_page()
    listen(page, grizz.url, complaints)
    await page.add_init_script(
        """
        window.BroadcastChannel = function () { throw new DOMException("denied", "SecurityError"); };
        indexedDB.open = () => { throw new DOMException("denied", "SecurityError"); };
        for (const name of ["localStorage", "sessionStorage"]) {
          Object.defineProperty(window, name, {get: () => { throw new DOMException("denied", "SecurityError"); }});
        }
        """
    )
    await page.goto(grizz.url)
    await page.wait_for_selector(LIVE)
    await ask(page, "[[echo:one]]")
    assert await answered(page) == "one"
    await page.click("#new-chat")
    await page.click("#chat-list .open")
    await expect(page.locator(ANSWER)).to_have_count(1)
    await act(page, "[[echo:one]]", "Delete")
    await page.get_by_role("button", name="Delete", exact=True).click()
    await expect(page.locator("#chat-list li")).to_have_count(0)


async def test_enter_in_the_options_saves_them_and_what_the_server_missed_is_told_later(
    page: Page, complaints: list[str]
) -> None:
    await ask(page, "[[echo:one]]")
    await answered(page)
    await page.route("**/v1/conversations/*", lambda route: route.abort())
    await page.get_by_role("button", name="System prompt and temperature").click()
    await page.get_by_role("textbox", name="System prompt").fill("In rhyme.")
    await page.get_by_role("spinbutton", name="Temperature").fill("0.5")
    await page.keyboard.press("Enter")
    await expect(page.locator("#options")).to_be_hidden()
    await expect(page.locator("#toast")).to_contain_text("Not kept on the server")
    await page.unroute("**/v1/conversations/*")
    await reload(page)
    wanted = {"instructions": "In rhyme.", "temperature": "0.5"}
    async with asyncio.timeout(10):
        while (await conversations(page))[0]["metadata"] != wanted:
            await asyncio.sleep(0.05)
    assert {text for text in complaints if "ERR_FAILED" not in text} == set()
    complaints.clear()


async def test_options_that_are_removed_elsewhere_are_removed_here(page: Page, grizz: Grizz) -> None:
    await ask(page, "[[echo:one]]")
    await answered(page)
    await page.get_by_role("button", name="System prompt and temperature").click()
    await page.get_by_role("textbox", name="System prompt").fill("In rhyme.")
    await page.get_by_role("button", name="Save").click()
    await page.wait_for_load_state("networkidle")
    (one,) = await conversations(page)
    assert one["metadata"] == {"instructions": "In rhyme."}
    empty = """(id) => fetch(`/v1/conversations/${id}`, {
      method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({metadata: {}}),
    })"""
    await page.evaluate(empty, one["id"])
    await reload(page)
    await ask(page, "[[echo:two]]")
    await answered(page)
    assert [one["role"] for one in grizz.demo.last_request["messages"]] == ["user", "assistant", "user"]


async def test_stop_holds_though_the_connection_drops_before_the_question_is_confirmed(page: Page) -> None:
    # The question goes out; then the connection is dead in both directions, and nobody knows it until it drops.
    await page.evaluate(
        """() => {
          const send = WebSocket.prototype.send;
          const data = Object.getOwnPropertyDescriptor(MessageEvent.prototype, "data");
          WebSocket.prototype.send = function (frame) {
            if (!window.drop) send.call(this, frame);
            if (!frame.includes('"response.create"')) return;
            Object.defineProperty(MessageEvent.prototype, "data", {get: () => '{"type":"x"}', configurable: true});
            window.drop = () => {
              WebSocket.prototype.send = send;
              Object.defineProperty(MessageEvent.prototype, "data", data);
              this.close();
            };
          };
        }"""
    )
    await ask(page, "[[words:1000]] [[rate:20]]")
    await until(page, "window.drop")
    await page.get_by_role("button", name="Stop").click()
    await expect(page.locator("#stop")).to_be_disabled()
    await page.evaluate("window.drop()")
    await page.wait_for_selector(f"{ANSWER}[data-status=cancelled], {ANSWER}[data-status=incomplete]")
    await expect(page.locator("#stop")).to_be_hidden()


async def test_a_chat_that_is_deleted_while_it_answers_leaves_no_row_behind(page: Page) -> None:
    await ask(page, "[[words:500]] [[rate:50]]")
    await expect(page.locator(f"{ANSWER} .text")).to_contain_text("w3 ")
    await act(page, "[[words:500]] [[rate:50]]", "Delete")
    await page.get_by_role("button", name="Delete", exact=True).click()
    await expect(page.locator("#chat-list li")).to_have_count(0)
    await page.wait_for_timeout(1000)
    await expect(page.locator("#chat-list li")).to_have_count(0)


async def test_keys_that_end_something_small_do_nothing_else(page: Page) -> None:
    await ask(page, "[[words:500]] [[rate:50]]")
    await expect(page.locator(f"{ANSWER} .text")).to_contain_text("w3 ")
    await page.fill("#search", "w")
    await page.press("#search", "Escape")
    await expect(page.locator(ANSWER)).to_have_attribute("data-status", "in_progress")
    await page.press("#composer", "Escape")
    await page.wait_for_selector(f"{ANSWER}[data-status=cancelled]")
    await act(page, "[[words:500]] [[rate:50]]", "Rename")
    await page.keyboard.type("Short")
    await page.keyboard.press("Enter")
    await expect(page.locator("#chat-list .open span")).to_have_text("Short")
    await expect(page.locator("#menu")).to_be_hidden()


async def test_text_that_is_pasted_with_a_picture_of_itself_is_text(page: Page) -> None:
    prevented = await page.evaluate(
        """() => {
          const data = new DataTransfer();
          data.items.add("a\\tb", "text/plain");
          data.items.add(new File(["x"], "cells.png", {type: "image/png"}));
          const paste = new ClipboardEvent("paste", {clipboardData: data, bubbles: true, cancelable: true});
          return !document.querySelector("#composer").dispatchEvent(paste);
        }"""
    )
    assert not prevented


async def test_an_export_closes_the_code_that_an_answer_left_open(page: Page) -> None:
    await ask(page, "[[echo]]```python\nprint()")
    await answered(page)
    await ask(page, "[[echo:after]]")
    await answered(page)
    async with page.expect_download() as download:
        await act(page, "[[echo]]```python print()", "Export as Markdown")
    text = await asyncio.to_thread(Path(await (await download.value).path()).read_text)
    assert "\n## Assistant\n\n```python\nprint()\n```\n\n## You\n" in text
