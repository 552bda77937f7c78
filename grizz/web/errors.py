"""Every HTTP error as an OpenAI error body, whatever raised it (protocol §9.1)."""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from grizz.core.job import NO_TRACE
from grizz.engine.call import Call
from grizz.errors import Code, RequestError
from grizz.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

# Stands in the response's header and in the log, so that a user's report can be followed.
REQUEST_ID = web.RequestKey("request_id", str)
# The path of `nowhere`; add it last.
NOWHERE = "/{path:(?s:.*)}"
_NOWHERE_CANONICAL = "/{path}"
# What of a path stands in the log.
_MAX_PATH = 200
_TRACE_HEADERS = ("traceparent", "tracestate")
# SDKs try these again by themselves; everything else a second try cannot mend.
_RETRIABLE = frozenset({408, 409, 429, 500, 502, 503, 504})


def json_response(body: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON answer, encoded by orjson."""
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json", headers=headers)


def error_response(error: RequestError) -> web.Response:
    """A refusal, with what SDKs need to know about trying again."""
    headers = {"x-should-retry": "true" if error.status in _RETRIABLE else "false", **error.headers}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return json_response({"error": error.body()}, error.status, headers)


def envelope(error: RequestError, request_id: str = "") -> dict[str, Any]:
    """A refusal as a WebSocket frame (protocol §9.3); the id is that of its handshake."""
    frame: dict[str, Any] = {"type": "error", "status": error.status, "error": error.body()}
    headers = {"x-request-id": request_id} if request_id else {}
    headers.update(error.headers)
    if error.retry_after_s is not None:
        headers["retry-after"] = f"{error.retry_after_s:.3g}"
    if headers:
        frame["headers"] = headers
    return frame


def log_refusal(request_id: str, error: RequestError, **extra: object) -> None:
    """One line for a refusal. Not its text: what the client sent may stand in that."""
    log.info("request refused", extra={"request_id": request_id, "status": error.status, "code": error.code, **extra})


def call_of(request: web.Request) -> Call:
    """Who asks, for the log and for a trace."""
    headers = request.headers
    trace = {name: headers[name] for name in _TRACE_HEADERS if name in headers}
    return Call(request[REQUEST_ID], trace or NO_TRACE)


class Answers:
    """Turns every error into an answer, and gives each answer an id that also stands in the log.

    It wraps handlers and is no middleware of aiohttp's: that would cost each WebSocket 0.9 KiB for as long as it lives
    (measured).

    Args:
        check: looks at each request before its handler does; raises RequestError.
        admit: says whether this client may ask for that; raises RequestError. A WebSocket's handler asks by itself.
    """

    def __init__(
        self,
        metrics: Metrics,
        check: Callable[[web.Request], None],
        admit: Callable[[web.Request], Awaitable[None]],
    ) -> None:
        self._metrics = metrics
        self._check = check
        self._admit = admit

    def wrap(self, routes: Iterable[web.RouteDef]) -> list[web.RouteDef]:
        """The same routes, with handlers whose errors are answered."""
        return [web.RouteDef(route.method, route.path, self._wrapped(route.handler), route.kwargs) for route in routes]

    def begin(self, request: web.Request) -> None:
        """Name a request, and look whether it may be served at all.

        Raises:
            RequestError: it may not.
        """
        request[REQUEST_ID] = f"req_{secrets.token_hex(12)}"
        self._check(request)

    def refusal(self, request: web.Request, error: Exception) -> web.StreamResponse:
        """What to answer to an error of a handler.

        Raises:
            Exception: the error itself, when it needs no answer: a redirect, or a client that is gone.
        """
        if isinstance(error, ConnectionError) or (isinstance(error, web.HTTPException) and error.status < 400):
            raise error
        told = self._told(request, error)
        log_refusal(request[REQUEST_ID], told, method=request.method, path=request.path[:_MAX_PATH])
        response = error_response(told)
        response.headers["x-request-id"] = request[REQUEST_ID]
        return response

    def _told(self, request: web.Request, error: Exception) -> RequestError:
        if isinstance(error, RequestError):
            return error
        if isinstance(error, web.HTTPRequestEntityTooLarge):
            self._metrics.rejected.labels("too_large").inc()
            return RequestError(413, Code.BODY_TOO_LARGE, error.text or "The body is too large.")
        if isinstance(error, web.HTTPException):
            return _of_http(request, error)
        extra = {"request_id": request[REQUEST_ID], "path": request.path[:_MAX_PATH]}
        log.error("request failed", exc_info=error, extra=extra)
        self._metrics.unhandled_errors.labels("handler").inc()
        return RequestError(500, Code.SERVER_ERROR, f"The server failed ({request[REQUEST_ID]}).")

    def _wrapped(self, handler: Handler) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            try:
                self.begin(request)
                await self._admit(request)
                response = await handler(request)
            except Exception as error:
                return self.refusal(request, error)
            if not response.prepared:
                response.headers["x-request-id"] = request[REQUEST_ID]
            return response

        return answer


async def nowhere(request: web.Request) -> web.StreamResponse:
    """The handler of every path and method that no other route takes."""
    allowed: set[str] = set()
    for resource in request.app.router.resources():
        if resource.canonical != _NOWHERE_CANONICAL:
            allowed |= (await resource.resolve(request))[1]
    if allowed:
        raise web.HTTPMethodNotAllowed(request.method, allowed)
    raise web.HTTPNotFound


def _of_http(request: web.Request, error: web.HTTPException) -> RequestError:
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return RequestError(405, Code.METHOD_NOT_ALLOWED, f"{request.method} is not allowed here; allowed: {allowed}.")
    if error.status == 404:
        return RequestError(404, Code.NOT_FOUND, f"There is nothing at {request.path}.")
    return RequestError(error.status, Code.INVALID_REQUEST, error.text or error.reason)
