"""Traces by OpenTelemetry's SDK, which need not be installed: `traces.py` imports this when it is asked for.

Names follow the semantic conventions for generative AI; what they have no name for begins with `grizz.`. The SDK's own
thread sends spans in batches, and drops them when it cannot.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from grizz import __version__
from grizz.telemetry.traces import AnswerSpan, RequestSpan, Traces

# What the end of the process waits for spans to be sent: it shall not take much longer with traces than without.
FLUSH_S = 0.5
# They quote what a client sends as `tracestate`.
logging.getLogger("opentelemetry.trace.span").setLevel(logging.ERROR)
_CONTEXT = TraceContextTextMapPropagator()
_PORTS = {"http": 80, "https": 443}
# Of the model server's API, whoever is behind it: so the conventions have it.
_PROVIDER = "openai"
# Characters of what a model server says of itself.
_MOST = 200


class _Timed:
    """A span, since when it is, and its context as headers."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._began = time.monotonic()
        self.headers: Mapping[str, str] = _headers(span)

    def first_word(self) -> None:
        """See `AnswerSpan` and `RequestSpan`."""
        self._span.set_attribute("grizz.time_to_first_token", round(time.monotonic() - self._began, 6))
        self._span.add_event("first token")

    def _used(self, usage: Mapping[str, Any] | None) -> None:
        for name in ("input_tokens", "output_tokens"):
            if isinstance(count := (usage or {}).get(name), int):
                self._span.set_attribute(f"gen_ai.usage.{name}", count)

    def _wrong(self, kind: str) -> None:
        self._span.set_attribute("error.type", kind)
        self._span.set_status(StatusCode.ERROR)


class _Answer(_Timed, AnswerSpan):
    def attempt_lost(self, attempt: int) -> None:
        self._span.add_event("attempt lost", {"grizz.attempt": attempt})

    def ended(self, response: Mapping[str, Any]) -> None:
        self._span.set_attribute("grizz.status", response["status"])
        self._used(response.get("usage"))
        if response["status"] == "failed":
            self._wrong((response.get("error") or {}).get("code") or "server_error")
        self._span.end()


class _Request(_Timed, RequestSpan):
    def succeeded(self, source: Mapping[str, Any], *, reason: str, usage: Mapping[str, Any] | None) -> None:
        self._span.set_attribute("gen_ai.response.finish_reasons", [reason[:_MOST]])
        for name in ("id", "model"):
            if isinstance(told := source.get(name), str):
                self._span.set_attribute(f"gen_ai.response.{name}", told[:_MOST])
        self._used(usage)
        self._span.end()

    def failed(self, result: str) -> None:
        self._wrong(result)
        self._span.end()

    def stopped(self) -> None:
        self._span.set_attribute("gen_ai.response.finish_reasons", ["cancelled"])
        self._span.end()


class OtelTraces(Traces):
    """Implements `Traces`. Nothing of it is global: a process may have several.

    Args:
        to_console: write spans to standard output, for a look; else they go where the SDK's variables say.
    """

    def __init__(self, *, to_console: bool = False) -> None:
        super().__init__()
        ours = Resource.create({"service.name": "grizz", "service.version": __version__})
        self._provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
        exporter = ConsoleSpanExporter() if to_console else OTLPSpanExporter()
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("grizz", __version__)

    def answer(self, parent: Mapping[str, str], *, response_id: str, request_id: str, model: str) -> AnswerSpan:
        """See `Traces.answer`."""
        own = {"gen_ai.request.model": model, "grizz.response_id": response_id, "grizz.request_id": request_id}
        return _Answer(self._begin(f"answer {model}", SpanKind.SERVER, parent, own))

    def waited(self, parent: Mapping[str, str], *, response_id: str, seconds: float) -> None:
        """See `Traces.waited`."""
        began_ns = time.time_ns() - round(seconds * 1e9)
        own = {"grizz.response_id": response_id}
        self._begin("queue", SpanKind.INTERNAL, parent, own, began_ns).end()

    def request(
        self, parent: Mapping[str, str], *, response_id: str, attempt: int, model: str, upstream: str, url: str
    ) -> RequestSpan:
        """See `Traces.request`."""
        parts = urlsplit(url)
        own: dict[str, str | int] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": _PROVIDER,
            "gen_ai.request.model": model,
            "grizz.response_id": response_id,
            "server.address": parts.hostname or "",
            "server.port": parts.port or _PORTS.get(parts.scheme, 0),
            "grizz.upstream": upstream,
            "grizz.attempt": attempt,
        }
        return _Request(self._begin(f"chat {model}", SpanKind.CLIENT, parent, own))

    async def close(self) -> None:
        """See `Traces.close`. A collector that does not answer is given up after `FLUSH_S`."""
        # A thread of its own, which may be left behind: the SDK waits for longer than the end of a process should.
        ending = threading.Thread(target=self._provider.shutdown, name="grizz-traces", daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, FLUSH_S)

    def _begin(
        self,
        name: str,
        kind: SpanKind,
        parent: Mapping[str, str],
        attributes: Mapping[str, str | int],
        began_ns: int | None = None,
    ) -> Span:
        span: Span = self._tracer.start_span(
            name,
            context=_CONTEXT.extract(parent),
            kind=kind,
            attributes={**attributes, "grizz.node": self.node()},
            start_time=began_ns,
        )
        return span


def _headers(span: Span) -> Mapping[str, str]:
    headers: dict[str, str] = {}
    _CONTEXT.inject(headers, context=set_span_in_context(span))
    return headers
