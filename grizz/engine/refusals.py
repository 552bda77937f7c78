"""What clients are told when the engine takes no request, or knows no such response."""

from __future__ import annotations

from grizz.errors import Code, QueueFull, RequestError

_QUEUE_FULL_RETRY_S = 5.0
_REASONS = {Code.OVERLOADED: "unavailable", Code.RATE_LIMIT: "rate_limited", Code.CONVERSATION_LOCKED: "locked"}


def not_found(response_id: str) -> RequestError:
    """The one answer to an id that is unknown, expired or somebody else's."""
    return RequestError(404, Code.RESPONSE_NOT_FOUND, f"Response with id '{response_id}' not found.")


def restarting() -> RequestError:
    """This process leaves."""
    return RequestError(503, Code.OVERLOADED, "The server is restarting; try again.", retry_after_s=1.0)


def queue_full(error: QueueFull) -> RequestError:
    """There is no room for one more job."""
    text = f"The queue is full: {error}. Try again later."
    return RequestError(429, Code.RATE_LIMIT, text, retry_after_s=_QUEUE_FULL_RETRY_S)


def reason(error: RequestError, *, draining: bool) -> str:
    """Why, as metrics name it."""
    why = _REASONS.get(error.code, "invalid")
    return "draining" if draining and why == "unavailable" else why
