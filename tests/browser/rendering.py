"""The renderer of the chat page by itself: in a page of Grizz, under its policy and with its style sheet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, Page

from tests.conftest import Grizz

# kit.html(root) is what was drawn, short: no attribute but those that a text decides, code as one piece.
KIT = """
async () => {
  const { Markdown } = await import("/pages/markdown.js");
  const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const GAPS = new Set("DIV UL OL LI BLOCKQUOTE TABLE THEAD TBODY TR".split(" ")); // text in these is only a gap
  const html = (parent) => [...parent.childNodes].map((node) => {
    if (node.nodeType === Node.TEXT_NODE) return GAPS.has(parent.tagName) ? "" : escaped(node.data);
    if (node.matches("div.code")) {
      const lang = node.querySelector(".lang").textContent;
      return `<pre${lang && ` lang="${lang}"`}>${escaped(node.querySelector("pre").textContent)}</pre>`;
    }
    if (node.matches("div")) return html(node);
    let tag = node.localName;
    for (const name of ["href", "title", "start"]) {
      if (node.hasAttribute(name)) tag += ` ${name}="${node.getAttribute(name)}"`;
    }
    if (node.style.textAlign) tag += ` align="${node.style.textAlign}"`;
    if (node.checked) tag += " checked";
    return `<${tag}>` + (node.matches("hr, input") ? "" : html(node) + `</${node.localName}>`);
  }).join("");
  document.querySelector("#welcome").hidden = true;
  document.querySelector("#messages").hidden = false;
  const mount = () => {
    const [message, body, root] = ["article", "div", "div"].map((name) => document.createElement(name));
    [message.className, body.className, root.className] = ["message", "body", "text"];
    body.append(root);
    message.append(body);
    document.querySelector("#messages").append(message);
    return root;
  };
  /** Draw `text` as it comes in pieces that end at `cuts`; returns the root. `each` is called after each piece. */
  const draw = (text, cuts = [], each = () => {}) => {
    const root = mount();
    const view = new Markdown(root);
    let start = 0;
    for (const cut of cuts) {
      view.append(text.slice(start, cut));
      view.flush();
      each(root);
      start = cut;
    }
    view.append(text.slice(start));
    view.end();
    view.flush();
    return root;
  };
  const drawn = (text, cuts, each) => {
    const root = draw(text, cuts, each);
    const result = html(root);
    root.closest(".message").remove();
    return result;
  };
  globalThis.kit = { Markdown, html, mount, draw, drawn };
}
"""


@asynccontextmanager
async def renderer(browser: Browser, grizz: Grizz, **context: object) -> AsyncIterator[Page]:
    """A page with `kit`; it must stay silent. `context` are options of the browser context, such as `color_scheme`."""
    complaints: list[str] = []
    page = await (await browser.new_context(**context)).new_page()
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
    page.on("request", lambda request: None if request.url.startswith(grizz.url) else complaints.append(request.url))
    await page.goto(grizz.url)
    await page.wait_for_selector("#connection[data-state=live]")
    await page.evaluate(KIT)
    yield page
    assert complaints == []
    await page.context.close()
