"""Refusals: each code in the shape of both dialects, over HTTP and over WebSocket, with what SDKs decide upon."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from grizz.errors import Code, RequestError
from grizz.web.errors import envelope, error_response
from tests.accounts import ACCOUNTS, SECRET, bearer, secret_token
from tests.conformance import judges
from tests.conftest import Grizz
from tests.player import Player

RETRIED = {408, 409, 429, 500, 502, 503, 504}
OUTPUT = {"type": "function_call_output", "call_id": "call_none", "output": "x"}


@dataclass(frozen=True)
class Bad:
    """A create that is refused alike by both transports."""

    body: Any
    code: str
    param: str | None
    status: int = 400


CREATES: dict[str, Bad] = {
    "no input": Bad({}, "missing_required_parameter", "input"),
    "input of another type": Bad({"input": 5}, "invalid_type", "input"),
    "an item without a type": Bad({"input": [{}]}, "missing_required_parameter", "input[0].type"),
    "an unknown item": Bad({"input": [{"type": "thing"}]}, "invalid_value", "input[0].type"),
    "an unknown role": Bad({"input": [{"role": "king", "content": "x"}]}, "invalid_value", "input[0].role"),
    "an unknown part": Bad(
        {"input": [{"role": "user", "content": [{"type": "smell"}]}]}, "invalid_value", "input[0].content[0]"
    ),
    "an image without a source": Bad(
        {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
        "missing_required_parameter",
        "input[0].content[0].image_url",
    ),
    "a file without a source": Bad(
        {"input": [{"role": "user", "content": [{"type": "input_file"}]}]},
        "missing_required_parameter",
        "input[0].content[0].file_data",
    ),
    "an output without its call": Bad({"input": [OUTPUT]}, "no_tool_call_found", "input"),
    "an unknown reference": Bad(
        {"input": [{"type": "item_reference", "id": "msg_none"}]}, "item_not_found", "input[0].id"
    ),
    "an unknown parent": Bad(
        {"input": "x", "previous_response_id": "resp_none"}, "previous_response_not_found", "previous_response_id"
    ),
    "a number out of range": Bad({"input": "x", "temperature": 7}, "invalid_value", "temperature"),
    "a number that is none": Bad({"input": "x", "top_p": "much"}, "invalid_type", "top_p"),
    "no room for an answer": Bad({"input": "x", "max_output_tokens": 0}, "invalid_value", "max_output_tokens"),
    "tools that are none": Bad({"input": "x", "tools": "all"}, "invalid_type", "tools"),
    "a tool without a name": Bad(
        {"input": "x", "tools": [{"type": "function"}]}, "missing_required_parameter", "tools[0].name"
    ),
    "an unknown choice": Bad({"input": "x", "tool_choice": "some"}, "invalid_value", "tool_choice"),
    "an unknown format": Bad({"input": "x", "text": {"format": {"type": "xml"}}}, "invalid_value", "text.format.type"),
    "a format without a schema": Bad(
        {"input": "x", "text": {"format": {"type": "json_schema", "name": "n"}}},
        "missing_required_parameter",
        "text.format.schema",
    ),
    "a stored prompt": Bad({"input": "x", "prompt": {"id": "pmpt_1"}}, "unsupported_parameter", "prompt"),
}


def check(status: int, error: dict[str, Any], bad: Bad) -> None:
    assert (status, error["code"], error["param"]) == (bad.status, bad.code, bad.param)
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) > 10


@pytest.mark.parametrize("name", CREATES)
async def test_a_create_is_refused_alike_over_http_and_websocket(
    grizz: Grizz, http: aiohttp.ClientSession, name: str
) -> None:
    bad = CREATES[name]
    for stream in (False, True):
        async with http.post(f"{grizz.url}/v1/responses", json={**bad.body, "stream": stream}) as answer:
            error = (await answer.json())["error"]
        judges.error(error)
        check(answer.status, error, bad)
        assert answer.headers["x-should-retry"] == "false"
    player = await Player.connect(http, grizz.ws_url)
    for lane in (None, "tab-1"):
        await player.send({"type": "response.create", **bad.body, **({"stream_id": lane} if lane else {})})
        frame = (await player.until("error", lane=lane))[-1]
        judges.websocket_notice(frame)
        check(frame["status"], frame["error"], bad)
    assert (await player.ask("[[echo:on]]"))[-1]["response"]["status"] == "completed"


@pytest.mark.parametrize(
    ("frame", "status", "code"),
    [
        ("{", 400, "invalid_json"),
        ("[]", 400, "invalid_json"),
        ('{"type":"response.paint"}', 400, "unknown_event_type"),
        ('{"type":"response.create","input":"x","stream_id":""}', 400, "invalid_stream_id"),
        ('{"type":"response.cancel","response_id":"resp_none"}', 404, "response_not_found"),
        ('{"type":"response.cancel"}', 404, "response_not_found"),
        ('{"type":"grizz:attach","response_id":"resp_none"}', 404, "response_not_found"),
        ('{"type":"grizz:attach"}', 400, "missing_required_parameter"),
        ('{"type":"grizz:presence","state":"asleep"}', 400, "invalid_value"),
    ],
)
async def test_a_bad_frame_is_answered_with_a_valid_error(
    grizz: Grizz, http: aiohttp.ClientSession, frame: str, status: int, code: str
) -> None:
    player = await Player.connect(http, grizz.ws_url)
    await player.ws.send_str(frame)
    error = await player.next()
    judges.websocket_notice(error)
    assert (error["status"], error["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/v1/responses", b"{", 400, "invalid_json"),
        ("POST", "/v1/responses", b"[]", 400, "invalid_type"),
        ("GET", "/v1/responses/resp_none", None, 404, "response_not_found"),
        ("GET", "/v1/responses/resp_none?stream=true", None, 404, "response_not_found"),
        ("POST", "/v1/responses/resp_none/cancel", None, 404, "response_not_found"),
        ("DELETE", "/v1/responses/resp_none", None, 404, "response_not_found"),
        ("GET", "/v1/responses/resp_none/input_items", None, 404, "response_not_found"),
        ("GET", "/v1/models/none", None, 404, "model_not_found"),
        ("GET", "/v1/nothing", None, 404, "not_found"),
        ("PUT", "/v1/responses", b"{}", 405, "method_not_allowed"),
        ("GET", "/v1/responses", None, 426, "upgrade_required"),
    ],
)
async def test_a_bad_request_is_answered_with_a_valid_error(
    grizz: Grizz, http: aiohttp.ClientSession, method: str, path: str, body: bytes | None, status: int, code: str
) -> None:
    async with http.request(method, grizz.url + path, data=body) as answer:
        error = (await answer.json())["error"]
    judges.error(error)
    assert (answer.status, error["code"]) == (status, code)
    assert answer.headers["x-should-retry"] == ("true" if status in RETRIED else "false")


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "order=up", "after=msg_none", "starting_after=x&stream=true"]
)
async def test_a_bad_question_about_a_response_names_its_parameter(
    grizz: Grizz, http: aiohttp.ClientSession, query: str
) -> None:
    async with http.post(f"{grizz.url}/v1/responses", json={"input": "[[echo:x]]"}) as answer:
        response_id = (await answer.json())["id"]
    path = "" if "stream" in query else "/input_items"
    async with http.get(f"{grizz.url}/v1/responses/{response_id}{path}?{query}") as answer:
        error = (await answer.json())["error"]
    judges.error(error)
    assert (answer.status, error["param"]) == (400, query.partition("=")[0])


async def test_whoever_is_not_known_is_refused_alike_by_http_and_by_the_handshake(
    start_grizz, http: aiohttp.ClientSession
) -> None:
    grizz: Grizz = await start_grizz(environ={**ACCOUNTS, "GRIZZ_AUTH_JWT_SECRET": SECRET})
    shown = {
        "missing_api_key": {},
        "invalid_api_key": bearer("grizz-of-nobody"),
        "token_expired": bearer(secret_token(exp=1)),
    }
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    upgrade["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
    for code, headers in shown.items():
        for method, more in (("POST", {}), ("GET", upgrade)):
            async with http.request(
                method, f"{grizz.url}/v1/responses", headers={**headers, **more}, json={"input": "x"}
            ) as answer:
                error = (await answer.json())["error"]
            judges.error(error)
            assert (answer.status, error["code"], error["type"]) == (401, code, "authentication_error")
            assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_what_is_throttled_says_when_to_come_back(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz: Grizz = await start_grizz(workers__concurrency=0, queue__max_jobs=1)
    async with http.post(f"{grizz.url}/v1/responses", json={"input": "x", "background": True}) as answer:
        assert answer.status == 200
    async with http.post(f"{grizz.url}/v1/responses", json={"input": "x"}) as answer:
        error = (await answer.json())["error"]
    judges.error(error)
    assert (answer.status, error["code"], error["type"]) == (429, "rate_limit_exceeded", "rate_limit_error")
    assert answer.headers["x-should-retry"] == "true" and int(answer.headers["Retry-After"]) >= 1
    player = await Player.connect(http, grizz.ws_url)
    frame = (await player.ask("x"))[-1]
    judges.websocket_notice(frame)
    assert (frame["status"], frame["error"]["code"]) == (429, "rate_limit_exceeded")
    assert float(frame["headers"]["retry-after"]) > 0


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 410, 413, 426, 429, 500, 503])
def test_every_code_is_valid_in_both_dialects_whatever_its_status(status: int) -> None:
    for code in Code:
        error = RequestError(status, code, "Words.", param="input", retry_after_s=1.5, headers={"x-ratelimit": "1"})
        judges.websocket_notice(envelope(error))
        body = error_response(error).body
        assert isinstance(body, bytes)
        judges.error(json.loads(body)["error"])


# The bounds of one connection: what is refused ends nothing else.


async def _busy_lane(player: Player) -> None:
    await player.create("[[words:9]] [[stall:2]]")
    created = await player.until("response.created")
    await player.send({"type": "grizz:attach", "response_id": created[0]["response"]["id"]})


async def _two_lanes(player: Player) -> None:
    await player.ask("[[echo:x]]", stream_id="one")
    await player.create("[[echo:x]]", stream_id="two")


async def _three_creates(player: Player) -> None:
    for _ in range(3):
        await player.create("[[words:9]] [[stall:2]]")


async def _log_that_is_gone(player: Player) -> None:
    answer = await player.ask("[[echo:x]]")
    while answer[-1]["type"] != "error":
        await player.send({"type": "grizz:attach", "response_id": answer[0]["response"]["id"], "starting_after": 1})
        answer += await player.answer()


BOUNDS: dict[str, tuple[Callable[[Player], Awaitable[None]], dict[str, object], int, str]] = {
    "a lane that delivers something": (_busy_lane, {}, 409, "grizz:lane_busy"),
    "a lane too many": (_two_lanes, {"limits__lanes_per_connection": 1}, 400, "websocket_stream_limit_reached"),
    "a create too many": (
        _three_creates,
        {"limits__queued_creates_per_connection": 1},
        429,
        "websocket_queue_full",
    ),
    "a log that is gone": (_log_that_is_gone, {"replies__keep_s": 0.01}, 410, "grizz:log_expired"),
}


@pytest.mark.parametrize("name", BOUNDS)
async def test_a_bound_of_a_connection_is_told_by_a_valid_error(
    start_grizz, http: aiohttp.ClientSession, name: str
) -> None:
    reach, settings, status, code = BOUNDS[name]
    grizz: Grizz = await start_grizz(**settings)
    player = await Player.connect(http, grizz.ws_url)
    await reach(player)
    while not (errors := [event for event in player.events if event["type"] == "error"]):
        await player.next()
    judges.websocket_notice(errors[0])
    assert (errors[0]["status"], errors[0]["error"]["code"]) == (status, code)


async def test_bounds_of_the_server_are_told_by_valid_errors(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz: Grizz = await start_grizz(server__max_message_bytes=10_000, limits__connections=1)
    expected: list[tuple[dict[str, Any], int, str]] = [
        ({"json": {"input": "x" * 20_000}}, 413, "body_too_large"),
        ({"json": {"input": "x"}, "headers": {"Origin": "https://evil.example"}}, 403, "forbidden_origin"),
        ({"json": {"input": "x"}, "headers": {"Host": "evil.example"}}, 403, "forbidden_host"),
    ]
    for request, status, code in expected:
        async with http.post(f"{grizz.url}/v1/responses", **request) as answer:
            error = (await answer.json())["error"]
        judges.error(error)
        assert (answer.status, error["code"], answer.headers["x-should-retry"]) == (status, code, "false")
    player = await Player.connect(http, grizz.ws_url)
    async with http.post(f"{grizz.url}/v1/responses", json={"input": "x"}) as answer:
        error = (await answer.json())["error"]
    judges.error(error)
    assert (answer.status, error["code"], answer.headers["x-should-retry"]) == (503, "too_many_connections", "true")
    assert await player.ws.close()
