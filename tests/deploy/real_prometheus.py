"""A real Prometheus, as `deploy/prometheus` sets it up, that scrapes each second."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
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


class Prometheus:
    """One that runs."""

    def __init__(
        self, address: str, http: aiohttp.ClientSession, process: asyncio.subprocess.Process, log: Path
    ) -> None:
        self._address, self._http, self._process, self._log = address, http, process, log

    async def now(self, query: str) -> list[dict[str, Any]]:
        """What a query finds; nothing while it is starting: it refuses connections first, and answers 503 then."""
        try:
            async with self._http.get(f"http://{self._address}/api/v1/query", params={"query": query}) as answer:
                if answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
                    return []
                found = (await answer.json())["data"]["result"]
        except aiohttp.ClientConnectorError:
            assert self._process.returncode is None, self._log.read_text()
            return []
        return [{"metric": one["metric"], "value": one["value"][1]} for one in found]

    async def __call__(self, query: str) -> list[dict[str, Any]]:
        """What it finds first, other than nothing."""
        while not (found := await self.now(query)):
            await asyncio.sleep(0.2)
        return found


@asynccontextmanager
async def prometheus(
    *targets: str, folder: Path, rules: Path = FILES / "grizz.rules.yml", within_s: float | None = 90
) -> AsyncIterator[Prometheus]:
    """One that scrapes these each second."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = (FILES / "prometheus.yml").read_text()
    for pattern, value in (
        (r"(scrape|evaluation)_interval: \d+s", r"\1_interval: 1s"),
        (r"- grizz\.rules\.yml", f"- {rules}"),
        (r"\"?127\.0\.0\.1:8000\"?", ", ".join(target.removeprefix("http://") for target in targets)),
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
        async with aiohttp.ClientSession() as http, asyncio.timeout(within_s):
            yield Prometheus(address, http, process, folder / "log")
    finally:
        process.terminate()
        await process.wait()
