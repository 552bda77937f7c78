"""The demo server byte by byte: its wire format, its scripted faults, its counters, how it starts and stops."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest

from grizz.upstream.demo import DemoServer


@pytest.fixture
async def demo() -> AsyncIterator[DemoServer]:
    server = DemoServer(tokens_per_second=0)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def body(text: Any, **extra: Any) -> dict[str, Any]:
    return {"model": "any", "messages": [{"role": "user", "content": text}], **extra}


async def raw(http: aiohttp.ClientSession, demo: DemoServer, text: str, **extra: Any) -> tuple[bytes, bool]:
    """The bytes of a streamed answer, and whether the body ended as HTTP says it should."""
    got = bytearray()
    async with http.post(f"{demo.url}/chat/completions", json=body(text, stream=True, **extra)) as response:
        assert response.status == 200
        try:
            async for piece in response.content.iter_any():
                got += piece
        except aiohttp.ClientPayloadError:
            return bytes(got), False
    return bytes(got), True


def events(sse: bytes) -> list[Any]:
    datas = [line[6:] for line in sse.decode().splitlines() if line.startswith("data: ")]
    return [data if data == "[DONE]" else json.loads(data) for data in datas]


def words(sse: bytes) -> str:
    deltas = [event["choices"][0]["delta"] for event in events(sse) if event != "[DONE]"]
    return "".join(delta.get("content", "") for delta in deltas)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_the_chunks_have_the_openai_form(http: aiohttp.ClientSession, demo: DemoServer) -> None:
    sse, _ = await raw(http, demo, "[[words:2]]", stream_options={"include_usage": True})
    *chunks, done = events(sse)
    assert done == "[DONE]"
    assert {(c["id"], c["object"], c["model"]) for c in chunks} == {(chunks[0]["id"], "chat.completion.chunk", "any")}
    assert abs(chunks[0]["created"] - time.time()) < 60
    assert [c["choices"][0]["delta"] for c in chunks[:-1]] == [
        {"role": "assistant", "content": ""},
        {"content": "w0 "},
        {"content": "w1 "},
        {},
    ]
    assert [c["choices"][0]["finish_reason"] for c in chunks[:-1]] == [None, None, None, "stop"]
    assert [c["usage"] for c in chunks[:-1]] == [None] * 4
    assert chunks[-1]["choices"] == []
    counts = chunks[-1]["usage"]
    assert (counts["prompt_tokens"], counts["completion_tokens"], counts["total_tokens"]) == (1, 2, 3)
    assert counts["prompt_tokens_details"]["cached_tokens"] == 0
    assert counts["completion_tokens_details"]["reasoning_tokens"] == 0


async def test_the_server_has_a_pace_of_its_own(http: aiohttp.ClientSession) -> None:
    server = DemoServer(tokens_per_second=10)
    await server.start()
    start = time.monotonic()
    await raw(http, server, "[[words:4]]")
    assert 0.29 < time.monotonic() - start < 1.5
    start = time.monotonic()
    await raw(http, server, "[[words:21]] [[rate:0]]")
    assert time.monotonic() - start < 1.5
    await server.stop()


async def test_delay_comes_before_the_headers_and_first_after_them(
    http: aiohttp.ClientSession, demo: DemoServer
) -> None:
    start = time.monotonic()
    question = body("[[delay:0.2]][[first:0.4]][[words:1]]", stream=True)
    async with http.post(f"{demo.url}/chat/completions", json=question) as response:
        headers_at = time.monotonic() - start
        await response.content.readany()
        first_at = time.monotonic() - start
    assert headers_at > 0.19
    assert first_at - headers_at > 0.3


async def test_split_comments_and_crlf_change_the_bytes_and_not_the_words(
    http: aiohttp.ClientSession, demo: DemoServer
) -> None:
    sse, _ = await raw(http, demo, "[[words:3]][[crlf]][[comment]][[split:3]]")
    assert sse.count(b"\r\n") == sse.count(b"\n")
    assert sse.count(b": the demo") == sse.count(b"data: ") == 6
    assert words(sse) == "w0 w1 w2 "
    question = body("[[words:3]][[split:7]]", stream=True)
    async with http.post(f"{demo.url}/chat/completions", json=question) as response:
        sizes = [len(piece) async for piece, _ in response.content.iter_chunks()]
    assert max(sizes) == 7


async def test_it_runs_alone_prints_its_url_first_and_ends_on_sigterm(http: aiohttp.ClientSession) -> None:
    command = (sys.executable, "-m", "grizz.upstream.demo", "--port", "0", "--tokens-per-second", "0")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    url = (await process.stdout.readline()).decode().strip()
    start = time.monotonic()
    async with http.post(f"{url}/chat/completions", json=body("[[words:9]][[stall:3]]", stream=True)) as response:
        await response.content.readany()
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    assert time.monotonic() - start < 2


async def test_a_taken_port_is_reported_and_not_a_traceback(demo: DemoServer) -> None:
    port = demo.url.split(":")[2].split("/")[0]
    command = (sys.executable, "-m", "grizz.upstream.demo", "--port", port)
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert errors.startswith(b"demo: ")
    assert errors.count(b"\n") == 1


def streamed(text: str) -> dict[str, Any]:
    return body(text, stream=True)


async def stats(http: aiohttp.ClientSession, demo: DemoServer) -> dict[str, Any]:
    async with http.get(demo.url.replace("/v1", "/demo/stats")) as response:
        counters: dict[str, Any] = await response.json()
    return counters


async def post(http: aiohttp.ClientSession, demo: DemoServer, text: str) -> tuple[int, Any, str | None]:
    """Status, body and Retry-After of an answer that is not streamed."""
    async with http.post(f"{demo.url}/chat/completions", json=body(text)) as response:
        return response.status, await response.json(), response.headers.get("Retry-After")


@pytest.mark.parametrize("how", ["words:50", "words:2"])
async def test_a_cut_ends_the_connection_in_the_middle_of_the_body(
    http: aiohttp.ClientSession, demo: DemoServer, how: str
) -> None:
    sse, whole = await raw(http, demo, f"[[{how}]][[cut:3]]")
    assert not whole
    assert words(sse) == "w0 w1 w2 "[: 3 * int(how[6:])]
    assert b'finish_reason":"' not in sse
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await post(http, demo, "[[cut:3]]")


async def test_an_eof_ends_the_body_cleanly_without_finish_or_done(
    http: aiohttp.ClientSession, demo: DemoServer
) -> None:
    sse, whole = await raw(http, demo, "[[words:5]][[eof:2]]")
    assert whole
    assert words(sse) == "w0 w1 "
    assert b"DONE" not in sse
    assert all(event["choices"][0]["finish_reason"] is None for event in events(sse))
    with pytest.raises(json.JSONDecodeError):
        await post(http, demo, "[[eof:2]]")


async def test_a_stall_sends_its_deltas_and_then_nothing_with_the_connection_open(
    http: aiohttp.ClientSession, demo: DemoServer
) -> None:
    got = bytearray()
    async with http.post(f"{demo.url}/chat/completions", json=streamed("[[words:5]][[stall:2]]")) as response:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                async for piece in response.content.iter_any():
                    got += piece
        assert not response.content.at_eof()
        assert demo.active == 1
    assert words(bytes(got)) == "w0 w1 "
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await post(http, demo, "[[stall:0]]")


async def test_a_midstream_error_is_an_error_object_in_the_stream(
    http: aiohttp.ClientSession, demo: DemoServer
) -> None:
    *before, error, done = events((await raw(http, demo, "[[words:5]][[midstream-error:2]]"))[0])
    assert error["error"]["type"] == "server_error"
    assert (len(before), done) == (3, "[DONE]")
    assert (await post(http, demo, "[[midstream-error:2]]"))[0] == 500


async def test_garbage_is_one_bad_line_in_an_otherwise_good_answer(
    http: aiohttp.ClientSession, demo: DemoServer
) -> None:
    sse, _ = await raw(http, demo, "[[words:5]][[garbage:2]]")
    lines = [line for line in sse.split(b"\n\n") if line]
    with pytest.raises(json.JSONDecodeError):
        json.loads(lines.pop(3).removeprefix(b"data: "))
    assert words(b"\n\n".join(lines)) == "w0 w1 w2 w3 w4 "
    with pytest.raises(json.JSONDecodeError):
        await post(http, demo, "[[garbage:2]]")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503])
async def test_an_error_has_its_status_and_an_openai_body(
    http: aiohttp.ClientSession, demo: DemoServer, status: int
) -> None:
    got, answer, retry_after = await post(http, demo, f"[[error:{status}]]")
    assert (got, retry_after) == (status, None)
    assert set(answer["error"]) == {"message", "type", "param", "code"}


async def test_errors_can_be_refined_and_ask_to_come_back_later(http: aiohttp.ClientSession, demo: DemoServer) -> None:
    status, answer, _ = await post(http, demo, "[[error:context]]")
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
    status, answer, retry_after = await post(http, demo, "[[error:quota]][[retry-after:1.5]]")
    assert (status, answer["error"]["code"], retry_after) == (429, "insufficient_quota", "1.5")
    assert (await post(http, demo, "[[retry-after:3]]"))[2] == "3"


async def test_with_times_only_the_first_tries_of_a_message_fail(http: aiohttp.ClientSession, demo: DemoServer) -> None:
    tries = [(await post(http, demo, "[[error:500]][[times:2]]"))[0] for _ in range(4)]
    assert tries == [500, 500, 200, 200]
    assert (await post(http, demo, "[[error:500]][[times:2]] another"))[0] == 500
    for fault in ("cut:1", "eof:1", "midstream-error:1", "garbage:1"):
        text = f"[[words:3]][[{fault}]][[times:1]]"
        await raw(http, demo, text)
        sse, whole = await raw(http, demo, text)
        assert (whole, words(sse)) == (True, "w0 w1 w2 ")


async def test_of_two_ends_at_the_same_place_the_fault_comes_first(
    http: aiohttp.ClientSession, demo: DemoServer
) -> None:
    sse, whole = await raw(http, demo, "[[words:9]][[length:2]][[cut:2]]", max_tokens=2)
    assert (whole, words(sse)) == (False, "w0 w1 ")
    sse, whole = await raw(http, demo, "[[words:9]][[cut:3]]", max_tokens=2)
    assert events(sse)[-2]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("text", ["[[delay:30]]", "[[first:30]]", "[[stall:3]]", "[[words:1000]][[rate:5]]"])
async def test_a_client_that_leaves_is_noticed_at_once_and_counted(
    http: aiohttp.ClientSession, demo: DemoServer, text: str
) -> None:
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(raw(http, demo, text))
        await until(lambda: demo.active == 1)
        await asyncio.sleep(0.05)
        left_at = time.monotonic()
        asking.cancel()
    await until(lambda: demo.disconnected == 1)
    assert demo.active == demo.completed == demo.failed == 0
    assert demo.last_disconnect_at is not None
    assert 0 <= demo.last_disconnect_at - left_at < 1


async def test_a_client_that_reads_nothing_and_leaves_is_counted(http: aiohttp.ClientSession, demo: DemoServer) -> None:
    async with http.post(f"{demo.url}/chat/completions", json=streamed("[[words:1000000]]")) as response:
        await response.content.readany()
        await asyncio.sleep(0.3)
        assert demo.active == 1
        response.close()
    await until(lambda: demo.disconnected == 1)


async def test_the_statistics_tell_what_happened_and_can_be_cleared(
    http: aiohttp.ClientSession, demo: DemoServer
) -> None:
    await post(http, demo, "hi")
    await post(http, demo, "hi")
    await post(http, demo, "[[error:500]]")
    await post(http, demo, "x" * 300)
    counters = await stats(http, demo)
    assert counters == {
        "requests": 4,
        "active": 0,
        "completed": 3,
        "failed": 1,
        "disconnected": 0,
        "last_disconnect_at": None,
        "by_message": {"hi": 2, "[[error:500]]": 1, "x" * 200: 1},
        "last_request": body("x" * 300),
    }
    await http.post(demo.url.replace("/v1", "/demo/reset"))
    assert (await stats(http, demo))["requests"] == 0
    assert demo.last_request is None


async def test_the_counted_messages_are_bounded(http: aiohttp.ClientSession, demo: DemoServer) -> None:
    for number in range(1005):
        await post(http, demo, f"{number} [[error:500]][[times:1]]")
    assert len(demo.by_message) == 1000
    assert next(iter(demo.by_message)).startswith("5 ")
    assert (await post(http, demo, "1004 [[error:500]][[times:1]]"))[0] == 200
    assert (await post(http, demo, "0 [[error:500]][[times:1]]"))[0] == 500


async def test_what_is_no_chat_request_gets_an_openai_error(http: aiohttp.ClientSession, demo: DemoServer) -> None:
    async with http.post(f"{demo.url}/chat/completions", data=b"{oops") as response:
        assert (response.status, (await response.json())["error"]["code"]) == (400, "invalid_json")
    async with http.get(f"{demo.url}/chat/completions") as response:
        assert (response.status, (await response.json())["error"]["message"]) == (405, "Method Not Allowed")
    async with http.get(f"{demo.url}/nothing") as response:
        assert response.status == 404
    assert demo.failed == demo.requests == 1


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "[", "127.0.0.1.evil.example"])
async def test_on_loopback_a_foreign_host_name_learns_nothing(
    http: aiohttp.ClientSession, demo: DemoServer, host: str
) -> None:
    async with http.get(demo.url.replace("/v1", "/demo/stats"), headers={"Host": host}) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (403, "forbidden_host")


async def test_a_stop_is_prompt_while_answers_run_and_a_restart_takes_the_same_port(
    http: aiohttp.ClientSession,
) -> None:
    server = DemoServer(tokens_per_second=5)
    with pytest.raises(RuntimeError):
        _ = server.url
    await server.start()
    with pytest.raises(RuntimeError):
        await server.start()
    async with asyncio.TaskGroup() as group:
        asking = [
            group.create_task(raw(http, server, text)) for text in ("[[words:99]]", "[[stall:0]]", "[[first:60]]")
        ]
        await until(lambda: server.active == 3)
        await asyncio.sleep(0.05)
        start = time.monotonic()
        await server.stop()
        assert time.monotonic() - start < 1
    assert [task.result()[1] for task in asking] == [False] * 3
    assert (server.active, server.disconnected, server.failed) == (0, 0, 3)
    await server.stop()
    url = server.url
    await server.start(port=int(url.split(":")[2].split("/")[0]))
    assert server.url == url
    assert (await post(http, server, "[[error:500]]"))[0] == 500
    await server.stop()


@pytest.mark.parametrize("rate", [-1.0, float("nan"), float("inf")])
def test_a_pace_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="tokens_per_second"):
        DemoServer(tokens_per_second=rate)
