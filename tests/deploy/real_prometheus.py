"""A real Prometheus, as `deploy/prometheus` sets it up, that scrapes each second."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.conftest import ROOT

FILES = ROOT / "deploy" / "prometheus"
NEEDED = pytest.mark.skipif(
    not (shutil.which("promtool") and shutil.which("prometheus")),
    reason="no Prometheus is installed (Debian: apt-get install prometheus)",
)


@asynccontextmanager
async def prometheus(target: str, folder: Path) -> AsyncIterator[Any]:
    """One that scrapes `target` each second; `await ask(query)` is the first result that is not empty."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = (FILES / "prometheus.yml").read_text()
    for pattern, value in (
        (r"(scrape|evaluation)_interval: \d+s", r"\1_interval: 1s"),
        (r"- grizz\.rules\.yml", f"- {FILES}/grizz.rules.yml"),
        (r"127\.0\.0\.1:8000", target.removeprefix("http://")),
    ):
        config, found = re.subn(pattern, value, config)
        assert found
    (folder / "prometheus.yml").write_text(config)
    options = (f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data")
    with (folder / "log").open("w") as log:
        process = await asyncio.create_subprocess_exec(
            "prometheus", *options, f"--web.listen-address={address}", stdout=log, stderr=log
        )
    try:
        async with aiohttp.ClientSession() as http, asyncio.timeout(90):

            async def ask(query: str) -> list[dict[str, Any]]:
                while True:
                    try:
                        async with http.get(f"http://{address}/api/v1/query", params={"query": query}) as answer:
                            found = (await answer.json())["data"]["result"]
                    except aiohttp.ClientConnectorError:
                        found = []
                    if found:
                        return [{"metric": one["metric"], "value": one["value"][1]} for one in found]
                    assert process.returncode is None, (folder / "log").read_text()
                    await asyncio.sleep(0.2)

            yield ask
    finally:
        process.terminate()
        await process.wait()
