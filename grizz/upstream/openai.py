"""Any OpenAI-compatible API, of Chat Completions or of Responses, through the openai package.

The package opens the request (URL, auth, errors); the stream is read raw, since its chunk objects cost 10 to 40 times
more than our own splitting and orjson (docs/architecture.md). It does not retry: one place does, the worker, which
alone knows whether a client has seen anything yet.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp
import httpx2
import openai
import orjson
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from grizz.core.job import NO_TRACE
from grizz.errors import Code, UpstreamError
from grizz.protocol import echo
from grizz.upstream.base import Chunks
from grizz.upstream.http import AiohttpTransport, Body, fresh_connection
from grizz.upstream.manners import Manners
from grizz.upstream.retry_after import retry_after_s

# Within so many seconds of sending, a connection that breaks before any answer was a pooled one that the server had
# dropped; later it is the server that broke, and asking it the same again at once may break it again.
_STALE_S = 2.0
_LIST_MODELS_S = 5.0
# A key shorter than that is a placeholder of a local server, and may be a word of any text.
_SHORT_KEY = 8
# Models whose manners are remembered; of others they are learned anew at each request.
_MAX_MANNERS = 1000
# Characters of a refusal that clients are shown.
_MAX_DETAIL = 1000


class OpenAIUpstream:
    """`Upstream` over HTTP.

    Args:
        name: label value on metrics.
        base_url: such as `https://api.openai.com/v1`.
        api_key: sent as a bearer token; some local servers want any text.
        connect_timeout_s: seconds to a connection, and before it to a place among those that are allowed.
        idle_timeout_s: seconds between two reads, and to the response's headers.
        max_connections: requests at a time.
        api: which one is asked for answers.
    """

    def __init__(
        self,
        *,
        name: str,
        base_url: str,
        api_key: str,
        connect_timeout_s: float,
        idle_timeout_s: float,
        max_connections: int,
        api: Literal["chat", "responses"] = "chat",
    ) -> None:
        self.name = name
        # Absolute, so that the package need not put it together at each request.
        self._url = f"{base_url.rstrip('/')}/{'responses' if api == 'responses' else 'chat/completions'}"
        self._connect_timeout_s = connect_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._most = max_connections
        self._places = asyncio.Semaphore(max_connections)
        self._busy = 0
        # By model: one address may have many, each with a template of its own.
        self._manners: dict[str, Manners] = {}
        self._hidden = _hidden(base_url, api_key)
        # One more than may be asked at a time, for the list of models: nobody ever waits for the pool itself.
        transport = AiohttpTransport(
            connect_timeout_s=connect_timeout_s, idle_timeout_s=idle_timeout_s, max_connections=max_connections + 1
        )
        self._client = AsyncOpenAI(
            api_key=api_key,
            base_url=base_url,
            max_retries=0,
            timeout=None,
            http_client=DefaultAsyncHttpxClient(transport=transport, timeout=None),
        )

    def __repr__(self) -> str:
        return f"<OpenAIUpstream {self.name}, {self._busy} of {self._most} requests>"

    @property
    def busy(self) -> int:
        """See `Upstream.busy`."""
        return self._busy

    @property
    def full(self) -> bool:
        """See `Upstream.full`."""
        return self._places.locked()

    @asynccontextmanager
    async def open(
        self, body: dict[str, Any], may_resend: Callable[[], bool], headers: Mapping[str, str] = NO_TRACE
    ) -> AsyncIterator[Chunks]:
        """See `Upstream.open`."""
        await self._take_place()
        self._busy += 1
        try:
            with _Translating(self):
                async with AsyncExitStack() as stack:
                    response = (await self._ask(stack, body, may_resend, headers)).extensions["aiohttp"]
                    yield stack.enter_context(closing(Body(response, self._idle_timeout_s, self.of_network)))
        finally:
            self._busy -= 1
            self._places.release()

    async def _take_place(self) -> None:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await self._places.acquire()
        except TimeoutError:
            text = (
                f"the upstream is busy with {self._most} requests, and none ended within {self._connect_timeout_s:g} s"
            )
            raise UpstreamError(Code.SERVER_ERROR, text, result="busy") from None

    async def _ask(
        self, stack: AsyncExitStack, body: dict[str, Any], may_resend: Callable[[], bool], headers: Mapping[str, str]
    ) -> httpx2.Response:
        """Send the request; again, at once, when it was refused for what can be said otherwise."""
        model = str(body.get("model"))
        manners = self._manners.get(model) or Manners()
        while True:
            fitting = manners.fit(body)
            try:
                return await self._begin(stack, fitting, may_resend, headers)
            except openai.APIStatusError as error:
                if not manners.learn(fitting, error.status_code, error.response.text):
                    raise
                if len(self._manners) < _MAX_MANNERS:
                    manners = self._manners.setdefault(model, manners)

    async def _begin(
        self, stack: AsyncExitStack, body: dict[str, Any], may_resend: Callable[[], bool], headers: Mapping[str, str]
    ) -> httpx2.Response:
        """Send the request; once more, at once, if it went into a pooled connection that had been dropped.

        Whether it was a pooled one is not to be seen from here, so a server that breaks at each request may look the
        same: that is why `may_resend` is asked.

        aiohttp does so by itself, but only for methods that change nothing. Nor does a request for an answer: what of
        it reached the server is not read by anybody.
        """
        loop = asyncio.get_running_loop()
        sent_at = loop.time()
        try:
            return await stack.enter_async_context(self._create(body, headers))
        except aiohttp.ClientError as error:
            if not _was_dropped(error) or loop.time() - sent_at > _STALE_S or not may_resend():
                raise
        with fresh_connection():  # others in the pool may have been dropped as well
            return await stack.enter_async_context(self._create(body, headers))

    @asynccontextmanager
    async def _create(self, body: dict[str, Any], headers: Mapping[str, str]) -> AsyncIterator[httpx2.Response]:
        # The package's `post`, as for an API that it does not know: its methods match each argument with their types,
        # 0.2 ms a message and 0.3 ms for none (measured). With a key given it makes none, and none is sent: the client
        # has no header for it. The body comes from `protocol/chat.py` and `protocol/responses.py`.
        response = await self._client.post(
            self._url,
            cast_to=httpx2.Response,
            content=orjson.dumps(body),
            options={"idempotency_key": "none", **({"headers": headers} if headers else {})},
            stream=True,
        )
        try:
            yield response
        finally:
            await response.aclose()

    async def models(self) -> list[dict[str, Any]]:
        """See `Upstream.models`; waits `_LIST_MODELS_S` at most, since clients wait for it."""
        try:
            with _Translating(self):
                async with asyncio.timeout(_LIST_MODELS_S):
                    page = await self._client.get("/models", cast_to=object)
            # Some servers give the bare list, and some a null where they have none.
            listed: Any = page["data"] if isinstance(page, dict) else page
            return [self._described(model) for model in listed or ()]
        except TimeoutError:
            text = f"the upstream did not list its models within {_LIST_MODELS_S:g} s"
            raise UpstreamError(Code.SERVER_ERROR, text, result="timeout_total") from None
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            text = "the upstream's list of models is of another shape"
            raise UpstreamError(Code.SERVER_ERROR, text, result="truncated") from error

    def _described(self, model: Any) -> dict[str, Any]:
        if not isinstance(model["id"], str):
            raise TypeError("a model without a name")
        created = int(model.get("created") or 0)
        owner = str(model.get("owned_by") or self.name)
        return {"id": model["id"], "object": "model", "created": created, "owned_by": owner}

    def discreet(self, text: str) -> str:
        """See `Upstream.discreet`."""
        for hidden in self._hidden:
            text = text.replace(hidden, "…")
        return text

    async def close(self) -> None:
        """See `Upstream.close`."""
        await self._client.close()

    def of_network(self, error: BaseException) -> UpstreamError:
        """What a failure below HTTP comes to."""
        causes = list(_causes(error))
        result = "connect"
        if _any(causes, aiohttp.ConnectionTimeoutError):
            text = f"the upstream accepted no connection within {self._connect_timeout_s:g} s"
        elif _any(causes, aiohttp.ServerTimeoutError):
            text, result = f"the upstream was silent for {self._idle_timeout_s:g} s", "timeout_idle"
        elif _any(causes, aiohttp.ClientConnectorError):
            text = "the upstream could not be reached"
        else:
            text = "the upstream dropped the connection"
        return UpstreamError(
            Code.SERVER_ERROR, text, result=result, retryable=True, unready=any(map(_is_refusal, causes))
        )


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
            raise self._upstream.of_network(error) from error


def _hidden(base_url: str, api_key: str) -> list[str]:
    """What `discreet` takes out, the longest first. A plain word as a host's name may be a word of any text."""
    parts = urlsplit(base_url)
    hosts = [name for name in (parts.netloc, parts.hostname or "") if "." in name or ":" in name]
    return [*filter(None, [base_url.rstrip("/")]), *([api_key] if len(api_key) >= _SHORT_KEY else []), *hosts]


