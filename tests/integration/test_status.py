"""`/status.json`: true figures, who may read them, how much they are."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from typing import Any

import aiohttp
import pytest

from grizz.engine.nodes import Nodes
from grizz.telemetry.status import KEPT
from tests.accounts import ACCOUNTS, ALICE, bearer
from tests.conftest import Grizz
from tests.player import Player
from tests.several import dead_url, running


async def status(http: aiohttp.ClientSession, url: str, **query: object) -> dict[str, Any]:
    async with http.get(f"{url}/status.json", params={key: str(value) for key, value in query.items()}) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.headers["Cache-Control"] == "no-store"
        return await answer.json()


async def ask(http: aiohttp.ClientSession, url: str, text: str, **fields: object) -> None:
    async with http.post(f"{url}/v1/responses", json={"input": text, "stream": True, **fields}) as answer:
        await answer.read()


def vitals_of(grizz: Grizz):
    return grizz.app.server._status._vitals


async def test_what_was_answered_is_counted_and_timed(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    began = time.monotonic()
    player = await Player.connect(http, grizz.ws_url)
    await player.ask("[[words:40]] [[rate:100]]")
    await ask(http, grizz.url, "[[words:20]] [[rate:100]]")
    took = time.monotonic() - began
    shown = await status(http, grizz.url)
    now = shown["now"]
    assert now["connections"] == 1
    assert now["answers"]["last_hour"] == 2
    assert now["errors"]["last_hour"] == 0
    assert now["running"] == now["queued"] == 0
    latency = now["latency"]
    assert latency["first_token"]["count"] == latency["queue"]["count"] == latency["upstream"]["count"] == 2
    assert 30 <= latency["gap"]["count"] <= 58
    assert latency["delivery"]["count"] >= 6
    for figures in latency.values():
        assert 0 <= figures["p50"] <= figures["p95"] <= 1.25 * took
    assert latency["upstream"]["p50"] <= latency["first_token"]["p95"]
    assert 0.004 <= latency["gap"]["p50"], "10 ms lie between two tokens"
    assert now["tokens_per_s"] == pytest.approx(60 / took, rel=0.9)
    assert (shown["redis"], shown["nodes"]) == (None, None)
    await player.ws.close()


async def test_tokens_are_seen_while_they_stream(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    player = await Player.connect(http, grizz.ws_url)
    await player.create("[[words:400]] [[rate:100]]")
    async with asyncio.timeout(20):
        while not ((shown := await status(http, grizz.url))["now"]["tokens_per_s"] and shown["now"]["running"]):
            await asyncio.sleep(0.05)
    assert shown["now"]["answers"]["last_hour"] == 0
    await player.ws.close()


async def test_what_waits_is_shown_with_its_age(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(workers__concurrency=1)
    players = [await Player.connect(http, grizz.ws_url) for _ in range(3)]
    for player in players:
        await player.create("[[words:400]] [[rate:100]]")
    async with asyncio.timeout(20):
        while (shown := await status(http, grizz.url))["now"]["queued"] < 2 or shown["now"]["oldest_s"] < 0.2:
            await asyncio.sleep(0.05)
    assert (shown["now"]["running"], shown["slots"]) == (1, 1)
    for player in players:
        await player.ws.close()


async def test_a_failure_and_an_open_breaker_are_told(http: aiohttp.ClientSession) -> None:
    async with running({"dead": {"base_url": dead_url(), "breaker_failures": 1, "max_retries": 0}}) as several:
        await ask(http, several.url, "[[words:3]]")
        shown = await status(http, several.url)
    (upstream,) = shown["upstreams"]
    assert (upstream["name"], upstream["state"]) == ("dead", "open")
    assert shown["now"]["errors"]["last_5m"] == 1
    wrong = {check["what"]: check for check in shown["checks"] if check["level"] != "good"}
    assert wrong["upstreams"]["level"] == wrong["errors"]["level"] == "bad"


async def test_only_new_samples_are_told_to_who_has_the_others(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    vitals = vitals_of(grizz)
    for _ in range(5):
        vitals._hour.add(vitals._reading())
    shown = await status(http, grizz.url)
    assert shown["series"]["next"] == 5
    again = await status(http, grizz.url, node=shown["node"], after=2)
    assert (again["series"]["first"], len(again["series"]["columns"]["running"])) == (3, 2)
    assert (await status(http, grizz.url, node="another", after=2))["series"]["first"] == 0
    for wrong in ("x", "9" * 5000, ""):
        async with http.get(f"{grizz.url}/status.json", params={"after": wrong}) as answer:
            assert answer.status == 400


async def test_a_whole_hour_is_a_bounded_answer(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    vitals = vitals_of(grizz)
    await ask(http, grizz.url, "[[words:5]]")
    for _ in range(KEPT + 5):
        vitals._hour.add(vitals._reading())
    async with http.get(f"{grizz.url}/status.json", headers={"Accept-Encoding": "gzip"}, compress=False) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert int(answer.headers["Content-Length"]) < 64 << 10
        assert len((await answer.json())["series"]["columns"]["queued"]) == KEPT
    async with http.get(f"{grizz.url}/status.json", headers={"Accept-Encoding": "identity"}) as answer:
        body = await answer.read()
        assert len(gzip.compress(body)) < 64 << 10 < 256 << 10 > len(body)
        json.loads(body)


async def test_a_stranger_sees_the_page_and_nothing_in_it(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(environ=ACCOUNTS)
    async with http.get(f"{grizz.url}/status") as answer:
        assert answer.status == 200
        assert "data-accounts" in await answer.text()
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    async with http.get(f"{grizz.url}/status.json") as answer:
        assert answer.status == 401
    async with http.get(f"{grizz.url}/status.json", headers=bearer(ALICE)) as answer:
        assert answer.status == 200
        assert "alice" not in await answer.text()


async def test_a_name_that_is_not_ours_is_refused(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    for path in ("/status", "/status.json"):
        async with http.get(grizz.url + path, headers={"Host": "evil.example"}) as answer:
            assert answer.status == 403


async def test_no_word_of_a_user_is_in_it(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    await ask(http, grizz.url, "[[echo:a-secret-word]]", model="a-secret-model")
    assert "secret" not in json.dumps(await status(http, grizz.url))


class Line:
    """A bus that is written down."""

    node, is_up = "a", True

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.handlers: dict[str, Any] = {}

    def on(self, kind: str, handler: Any) -> None:
        self.handlers[kind] = handler

    def shout(self, part: Any) -> bool:
        self.said.append(part)
        return True


async def test_what_another_version_writes_is_taken_for_no_more_than_it_is() -> None:
    line = Line()
    nodes = Nodes(line, known=lambda: ["b"], own=lambda: {"slots": 1}, may_ask=lambda: True)  # type: ignore[arg-type]
    looking = asyncio.ensure_future(nodes.table())
    await asyncio.sleep(0)
    row = {"slots": 4, "queued": "many", "version": "9" * 1000, "prompt": "x", "running": {}}
    line.handlers["well"]("b", {"row": row}, ())
    (own, other) = await looking
    assert own == {"node": "a", "state": "answers", "slots": 1}
    assert other == {"node": "b", "state": "answers", "slots": 4, "version": "9" * 100, "draining": False}
    await nodes.table()
    assert line.said == [{"k": "how"}], "once in ten seconds at most"
