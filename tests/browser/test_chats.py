"""Chats in a real Chromium: kept on the server, shown in every tab, changed, branched, found and taken away."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.conftest import ANSWER, CHROMIUM, LIVE, answered, ask, listen, retry
from tests.conftest import Grizz
from tests.player import numbers

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
    pytest.mark.timeout(120),
]

FORGET = """new Promise((done) => {
  const gone = indexedDB.deleteDatabase("grizz");
  gone.onsuccess = gone.onblocked = done;
})"""
QUESTION = ".message[data-role=user]"


async def conversations(page: Page) -> list[dict[str, Any]]:
    """What the server keeps for this browser."""
    listing: dict[str, Any] = await page.evaluate("fetch('/v1/conversations').then((answer) => answer.json())")
    return list(listing["data"])


async def titles_become(page: Page, *wanted: str) -> None:
    """Wait until the server keeps just these: the page does not wait for it."""
    async with asyncio.timeout(10):
        while [one["title"] for one in await conversations(page)] != list(wanted):
            await asyncio.sleep(0.05)


async def kept(page: Page) -> list[str]:
    """The texts of the latest conversation on the server."""
    items = await page.evaluate(
        "(id) => fetch(`/v1/conversations/${id}/items?order=asc`).then((answer) => answer.json())",
        (await conversations(page))[0]["id"],
    )
    return [item["content"][0]["text"] for item in items["data"]]


async def act(page: Page, title: str, action: str) -> None:
    """Choose an action in the menu of a chat in the list."""
    await page.get_by_role("button", name=f"Rename, export or delete: {title}").click()
    await page.get_by_role("button", name=action, exact=True).click()


async def test_a_browser_that_lost_its_cache_finds_its_chats_on_the_server(page: Page) -> None:
    await ask(page, "[[echo:kept **well**]]")
    await answered(page)
    await page.click("#new-chat")
    await ask(page, "[[echo:another]]")
    await answered(page)
    await expect(page.locator("#chat-list li")).to_have_count(2)
    await page.evaluate(FORGET)
    await page.reload()
    await page.wait_for_selector(LIVE)
    await expect(page.locator("#chat-list li")).to_have_count(2)
    await page.get_by_role("button", name="[[echo:kept **well**]]").first.click()
    await expect(page.locator(f"{ANSWER} .text")).to_have_text("kept well")
    await ask(page, "[[echo:and on]]")
    assert await answered(page) == "and on"
    assert await kept(page) == ["[[echo:kept **well**]]", "kept **well**", "[[echo:and on]]", "and on"]


async def test_a_second_tab_shows_the_same_answer_growing(page: Page, grizz: Grizz, complaints: list[str]) -> None:
    await ask(page, "[[words:150]] [[rate:30]]")
    await expect(page.locator(f"{ANSWER} .text")).to_contain_text("w5 ")
    other = await page.context.new_page()
    listen(other, grizz.url, complaints)
    await other.goto(grizz.url)
    await expect(other.locator(f"{ANSWER} .text")).to_contain_text("w20 ")
    assert await other.get_attribute(ANSWER, "data-status") == "in_progress"
    assert await answered(other) == await answered(page) == numbers(150).strip()
    await ask(other, "[[words:40]] [[rate:60]]")  # and the other way round
    await expect(page.locator(ANSWER)).to_have_count(2)
    assert await answered(page) == await answered(other) == numbers(40).strip()
    assert grizz.demo.requests == 2


async def test_an_answer_goes_on_with_no_page_open_and_is_joined_by_one_that_knows_nothing(
    page: Page, grizz: Grizz, complaints: list[str]
) -> None:
    await ask(page, "[[words:200]] [[rate:60]]")
    await expect(page.locator(f"{ANSWER} .text")).to_contain_text("w5 ")
    context = page.context
    await page.goto("about:blank")  # nobody follows now
    cookies = await context.cookies()
    other = await (await context.browser.new_context()).new_page()  # type: ignore[union-attr]
    await other.context.add_cookies(cookies)  # type: ignore[arg-type]  # the same person, elsewhere
    listen(other, grizz.url, complaints)
    await other.goto(grizz.url)
    await other.click("#chat-list .open")
    await expect(other.locator(QUESTION)).to_contain_text("[[words:200]]")
    assert await answered(other) == numbers(200).strip()
    await page.goto(grizz.url)
    assert await answered(page) == numbers(200).strip()
    assert grizz.demo.requests == 1


async def test_a_question_is_changed_and_what_followed_it_is_replaced_on_the_server_too(
    page: Page, grizz: Grizz
) -> None:
    for text in ("[[echo:one]]", "[[echo:two]]", "[[echo:three]]"):
        await ask(page, text)
        await answered(page)
    await page.locator(QUESTION).nth(1).hover()
    await page.locator(QUESTION).nth(1).get_by_role("button", name="Edit").click()
    await page.get_by_label("Edit your message").fill("[[echo:zwei]]")
    await page.keyboard.press("Enter")
    await expect(page.locator(ANSWER)).to_have_count(2)
    assert await answered(page) == "zwei"
    assert await kept(page) == ["[[echo:one]]", "one", "[[echo:zwei]]", "zwei"]
    assert [message["content"] for message in grizz.demo.last_request["messages"]] == [
        "[[echo:one]]",
        "one",
        "[[echo:zwei]]",
    ]
    await retry(page)
    await expect(page.locator(ANSWER)).to_have_count(2)
    await answered(page)
    await expect(page.locator("#composer")).to_be_focused()
    assert await kept(page) == ["[[echo:one]]", "one", "[[echo:zwei]]", "zwei"]
    assert grizz.demo.requests == 5


async def test_a_branch_goes_on_from_an_answer_and_leaves_the_chat_as_it_was(page: Page, grizz: Grizz) -> None:
    for text in ("[[echo:one]]", "[[echo:two]]"):
        await ask(page, text)
        await answered(page)
    await page.get_by_role("button", name="Branch").first.click()
    await expect(page.locator("#chat-list li")).to_have_count(2)
    await expect(page.locator(ANSWER)).to_have_count(1)
    await ask(page, "[[echo:elsewhere]]")
    assert await answered(page) == "elsewhere"
    assert await kept(page) == ["[[echo:one]]", "one", "[[echo:elsewhere]]", "elsewhere"]
    assert [one["items"] for one in await conversations(page)] == [4, 4]
    titles = {one["title"] for one in await conversations(page)}
    assert titles == {"[[echo:one]]", "[[echo:one]] (branch)"}


async def test_a_chat_is_renamed_searched_exported_and_deleted(page: Page, tmp_path: Path) -> None:
    await ask(page, "[[echo:about bears]] [[reasoning:they sleep]]")
    await answered(page)
    await page.click("#new-chat")
    await ask(page, "[[echo:about trains]]")
    await answered(page)
    await act(page, "[[echo:about bears]] [[reasoning:they sleep]]", "Rename")
    await page.get_by_label("New name").fill("Bären")
    await page.keyboard.press("Enter")
    await expect(page.locator("#chat-list")).to_contain_text("Bären")
    await page.fill("#search", "bÄr")
    await expect(page.locator("#chat-list li")).to_have_count(1)
    files = {}
    for kind, ending in (("Markdown", "md"), ("JSON", "json")):
        async with page.expect_download() as download:
            await act(page, "Bären", f"Export as {kind}")
        file = await download.value
        assert file.suggested_filename == f"Bären.{ending}"
        await file.save_as(tmp_path / ending)
        files[ending] = (tmp_path / ending).read_text()
    assert files["md"].startswith("# Bären\n\n## You\n\n[[echo:about bears]]")
    assert "they sleep" in files["md"] and files["md"].endswith("about bears\n")
    exported = json.loads(files["json"])
    assert [(one["role"], one["text"]) for one in exported["messages"]][1] == ("assistant", "about bears")
    assert exported["messages"][1]["thoughts"] == "they sleep"
    await act(page, "Bären", "Delete")
    await page.get_by_role("button", name="Delete", exact=True).click()
    await page.fill("#search", "")
    await expect(page.locator("#chat-list li")).to_have_count(1)
    await expect(page.locator("#chat-list li")).to_contain_text("about trains")
    await titles_become(page, "[[echo:about trains]]")


async def test_a_chat_that_the_server_forgot_goes_on_with_all_that_was_said(page: Page, grizz: Grizz) -> None:
    await ask(page, "[[echo:remember this]]")
    await answered(page)
    for one in await conversations(page):
        await page.evaluate("(id) => fetch(`/v1/conversations/${id}`, {method: 'DELETE'})", one["id"])
    await ask(page, "[[echo:still here]]")
    assert await answered(page) == "still here"
    roles = [message["role"] for message in grizz.demo.last_request["messages"]]
    assert roles == ["user", "assistant", "user"]
    assert await kept(page) == ["[[echo:remember this]]", "remember this", "[[echo:still here]]", "still here"]


async def test_a_question_whose_confirmation_was_lost_is_found_again_and_never_sent_twice(
    page: Page, grizz: Grizz
) -> None:
    await ask(page, "[[echo:first]]")
    await answered(page)
    # The connection takes the question with it: the server has it, the page does not know.
    await page.evaluate(
        """() => {
          const send = WebSocket.prototype.send;
          WebSocket.prototype.send = function (data) {
            send.call(this, data);
            if (!data.includes("response.create")) return;
            WebSocket.prototype.send = send;
            this.onmessage = null;
            setTimeout(() => this.close(), 50);
          };
        }"""
    )
    await ask(page, "[[words:60]] [[rate:30]]")
    assert await answered(page) == numbers(60).strip()
    assert await page.locator(ANSWER).count() == 2
    assert grizz.demo.requests == 2


async def test_a_system_prompt_and_a_temperature_are_sent_and_stay_with_the_chat(page: Page, grizz: Grizz) -> None:
    await page.get_by_role("button", name="System prompt and temperature").click()
    await page.get_by_role("textbox", name="System prompt").fill("Answer in rhyme.")
    await page.get_by_role("spinbutton", name="Temperature").fill("0.3")
    await page.get_by_role("button", name="Save").click()
    await ask(page, "[[echo:yes]]")
    await answered(page)
    assert grizz.demo.last_request["messages"][0] == {"role": "system", "content": "Answer in rhyme."}
    assert grizz.demo.last_request["temperature"] == 0.3
    await page.reload()
    await page.wait_for_selector(LIVE)
    await ask(page, "[[echo:again]]")
    await answered(page)
    assert grizz.demo.last_request["temperature"] == 0.3
    (one,) = await conversations(page)
    assert one["metadata"] == {"instructions": "Answer in rhyme.", "temperature": "0.3"}


PIXELS = """(how) => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [3000, 1500];
  canvas.getContext("2d").fillRect(0, 0, 3000, 1500);
  return new Promise((done) => canvas.toBlob((blob) => {
    const data = new DataTransfer();
    data.items.add(new File([blob], "black.png", {type: "image/png"}));
    const target = document.querySelector("#composer");
    if (how === "paste") target.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true}));
    else window.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
    done();
  }));
}"""


async def test_images_are_pasted_and_dropped_scaled_down_and_sent(page: Page, grizz: Grizz) -> None:
    for how in ("paste", "drop"):
        await page.evaluate(PIXELS, how)
    await expect(page.locator(".attachment")).to_have_count(2)
    await page.get_by_role("button", name="Remove image 2").click()
    await ask(page, "[[echo:black]]")
    await answered(page)
    picture, words = grizz.demo.last_request["messages"][0]["content"]
    assert picture["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert words["text"] == "[[echo:black]]"
    size = "(image) => [image.naturalWidth, image.naturalHeight]"
    assert await page.eval_on_selector(f"{QUESTION} img", size) == [2048, 1024]
    await page.evaluate(FORGET)
    await page.reload()  # from the server now
    await page.click("#chat-list .open")
    await expect(page.locator(f"{QUESTION} img")).to_have_count(1)


async def test_the_place_in_the_queue_is_shown_while_waiting(browser: Browser, start_grizz, complaints) -> None:
    grizz = await start_grizz(workers__concurrency=1)
    page = await browser.new_page()
    listen(page, grizz.url, complaints)
    await page.goto(grizz.url)
    async with aiohttp.ClientSession() as http:
        before = []
        for _ in range(3):
            body = {"input": "[[words:500]] [[rate:10]]", "background": True}
            async with http.post(f"{grizz.url}/v1/responses", json=body) as answer:
                before.append((await answer.json())["id"])
        await ask(page, "[[echo:my turn]]")
        await expect(page.locator(f"{ANSWER} .wait")).to_contain_text("2nd in line")
        for response_id in before:
            async with http.post(f"{grizz.url}/v1/responses/{response_id}/cancel") as answer:
                assert answer.status == 200
    assert await answered(page) == "my turn"


LOSE = """() => {
  // The next question goes into a connection that is dead and does not know it yet.
  const send = WebSocket.prototype.send;
  WebSocket.prototype.send = function (data) {
    if (!data.includes("response.create")) return send.call(this, data);
    WebSocket.prototype.send = send;
    this.close();
  };
}"""


async def test_a_first_question_that_never_arrived_stays_and_is_sent_by_retry(page: Page, grizz: Grizz) -> None:
    await page.evaluate(LOSE)
    await ask(page, "[[echo:hello]]")
    await expect(page.locator(".problem")).to_contain_text("before the server had this message")
    await expect(page.locator(f"{QUESTION} .text")).to_have_text("[[echo:hello]]")
    await retry(page)
    assert await answered(page) == "hello"
    assert await kept(page) == ["[[echo:hello]]", "hello"]
    assert grizz.demo.requests == 1


async def test_a_question_that_failed_stays_in_its_place_when_the_server_is_asked_again(page: Page) -> None:
    await ask(page, "[[echo:one]]")
    await answered(page)
    await ask(page, "[[error:400]]")
    await page.wait_for_selector(f"{ANSWER}[data-status=failed]")
    await ask(page, "[[echo:three]]")
    await answered(page)
    await page.reload()
    await page.wait_for_selector(LIVE)
    await page.wait_for_load_state("networkidle")
    await expect(page.locator(f"{QUESTION} .text")).to_have_text(["[[echo:one]]", "[[error:400]]", "[[echo:three]]"])
    await expect(page.locator(ANSWER)).to_have_count(3)


async def test_a_chat_that_was_begun_anew_is_branched_and_changed_as_any_other(
    page: Page, complaints: list[str]
) -> None:
    for text in ("[[echo:one]]", "[[echo:two]]"):
        await ask(page, text)
        await answered(page)
    await page.reload()  # the ids of the first conversation are known now
    await page.wait_for_selector(LIVE)
    await page.wait_for_load_state("networkidle")
    (old,) = await conversations(page)
    await page.evaluate("(id) => fetch(`/v1/conversations/${id}`, {method: 'DELETE'})", old["id"])
    await ask(page, "[[echo:three]]")
    assert await answered(page) == "three"
    await page.locator(".edit").first.focus()
    await page.keyboard.press("Enter")
    await page.get_by_label("Edit your message").fill("[[echo:eins]]")
    await page.keyboard.press("Enter")
    await expect(page.locator(ANSWER)).to_have_count(1)
    assert await answered(page) == "eins"
    assert await kept(page) == ["[[echo:eins]]", "eins"]
    (new,) = await conversations(page)
    await page.evaluate("(id) => fetch(`/v1/conversations/${id}`, {method: 'DELETE'})", new["id"])
    await page.reload()
    await page.wait_for_selector(LIVE)
    await page.wait_for_load_state("networkidle")
    await page.get_by_role("button", name="Branch").click()
    await expect(page.locator("#chat-list li")).to_have_count(2)
    await page.wait_for_load_state("networkidle")
    await expect(page.locator(ANSWER)).to_have_count(1)
    assert await kept(page) == ["[[echo:eins]]", "eins"]
    # What the server forgot, the browser itself tells its console.
    assert {text for text in complaints if "404 (Not Found)" not in text} == set()
    complaints.clear()


async def test_what_another_tab_does_leaves_an_open_editor_alone_and_what_it_deletes_stays_deleted(
    page: Page, grizz: Grizz, complaints: list[str]
) -> None:
    await ask(page, "[[echo:one]]")
    await answered(page)
    other = await page.context.new_page()
    listen(other, grizz.url, complaints)
    await other.goto(grizz.url)
    await other.locator(".edit").focus()
    await other.keyboard.press("Enter")
    await other.get_by_label("Edit your message").fill("half a thought")
    await ask(page, "[[words:100]] [[rate:50]]")
    await expect(other.locator(ANSWER)).to_have_count(2)
    assert await other.get_by_label("Edit your message").input_value() == "half a thought"
    await act(page, "[[echo:one]]", "Delete")  # while both follow its answer
    await page.get_by_role("button", name="Delete", exact=True).click()
    for tab in (page, other):
        await expect(tab.locator("#welcome")).to_be_visible()
    await page.wait_for_timeout(2500)  # longer than a running answer goes without being saved
    for tab in (page, other):
        await tab.reload()
        await tab.wait_for_selector(LIVE)
        await tab.wait_for_load_state("networkidle")
        await expect(tab.locator("#chat-list li")).to_have_count(0)


async def test_an_image_that_is_still_read_is_not_slipped_into_the_message_that_was_sent(page: Page) -> None:
    await page.evaluate(
        """() => {
          const read = window.createImageBitmap;
          window.createImageBitmap = (...all) => new Promise((go) => (window.go = go)).then(() => read(...all));
        }"""
    )
    await page.evaluate(PIXELS, "paste")
    await ask(page, "[[echo:without]]")
    await answered(page)
    await page.evaluate("window.go()")
    await expect(page.locator(".attachment")).to_have_count(1)
    await expect(page.locator(f"{QUESTION} img")).to_have_count(0)
