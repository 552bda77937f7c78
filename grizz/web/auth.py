"""Who is it, and may this page talk to us.

Without accounts each browser is its own owner by a random cookie that the page sets, and all SDK clients on loopback
share one owner. Origin and Host are checked because neither CORS nor the same-origin policy covers WebSockets.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from aiohttp import web

from grizz.config import Settings, is_loopback
from grizz.errors import Code, RequestError

COOKIE = "grizz_owner"
# The one owner of all clients of this machine that have no account.
LOCAL = "local"
_COOKIE_FORM = re.compile(r"[A-Za-z0-9_\-]{43}\Z")
_COOKIE_AGE_S = 400 * 86_400  # what browsers cap it at


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a client is.

    Attributes:
        owner: whose responses these are; never a secret, safe to log.
        key: name of the [keys.NAME] table it came in by, or "".
        expires_at: when it has to prove itself again, in seconds since the epoch; None for never.
    """

    owner: str
    key: str = ""
    expires_at: float | None = None


class Door:
    """Checks where a request comes from, and names its owner."""

    def __init__(self, settings: Settings) -> None:
        self.reload(settings)

    def reload(self, settings_: Settings) -> None:
        """Other rules from now on."""
        settings = settings_.server
        self._origins = {origin.lower() for origin in settings.allowed_origins}
        self._hosts = {host.lower() for host in settings.allowed_hosts}
        self._loopback = is_loopback(settings.host)
        self._own_host = settings.host.lower()

    def check_host(self, request: web.Request) -> None:
        """On loopback only our own names are ours: anything else is a page that rebinds its DNS name to us.

        Raises:
            RequestError: 403.
        """
        host = _hostname(f"//{request.host}")
        known = is_loopback(host) or host in self._hosts or host == self._own_host
        if self._loopback and not known:
            text = f"Host '{host}' is not served here; add it to server.allowed_hosts."
            raise RequestError(403, Code.FORBIDDEN_HOST, text)

    def check_origin(self, request: web.Request) -> None:
        """A page may only act here when it came from here, or from an allowed origin. SDKs send none.

        Raises:
            RequestError: 403.
        """
        origin = request.headers.get("Origin")
        if origin is None or origin.lower() in self._origins:
            return
        if urlsplit(origin).netloc.lower() != request.host.lower():
            text = f"Origin '{origin[:200]}' is not allowed; add it to server.allowed_origins."
            raise RequestError(403, Code.FORBIDDEN_ORIGIN, text)

    async def identify(self, request: web.Request) -> Identity:
        """Who sends this request.

        Raises:
            RequestError: 401, nobody that is known here.
        """
        return Identity(self._anonymous(request))

    def may_introduce_itself(self, request: web.Request) -> bool:
        """May this WebSocket say by its first message who it is?"""
        return False

    async def authenticate(self, token: str) -> Identity:
        """Who a first message's token belongs to.

        Raises:
            RequestError: 401.
        """
        raise RequestError(401, Code.INVALID_REQUEST, "No credential is known here.")

    def still_valid(self, identity: Identity) -> bool:
        """May it still act as whom it was let in?"""
        return identity.expires_at is None or time.time() < identity.expires_at

    def address_of(self, request: web.Request) -> str:
        """The client's address."""
        return address_of(request)

    def _anonymous(self, request: web.Request) -> str:
        cookie = request.cookies.get(COOKIE, "")
        if _COOKIE_FORM.match(cookie):
            return "browser:" + hashlib.sha256(cookie.encode()).hexdigest()[:32]
        address = address_of(request)
        return LOCAL if is_loopback(address) else f"address:{address}"


def address_of(request: web.Request) -> str:
    """The client's address; behind a proxy on this machine the one that the proxy wrote down last."""
    remote = request.remote or ""
    forwarded = request.headers.get("X-Forwarded-For")
    if forwarded and is_loopback(remote):
        return forwarded.rpartition(",")[2].strip()
    return remote


def give_cookie(request: web.Request, response: web.StreamResponse) -> None:
    """Make this browser an owner of its own, for as long as the browser keeps it."""
    if _COOKIE_FORM.match(request.cookies.get(COOKIE, "")):
        return
    secure = request.secure or request.headers.get("X-Forwarded-Proto") == "https"
    response.set_cookie(
        COOKIE, secrets.token_urlsafe(32), httponly=True, samesite="Strict", max_age=_COOKIE_AGE_S, secure=secure
    )


def _hostname(netloc: str) -> str:
    try:
        return (urlsplit(netloc).hostname or "").lower()
    except ValueError:
        return ""
