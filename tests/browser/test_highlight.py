"""Colours of code in a real Chromium: which words get which, when, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, Page

from tests.browser.conftest import CHROMIUM
from tests.browser.rendering import renderer
from tests.conftest import Grizz

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
    pytest.mark.timeout(120),
]

# What is coloured, as kind:text by their first letters: c comment, s string, n number, k keyword, t type, f function.
SAMPLES = {
    "js": ("const a = `x\n${b}` + 'c\\'d'; // e /* f", "k:const s:`x\n${b}` s:'c\\'d' c:// e /* f"),
    "ts": (
        "export class Foo { bar(): number { return 0x1F; } }",
        "k:export k:class t:Foo f:bar t:number k:return n:0x1F",
    ),
    "rust": ("fn f<'a>(s: &'a str) -> u8 { 1_000 }", "k:fn t:str t:u8 n:1_000"),
    "c": ("#include <a.h>\n/* b\nc */ int d = 1.5e3;", "f:#include c:/* b\nc */ t:int n:1.5e3"),
    "go": ("func main() { defer x.Close() } // nil", "k:func f:main k:defer f:Close c:// nil"),
    "python": (
        '@a.b\ndef f(x):\n    """c\n  d"""\n    return None # e',
        'f:@a.b k:def f:f s:"""c\n  d""" k:return t:None c:# e',
    ),
    "ruby": ("def a(b) :c if nil end # d", "k:def f:a t::c k:if t:nil k:end c:# d"),
    "bash": ('if [ -f "$A" ]; then echo ${B} a#b; fi # c', 'k:if n:-f s:"$A" k:then k:echo t:${B} k:fi c:# c'),
    "sql": ("Select a from b where c = 'd''e' -- f", "k:Select k:from k:where s:'d' s:'e' c:-- f"),
    "json": ('{"a": "b", "c": [1, true]}', 'f:"a" s:"b" f:"c" n:1 t:true'),
    "yaml": ("a: b # c\n- d-e: 'f'\n  g: 12", "f:a c:# c f:d-e s:'f' f:g n:12"),
    "toml": ('[a.b]\nc = "d" # e', 'k:[a.b] f:c s:"d" c:# e'),
    "html": ('<a href="b">c &amp; d</a><!-- e\nf -->', 'k:<a f:href s:"b" k:> n:&amp; k:</a k:> c:<!-- e\nf -->'),
    "css": ("/* a */ .b { color: #fff; margin: 1.5rem }", "c:/* a */ t:.b f:color n:#fff f:margin n:1.5rem"),
    "diff": ("@@ -1 +1 @@\n-a\n+b\n c", "k:@@ -1 +1 @@ d:-a s:+b"),
    "markdown": ("# a\n- **b** `c`\n> d", "k:# a n:- t:**b** s:`c` c:> d"),
    "klingon": ("const a = 1", ""),
}

# Everything that is coloured, in the order of the text.
COLOURED = """
() => [...CSS.highlights].flatMap(([name, highlight]) => [...highlight].map((range) => [name, range]))
  .sort(([, a], [, b]) => a.startContainer.compareDocumentPosition(b.startContainer) === 2 ? 1
    : a.startContainer === b.startContainer ? a.startOffset - b.startOffset : -1)
  .map(([name, range]) => `${name.slice(5, 6)}:${range.startContainer.data.slice(range.startOffset, range.endOffset)}`)
