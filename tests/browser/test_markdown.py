"""Markdown in answers, drawn in a real Chromium: what it means, that streaming changes nothing, that nothing gets out.

The cases follow examples of the CommonMark specification 0.31.2 and of GitHub's for tables (both CC BY-SA 4.0); what
differs from them on purpose stands in docs/pages.md.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page

from tests.browser.conftest import CHROMIUM
from tests.browser.rendering import renderer
from tests.conftest import Grizz

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
    pytest.mark.timeout(120),
]

CASES: dict[str, list[list[str]]] = json.loads(Path(__file__).with_name("markdown_cases.json").read_text())
TEXTS = [text for cases in CASES.values() for text, _ in cases]
BLOCKS = "blockquote button code div h1 h2 h3 h4 h5 h6 hr li ol p pre table tbody td th thead tr ul"
ALLOWED = {*BLOCKS.split(), *"a code del em input label strong".split()}

HOSTILE = [
    "<script>globalThis.harmed = 1</script>",
    "<img src=x onerror=globalThis.harmed=1> <svg onload=globalThis.harmed=1><a xlink:href=javascript:1>x</a></svg>",
    "<!-- <img src=x> --> <iframe srcdoc='<script>parent.harmed=1</script>'></iframe> <math><style>*{}</style>",
    "[a](javascript:harmed=1) [b](JaVaScRiPt:harmed=1) [c]( javascript:harmed=1) [d](<javascript:harmed=1>)",
    "[a](java\nscript:1) [b](java\tscript:1) [c](\x01javascript:1) [d](javascript&colon;1) [e](javascript&#58;1)",
    "[a](&#106;avascript:1) [b](&#x6A;avascript&#x3A;1) [c](\\javascript:1) [d](x&#10;script:1) [e](//evil.example)",
    "[a](data:text/html;base64,PHNjcmlwdD4=) [b](vbscript:1) [c](DATA:text/html,x) [d](blob:x) [e](file:///etc/passwd)",
    "[a](https://a.example\x00javascript:1) [b](https://a\u2028b) [c](http://a.example/\u0007) ![x](javascript:1)",
    '[a](https://a.example "onclick=x") [b](https://a.example \'"><script>1</script>\') [c](https://a"onmouseover="1)',
    "<javascript:harmed=1> <data:text/html,x> <https://a.example/\"onmouseover='harmed=1'> https://a.example/<script>",
    "[a [b](javascript:1) c](javascript:2) [![x](data:,y)](javascript:3) [x]: javascript:4\n\n[x]",
    "```<img src=x onerror=1>\n</code></pre><script>globalThis.harmed=1</script>\n```",
    "| <b>a</b> | [x](javascript:1) |\n|---|---|\n| <script>harmed=1</script> | `<i>` |",
    "\u202eright to left\u202c \u2066isolated \u200d\u200d\u200d zero width \u200b [\u202ea](https://a.example/\u202ex)",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 " * 50 + "a\u0301" * 50 + "\ud83d **\ud83d** `\udc00`",
]

BIG = {
    "quotes": ">" * 10_000 + " a",
    "quotes with blanks": "> " * 10_000 + "a",
    "quotes over many lines": "".join(">" * n + "a\n" for n in range(300)),
    "lists in lists": "".join("  " * n + "- a\n" for n in range(500)),
    "items on a line": "- " * 10_000 + "a",
    "stars": "*" * 100_000,
    "stars with words": "*a " * 30_000,
    "closing stars": "a* " * 30_000,
    "stars of all kinds": "".join("*" * (n % 5 + 1) + "a" + "_" * (n % 4) for n in range(30_000)),
    "nested emphasis": "*a **b " * 10_000 + "c** d*" * 10_000,
    "brackets": "[" * 50_000,
    "brackets both ways": "[" * 25_000 + "](" * 25_000,
    "links that do not end": "[a](" * 25_000,
    "links in links": "[a](https://b.c" * 8_000,
    "images": "![" * 25_000 + "](https://b.c)" * 5_000,
    "backticks": "`" * 50_000,
    "backticks of all lengths": " ".join("`" * n for n in range(400)),
    "backticks on lines": "`a\n" * 30_000,
    "table": "|a|b|\n|-|-|\n" + "|c|d|\n" * 3_000,
    "wide table": "|a" * 5_000 + "|\n" + "|-" * 5_000 + "|\n" + "|b" * 5_000 + "|",
    "pipes": "|" * 100_000,
    "rules": "- - " * 30_000 + "a",
    "underline": "a\n" + "=" * 100_000 + "b",
    "hashes": "#" * 100_000 + "\n" + "# " + "#" * 100_000,
    "blanks": "a" + " " * 100_000 + "b\n" + " " * 100_000 + "\n" + "\t" * 50_000 + "c",
    "backslashes": "\\" * 100_000,
    "entities": "&" * 50_000 + "&#1;" * 20_000,
    "addresses": "https://a.b/" + "(" * 20_000 + ")" * 20_000 + " http://" * 10_000,
    "angles": "<" * 50_000 + "<https://" * 10_000 + "<a@" * 10_000,
    "code in one line": "```\n" + "x" * 300_000,
    "fences": "```\n" * 10_000,
    "joined emoji": "\U0001f468\u200d" * 20_000,
    "one word": "a" * 300_000,
}


@pytest.fixture
async def page(browser: Browser, grizz: Grizz) -> AsyncIterator[Page]:
    async with renderer(browser, grizz) as page:
        yield page


def long_document(seed: int) -> str:
    """Everything there is, one after the other and in each other, in an order of its own."""
    chance = random.Random(seed)
    # Some code blocks among the cases never end: they would swallow the rest.
    parts = [text for name, cases in CASES.items() if name != "code blocks" for text, _ in cases]
    chance.shuffle(parts)
    inside = [("> " * n + text.replace("\n", "\n" + "> " * n)) for n, text in enumerate(parts[:3])]
    items = ["- " + text.replace("\n", "\n  ") for text in parts[3:20]]
    long = ["word *of* many. " * 600, "".join(f"line {n}\n" for n in range(400))]
    long += ["```py\n" + "".join(f"x = {n}\n" for n in range(120)) + "```"]
    long += ["".join(f"{n}. item\n" for n in range(1, 450)), "|a|b|\n|-|-|\n" + "|1|2|\n" * 230]
    pieces = parts + inside + items + long
    chance.shuffle(pieces)
    return "\n\n".join(pieces) + "\n"


async def test_every_case_is_drawn_as_stated(page: Page) -> None:
    assert len(TEXTS) > 300
    drawn = await page.evaluate("(texts) => texts.map((text) => kit.drawn(text))", TEXTS)
    expected = [html for cases in CASES.values() for _, html in cases]
    wrong = [case for case in zip(TEXTS, expected, drawn, strict=True) if case[1] != case[2]]
    assert wrong == []


async def test_a_text_that_comes_letter_by_letter_ends_in_what_it_is_at_once(page: Page) -> None:
    script = """
    (texts) => texts.filter((text) => {
      const cuts = Array.from(text, (_, index) => index + 1);
      return kit.drawn(text, cuts) !== kit.drawn(text);
    })
    """
    assert await page.evaluate(script, TEXTS) == []


async def test_a_line_that_may_still_become_something_else_is_not_drawn_yet(page: Page) -> None:
    script = """
    (lines) => lines.map((line) => {
      let seen;
      kit.drawn(`a\\n\\n${line} b`, [3 + line.length], (root) => { seen = kit.html(root); });
      return seen;
    })
    """
    undecided = [
        "-",
        "*",
        "1",
        "12.",
        "##",
        ">",
        "- [",
        "- [ ",
        "- [x]",
        "* * *",
        "- - ",
        "__ _",
        "| - | :",
        "```",
        "```py",
    ]
    assert await page.evaluate(script, undecided) == ["<p>a</p>"] * len(undecided)
    assert await page.evaluate(script, ["- x", "b", "> c"]) == [
        *["<p>a</p><ul><li><p>x</p></li></ul>", "<p>a</p><p>b</p>", "<p>a</p><blockquote><p>c</p></blockquote>"],
    ]


@pytest.mark.parametrize("seed", range(2))
async def test_how_a_long_document_is_split_changes_nothing_and_no_finished_block_is_drawn_again(
    page: Page, seed: int
) -> None:
    text = long_document(seed)
    chance = random.Random(seed)
    cuts, at = [], 0
    while (at := at + chance.choice([1, 2, 3, 5, 8, 40, 200, 900])) < len(text):
        cuts.append(at)
    script = """
    ([text, cuts]) => {
      const seen = new Map(); // finished block → what it was
      let root;
      const drawn = kit.drawn(text, cuts, (now) => {
        root = now;
        for (const block of [...root.children].slice(seen.size, -1)) seen.set(block, block.outerHTML);
      });
      const isSame = ([block, was], index) => root.children[index] === block && block.outerHTML === was;
      const changed = [...seen].filter((one, index) => !isSame(one, index)).map(([block, was]) => was);
      return { same: drawn === kit.drawn(text), blocks: seen.size, changed };
    }
    """
    result = await page.evaluate(script, [text, cuts])
    assert result["blocks"] > 150
    assert result["changed"] == []
    assert result["same"]


async def test_nothing_hostile_becomes_more_than_text(page: Page) -> None:
    texts = HOSTILE + TEXTS + ["\n\n".join(HOSTILE), "\n".join("> - " + text for text in HOSTILE)]
    script = """
    (texts) => texts.flatMap((text) => [[], Array.from({ length: text.length / 3 }, (_, n) => n * 3)].map((cuts) => {
      const root = kit.draw(text, cuts);
      const elements = [...root.querySelectorAll("*")];
      for (const button of root.querySelectorAll("button")) button.click();
      const found = {
        tags: elements.map((one) => one.localName),
        attributes: elements.flatMap((one) => one.getAttributeNames()),
        links: [...root.querySelectorAll("a")].map((one) => [one.getAttribute("href"), one.protocol, one.rel]),
      };
      root.closest(".message").remove();
      return found;
    }))
    """
    found = await page.evaluate(script, texts)
    assert {tag for one in found for tag in one["tags"]} <= ALLOWED
    attributes = {name for one in found for name in one["attributes"]}
    assert attributes <= set(
        "aria-label checked class dir disabled href rel role start style tabindex target title type".split()
    )
    links = [link for one in found for link in one["links"]]
    assert len(links) > 50
    for href, protocol, rel in links:
        assert protocol in ("http:", "https:", "mailto:"), href
        assert href.lower().startswith(("http://", "https://", "mailto:")), href
        assert rel == "noopener noreferrer"
    assert await page.evaluate("globalThis.harmed") is None


async def test_no_text_takes_long(page: Page) -> None:
    script = """
    ([text, step]) => {
      const began = performance.now();
      const cuts = step ? Array.from({ length: text.length / step }, (_, n) => n * step) : [];
      const root = kit.draw(text, cuts);
      const took = performance.now() - began;
      let depth = 0;
      for (let node = root; node; node = [...node.children].at(-1)) depth += 1;
      root.closest(".message").remove();
      return [took, depth];
    }
    """
    for name, text in BIG.items():
        for step in (0, 2000):
            took, depth = await page.evaluate(script, [text, step])
            if took > 2000:  # another look: the machine may have been busy
                took, depth = await page.evaluate(script, [text, step])
            assert took < 6000, f"{name} in pieces of {step} took {took} ms"
            assert depth < 60, name


async def test_finished_text_has_its_own_direction_and_code_goes_left_to_right(page: Page) -> None:
    text = "שלום\n\n- שלום\n- hello\n\n> שלום\n\n# שלום\n\n```\nשלום\n```\n\n|שלום|b|\n|-|-|\n|a|שלום|\n\nhello"
    script = """
    (text) => [...kit.draw(text).querySelectorAll("p, li, blockquote, h1, pre, th, td")].map((one) =>
      `${one.localName} ${getComputedStyle(one).direction} ${one.matches("p, h1, th, td, pre") ? "" : one.dir}`.trim())
    """
    assert await page.evaluate(script, text) == [
        *["p rtl", "li rtl auto", "p rtl", "li ltr auto", "p ltr", "blockquote rtl auto", "p rtl", "h1 rtl", "pre ltr"],
        *["th rtl", "th ltr", "td ltr", "td rtl", "p ltr"],
    ]


async def test_code_says_its_language_and_can_be_scrolled_and_copied_as_it_was(page: Page) -> None:
    lines = "".join(f"\tline {n}\n" for n in range(120)) + "x" * 300
    script = """
    async (text) => {
      const root = kit.mount();
      const copied = new Promise((resolve) => {
        const view = new kit.Markdown(root, { onCopy: resolve });
        view.append(text);
        view.end();
        view.flush();
      });
      root.querySelector("button").click();
      const selection = getSelection();
      selection.selectAllChildren(root.querySelector("pre"));
      const selected = selection.toString();
      return [await copied, selected, root.querySelector(".lang").innerText, root.querySelectorAll("code").length];
    }
    """
    copied, selected, lang, parts = await page.evaluate(script, f"```python title\n{lines}\n```")
    assert copied == lines
    assert selected.strip("\n") == lines
    assert (lang, parts) == ("python", 3)
    await page.focus(".code pre")
    await page.keyboard.press("ArrowRight")
    async with asyncio.timeout(10):
        while not await page.evaluate("document.querySelector('.code pre').scrollLeft > 0"):
            await asyncio.sleep(0.02)


async def test_a_task_is_a_checkbox_with_its_label_and_cannot_be_clicked(page: Page) -> None:
    await page.evaluate("kit.draw('- [ ] buy *milk*\\n- [x] rest')")
    first, second = [page.get_by_role("checkbox", name=name) for name in ("buy milk", "rest")]
    assert await first.is_disabled()
    assert [await first.is_checked(), await second.is_checked()] == [False, True]
