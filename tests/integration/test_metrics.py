"""What `/metrics` has: what the documents list, in both formats, and never more for what a client sends."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from prometheus_client import Metric, parser
from prometheus_client.openmetrics import parser as openmetrics

from grizz.telemetry.series import ROOM
from tests.conftest import ROOT, Grizz, Process, running_grizz
from tests.redis_servers import RedisServer

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


async def test_twenty_four_hours_of_everything_add_no_series(redis_server: RedisServer) -> None:
    """Each hour has new users, models, ids, refusals, failures, drops, resumes and cancels, and three scrapes."""
    settings = {"redis__url": redis_server.url, "history__store": "redis", "upstream__max_retries": 0}
    async with running_grizz(**settings) as grizz, aiohttp.ClientSession() as http:
        sizes = []
        for hour in range(24):
            await live_an_hour(grizz, http, hour)
            for accept in ("text/plain", *FORMATS):
                sizes.append((accept, await count_series(grizz, http, accept)))
        assert max(size for _, size in sizes) <= ROOM
        assert len(set(sizes)) == len(FORMATS), sizes


async def count_series(grizz: Grizz, http: aiohttp.ClientSession, accept: str) -> int:
    return sum(len(metric.samples) for metric in await scrape(grizz, http, accept))


async def live_an_hour(grizz: Grizz, http: aiohttp.ClientSession, hour: int) -> None:
    person = {"Authorization": f"Bearer person-{hour}"}

    async def post(path: str, body: object) -> tuple[int, dict[str, Any]]:
        async with http.post(f"{grizz.url}{path}", json=body, headers=person) as answer:
            return answer.status, await answer.json()

    status, kept = await post("/v1/responses", {"input": "[[words:3]]", "model": f"model-{hour}", "user": f"u{hour}"})
    assert status == 200
    for text in ("[[error:500]]", "[[error:429]]", "[[cut:2]] [[words:9]]"):
        await post("/v1/responses", {"input": text})
    assert (await post("/v1/responses", {"input": hour, "previous_response_id": f"resp_{hour}"}))[0] == 400
    assert (await post("/v1/conversations", {"metadata": {"hour": str(hour)}}))[0] == 200
    status, begun = await post("/v1/responses", {"input": "[[words:99]] [[rate:9]]", "background": True})
    assert status == 200
    assert (await post(f"/v1/responses/{begun['id']}/cancel", {}))[0] == 200
    async with http.ws_connect(grizz.ws_url, headers=person, protocols=("responses", "grizz")) as socket:
        await socket.send_json({"type": "grizz:attach", "response_id": kept["id"], "starting_after": 1})
        await socket.send_json({"type": "grizz:attach", "response_id": f"resp_{hour:048}"})
        await socket.send_str("no JSON")
        for _ in range(3):
            await socket.receive(timeout=10)
        await socket.close(code=3000 + hour)
    async with http.get(f"{grizz.url}/v1/nothing-{hour}", headers={**person, "Origin": f"http://{hour}"}) as answer:
        assert answer.status in (403, 404)


async def test_a_history_whose_file_cannot_be_used_is_told_by_metrics_and_readyz(
    start_process: Callable[..., Process], http: aiohttp.ClientSession
) -> None:
    process = start_process(
        "--demo", environ={"GRIZZ_HISTORY_STORE": "auto", "GRIZZ_HISTORY_PATH": "/proc/nope/grizz.db"}
    )
    async with http.get(f"{process.url}/metrics") as answer:
        assert "grizz_history_missing 1.0" in await answer.text()
    async with http.get(f"{process.url}/readyz") as answer:
        assert answer.status == 200
        assert any(text.startswith("history: ") for text in (await answer.json())["degraded"])
