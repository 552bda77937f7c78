"""The chat page by keyboard alone, for screen readers, and before axe."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.conftest import ANSWER, CHROMIUM, LIVE, answered, ask, listen
from tests.conftest import Grizz
from tests.e2e.conftest import npm_packages

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
    pytest.mark.timeout(120),
]

RICH = (
    '[[reasoning:First **think**.]] [[tool:get_weather]] [[args:{"city": "Paris"}]] [[echo]]# Title\n\n'
    "Some *text* with `code` and [a link](https://example.org).\n\n```python\nprint('hello')  # a comment\n```\n\n"
    "| a | b |\n|---|---|\n| 1 | 2 |\n\n> quoted\n\n- one\n  - two\n- [x] done\n"
)


@pytest.fixture(scope="session")
def axe() -> str:
    return (npm_packages("node") / "node_modules" / "axe-core" / "axe.min.js").read_text()


async def violations(page: Page, axe: str) -> list[str]:
    """What axe finds wrong with the page as it is, by rule and element."""
    await page.evaluate(axe)
    found = await page.evaluate("axe.run({resultTypes: ['violations']})")
    return [f"{rule['id']}: {node['html'][:160]}" for rule in found["violations"] for node in rule["nodes"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_wrong_in_any_state_of_the_page(
    browser: Browser, grizz: Grizz, axe: str, scheme: str, complaints: list[str]
) -> None:
    context = await browser.new_context(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
    page = await context.new_page()
    listen(page, grizz.url, complaints)
    await page.goto(grizz.url)
    await page.wait_for_selector(LIVE)
    states = {"empty": await violations(page, axe)}
    await ask(page, RICH)
    await answered(page)
    await ask(page, "[[error:400]]")
    await page.wait_for_selector(f"{ANSWER}[data-status=failed]")
    states["answered"] = await violations(page, axe)
    await page.locator("#chat-list .more").click()
    states["menu"] = await violations(page, axe)
    await page.keyboard.press("Escape")
    await page.locator(".message[data-role=user]").first.hover()
    await page.locator(".edit").first.click()
    states["editing"] = await violations(page, axe)
    await page.keyboard.press("Escape")
    for opener, dialog in (("#options-open", "#options"), ("#help", "#shortcuts")):
        await page.click(opener)
        await page.wait_for_selector(f"{dialog}[open]")
        states[dialog] = await violations(page, axe)
        await page.keyboard.press("Escape")
    await page.set_viewport_size({"width": 320, "height": 568})
    states["phone"] = await violations(page, axe)
    await page.click("#recent")
    states["drawer"] = await violations(page, axe)
    assert {state: wrong for state, wrong in states.items() if wrong} == {}


async def test_everything_is_reached_by_keyboard_and_the_focus_is_never_lost(page: Page) -> None:
    focused = "document.activeElement.id || document.activeElement.className"
    await expect(page.locator("#composer")).to_be_focused()
    await page.keyboard.type("[[echo:first]]")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type("second line")
    await page.keyboard.press("Enter")
    await answered(page)
    assert await page.text_content(".message[data-role=user] .text") == "[[echo:first]]\nsecond line"
    await page.keyboard.press("ArrowUp")  # edits the last one
    await expect(page.get_by_label("Edit your message")).to_be_focused()
    await page.keyboard.press("Escape")
    assert await page.evaluate(focused) == "quiet edit"
    await page.keyboard.press("/")
    await expect(page.locator("#composer")).to_be_focused()
    await page.keyboard.press("?")  # a character here, a shortcut elsewhere
    assert await page.input_value("#composer") == "?"
    await page.fill("#composer", "")
    await page.locator(".edit").focus()
    await page.keyboard.press("?")
    await page.wait_for_selector("#shortcuts[open]")
    await page.keyboard.press("Escape")
    assert await page.evaluate(focused) == "quiet edit"
    await page.keyboard.press("Control+k")
    await expect(page.locator("#search")).to_be_focused()
    await page.keyboard.press("ArrowDown")
    assert await page.evaluate(focused) == "quiet open"
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")  # the menu
    for _ in range(3):
        await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")  # delete
    await page.wait_for_selector("#confirm[open]")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(page.locator("#chat-list li")).to_have_count(0)
    assert await page.evaluate("document.activeElement !== document.body")
    await page.keyboard.press("Control+Shift+O")
    await expect(page.locator("#composer")).to_be_focused()


async def test_escape_stops_the_answer_and_a_screen_reader_hears_its_start_and_end_only(page: Page) -> None:
    await page.evaluate(
        """() => {
          window.said = [];
          const heard = document.querySelector("#announcer");
          new MutationObserver(() => window.said.push(heard.textContent)).observe(heard, {childList: true});
        }"""
    )
    await ask(page, "[[words:500]] [[rate:50]]")
    await expect(page.locator(f"{ANSWER} .text")).to_contain_text("w9 ")
    assert await page.get_attribute(ANSWER, "aria-busy") == "true"
    await page.keyboard.press("Escape")
    await page.wait_for_selector(f"{ANSWER}[data-status=cancelled]")
    await ask(page, "[[echo:three short words]]")
    await answered(page)
    assert await page.evaluate("window.said") == [
        "Answer started.",
        "Answer stopped.",
        "Answer started.",
        "Answer finished, 3 words.",
    ]
    assert await page.get_attribute("#messages", "aria-live") == "off"


async def test_a_page_fits_a_small_phone_and_a_large_screen_and_right_to_left_text(page: Page, tmp_path: Path) -> None:
    await ask(page, "[[echo]]שלום עולם\n\n- אחת\n- שתיים\n\nعربي " + "x" * 300)
    await answered(page)
    assert await page.eval_on_selector(f"{ANSWER} .text p", "(node) => getComputedStyle(node).direction") == "rtl"
    for width, height in ((320, 568), (768, 1024), (3840, 2160)):
        await page.set_viewport_size({"width": width, "height": height})
        await page.screenshot(path=tmp_path / f"{width}.png")
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        box = await page.locator("#send").bounding_box()
        assert box is not None and box["x"] + box["width"] <= width and box["y"] + box["height"] <= height
        wide = await page.eval_on_selector("#messages", "(node) => node.scrollWidth - node.clientWidth")
        assert wide <= 0


async def test_the_whole_page_weighs_120_kib_at_most(browser: Browser, grizz: Grizz) -> None:
    page = await browser.new_page()
    bodies: dict[str, int] = {}

    async def weigh(response) -> None:
        if "/v1/" not in response.url:
            bodies[response.url] = len(await response.body())

    page.on("response", weigh)
    await page.goto(grizz.url)
    await page.wait_for_selector(LIVE)
    await page.wait_for_load_state("networkidle")
    assert len(bodies) > 10
    assert sum(bodies.values()) <= 120 * 1024, bodies