"""
COUNT = "() => [...CSS.highlights.values()].reduce((sum, one) => sum + one.size, 0)"


@pytest.fixture
async def page(browser: Browser, grizz: Grizz) -> AsyncIterator[Page]:
    async with renderer(browser, grizz) as page:
        yield page


async def until(page: Page, condition: str) -> None:
    async with asyncio.timeout(20):
        while not await page.evaluate(condition):
            await asyncio.sleep(0.02)


async def draw(page: Page, lang: str, code: str) -> None:
    await page.evaluate("(text) => { globalThis.root = kit.draw(text); }", f"```{lang}\n{code}\n```")


async def test_every_language_has_its_colours(page: Page) -> None:
    wrong = {}
    for lang, (code, expected) in SAMPLES.items():
        await draw(page, lang, code)
        if expected:
            await until(page, f"({COUNT})() > 0")
        else:
            await asyncio.sleep(0.3)
        coloured = " ".join(await page.evaluate(COLOURED))
        if coloured != expected:
            wrong[lang] = coloured
        assert (
            await page.evaluate("root.querySelectorAll('pre *').length === 1 && root.querySelector('code').innerText")
            == code
        )
        await page.evaluate("root.closest('.message').remove()")
        await until(page, f"({COUNT})() === 0")
    assert wrong == {}


async def test_code_gets_its_colours_when_it_is_finished_and_loses_them_when_it_goes(page: Page) -> None:
    await page.evaluate(
        "() => { globalThis.view = new kit.Markdown(kit.mount()); view.append('```js\\nlet a = 1;\\n'); view.flush(); }"
    )
    await asyncio.sleep(0.3)
    assert await page.evaluate("CSS.highlights.size") == 0
    await page.evaluate("() => { view.append('```\\n'); view.flush(); }")
    await until(page, f"({COUNT})() === 2")
    await page.evaluate("() => view.reset()")
    await until(page, f"({COUNT})() === 0")


async def test_only_what_is_near_the_screen_of_a_long_block_is_coloured(page: Page) -> None:
    await draw(page, "py", "x = 1\n" * 5000 + '"""\na\n"""')
    await until(page, f"({COUNT})() > 0")
    await page.evaluate("document.querySelector('#scroller').scrollTop = 0")
    await until(page, f"({COUNT})() > 0")
    assert await page.evaluate(COUNT) < 400
    last = "root.querySelector('code:last-child').firstChild"
    await page.evaluate("document.querySelector('#scroller').scrollTop = 1e9")
    await until(page, f"[...CSS.highlights.get('code-string')].some((one) => one.startContainer === {last})")
    assert await page.evaluate(COUNT) < 400
    first = "root.querySelector('code').firstChild"
    await until(page, f"[...CSS.highlights.get('code-number')].every((one) => one.startContainer !== {first})")


async def test_there_is_a_limit_to_the_ranges_and_to_the_size_of_a_block(page: Page) -> None:
    await draw(page, "json", "\n".join("1, " * 400 for _ in range(40)))
    await draw(page, "js", "let a;\n" * 40_000)
    await until(page, f"({COUNT})() > 0")
    await asyncio.sleep(0.5)
    assert await page.evaluate(COUNT) <= 5000
    assert "k:let" not in await page.evaluate(COLOURED)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_colour_can_be_read(browser: Browser, grizz: Grizz, scheme: str) -> None:
    script = """
    () => {
      const code = root.querySelector("code");
      const channels = (color) => color.match(/[\\d.]+/g).slice(0, 3).map((one) => one / 255)
        .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
      const light = (color) => channels(color).reduce((sum, one, n) => sum + one * [0.2126, 0.7152, 0.0722][n], 0);
      const ground = light(getComputedStyle(code.closest(".code")).backgroundColor);
      return [...CSS.highlights.keys()].map((name) => {
        const color = getComputedStyle(code, `::highlight(${name})`).color;
        const [low, high] = [light(color), ground].sort((a, b) => a - b);
        return [name, color, (high + 0.05) / (low + 0.05)];
      });
    }
    """
    async with renderer(browser, grizz, color_scheme=scheme) as page:
        await draw(page, "js", "let a = 1")
        await until(page, f"({COUNT})() > 0")
        colours = await page.evaluate(script)
    assert len({color for _, color, _ in colours}) == 7
    for name, color, contrast in colours:
        assert contrast >= 4.5, f"{name} {color} {contrast}"


async def test_without_the_interface_code_stays_plain(browser: Browser, grizz: Grizz) -> None:
    async with renderer(browser, grizz) as page:
        await page.add_init_script("delete globalThis.Highlight")
        await page.reload()
        await page.wait_for_selector("#connection[data-state=live]")
        text = await page.evaluate(
            """async () => {
              const { Markdown } = await import("/pages/markdown.js");
              const root = document.createElement("div");
              const view = new Markdown(root);
              view.append("```js\\nlet a = 1;\\n```");
              view.end();
              return root.querySelector("pre").innerText;
            }"""
        )
    assert text == "let a = 1;"
