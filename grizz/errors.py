"""The exception tree, and the closed list of codes that ever reach a client.

GrizzError
├── ConfigError            a setting is unknown or bad; the process does not start
├── HistoryUnusable        the file that keeps the history cannot be used; says why
├── RequestError           the client's fault or the house's refusal; carries status and code
├── TransportError
│   ├── QueueFull          the queue is at its bound; nothing was taken
│   ├── LeaseLost          somebody else holds the job now: stop, say nothing more
│   ├── TransportClosed    the transport is shutting down
│   ├── ClaimsDown         who has a name that only one may have cannot be known now
│   ├── RedisDown          the Redis cannot be asked now; what can be done without it goes on
│   ├── ShelfDown          conversations cannot be read or written now
│   └── ConversationLocked another turn of the conversation is under way
└── UpstreamError          the model API failed; says whether trying again may help
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class Code(StrEnum):
    """Every error code a client can see. New ones are added here or nowhere."""

    INVALID_JSON = "invalid_json"
    INVALID_REQUEST = "invalid_request"
    INVALID_TYPE = "invalid_type"
    INVALID_VALUE = "invalid_value"
    INVALID_STREAM_ID = "invalid_stream_id"
    MISSING_PARAMETER = "missing_required_parameter"
    UNKNOWN_EVENT_TYPE = "unknown_event_type"
    UNSUPPORTED_PARAMETER = "unsupported_parameter"
    MUTUALLY_EXCLUSIVE = "mutually_exclusive_parameters"
    MODEL_NOT_FOUND = "model_not_found"
    NO_TOOL_CALL = "no_tool_call_found"
    ITEM_NOT_FOUND = "item_not_found"
    INVALID_ENCRYPTED_CONTENT = "invalid_encrypted_content"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    IDEMPOTENCY_RESPONSE_GONE = "idempotency_response_gone"
    PREVIOUS_RESPONSE_NOT_FOUND = "previous_response_not_found"
    RESPONSE_NOT_FOUND = "response_not_found"
    CONVERSATION_NOT_FOUND = "conversation_not_found"
    CONVERSATION_LOCKED = "conversation_locked"
    LOG_EXPIRED = "grizz:log_expired"
    LANE_BUSY = "grizz:lane_busy"
    WITHDRAWN = "grizz:withdrawn"
    STREAM_LIMIT = "websocket_stream_limit_reached"
    CONNECTION_LIMIT = "websocket_connection_limit_reached"
    WEBSOCKET_QUEUE_FULL = "websocket_queue_full"
    TOO_MANY_CONNECTIONS = "too_many_connections"
    RATE_LIMIT = "rate_limit_exceeded"
    OVERLOADED = "server_is_overloaded"
    STEERING_NOT_SUPPORTED = "steering_not_supported"
    INVALID_INPUT = "invalid_input"
    RESPONSE_ALREADY_COMPLETED = "response_already_completed"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    UPGRADE_REQUIRED = "upgrade_required"
    MISSING_API_KEY = "missing_api_key"
    INVALID_API_KEY = "invalid_api_key"
    TOKEN_EXPIRED = "token_expired"
    FORBIDDEN_ORIGIN = "forbidden_origin"
    FORBIDDEN_HOST = "forbidden_host"
    BODY_TOO_LARGE = "body_too_large"
    REQUEST_TIMEOUT = "request_timeout"
    # What a response may fail with (`response.error.code`).
    SERVER_ERROR = "server_error"
    INVALID_PROMPT = "invalid_prompt"
    CONTEXT_LENGTH = "context_length_exceeded"
    INSUFFICIENT_QUOTA = "insufficient_quota"


class GrizzError(Exception):
    """Root of everything Grizz raises on purpose."""


class ConfigError(GrizzError):
    """One or more settings are unknown or bad; the text names each, its value and what is allowed."""


class HistoryUnusable(GrizzError):
    """The file that keeps the history cannot be used: the text goes behind its name."""


class RequestError(GrizzError):
    """A request is refused. Shown to the client as it is: never put a secret or a foreign id in it.

    Attributes:
        status: HTTP status (the WebSocket envelope carries it too).
        code: one of `Code`.
        param: the offending parameter, as the client spelled it, or None.
        retry_after_s: seconds after which trying again is sensible, or None.
        headers: further ones for the answer.
    """

    def __init__(
        self,
        status: int,
        code: Code,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.headers = headers or {}

    @property
    def type(self) -> str:
        """The OpenAI error family of the status."""
        return _FAMILY.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")

    def body(self) -> dict[str, Any]:
        """The `error` object of an HTTP body or a WebSocket envelope (protocol §9)."""
        # What a client sent may stand in it, and not all of that can be written as JSON (half a surrogate pair).
        message = self.message.encode("utf-8", "backslashreplace").decode()
        return {"message": message, "type": self.type, "param": self.param, "code": str(self.code)}


_FAMILY = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}


class TransportError(GrizzError):
    """The hand-over of a job or its events failed."""


class QueueFull(TransportError):
    """The queue is at its bound (jobs or bytes); nothing was taken."""


class LeaseLost(TransportError):
    """This delivery is no longer current; its holder must stop and say nothing more."""


class TransportClosed(TransportError):
    """The transport is shutting down."""


class ClaimsDown(TransportError):
    """Who has a name that only one may have cannot be known now."""


class RedisDown(TransportError):
    """The Redis cannot be asked now, or did not answer in time."""


class ShelfDown(TransportError):
    """Conversations cannot be read or written now; whether a write was done is unknown."""


class ConversationLocked(TransportError):
    """Another turn of the conversation is under way."""


class UpstreamError(GrizzError):
    """The model API failed.

    Attributes:
        code: what the client sees as `response.error.code`.
        result: the class of failure for metrics (429, 400, 5xx, timeout, connect, truncated ...).
        retryable: whether another try may succeed; only used before the first delta.
        retry_after_s: what the upstream asked for, in seconds, or None.
        upstream: its name, as on metrics; "" where it is not known, or when none was asked.
        unready: it has begun nothing: nobody listens there (yet), or it says 503, as while it loads its model.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        result: str,
        retryable: bool = False,
        retry_after_s: float | None = None,
        upstream: str = "",
        unready: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.result = result
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.upstream = upstream
        self.unready = unready
