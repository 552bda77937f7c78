"""What `/metrics` has: what the documents list, in both formats, and never more for what a client sends."""

from __future__ import annotations

import re

import aiohttp
import pytest
from prometheus_client import Metric, parser
from prometheus_client.openmetrics import parser as openmetrics

from tests.conftest import ROOT, Grizz

FORMATS = {
    "text/plain": parser.text_string_to_metric_families,
    "application/openmetrics-text; version=1.0.0": openmetrics.text_string_to_metric_families,
}
ROW = re.compile(r"^\| `(grizz_\w+)` \| (\w+) \| ([^|]*) \| \S[^|]* \|$", re.M)


async def scrape(grizz: Grizz, http: aiohttp.ClientSession, accept: str = "text/plain") -> list[Metric]:
    async with http.get(f"{grizz.url}/metrics", headers={"Accept": accept}) as answer:
        assert answer.status == 200
        assert answer.content_type == accept.partition(";")[0]
        return list(FORMATS[accept]((await answer.read()).decode()))


def facts(metrics: list[Metric]) -> dict[str, tuple[str, frozenset[str]]]:
    """Type and labels, by the name that queries use."""
    found = {}
    for metric in metrics:
        name = metric.name + ("_total" if metric.type == "counter" else "")
        labels = {label for sample in metric.samples for label in sample.labels} - {"le"}
        found[name] = (metric.type, frozenset(labels))
    return found


@pytest.mark.parametrize("accept", FORMATS)
async def test_the_documents_list_every_metric_with_its_type_and_labels(
    grizz: Grizz, http: aiohttp.ClientSession, accept: str
) -> None:
    async with http.post(f"{grizz.url}/v1/responses", json={"input": "[[words:3]]"}) as answer:
        assert answer.status == 200
    exported = {name: fact for name, fact in facts(await scrape(grizz, http, accept)).items() if name[:6] == "grizz_"}
    section = (ROOT / "docs" / "operations.md").read_text().partition("\n## Metrics\n")[2].partition("\n## ")[0]
    listed = {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in ROW.findall(section)}
    assert listed == exported
    assert len(listed) > 50


async def test_nothing_that_a_client_sends_makes_another_series(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    async def ask(body: dict[str, object]) -> None:
        async with http.post(f"{grizz.url}/v1/responses", json=body) as answer:
            await answer.read()

    async def series() -> set[tuple[str, tuple[tuple[str, str], ...]]]:
        samples = [sample for metric in await scrape(grizz, http) for sample in metric.samples]
        return {(sample.name, tuple(sorted(sample.labels.items()))) for sample in samples}

    await ask({"input": "[[words:3]]"})
    before = await series()
    for number in range(30):
        await ask({"input": "[[words:3]]", "model": f"made-up-{number}", "user": f"somebody-{number}"})
        await ask({"input": number})
        async with http.ws_connect(grizz.ws_url) as socket:
            await socket.close(code=3000 + number)
    await ask({"input": "[[error:500]]"})
    assert await series() == before
