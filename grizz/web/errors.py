"""Every HTTP error as an OpenAI error body, whatever raised it (protocol §9.1)."""

from __future__ import annotations

import logging
import math
import secrets
from typing import Any

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from grizz.errors import Code, RequestError
from grizz.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

# Stands in the response's header and in the log, so that a user's report can be followed.
REQUEST_ID = web.RequestKey("request_id", str)
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


def envelope(error: RequestError) -> dict[str, Any]:
    """A refusal as a WebSocket frame (protocol §9.3)."""
    frame: dict[str, Any] = {"type": "error", "status": error.status, "error": error.body()}
    headers = dict(error.headers)
    if error.retry_after_s is not None:
        headers["retry-after"] = f"{error.retry_after_s:.3g}"
    if headers:
        frame["headers"] = headers
    return frame


def middleware(metrics: Metrics) -> web.middleware:  # type: ignore[valid-type]  # aiohttp types it as a function
    """Answers errors, and gives every response an id that also stands in the log."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        request_id = f"req_{secrets.token_hex(12)}"
        request[REQUEST_ID] = request_id
        try:
            response = await handler(request)
        except RequestError as error:
            response = error_response(error)
        except web.HTTPRequestEntityTooLarge as error:
            metrics.rejected.labels("too_large").inc()
            response = error_response(RequestError(413, Code.BODY_TOO_LARGE, error.text or "The body is too large."))
        except web.HTTPException as error:
            if error.status < 400:
                raise
            response = error_response(_of_http(request, error))
        except ConnectionError:
            raise  # the client is gone, there is nobody to answer
        except Exception:
            log.exception("request failed", extra={"request": request_id, "path": request.path})
            metrics.unhandled_errors.labels("handler").inc()
            response = error_response(RequestError(500, Code.SERVER_ERROR, f"The server failed ({request_id})."))
        if not response.prepared:
            response.headers["x-request-id"] = request_id
        return response

    return answer


def _of_http(request: web.Request, error: web.HTTPException) -> RequestError:
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return RequestError(405, Code.METHOD_NOT_ALLOWED, f"{request.method} is not allowed here; allowed: {allowed}.")
    if error.status == 404:
        return RequestError(404, Code.NOT_FOUND, f"There is nothing at {request.path}.")
    return RequestError(error.status, Code.INVALID_REQUEST, error.text or error.reason)
