"""`POST /v1/chat/completions` as bytes on a socket: refusals, waiting, leaving, limits, owners."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest
from yarl import URL

from tests.accounts import ACCOUNTS, ALICE, BOB, bearer
from tests.conftest import Grizz, running_grizz
from tests.player import Player, numbers
from tests.raw_upstream import END, HEADERS, Call, chunk, raw_upstream
from tests.several import dead_url, running

PATH = "/v1/chat/completions"
Answer = tuple[int, Any, Any]


def body(text: str, **fields: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}], **fields}


async def ask(http: aiohttp.ClientSession, grizz: Any, text: str, key: str = "", **fields: object) -> Answer:
    headers = bearer(key) if key else {}
    async with http.post(grizz.url + PATH, json=body(text, **fields), headers=headers) as answer:
        raw = await answer.read()
        return answer.status, orjson.loads(raw) if answer.content_type == "application/json" else raw, answer.headers


def content(whole: Any) -> str:
    return str(whole["choices"][0]["message"]["content"])


async def until(so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not so():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("method", "data", "status", "code"),
    [
        ("POST", b"{", 400, "invalid_json"),
        ("POST", b"", 400, "invalid_json"),
        ("POST", b"[]", 400, "invalid_type"),
        ("POST", b"{}", 400, "missing_required_parameter"),
        ("POST", b'{"messages":[{"role":"user","content":"x"}],"n":3}', 400, "unsupported_parameter"),
        ("GET", None, 405, "method_not_allowed"),
    ],
)
async def test_a_bad_request_is_refused_as_everywhere(
    grizz: Grizz, http: aiohttp.ClientSession, method: str, data: bytes | None, status: int, code: str
) -> None:
    async with http.request(method, grizz.url + PATH, data=data) as answer:
        error = (await answer.json())["error"]
        assert (answer.status, error["code"]) == (status, code)
        assert answer.headers["x-should-retry"] == "false"
        assert answer.headers["x-request-id"].startswith("req_")


async def test_an_answer_has_the_headers_of_every_answer(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(limits__requests_per_minute=4)
    for left, (text, stream, status) in enumerate(
        [
            ("[[words:2]]", True, 200),
            ("[[words:2]]", False, 200),
            ("[[error:500]]", True, 502),
            ("[[error:404]]", False, 404),
        ]
    ):
        found, _, headers = await ask(http, grizz, text, stream=stream)
        assert found == status
        assert headers["x-ratelimit-remaining-requests"] == str(3 - left)
        assert headers["x-request-id"].startswith("req_")
    status, error, headers = await ask(http, grizz, "x", stream=True)
    assert (status, error["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(headers["Retry-After"]) >= 1


async def test_logprobs_are_passed_on_both_ways(http: aiohttp.ClientSession) -> None:
    top = {"token": "Hi", "logprob": -0.1, "bytes": [72, 105]}
    entry = {**top, "top_logprobs": [top, {"token": "\u00e9", "logprob": -3.5, "bytes": None}]}

    async def behave(call: Call) -> None:
        await call.raw(HEADERS)
        await call.part(chunk(delta={"content": "Hi"}, logprobs={"content": [entry], "refusal": None}) + END)
        await call.raw(b"0\r\n\r\n")

    async with raw_upstream(behave) as (_, url), running_grizz({"GRIZZ_UPSTREAM_BASE_URL": url}) as grizz:
        _, whole, _ = await ask(http, grizz, "x", logprobs=True, top_logprobs=2)
        assert whole["choices"][0]["logprobs"] == {"content": [entry], "refusal": None}
        _, stream, _ = await ask(http, grizz, "x", logprobs=True, top_logprobs=2, stream=True)
        assert orjson.dumps({"content": [entry], "refusal": None}) in stream
        _, whole, _ = await ask(http, grizz, "x")
        assert whole["choices"][0]["logprobs"] is None


async def test_the_next_upstream_answers_when_the_first_cannot(http: aiohttp.ClientSession) -> None:
    async with running({"bad": {"base_url": dead_url(), "priority": 1}, "good": {"priority": 2}}) as several:
        status, whole, _ = await ask(http, several, "[[words:5]]")
        assert (status, content(whole)) == (200, numbers(5))
        assert await several.metric("grizz_jobs_submitted_total", model="grizz-demo") == 1


# Waiting


async def test_while_it_waits_in_the_queue_nothing_is_sent_and_then_pings(
    start_grizz, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grizz.web.completions.PING_S", 0.2)
    grizz = await start_grizz(workers__concurrency=1)
    holder = await Player.connect(http, grizz.ws_url)
    await holder.create("[[words:9]] [[stall:1]]")
    begun = await holder.until("response.output_text.delta")
    async with http.post(grizz.url + PATH, json=body("[[words:3]]", stream=True)) as answer:
        assert answer.status == 200 and answer.content_type == "text/event-stream"
        for _ in range(2):
            assert await answer.content.readuntil(b"\n\n") == b": ping\n\n"
        await holder.send({"type": "response.cancel", "response_id": begun[0]["response"]["id"]})
        rest = await answer.content.read()
    assert b'"content":"w0 "' in rest and rest.endswith(b"data: [DONE]\n\n")


async def test_a_failure_after_the_first_ping_is_told_in_the_stream(
    start_grizz, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grizz.web.completions.PING_S", 0.1)
    grizz = await start_grizz(workers__concurrency=0, queue__max_wait_s=1.0)
    status, stream, _ = await ask(http, grizz, "x", stream=True)
    assert status == 200
    *pings, last, end = stream.split(b"\n\n")
    assert set(pings) == {b": ping"} and end == b""
    assert orjson.loads(last.removeprefix(b"data: "))["error"]["code"] == "server_error"


@pytest.mark.parametrize("stream", [False, True])
async def test_who_waits_too_long_is_told_to_come_back(start_grizz, http: aiohttp.ClientSession, stream: bool) -> None:
    grizz = await start_grizz(workers__concurrency=0, queue__max_wait_s=0.1)
    status, error, headers = await ask(http, grizz, "x", stream=stream)
    assert (status, error["error"]["message"]) == (503, "no worker was free in time")
    assert headers["x-should-retry"] == "true" and int(headers["Retry-After"]) >= 1


async def test_a_full_queue_is_429(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(workers__concurrency=0, queue__max_jobs=1)
    async with http.post(f"{grizz.url}/v1/responses", json={"input": "x", "background": True}):
        pass
    status, error, headers = await ask(http, grizz, "x", stream=True)
    assert (status, error["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(headers["Retry-After"]) >= 1


# Leaving


@asynccontextmanager
async def socket_that_asked(grizz: Grizz, text: str, *, buffer: int = 0, **fields: object) -> Any:
    """A raw connection that has sent a request; `buffer` is what of the answer fits into its kernel."""
    url, data = URL(grizz.url), orjson.dumps(body(text, **fields))
    sock = socket.socket()
    if buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (url.host, url.port))
    reader, writer = await asyncio.open_connection(sock=sock)
    head = f"POST {PATH} HTTP/1.1\r\nHost: {url.host}:{url.port}\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    try:
        yield reader, writer
    finally:
        writer.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_ends_the_request_to_the_upstream_at_once(grizz: Grizz, stream: bool) -> None:
    async with socket_that_asked(grizz, "[[words:9]] [[stall:4]]", stream=stream) as (_, writer):
        await until(lambda: grizz.demo.active == 1)
        if stream:
            await asyncio.sleep(0.1)
        writer.transport.abort()
        left_at = time.monotonic()
        await until(lambda: not grizz.demo.active)
    # The grace of an answer that can be come back to is a minute.
    assert grizz.demo.last_disconnect_at is not None and grizz.demo.last_disconnect_at - left_at < 5
    await until(lambda: not len(grizz.app.engine.replies))


async def test_a_client_that_reads_nothing_is_cut_off_and_its_answer_forgotten(start_grizz) -> None:
    grizz = await start_grizz(server__stall_timeout_s=0.5)
    async with socket_that_asked(grizz, "[[words:60000]]", buffer=4096, stream=True) as (_, writer):
        writer.transport.pause_reading()
        cut = "grizz_client_drops_total", {"reason": "write_stall"}
        await until(lambda: grizz.app.metrics.registry.get_sample_value(*cut) == 1)
        await until(lambda: not len(grizz.app.engine.replies))


async def test_a_client_that_goes_away_in_the_queue_leaves_its_place(start_grizz) -> None:
    grizz = await start_grizz(workers__concurrency=0)
    async with socket_that_asked(grizz, "x", stream=True) as (_, writer):
        await until(lambda: grizz.app.engine.waiting == 1)
        writer.transport.abort()
        await until(lambda: grizz.app.engine.waiting == 0)
    await until(lambda: not len(grizz.app.engine.replies))
    assert grizz.demo.requests == 0


async def test_an_answer_that_its_owner_cancels_elsewhere_ends_with_an_error(
    grizz: Grizz, http: aiohttp.ClientSession
) -> None:
    async with http.post(grizz.url + PATH, json=body("[[words:9]] [[stall:4]]", stream=True)) as answer:
        first = orjson.loads((await answer.content.readuntil(b"\n\n")).removeprefix(b"data: "))
        response_id = first["id"].replace("chatcmpl-", "resp_")
        async with http.post(f"{grizz.url}/v1/responses/{response_id}/cancel") as cancelled:
            assert (await cancelled.json())["status"] == "cancelled"
        rest = await answer.content.read()
    assert b'"error":{"message":"The answer was cancelled."' in rest and b"[DONE]" not in rest


@pytest.mark.parametrize("stream", [False, True])
async def test_a_restart_is_told_as_one(http: aiohttp.ClientSession, stream: bool) -> None:
    async with running_grizz() as grizz:
        asking = asyncio.ensure_future(ask(http, grizz, "[[words:9]] [[first:20]]", stream=stream))
        await until(lambda: grizz.demo.active == 1)
    status, error, headers = await asking
    assert (status, error["error"]["type"]) == (503, "service_unavailable_error")
    assert headers["x-should-retry"] == "true" and int(headers["Retry-After"]) >= 1


# Whose it is, and what is kept


@pytest.fixture
async def house(start_grizz: Callable[..., Awaitable[Grizz]]) -> Grizz:
    return await start_grizz(environ=ACCOUNTS, limits__concurrent_responses_per_user=1)


async def test_nobody_without_a_key_is_answered(house: Grizz, http: aiohttp.ClientSession) -> None:
    status, error, _ = await ask(http, house, "x")
    assert (status, error["error"]["code"]) == (401, "missing_api_key")
    assert house.demo.requests == 0


async def test_limits_are_each_users_own_and_free_again_when_a_client_leaves(
    house: Grizz, http: aiohttp.ClientSession
) -> None:
    asking = asyncio.ensure_future(ask(http, house, "[[stall:1]]", ALICE, stream=True))
    await until(lambda: house.demo.active == 1)
    status, error, _ = await ask(http, house, "x", ALICE)
    assert (status, error["error"]["code"]) == (429, "rate_limit_exceeded")
    assert (await ask(http, house, "[[words:2]]", BOB))[0] == 200
    asking.cancel()
    await until(lambda: not house.demo.active and not house.app.engine.replies.running)
    assert (await ask(http, house, "[[words:2]]", ALICE))[0] == 200


async def test_what_is_not_stored_is_to_be_had_by_nobody(house: Grizz, http: aiohttp.ClientSession) -> None:
    _, whole, _ = await ask(http, house, "[[echo:secret]]", ALICE)
    response_id = whole["id"].replace("chatcmpl-", "resp_")
    for key in (ALICE, BOB):
        async with http.get(f"{house.url}/v1/responses/{response_id}", headers=bearer(key)) as answer:
            assert answer.status == 404
        continued = {"input": "more", "previous_response_id": response_id}
        async with http.post(f"{house.url}/v1/responses", json=continued, headers=bearer(key)) as answer:
            assert (await answer.json())["error"]["code"] == "previous_response_not_found"
    assert len(house.app.engine.replies) == 0 and len(house.app.engine.history) == 0


async def test_what_is_stored_is_its_owners_response(house: Grizz, http: aiohttp.ClientSession) -> None:
    _, whole, _ = await ask(http, house, "[[echo:mine]]", ALICE, store=True, metadata={"a": "b"})
    url = f"{house.url}/v1/responses/{whole['id'].replace('chatcmpl-', 'resp_')}"
    async with http.get(url, headers=bearer(BOB)) as answer:
        assert answer.status == 404
    async with http.get(url, headers=bearer(ALICE)) as answer:
        kept = await answer.json()
    assert (kept["metadata"], kept["output"][0]["content"][0]["text"]) == ({"a": "b"}, "mine")
