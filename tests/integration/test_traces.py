"""Traces by the real SDK over OTLP to a real receiver: which spans, whose children, and no prompt in them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

from grizz.errors import ConfigError
from grizz.telemetry.traces import NO_ANSWER, Traces, open_traces
from tests.conftest import ROOT
from tests.nodes import Client, nodes_on
from tests.player import Player
from tests.raw_upstream import HEADERS, ROLE, Call, raw_upstream, word
from tests.redis_servers import RedisServer
from tests.several import running

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "vendor=1"}
PROMPT, ANSWER = "Pr0mptCanary", "Answ3rCanary"


class Span:
    """One span as a collector gets it."""

    def __init__(self, given: Any, resource: dict[str, Any]) -> None:
        self.name: str = given.name
        self.kind: int = given.kind
        self.trace, self.id, self.parent = given.trace_id.hex(), given.span_id.hex(), given.parent_span_id.hex()
        self.attributes = _values(given.attributes)
        self.events = [event.name for event in given.events]
        self.is_error = given.status.code == 2
        self.took_ns = given.end_time_unix_nano - given.start_time_unix_nano
        self.resource = resource


def _values(attributes: Any) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        kind = value.WhichOneof("value")
        return [plain(one) for one in value.array_value.values] if kind == "array_value" else getattr(value, kind)

    return {one.key: plain(one.value) for one in attributes}


class Collector:
    """Takes OTLP over HTTP."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def take(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/x-protobuf"
        self.bodies.append(await request.read())
        return web.Response(content_type="application/x-protobuf")

    def spans(self) -> list[Span]:
        """All that came, in the order they ended."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        return [
            Span(span, _values(of_resource.resource.attributes))
            for body in self.bodies
            for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for of_scope in of_resource.scope_spans
            for span in of_scope.spans
        ]

    def named(self, start: str) -> list[Span]:
        return [span for span in self.spans() if span.name.startswith(start)]


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    """One that is running, to which all that is started sends its traces."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    pytest.importorskip("opentelemetry.sdk")
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    collecting = Collector()
    app = web.Application()
    app.add_routes([web.post("/v1/traces", collecting.take)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    yield collecting
    await runner.cleanup()


async def refuse(call: Call) -> None:
    await call.status("500 No", orjson.dumps({"error": {"message": f"about {PROMPT}"}}))


class Answering:
    """Answers, and keeps the headers that came."""

    def __init__(self) -> None:
        self.heads: list[str] = []

    async def behave(self, call: Call) -> None:
        self.heads.append(call.head)
        usage = {"prompt_tokens": 11, "completion_tokens": 2}
        end = {"id": "chatcmpl-1", "model": "big-1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        await call.raw(HEADERS)
        await call.part(ROLE + word(ANSWER) + b"data: " + orjson.dumps({**end, "usage": usage}) + b"\n\n")
        await call.part(b"data: [DONE]\n\n")
        await call.raw(b"0\r\n\r\n")


async def test_an_answer_with_a_failover_is_a_span_with_two_requests_below_it_in_the_clients_trace(
    collector: Collector,
) -> None:
    answering = Answering()
    async with raw_upstream(refuse) as (_, broken_url), raw_upstream(answering.behave) as (_, url):
        upstreams = {"main": {"base_url": broken_url}, "backup": {"base_url": url, "priority": 2}}
        async with running(upstreams, upstream__model="big") as grizz:
            ws_url = f"{grizz.url.replace('http', 'ws', 1)}/v1/responses"
            player = await Player.connect(grizz.http, ws_url, headers=PARENT)
            done = (await player.ask(PROMPT, instructions=PROMPT))[-1]["response"]
            await player.ws.close()
    assert done["status"] == "completed"
    (answer,), (queue,), requests = collector.named("answer "), collector.named("queue"), collector.named("chat ")
    assert {span.trace for span in collector.spans()} == {TRACE}
    assert (answer.name, answer.kind, answer.parent) == ("answer big", 2, CALLER)
    assert answer.resource["service.name"] == "grizz"
    assert answer.attributes["grizz.response_id"] == done["id"]
    assert answer.attributes["grizz.request_id"].startswith("req_")
    assert answer.attributes["grizz.status"] == "completed"
    assert answer.attributes["gen_ai.usage.input_tokens"] == 11
    assert answer.events == ["first token"] and 0 < answer.attributes["grizz.time_to_first_token"] < 60
    assert queue.parent == answer.id
    assert [(span.name, span.kind, span.parent) for span in requests] == [("chat big", 3, answer.id)] * 2
    failed, good = requests
    assert failed.is_error and failed.attributes["error.type"] == "5xx"
    assert (failed.attributes["grizz.upstream"], good.attributes["grizz.upstream"]) == ("main", "backup")
    assert not good.is_error and not answer.is_error
    port = int(url.split(":")[2].removesuffix("/v1"))
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "big",
        "gen_ai.response.model": "big-1",
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 11,
        "gen_ai.usage.output_tokens": 2,
        "server.address": "127.0.0.1",
        "server.port": port,
        "grizz.response_id": done["id"],
        "grizz.attempt": 1,
    }
    assert expected.items() <= good.attributes.items()
    assert f"traceparent: 00-{TRACE}-{good.id}-01\r\n" in answering.heads[0]
    assert "tracestate: vendor=1\r\n" in answering.heads[0]
    sent = b"".join(collector.bodies)
    assert PROMPT.encode() not in sent and ANSWER.encode() not in sent


async def test_an_answer_that_nobody_gives_is_an_error_with_its_code_and_one_that_is_cancelled_is_none(
    collector: Collector,
) -> None:
    async def stuck(call: Call) -> None:
        if PROMPT.encode() in call.body:
            await refuse(call)
            return
        await call.raw(HEADERS)
        await call.part(ROLE + word("one"))
        await asyncio.sleep(60)

    async with raw_upstream(stuck) as (_, url), running({"main": {"base_url": url, "max_retries": 0}}) as grizz:
        async with grizz.http.post(f"{grizz.url}/v1/responses", json={"input": PROMPT}, headers=PARENT) as answer:
            assert (await answer.json())["status"] == "failed"
        player = await grizz.player()
        await player.create("hello")
        begun = (await player.until("response.output_text.delta"))[0]["response"]["id"]
        await player.send({"type": "response.cancel", "response_id": begun})
        await player.answer()
        await player.ws.close()
    failed, cancelled = collector.named("answer ")
    assert (failed.trace, failed.is_error, failed.attributes["error.type"]) == (TRACE, True, "server_error")
    assert (cancelled.is_error, cancelled.attributes["grizz.status"]) == (False, "cancelled")
    assert cancelled.trace != TRACE and cancelled.parent == ""
    (request,) = [span for span in collector.named("chat ") if span.trace == cancelled.trace]
    assert (request.is_error, request.attributes["gen_ai.response.finish_reasons"]) == (False, ["cancelled"])


async def test_a_server_of_the_responses_api_is_told_of_the_same_way(collector: Collector) -> None:
    async with running({"main": {"api": "responses"}}) as grizz:
        player = await grizz.player()
        whole, cut = [(await player.ask(f"[[{how}]]"))[-1]["response"] for how in ("words:3", "length:2")]
        await player.ws.close()
    first, second = collector.named("chat ")
    assert first.attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert first.attributes["gen_ai.response.model"] == "grizz-demo"
    assert first.attributes["gen_ai.usage.output_tokens"] == whole["usage"]["output_tokens"] > 0
    assert (cut["status"], second.attributes["gen_ai.response.finish_reasons"]) == ("incomplete", ["length"])
    assert not second.is_error


async def test_what_the_client_does_not_sample_is_not_sent_and_the_model_server_is_told_so(
    collector: Collector,
) -> None:
    answering = Answering()
    async with raw_upstream(answering.behave) as (_, url), running({"main": {"base_url": url}}) as grizz:
        parent = {"traceparent": f"00-{TRACE}-{CALLER}-00"}
        async with grizz.http.post(f"{grizz.url}/v1/responses", json={"input": "x"}, headers=parent) as answer:
            assert (await answer.json())["status"] == "completed"
    assert collector.spans() == []
    assert f"traceparent: 00-{TRACE}-" in answering.heads[0] and "-00\r\n" in answering.heads[0]


async def test_an_answer_that_runs_on_another_node_is_one_trace(
    collector: Collector, redis_server: RedisServer, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with nodes_on(redis_server.url, tmp_path) as nodes:
        home, worker = await asyncio.gather(nodes.start(workers__concurrency=0), nodes.start(workers__concurrency=1))
        client = Client(http, [home])
        client.headers = PARENT
        await client.ask("[[words:5]]")
        assert await asyncio.gather(home.end(), worker.end()) == [0, 0]
    (answer,), (queue,), (request,) = (collector.named(name) for name in ("answer ", "queue", "chat "))
    assert {span.trace for span in (answer, queue, request)} == {TRACE}
    assert (answer.parent, queue.parent, request.parent) == (CALLER, answer.id, answer.id)
    home_name = client.response_id.removeprefix("resp_")[:8]
    assert answer.attributes["grizz.node"] == home_name
    assert request.attributes["grizz.node"] == queue.attributes["grizz.node"] != home_name
    assert request.attributes["grizz.response_id"] == client.response_id


async def test_a_collector_that_is_not_there_holds_up_neither_answers_nor_the_end(
    start_process, http: aiohttp.ClientSession
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    process = start_process("--demo", environ={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
    async with http.post(f"{process.url}/v1/responses", json={"input": f"[[echo:{PROMPT}]]"}) as answer:
        assert (await answer.json())["status"] == "completed"
    assert await asyncio.to_thread(process.end) == 0
    assert PROMPT not in "".join(process.log)


# Whether there are any


def test_without_its_variables_nothing_of_opentelemetry_is_loaded() -> None:
    script = "import sys, grizz.app; grizz.app.open_traces({}); print('opentelemetry' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.stdout == "False\n", ran.stderr


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_SERVICE_NAME": "x"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://x"},
    ],
)
def test_there_are_none_unless_they_are_asked_for(environ: dict[str, str]) -> None:
    traces = open_traces(environ)
    assert type(traces) is Traces
    assert traces.answer({}, response_id="resp_1", request_id="", model="m") is NO_ANSWER


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER = zipkin"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http/protobuf only"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "begins with http:// or https://"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(environ: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        open_traces(environ)


def test_a_start_without_the_sdk_is_refused_and_says_what_to_install(tmp_path: Path) -> None:
    package = tmp_path / "opentelemetry"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('not here', name='opentelemetry')")
    environ = {**os.environ, "PYTHONPATH": str(tmp_path), "OTEL_TRACES_EXPORTER": "otlp"}
    command = [sys.executable, str(ROOT / "grizz.py"), "--demo", "--port", "0", "--log-format", "text"]
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 2
    assert "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http" in ran.stderr
