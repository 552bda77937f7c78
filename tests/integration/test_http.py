"""The HTTP side: bodies, status codes, listings, doors and limits."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDictProxy

from tests.accounts import ACCOUNTS, ALICE, BOB, bearer
from tests.conftest import Grizz
from tests.player import Player, numbers, text_of


async def post(http: aiohttp.ClientSession, grizz: Grizz, **body: object) -> tuple[int, dict, CIMultiDictProxy]:
    async with http.post(f"{grizz.url}/v1/responses", json=body) as answer:
        return answer.status, await answer.json(), answer.headers


async def test_a_plain_post_answers_with_the_whole_response(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    status, body, headers = await post(http, grizz, input="[[words:9]]")
    assert status == 200
    assert body["status"] == "completed"
    assert body["output"][0]["content"][0]["text"] == numbers(9)
    assert headers["x-request-id"].startswith("req_")
    async with http.get(f"{grizz.url}/v1/responses/{body['id']}") as answer:
        assert await answer.json() == body


async def test_a_running_response_is_fetched_as_it_stands(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    player = await Player.connect(http, grizz.ws_url)
    await player.create("[[words:9]] [[stall:4]]")
    seen = await player.until("response.output_text.delta")
    while text_of(seen) != numbers(4):
        seen.append(await player.next())
    async with http.get(f"{grizz.url}/v1/responses/{seen[0]['response']['id']}") as answer:
        body = await answer.json()
    assert body["status"] == "in_progress"
    assert body["output"][0]["content"][0]["text"] == numbers(4)


async def test_cancel_over_http_is_seen_by_a_websocket_reader_and_is_idempotent(
    grizz: Grizz, http: aiohttp.ClientSession
) -> None:
    player = await Player.connect(http, grizz.ws_url)
    await player.create("[[words:9]] [[stall:4]]")
    seen = await player.until("response.output_text.delta")
    for _ in range(2):
        async with http.post(f"{grizz.url}/v1/responses/{seen[0]['response']['id']}/cancel") as answer:
            assert (await answer.json())["status"] == "cancelled"
    assert (await player.answer())[-1]["response"]["status"] == "cancelled"


async def test_a_deleted_response_is_gone_on_every_path(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    _, body, _ = await post(http, grizz, input="hello")
    async with http.delete(f"{grizz.url}/v1/responses/{body['id']}") as answer:
        assert await answer.json() == {"id": body["id"], "object": "response", "deleted": True}
    async with http.get(f"{grizz.url}/v1/responses/{body['id']}") as answer:
        assert answer.status == 404
    status, error, _ = await post(http, grizz, input="more", previous_response_id=body["id"])
    assert (status, error["error"]["code"]) == (400, "previous_response_not_found")


async def test_deleting_a_running_response_stops_it(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    player = await Player.connect(http, grizz.ws_url)
    await player.create("[[words:9]] [[stall:4]]")
    seen = await player.until("response.output_text.delta")
    async with http.delete(f"{grizz.url}/v1/responses/{seen[0]['response']['id']}") as answer:
        assert answer.status == 200
    assert (await player.answer())[-1]["response"]["status"] == "cancelled"


async def test_input_items_are_listed_in_pages(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    items = [{"role": "user", "content": f"message {n}"} for n in range(5)]
    _, body, _ = await post(http, grizz, input=items)
    url = f"{grizz.url}/v1/responses/{body['id']}/input_items"
    async with http.get(url, params={"limit": "2", "order": "asc"}) as answer:
        page = await answer.json()
    assert [item["content"][0]["text"] for item in page["data"]] == ["message 0", "message 1"]
    assert page["has_more"] is True
    async with http.get(url, params={"order": "asc", "after": page["last_id"]}) as answer:
        rest = await answer.json()
    assert [item["content"][0]["text"] for item in rest["data"]] == ["message 2", "message 3", "message 4"]
    assert rest["has_more"] is False
    async with http.get(url) as answer:
        assert (await answer.json())["data"][0]["content"][0]["text"] == "message 4"


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "order=up", "after=item_nope"])
async def test_a_bad_page_request_is_refused(grizz: Grizz, http: aiohttp.ClientSession, query: str) -> None:
    _, body, _ = await post(http, grizz, input="hello")
    async with http.get(f"{grizz.url}/v1/responses/{body['id']}/input_items?{query}") as answer:
        assert answer.status == 400


async def test_models_are_listed(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    async with http.get(f"{grizz.url}/v1/models") as answer:
        body = await answer.json()
    assert body["object"] == "list"
    assert body["data"][0]["id"] == "grizz-demo"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/v1/responses", b"{", 400, "invalid_json"),
        ("POST", "/v1/responses", b"", 400, "invalid_json"),
        ("POST", "/v1/responses", b"\xff\xfe", 400, "invalid_json"),
        ("POST", "/v1/responses", b"[]", 400, "invalid_type"),
        ("POST", "/v1/responses", b"{}", 400, "missing_required_parameter"),
        ("POST", "/v1/responses", b'{"input":"x","max_output_tokens":0}', 400, "invalid_value"),
        ("POST", "/v1/responses", b'{"input":"x","prompt":{"id":"p"}}', 400, "unsupported_parameter"),
        ("GET", "/v1/responses/resp_nope", None, 404, "response_not_found"),
        ("GET", "/v1/responses", None, 426, "upgrade_required"),
        ("PUT", "/v1/responses", b"{}", 405, "method_not_allowed"),
        ("GET", "/v1/nothing", None, 404, "not_found"),
        ("GET", "/pages/../app.py", None, 404, "not_found"),
        ("GET", "/v1/models/gpt-none", None, 404, "model_not_found"),
    ],
)
async def test_every_bad_request_gets_an_openai_error_body_and_no_retry(
    grizz: Grizz, http: aiohttp.ClientSession, method: str, path: str, body: bytes | None, status: int, code: str
) -> None:
    async with http.request(method, grizz.url + path, data=body) as answer:
        error = (await answer.json())["error"]
        assert (answer.status, error["code"]) == (status, code)
        assert set(error) == {"message", "type", "param", "code"}
        assert answer.headers["x-should-retry"] == "false"


async def test_a_body_beyond_the_bound_is_refused_with_413(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(server__max_message_bytes=10_000)
    status, error, _ = await post(http, grizz, input="x" * 20_000)
    assert (status, error["error"]["code"]) == (413, "body_too_large")


async def test_a_full_queue_answers_429_and_says_when_to_come_back(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(workers__concurrency=0, queue__max_jobs=2)
    for _ in range(2):
        status, _, _ = await post(http, grizz, input="x", background=True)
        assert status == 200
    status, error, headers = await post(http, grizz, input="x", background=True)
    assert (status, error["error"]["code"]) == (429, "rate_limit_exceeded")
    assert "queue is full" in error["error"]["message"]
    assert int(headers["Retry-After"]) >= 1
    assert len(grizz.app.engine.replies) == 2


async def test_a_job_that_waits_too_long_fails_instead_of_hanging(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(workers__concurrency=0, queue__max_wait_s=0.1)
    status, body, _ = await post(http, grizz, input="x")
    assert (status, body["status"]) == (200, "failed")
    assert body["error"]["message"] == "no worker was free in time"


async def test_the_limits_per_user_hold_and_name_themselves(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(limits__concurrent_responses_per_user=1, limits__requests_per_minute=2)
    _, first, _ = await post(http, grizz, input="[[stall:1]]", background=True)
    status, error, _ = await post(http, grizz, input="x")
    assert (status, error["error"]["code"]) == (429, "rate_limit_exceeded")
    assert "1 responses running" in error["error"]["message"]
    async with http.post(f"{grizz.url}/v1/responses/{first['id']}/cancel"):
        pass
    assert (await post(http, grizz, input="[[echo:x]]"))[0] == 200
    status, error, headers = await post(http, grizz, input="x")
    assert status == 429
    assert "2 requests a minute" in error["error"]["message"]
    assert 1 <= int(headers["Retry-After"]) <= 30


async def test_connections_are_limited_per_user_and_per_address(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(
        environ=ACCOUNTS,
        limits__connections_per_user=2,
        limits__connections_per_address=3,
        server__trusted_proxies="127.0.0.1",
    )

    def come(key: str) -> Any:
        return Player.connect(http, grizz.ws_url, headers={**bearer(key), "X-Forwarded-For": "203.0.113.5"})

    mine = [await come(ALICE) for _ in range(2)]
    with pytest.raises(aiohttp.WSServerHandshakeError, match="429"):
        await come(ALICE)
    other = await come(BOB)
    with pytest.raises(aiohttp.WSServerHandshakeError, match="429"):
        await come(BOB)
    await other.ws.close()
    async with asyncio.timeout(5):
        while True:
            try:
                mine.append(await come(BOB))
                break
            except aiohttp.WSServerHandshakeError:
                await asyncio.sleep(0.02)
    assert len(mine) == 3


async def test_foreign_origins_and_hosts_are_turned_away(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
        await Player.connect(http, grizz.ws_url, headers={"Origin": "https://evil.example"})
    await Player.connect(http, grizz.ws_url, headers={"Origin": grizz.url})
    async with http.post(f"{grizz.url}/v1/responses", json={"input": "x"}, headers={"Origin": "null"}) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (403, "forbidden_origin")
    async with http.get(f"{grizz.url}/v1/models", headers={"Host": "evil.example"}) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (403, "forbidden_host")


async def test_the_page_makes_each_browser_its_own_owner(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    async with http.get(grizz.url) as answer:
        assert answer.status == 200
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
        cookie = answer.cookies["grizz_owner"]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Strict"
    assert len(cookie.value) == 43


async def test_health_and_metrics_answer(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    await post(http, grizz, input="[[words:5]]")
    for path in ("/livez", "/healthz", "/readyz"):
        async with http.get(grizz.url + path) as answer:
            assert answer.status == 200
    async with http.get(f"{grizz.url}/metrics") as answer:
        text = await answer.text()
    assert 'grizz_jobs_finished_total{model="grizz-demo",outcome="ok"} 1.0' in text
    assert "grizz_jobs_running 0.0" in text
    assert 'grizz_time_to_first_token_seconds_count{model="grizz-demo"} 1.0' in text
    assert 'grizz_tokens_total{model="grizz-demo",type="output"} 5.0' in text


async def test_metrics_may_have_an_address_of_their_own(start_grizz, http: aiohttp.ClientSession) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = "{}:{}".format(*free.getsockname())
    grizz = await start_grizz(server__metrics_listen=listen)
    async with http.get(f"http://{listen}/metrics") as answer:
        assert "grizz_connections_open" in await answer.text()
    async with http.get(f"http://{listen}/readyz") as answer:
        assert answer.status == 200
    async with http.post(f"http://{listen}/v1/responses", json={"input": "hello"}) as answer:
        assert answer.status == 404
    async with http.get(f"{grizz.url}/metrics") as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (404, "not_found")


async def test_two_hundred_clients_at_once_all_get_their_own_answer(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    async def ask(n: int) -> None:
        _, body, _ = await post(http, grizz, input=f"[[echo:only for {n}]]")
        assert body["output"][0]["content"][0]["text"] == f"only for {n}"

    await asyncio.gather(*(ask(n) for n in range(200)))


async def test_a_body_that_is_not_what_its_headers_say_is_refused_and_ends_its_connection(
    grizz: Grizz, http: aiohttp.ClientSession
) -> None:
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    async with http.post(f"{grizz.url}/v1/responses", data=b"garbage", headers=headers) as answer:
        assert answer.status == 400
        assert answer.headers["Connection"] == "close"
        error = (await answer.json())["error"]
        assert error["code"] == "invalid_request"
        assert error["message"] == "The body cannot be read: Can not decode content-encoding: gzip."
    async with http.post(f"{grizz.url}/v1/responses", json={"input": "hello"}) as answer:
        assert answer.status == 200
