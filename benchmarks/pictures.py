"""Makes the picture of the README: a real Grizz and a real browser, before a model that knows one answer.

python -m benchmarks.pictures            # writes docs/chat.png
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import orjson
from aiohttp import web
from playwright.async_api import async_playwright

ROOT = Path(__file__).parent.parent
QUESTION = "What has the golden ratio to do with Fibonacci? In Python, please."
ANSWER = """\
The ratio of neighbouring **Fibonacci** numbers closes in on φ = (1 + √5) / 2 ≈ 1.618:

```python
def ratios(count):
    a, b = 1, 1
    for _ in range(count):
        a, b = b, a + b
        yield b / a        # closer to φ with every step

print([round(r, 4) for r in ratios(6)])
```

| step | ratio | error |
|-----:|------:|------:|
| 1 | 2.0000 | 0.3820 |
| 3 | 1.6667 | 0.0486 |
| 6 | 1.6154 | 0.0026 |

The error shrinks by φ² ≈ 2.6 at every step, since what is left of the second solution of *x² = x + 1* dies away.
"""


async def _answer(request: web.Request) -> web.StreamResponse:
    """The one answer, in pieces of a few letters, as a model says it."""
    asked = orjson.loads(await request.read())
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for start in range(0, len(ANSWER), 5):
        delta = {"choices": [{"index": 0, "delta": {"content": ANSWER[start : start + 5]}}], "model": asked["model"]}
        await response.write(b"data: " + orjson.dumps(delta) + b"\n\n")
        await asyncio.sleep(0.01)
    end = {
        "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 21, "completion_tokens": len(ANSWER) // 5, "total_tokens": 21 + len(ANSWER) // 5},
    }
    await response.write(b"data: " + orjson.dumps(end) + b"\n\ndata: [DONE]\n\n")
    return response


async def _model() -> tuple[web.AppRunner, str]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", _answer)
    app.router.add_get("/v1/models", lambda _: _listed())
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}/v1"


async def _listed() -> web.Response:
    return web.json_response({"object": "list", "data": [{"id": "small-talk-2", "object": "model"}]})


def _grizz(upstream: str, state: str) -> tuple[subprocess.Popen[str], str]:
    environ = os.environ | {"OPENAI_BASE_URL": upstream, "STATE_DIRECTORY": state}
    command = [sys.executable, str(ROOT / "grizz.py"), "--port", "0", "--log-format", "text"]
    process = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    url = next(line.partition("url=")[2].split()[0] for line in process.stderr if "url=" in line)
    return process, url


async def _picture(url: str, file: Path) -> None:
    browser_path = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))))
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        view = {"width": 1100, "height": 850}
        page = await browser.new_page(viewport=view, color_scheme="light", device_scale_factor=1.5)
        await page.goto(url)
        await page.wait_for_selector("#connection[data-state=live]")
        for question in ("A name for a small grey cat?", "Plan three days in Lisbon", QUESTION):
            await page.get_by_test_id("new-chat").click()
            await page.get_by_test_id("composer").fill(question)
            await page.keyboard.press("Enter")
            await page.get_by_text("tokens/s").wait_for()
            await asyncio.sleep(0.5)  # its list is saved, and its colours are painted
        await page.screenshot(path=file)
        await browser.close()


async def main() -> None:
    """Make the picture."""
    runner, upstream = await _model()
    with tempfile.TemporaryDirectory() as state:
        process, url = await asyncio.to_thread(_grizz, upstream, state)
        try:
            await _picture(url, ROOT / "docs" / "chat.png")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
            await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
