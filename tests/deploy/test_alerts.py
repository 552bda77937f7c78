"""The alert rules, before the real Prometheus: their own tests, their runbook, and a fault that raises one."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.conftest import ROOT, Grizz
from tests.several import dead_url, running

FILES = ROOT / "deploy" / "prometheus"
RULES = (FILES / "grizz.rules.yml").read_text()
ALERTS = re.findall(r"- alert: (\w+)", RULES)

pytestmark = [
    pytest.mark.skipif(
        not (shutil.which("promtool") and shutil.which("prometheus")),
        reason="no Prometheus is installed (Debian: apt-get install prometheus)",
    ),
    pytest.mark.timeout(120),
]


def promtool(*arguments: str) -> str:
    ran = subprocess.run(["promtool", *arguments], cwd=FILES, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_the_rules_pass_their_own_tests() -> None:
    assert "SUCCESS" in promtool("test", "rules", "grizz.rules.test.yml")


def test_the_example_of_a_prometheus_is_valid() -> None:
    assert "SUCCESS" in promtool("check", "config", "prometheus.yml")


def test_every_alert_has_a_case_that_fires_one_that_does_not_and_a_runbook() -> None:
    tests = (FILES / "grizz.rules.test.yml").read_text()
    runbook = (ROOT / "docs" / "operations.md").read_text().partition("\n## Alerts\n")[2]
    assert re.findall(r"^### (Grizz\w+)$", runbook, re.M) == ALERTS
    for alert in ALERTS:
        assert f"name: '{alert} fires'" in tests
        assert f"name: '{alert} is silent: " in tests
        assert f"runbook: docs/operations.md#{alert.lower()}\n" in RULES


async def test_every_metric_in_the_rules_is_exported(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    async with http.get(f"{grizz.url}/metrics") as answer:
        exported = set(re.findall(r"^(\w+)[ {]", await answer.text(), re.M))
    wanted = set(re.findall(r"\b((?:grizz|process)_\w+)", RULES))
    assert len(wanted) > 15
    assert wanted - exported == set()


async def test_a_dead_model_server_raises_its_alert_in_a_real_prometheus(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    upstreams = {"dead": {"base_url": dead_url(), "breaker_failures": 1, "max_retries": 0}, "spare": {}}
    async with running(upstreams) as grizz, prometheus(grizz.url, tmp_path) as ask:
        await ask('up{job="grizz"} == 1')
        async with http.post(f"{grizz.url}/v1/responses", json={"input": "[[words:3]]"}) as answer:
            assert answer.status == 200
        (raised,) = await ask('ALERTS{alertname="GrizzBreakerOpen"}')
        assert raised["metric"]["upstream"] == "dead"
        assert await ask('count(ALERTS{alertname!="GrizzBreakerOpen"}) or vector(0)') == [{"metric": {}, "value": "0"}]


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
