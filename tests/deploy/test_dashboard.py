"""Every query of the dashboard, asked of a real Prometheus that scraped a real Grizz while it answered."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import ROOT, Grizz
from tests.deploy.real_prometheus import NEEDED, prometheus

pytestmark = [NEEDED, pytest.mark.timeout(120)]

DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "grizz.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ROWS = (
    *("Is it fine?", "Latency", "Traffic and outcomes", "Queue and workers"),
    *("Clients", "Model servers", "Redis", "Process"),
)


def test_the_dashboard_has_its_rows_and_no_two_panels_lie_over_each_other() -> None:
    assert tuple(panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row") == ROWS
    covered: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in DASHBOARD["panels"]):
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & covered
        assert place["x"] + place["w"] <= 24
        covered |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


async def test_every_query_of_the_dashboard_gives_something(
    grizz: Grizz, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with prometheus(grizz.url, folder=tmp_path) as ask:
        await ask('up{job="grizz"} == 1')
        for _ in range(3):  # between two scrapes, so that rates are seen
            async with http.post(f"{grizz.url}/v1/responses", json={"input": "[[words:20]] [[rate:100]]"}) as answer:
                assert answer.status == 200
            await asyncio.sleep(0.5)
        await ask('sum(rate(grizz_jobs_finished_total{outcome="ok"}[1m])) > 0')
        queries = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
        assert len(queries) > 50
        for title, query in queries:
            filled = re.sub(r"\$(?:job|instance|model|upstream)\b", ".*", query).replace("$__rate_interval", "1m")
            assert "$" not in filled, title
            async with asyncio.timeout(10):
                assert await ask(filled), title
        names = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
        assert names == {"datasource", "job", "instance", "model", "upstream"}
        for variable in DASHBOARD["templating"]["list"][1:]:
            series, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
            assert all(label in one["metric"] for one in await ask(series.replace("$job", ".*")))
