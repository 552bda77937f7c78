"""Who asked for a response, and how."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from grizz.core.job import NO_TRACE
from grizz.engine.history import Scope

OnEnd = Callable[[dict[str, Any]], None]


class Call(NamedTuple):
    """The request, or the handshake of the WebSocket, that a response came by.

    Attributes:
        request_id: as its sender got it in `x-request-id`; "" when nobody asked.
        trace: its headers of W3C Trace Context, those of them that it had.
    """

    request_id: str = ""
    trace: Mapping[str, str] = NO_TRACE


NOBODY = Call()


class Asked(NamedTuple):
    """What is known of a request beside what it says; see `Engine.submit`. `name` is the id of its response."""

    name: str
    owner: str
    scope: Scope | None
    size: int
    call: Call
    on_end: OnEnd | None
