"""Any OpenAI-compatible Chat Completions API, through the openai package.

The package opens the request (URL, auth, proxies, error bodies); the stream is read raw, since its chunk objects cost
10 to 40 times more than our own splitting and orjson (docs/architecture.md). It does not retry: one place does, the
worker, which alone knows whether a client has seen anything yet.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import openai
from openai import AsyncOpenAI, DefaultAioHttpClient, Timeout

from grizz.errors import Code, UpstreamError

# Above the largest sensible worker concurrency: the pool must never be what a job waits for.
_MAX_CONNECTIONS = 10_000


class OpenAIUpstream:
    """`Upstream` over HTTP.

    Args:
        name: label value on metrics.
        base_url: such as `https://api.openai.com/v1`.
        api_key: sent as a bearer token; some local servers want any text.
        connect_timeout_s: seconds to a connection.
        idle_timeout_s: seconds between two reads, and to the response's headers.
    """

    def __init__(
        self, *, name: str, base_url: str, api_key: str, connect_timeout_s: float, idle_timeout_s: float
    ) -> None:
        self.name = name
        self._idle_timeout_s = idle_timeout_s
        timeout = Timeout(idle_timeout_s, connect=connect_timeout_s, pool=connect_timeout_s)
        limits = openai.DEFAULT_CONNECTION_LIMITS
        limits = type(limits)(max_connections=_MAX_CONNECTIONS, max_keepalive_connections=100, keepalive_expiry=30.0)
        self._client = AsyncOpenAI(
            api_key=api_key,
            base_url=base_url,
            max_retries=0,
            timeout=timeout,
            http_client=DefaultAioHttpClient(limits=limits, timeout=timeout),
        )

    def __repr__(self) -> str:
        return f"<OpenAIUpstream {self.name} {self._client.base_url}>"

    @asynccontextmanager
    async def open(self, body: dict[str, Any]) -> AsyncIterator[AsyncIterator[bytes]]:
        """See `Upstream.open`."""
        rest = dict(body)
        create = self._client.chat.completions.with_streaming_response.create(
            model=rest.pop("model"), messages=rest.pop("messages"), stream=rest.pop("stream"), extra_body=rest
        )
        with _Translating(self):
            async with create as response:
                yield self._read(response.iter_bytes())

    async def models(self) -> list[dict[str, Any]]:
        """See `Upstream.models`."""
        with _Translating(self):
            page = await self._client.models.list()
        return [
            {
                "id": model.id,
                "object": "model",
                "created": int(getattr(model, "created", 0) or 0),
                "owned_by": str(getattr(model, "owned_by", "") or self.name),
            }
            for model in page.data
        ]

    async def close(self) -> None:
        """See `Upstream.close`."""
        await self._client.close()

    async def _read(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        # Translated here, not only around `open`: the reader's own errors must not pass as the upstream's.
        with _Translating(self):
            async for chunk in chunks:
                yield chunk


class _Translating:
    """Turns whatever the packages below raise into `UpstreamError`; everything else passes."""

    def __init__(self, upstream: OpenAIUpstream) -> None:
        self._upstream = upstream

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, openai.APIStatusError):
            raise _of_status(error) from error
        if error is not None and _is_network(error):
            raise self._of_network(error) from error

    def _of_network(self, error: BaseException) -> UpstreamError:
        if _is_timeout(error):
            return UpstreamError(
                Code.SERVER_ERROR,
                "the upstream did not answer in time",
                result="timeout",
                retryable=True,
            )
        return UpstreamError(
            Code.SERVER_ERROR, "the connection to the upstream failed", result="connect", retryable=True
        )


def _is_network(error: BaseException) -> bool:
    if isinstance(error, openai.APIConnectionError | aiohttp.ClientError):
        return True
    # httpx or its fork, whichever the openai package is built on; named by its module so neither is imported here.
    return type(error).__module__.split(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2")


def _is_timeout(error: BaseException) -> bool:
    """A real timeout; the HTTP layer also calls a lost pooled connection one, so look at what is underneath."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, aiohttp.ServerTimeoutError):
            return True
        if isinstance(cause, aiohttp.ClientConnectionError):
            return False
        if isinstance(cause, TimeoutError):
            return True
        cause = cause.__cause__
    return isinstance(error, openai.APITimeoutError)


def _of_status(error: openai.APIStatusError) -> UpstreamError:
    status = error.status_code
    text = _message(error)
    retry_after_s = _retry_after_s(error)
    if status == 429:
        if error.code == "insufficient_quota":
            return UpstreamError(Code.INSUFFICIENT_QUOTA, text, result="429")
        return UpstreamError(Code.RATE_LIMIT, text, result="429", retryable=True, retry_after_s=retry_after_s)
    if status == 408 or status == 409 or status >= 500:
        result = "timeout" if status == 408 else "5xx"
        return UpstreamError(Code.SERVER_ERROR, text, result=result, retryable=True, retry_after_s=retry_after_s)
    result = str(status) if status in (401, 403, 404) else "400"
    if error.code == "context_length_exceeded" or "maximum context length" in text.lower():
        return UpstreamError(Code.CONTEXT_LENGTH, text, result=result)
    if status in (401, 403):
        # The key is the operator's, so the client is told no more than that.
        return UpstreamError(Code.SERVER_ERROR, "the upstream refused this server's API key", result=result)
    if status == 404:
        return UpstreamError(Code.MODEL_NOT_FOUND, text, result=result)
    return UpstreamError(Code.INVALID_PROMPT, text, result=result)


def _message(error: openai.APIStatusError) -> str:
    body = error.body
    if isinstance(body, dict) and isinstance(body.get("message"), str):
        return str(body["message"])
    return f"the upstream answered {error.status_code}"


def _retry_after_s(error: openai.APIStatusError) -> float | None:
    try:
        return max(0.0, float(error.response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None  # absent, or a date, which none of the servers looked at sends