def _is_network(error: BaseException) -> bool:
    return isinstance(error, openai.APIConnectionError | aiohttp.ClientError)


def _causes(error: BaseException | None) -> Any:
    """The error and what is underneath."""
    while error is not None:
        yield error
        error = error.__cause__


def _any(causes: list[BaseException], *kinds: type[BaseException]) -> bool:
    return any(isinstance(cause, kinds) for cause in causes)


def _is_refusal(error: BaseException) -> bool:
    """Does nobody listen there?"""
    return isinstance(error, OSError) and error.errno == errno.ECONNREFUSED


def _was_dropped(error: BaseException) -> bool:
    """Did a connection that stood break before there was an answer?"""
    causes = list(_causes(error))
    if _any(causes, aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError):
        return False
    return _any(causes, aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)


def _of_status(error: openai.APIStatusError) -> UpstreamError:
    status, text = error.status_code, _message(error)
    said = f"the upstream answered {status}" + (f": {text}" if text else "")
    pause_s = retry_after_s(error.response.headers)
    if status == 429:
        if error.code == "insufficient_quota":
            return UpstreamError(Code.INSUFFICIENT_QUOTA, said, result="429")
        return UpstreamError(Code.RATE_LIMIT, said, result="429", retryable=True, retry_after_s=pause_s)
    if status in (408, 409) or status >= 500:
        return UpstreamError(
            Code.SERVER_ERROR, said, result="5xx", retryable=True, retry_after_s=pause_s, unready=status == 503
        )
    result = str(status) if status in (401, 403, 404) else "400"
    if error.code == "context_length_exceeded" or echo.says_too_long(text):
        return UpstreamError(Code.CONTEXT_LENGTH, text or said, result=result)
    if status in (401, 403):
        # The key is the operator's, so the client is told no more than that.
        return UpstreamError(Code.SERVER_ERROR, "the upstream refused this server's API key", result=result)
    if status == 404:
        return UpstreamError(Code.MODEL_NOT_FOUND, text or said, result=result)
    return UpstreamError(Code.INVALID_PROMPT, text or said, result=result)


def _message(error: openai.APIStatusError) -> str:
    """What the server said: `error.message` as OpenAI has it, `error` or `detail` as others do, or a line of text."""
    body: Any = error.body
    if isinstance(body, str):  # no JSON, perhaps: a proxy's page and what has no end are no business of the clients
        return body if len(body) <= _MAX_DETAIL and not body.lstrip().startswith("<") else ""
    if isinstance(body, dict):
        body = body.get("message") or body.get("detail")
    if isinstance(body, list):  # FastAPI's, of all that is wrong with a request
        body = "; ".join(str(one.get("msg") or one) for one in body if isinstance(one, dict))
    return body[:_MAX_DETAIL] if isinstance(body, str) else ""
