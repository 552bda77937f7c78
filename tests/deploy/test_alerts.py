"""The alert rules, before the real Prometheus: their own tests, their runbook, and a fault that raises one."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import ROOT, Grizz
from tests.deploy.real_prometheus import FILES, NEEDED, prometheus
from tests.several import dead_url, running

RULES = (FILES / "grizz.rules.yml").read_text()
ALERTS = re.findall(r"- alert: (\w+)", RULES)

pytestmark = [NEEDED, pytest.mark.timeout(120)]


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
    async with running(upstreams) as grizz, prometheus(grizz.url, folder=tmp_path) as ask:
        await ask('up{job="grizz"} == 1')
        async with http.post(f"{grizz.url}/v1/responses", json={"input": "[[words:3]]"}) as answer:
            assert answer.status == 200
        (raised,) = await ask('ALERTS{alertname="GrizzBreakerOpen"}')
        assert raised["metric"]["upstream"] == "dead"
        assert await ask('count(ALERTS{alertname!="GrizzBreakerOpen"}) or vector(0)') == [{"metric": {}, "value": "0"}]
