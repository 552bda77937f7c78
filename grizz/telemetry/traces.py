"""Traces: what an answer waits for, as spans of OpenTelemetry, one trace over all processes; see docs/operations.md.

Here is what the rest of Grizz knows of them, and it does nothing. `otel.py` does something: it is imported only when
the variables of OpenTelemetry ask for it, so that a process without traces pays an empty call for each answer, and one
for each request to a model server. No text of a prompt or an answer is ever given to these.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from grizz.core.job import NO_TRACE
from grizz.errors import ConfigError

INSTALL = "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


class AnswerSpan:
    """From the acceptance of an answer to its end at this process. This one is nothing.

    Attributes:
        headers: its context, for whoever does a part of the work; W3C Trace Context.
    """

    headers: Mapping[str, str] = NO_TRACE

    def first_word(self) -> None:
        """The first content is in its log."""

    def attempt_lost(self, attempt: int) -> None:
        """Its worker is gone; another one goes on."""

    def ended(self, response: Mapping[str, Any]) -> None:
        """It has ended so, or goes on elsewhere. Call it once."""


class RequestSpan:
    """One request to a model server. This one is nothing.

    Attributes:
        headers: to be sent along.
    """

    headers: Mapping[str, str] = NO_TRACE

    def first_word(self) -> None:
        """The first content came."""

    def succeeded(self, source: Mapping[str, Any], *, reason: str, usage: Mapping[str, Any] | None) -> None:
        """It was answered to its end.

        Args:
            source: what the server said of its answer, of which its `id` and `model` count.
            reason: why the model stopped.
            usage: of tokens, as a Response has it, or None.
        """

    def failed(self, result: str) -> None:
        """It failed; `result` as in the metrics."""

    def stopped(self) -> None:
        """Nobody wanted its answer any more."""


NO_ANSWER, NO_REQUEST = AnswerSpan(), RequestSpan()


class Traces:
    """Begins spans. This one begins none.

    Attributes:
        node: tells the short id of this process.
    """

    def __init__(self) -> None:
        self.node: Callable[[], str] = lambda: ""

    def answer(self, parent: Mapping[str, str], *, response_id: str, request_id: str, model: str) -> AnswerSpan:
        """An answer begins here, for who sent these headers."""
        return NO_ANSWER

    def waited(self, parent: Mapping[str, str], *, response_id: str, seconds: float) -> None:
        """A worker begins with it, after so long."""

    def request(
        self, parent: Mapping[str, str], *, response_id: str, attempt: int, model: str, upstream: str, url: str
    ) -> RequestSpan:
        """A model server is asked.

        Args:
            parent: the context of the answer.
            model: by its name there.
            upstream: its name, as on metrics.
            url: its base URL.
        """
        return NO_REQUEST

    async def close(self) -> None:
        """Send what waits; bounded."""


def open_traces(environ: Mapping[str, str] = os.environ) -> Traces:
    """Traces as the variables of OpenTelemetry say.

    Raises:
        ConfigError: they ask for what cannot be had.
    """
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    asked = exporter or next((name for name in _ENDPOINTS if environ.get(name)), "")
    if not asked or exporter == "none" or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Traces()
    if exporter not in ("", "otlp", "console"):
        raise ConfigError(f"OTEL_TRACES_EXPORTER = {exporter}: traces go to otlp, console or none")
    protocol = next((environ[name] for name in _PROTOCOLS if environ.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        raise ConfigError(f"OTEL_EXPORTER_OTLP_PROTOCOL = {protocol}: traces are sent as http/protobuf only")
    for name in _ENDPOINTS:
        if not environ.get(name, "http://").startswith(("http://", "https://")):
            raise ConfigError(f"{name} = {environ[name]}: a collector's address begins with http:// or https://")
    try:
        from grizz.telemetry.otel import OtelTraces  # late: nobody else needs the SDK, or its import
    except ImportError as error:
        what = "OTEL_TRACES_EXPORTER" if exporter else asked
        text = f"{what} asks for traces, and OpenTelemetry's SDK is not installed ({error.name})"
        raise ConfigError(f"{text}: {INSTALL}; or set OTEL_TRACES_EXPORTER=none") from error
    return OtelTraces(to_console=exporter == "console")
