"""Where in a request it stands who sends it. The strongest place decides: what is wrong there is sought nowhere else.

SDKs send a header. Browsers cannot set one for a WebSocket: they have the cookie of a session, a token among the
subprotocols (as with OpenAI's Realtime API), a ticket in the query, or the first message.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from aiohttp import web

SESSION_COOKIE = "grizz_session"
TOKEN_PROTOCOL = "openai-insecure-api-key."
# Longer ones are not looked at; headers are limited to as much anyway.
MAX_BYTES = 8 * 1024

Source = Literal["header", "cookie", "protocol", "ticket", "message"]


@dataclass(frozen=True, slots=True)
class Credential:
    """A key, a token or a ticket, and where it stood. An empty text is one that cannot be right."""

    source: Source
    text: str = field(repr=False)


def presented(request: web.Request) -> Credential | None:
    """What a request shows, or None if it shows nothing."""
    headers = request.headers.getall("Authorization", [])
    if headers:
        return Credential("header", _bearer(headers[0]) if len(headers) == 1 else "")
    if (cookie := cookie_of(request, SESSION_COOKIE)) is not None:
        return Credential("cookie", cookie)
    if not is_upgrade(request):
        return None
    for protocol in protocols(request):
        if protocol.startswith(TOKEN_PROTOCOL):
            return Credential("protocol", protocol.removeprefix(TOKEN_PROTOCOL))
    tickets = query_of(request, "ticket")
    return Credential("ticket", tickets[0] if len(tickets) == 1 else "") if tickets else None


def cookie_of(request: web.Request, name: str) -> str | None:
    """One cookie. aiohttp keeps what it parses as long as the request, and a WebSocket's lives long."""
    return request.cookies.get(name) if "Cookie" in request.headers else None


def query_of(request: web.Request, name: str) -> list[str]:
    """All values of one parameter of the URL; looks before it lets aiohttp parse, as `cookie_of`."""
    return request.query.getall(name, []) if "?" in request.raw_path else []


def is_upgrade(request: web.Request) -> bool:
    """Whether it asks for a WebSocket."""
    return request.headers.get("Upgrade", "").lower() == "websocket"


def protocols(request: web.Request) -> list[str]:
    """The subprotocols it offers."""
    lines = request.headers.getall("Sec-WebSocket-Protocol", [])
    return [part.strip() for line in lines for part in line.split(",")]


def _bearer(header: str) -> str:
    scheme, _, token = header.strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
