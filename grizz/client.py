"""For users of the openai package: one answer over a WebSocket, as an iterator that outlives the connection.

    async with stream(AsyncOpenAI(base_url=…), model="…", input="Hello") as events:
        async for event in events:
            ...

The WebSocket is that of `client.responses.connect()`, so it needs `pip install 'openai[realtime]'`. Whatever ends it,
another one goes on behind the last `sequence_number`: every event comes once and in order. Where the server lost an
answer and began it anew, `response.created` comes again, under a higher number, and all that came before is void; what
`final()` returns is right either way.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, cast, overload

import httpx2
import openai
from openai import AsyncOpenAI, OpenAI
from openai.types.responses import Response, ResponseStreamEvent

try:
    from websockets.exceptions import InvalidStatus, WebSocketException
except ImportError as error:  # pragma: no cover
    raise ImportError("grizz.client needs WebSockets for the openai package: pip install 'openai[realtime]'") from error

# Full jitter; see "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
_BACKOFF_S, _LONGEST_S = 0.5, 15.0
# What a last request to stop the answer may take.
_CANCEL_S = 5.0
_TERMINAL = frozenset(("response.completed", "response.incomplete", "response.failed"))
_DROPS = (OSError, WebSocketException, openai.APIConnectionError)
_REFUSALS: Mapping[int, type[openai.APIStatusError]] = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    409: openai.ConflictError,
    422: openai.UnprocessableEntityError,
    429: openai.RateLimitError,
}


class Unconfirmed(openai.APIConnectionError):
    """The connection broke between sending a request and `response.created`: it may have run or not.

    It is never sent a second time unasked.
    """

    def __init__(self, request: httpx2.Request) -> None:
        super().__init__(message="The connection broke before the server confirmed the request.", request=request)


@overload
def stream(
    client: AsyncOpenAI,
    *,
    response_id: str | None = None,
    starting_after: int | None = None,
    give_up_s: float = 120.0,
    cancel_on_exit: bool | None = None,
    **create: Any,
) -> AsyncStream: ...
@overload
def stream(
    client: OpenAI,
    *,
    response_id: str | None = None,
    starting_after: int | None = None,
    give_up_s: float = 120.0,
    cancel_on_exit: bool | None = None,
    **create: Any,
) -> Stream: ...
def stream(
    client: AsyncOpenAI | OpenAI,
    *,
    response_id: str | None = None,
    starting_after: int | None = None,
    give_up_s: float = 120.0,
    cancel_on_exit: bool | None = None,
    **create: Any,
) -> AsyncStream | Stream:
    """One answer's events; nothing is sent before the first is asked for.

    Args:
        response_id: read this response, instead of creating one.
        starting_after: the last `sequence_number` that was seen of it; None for all of it.
        give_up_s: seconds from a break on, without any event, after which it fails. While a connection lives, an answer
            may be silent as long as it likes.
        cancel_on_exit: whether who leaves before the end stops the answer, or it runs on, as `background` says; by
            default what was created here is stopped, and what was only read is not.
        create: what `client.responses.create` takes.

    Iterating raises openai's exceptions: `APIStatusError` for what the server refuses, `Unconfirmed`, and
    `APIConnectionError` when it gave up.
    """
    if (response_id is None) == (not create):
        raise TypeError("stream() takes either a response_id, or what a response is created from")
    reading = _Reading(str(client.base_url), create, response_id, starting_after, give_up_s)
    cancels = response_id is None if cancel_on_exit is None else cancel_on_exit
    if isinstance(client, AsyncOpenAI):
        return AsyncStream(client, reading, cancels)
    return Stream(client, reading, cancels)


class _Reading:
    """How far one answer has been read, and what a broken connection means for it. Does no I/O.

    Attributes:
        response: the final one, once it ended.
        over: no event follows; the final one is still to be fetched if it was not among them.
    """

    def __init__(
        self, url: str, create: Mapping[str, Any], response_id: str | None, last: int | None, give_up_s: float
    ) -> None:
        self._request = httpx2.Request("GET", f"{url.rstrip('/')}/responses")
        self._create = create
        self._last = last
        self._sent = False
        self._give_up_s = give_up_s
        self._attaching = self._missed = False
        self._broken_at: float | None = None
        self._failures = 0
        self.response_id = response_id
        self.response: Response | None = None
        self.over = False

    def to_send(self) -> dict[str, Any]:
        """The first message on the next connection."""
        if self.response_id is None:
            self._sent = True
            return {"type": "response.create", **self._create}
        self._attaching = True
        # Not by the URL: whoever sends this is told when no event follows.
        attach = {"type": "grizz:attach", "response_id": self.response_id}
        return attach if self._last is None else {**attach, "starting_after": self._last}

    def is_new(self, event: Mapping[str, Any]) -> bool:
        """Take an event; whether it is one to hand out.

        Raises:
            openai.APIStatusError: it is a refusal.
        """
        number = event.get("sequence_number")
        if event["type"] == "error":
            self._refused(event)
            return False
        if event["type"] == "grizz:attached":
            self._alive()
            running = event["status"] in ("queued", "in_progress")
            self.over = not running and event["last_sequence_number"] <= event["sequence_number"]
            return False
        if (
            not event["type"].startswith("response.")
            or number is None
            or number <= (-1 if self._last is None else self._last)
        ):
            return False
        self._last = number
        self._alive()
        if self.response_id is None:
            self.response_id = event["response"]["id"]
        self.over = event["type"] in _TERMINAL
        return True

    def _alive(self) -> None:
        self._attaching = self._missed = False
        self._broken_at, self._failures = None, 0

    def _refused(self, event: Mapping[str, Any]) -> None:
        error, status = event.get("error") or {}, int(event.get("status") or 500)
        if error.get("code") == "grizz:log_expired":
            self.over = True
            return
        # While another process takes an answer over, it can be nobody's for a moment.
        missed = status == 404 and self._last is not None and not self._missed
        if self._attaching and (missed or status == 429 or status >= 500):
            self._missed = self._missed or missed
            raise openai.APIConnectionError(message=str(error.get("message")), request=self._request)
        raise self._status_error(status, str(error.get("message")), error)

    def _status_error(self, status: int, text: str, body: object) -> openai.APIStatusError:
        kind = _REFUSALS.get(status, openai.InternalServerError if status >= 500 else openai.APIStatusError)
        return kind(text, response=httpx2.Response(status, request=self._request), body=body)

    def pause(self, error: Exception) -> float:
        """The connection broke, or was refused: seconds until the next.

        Raises:
            openai.APIError: there will be none.
        """
        if isinstance(error, InvalidStatus):
            self._sent = False  # no connection, so nothing was sent on it
            status = error.response.status_code
            if status < 500 and status not in (408, 429):
                text = bytes(error.response.body or b"").decode(errors="replace")
                raise self._status_error(status, text or f"The server answered {status}.", None) from error
        if self._sent and self.response_id is None:
            raise Unconfirmed(self._request) from error
        now = time.monotonic()
        self._broken_at = now if self._broken_at is None else self._broken_at
        if now - self._broken_at > self._give_up_s:
            raise openai.APIConnectionError(message=f"Given up: {error}", request=self._request) from error
        self._failures += 1
        return random.uniform(0, min(_LONGEST_S, _BACKOFF_S * 2 ** min(self._failures, 10)))


class AsyncStream:
    """Iterates over the events of one answer, once. Cancel-safe; see `stream`."""

    def __init__(self, client: AsyncOpenAI, reading: _Reading, cancels: bool) -> None:
        self._client = client
        self._reading = reading
        self._cancels = cancels
        self._events = self._read()

    @property
    def response_id(self) -> str | None:
        """None until the server has said it."""
        return self._reading.response_id

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __aiter__(self) -> AsyncIterator[ResponseStreamEvent]:
        return self._events

    async def final(self) -> Response:
        """Read to the end; the Response as it ended, whatever its status."""
        async for _ in self._events:
            pass
        assert self._reading.response is not None
        return self._reading.response

    async def aclose(self) -> None:
        """Close the connection, and stop the answer if it has not ended (`cancel_on_exit`)."""
        await cast(Any, self._events).aclose()

    async def _read(self) -> AsyncIterator[ResponseStreamEvent]:
        reading = self._reading
        try:
            while not reading.over:
                try:
                    async with self._client.responses.connect() as connection:
                        await connection.send(cast(Any, reading.to_send()))
                        while not reading.over:
                            raw = await connection.recv_bytes()
                            if reading.is_new(told := json.loads(raw)):
                                event = cast(ResponseStreamEvent, connection.parse_event(raw))
                                if told["type"] in _TERMINAL:
                                    reading.response = cast(Any, event).response
                                yield event
                except _DROPS as error:
                    await asyncio.sleep(reading.pause(error))
            if reading.response is None and reading.response_id is not None:
                reading.response = await self._client.responses.retrieve(reading.response_id)
        finally:
            if self._cancels and reading.response is None and reading.response_id is not None:
                with contextlib.suppress(openai.APIError):  # it may have ended, or nobody is there
                    await self._client.with_options(max_retries=0).responses.cancel(
                        reading.response_id, timeout=_CANCEL_S
                    )


class Stream:
    """As `AsyncStream`, for code without asyncio."""

    def __init__(self, client: OpenAI, reading: _Reading, cancels: bool) -> None:
        self._client = client
        self._reading = reading
        self._cancels = cancels
        self._events = self._read()

    @property
    def response_id(self) -> str | None:
        """None until the server has said it."""
        return self._reading.response_id

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[ResponseStreamEvent]:
        return self._events

    def final(self) -> Response:
        """See `AsyncStream.final`."""
        for _ in self._events:
            pass
        assert self._reading.response is not None
        return self._reading.response

    def close(self) -> None:
        """See `AsyncStream.aclose`."""
        cast(Any, self._events).close()

    def _read(self) -> Iterator[ResponseStreamEvent]:
        reading = self._reading
        try:
            while not reading.over:
                try:
                    with self._client.responses.connect() as connection:
                        connection.send(cast(Any, reading.to_send()))
                        while not reading.over:
                            raw = connection.recv_bytes()
                            if reading.is_new(told := json.loads(raw)):
                                event = cast(ResponseStreamEvent, connection.parse_event(raw))
                                if told["type"] in _TERMINAL:
                                    reading.response = cast(Any, event).response
                                yield event
                except _DROPS as error:
                    time.sleep(reading.pause(error))
            if reading.response is None and reading.response_id is not None:
                reading.response = self._client.responses.retrieve(reading.response_id)
        finally:
            if self._cancels and reading.response is None and reading.response_id is not None:
                with contextlib.suppress(openai.APIError):  # it may have ended, or nobody is there
                    self._client.with_options(max_retries=0).responses.cancel(reading.response_id, timeout=_CANCEL_S)
