"""`GET /v1/seen`: what is believed of where a request comes from, at once, and then the end of the stream."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from tests.conftest import Grizz

PLAIN = {"address": "127.0.0.1", "secure": False, "passed_on": False, "forwarded_for": 0, "trusted": True}


@pytest.mark.parametrize(
    ("headers", "seen"),
    [
        ({}, {}),
        ({"Via": "1.1 proxy"}, {"passed_on": True}),
        (
            {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"},
            {"address": "203.0.113.7", "secure": True, "passed_on": True, "forwarded_for": 1},
        ),
        (
            {"X-Forwarded-For": "203.0.113.7, 198.51.100.1"},
            {"address": "198.51.100.1", "passed_on": True, "forwarded_for": 2},
        ),
        ({"X-Forwarded-For": ""}, {"passed_on": True}),
    ],
)
async def test_the_first_event_says_what_is_believed(
    grizz: Grizz, http: aiohttp.ClientSession, headers: dict[str, str], seen: dict[str, object]
) -> None:
    async with http.get(f"{grizz.url}/v1/seen", headers=headers) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert await answer.content.readline() == b"event: grizz:seen\n"
        line = await answer.content.readline()
    assert json.loads(line.removeprefix(b"data: ")) == PLAIN | seen


async def test_it_ends_by_itself_as_streams_end(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(20), http.get(f"{grizz.url}/v1/seen") as answer:
        assert (await answer.read()).endswith(b"\n\ndata: [DONE]\n\n")


async def test_an_untrusted_proxy_is_told_what_it_looks_like(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(server__trusted_proxies=["192.0.2.1"])
    async with http.get(f"{grizz.url}/v1/seen", headers={"X-Forwarded-For": "203.0.113.7"}) as answer:
        await answer.content.readline()
        line = await answer.content.readline()
    seen = {"passed_on": True, "forwarded_for": 1, "trusted": False}
    assert json.loads(line.removeprefix(b"data: ")) == PLAIN | seen


@pytest.mark.parametrize("path", ["/v1/seen", "/v1/responses/resp_1?stream=true"])
async def test_a_stream_is_not_for_head_whose_answer_has_no_body(
    grizz: Grizz, http: aiohttp.ClientSession, path: str
) -> None:
    async with http.head(f"{grizz.url}{path}") as answer:
        assert answer.status == 405
        assert await answer.read() == b""
