"""Where a request comes from: Origin and Host, which neither CORS nor the same-origin policy checks for WebSockets, and
the client's address, which behind a proxy only the proxy knows.

A proxy is believed when `server.trusted_proxies` names it. With none named, this machine's own are believed as long
as the server listens on loopback only: whoever connects is on this machine anyway, or came through such a proxy.
"""

from __future__ import annotations

import functools
import ipaddress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from aiohttp import web

from grizz.config import ServerSettings, is_loopback
from grizz.errors import Code, RequestError

_PORTS = {"http": 80, "https": 443}
_LOOPBACK = ("127.0.0.0/8", "::1/128")
# Any of these says that somebody has passed the request on.
_PASSED_ON = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP")
# What one IPv6 client has at least, and picks its addresses from as it likes.
_IPV6_CLIENT_BITS = 64

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class _Origin(NamedTuple):
    scheme: str
    host: str
    port: int | None


class Places:
    """What the [server] section says about where clients may come from."""

    def __init__(self, server: ServerSettings) -> None:
        self._origins = {_origin(origin) for origin in server.allowed_origins} - {None}
        self._hosts = {host.lower().strip("[]") for host in server.allowed_hosts}
        self._loopback = is_loopback(server.host)
        self._own_host = server.host.lower().strip("[]")
        proxies = server.trusted_proxies or (_LOOPBACK if self._loopback else ())
        self._proxies = [ipaddress.ip_network(proxy, strict=False) for proxy in proxies]

    def check_host(self, request: web.Request) -> None:
        """On loopback, and where names are given, only those are ours: others are pages that rebind their name to us.

        Raises:
            RequestError: 403.
        """
        host = _hostname(request.host)
        known = is_loopback(host) or host in self._hosts or host == self._own_host
        if (self._loopback or self._hosts) and not known:
            text = f"Host '{host[:200]}' is not served here; add it to server.allowed_hosts."
            raise RequestError(403, Code.FORBIDDEN_HOST, text)

    def check_origin(self, request: web.Request, *, required: bool = False) -> None:
        """A page may only act here when it came from here, or from an allowed origin. SDKs send none.

        Args:
            required: also refuse a request without an Origin, as one that a browser did not send.

        Raises:
            RequestError: 403.
        """
        headers = request.headers.getall("Origin", [])
        if not headers and not required:
            return
        origin = _origin(headers[0]) if len(headers) == 1 else None
        if origin is not None and (origin in self._origins or origin == self._own_origin(request)):
            return
        what = f"Origin '{headers[0][:200]}' is not allowed" if headers else "A session is good for pages only"
        text = f"{what}; add it to server.allowed_origins, or the proxy to server.trusted_proxies."
        raise RequestError(403, Code.FORBIDDEN_ORIGIN, text)

    def is_secure(self, request: web.Request) -> bool:
        """Whether the browser sees https."""
        return self._scheme(request) == "https"

    def address_of(self, request: web.Request) -> str:
        """The client's address: the nearest one, going back from us, that is no trusted proxy.

        An entry that is no address ends the way: what stands before it may be anybody's invention.
        """
        address = _address(request.remote or "")
        if address is None:
            return request.remote or ""
        hops = ",".join(request.headers.getall("X-Forwarded-For", [])).split(",")
        while hops and self._is_proxy(address):
            before = _address(hops.pop())
            if before is None:
                break
            address = before
        return str(address)

    def seen(self, request: web.Request) -> dict[str, Any]:
        """All of that at once, for who sent it (docs/protocol.md)."""
        forwarded = ",".join(request.headers.getall("X-Forwarded-For", []))
        return {
            "address": self.address_of(request),
            "secure": self.is_secure(request),
            "passed_on": any(name in request.headers for name in _PASSED_ON),
            "forwarded_for": len([part for part in forwarded.split(",") if part.strip()]),
            "trusted": self._is_proxy(_address(request.remote or "")),
        }

    def is_direct_loopback(self, request: web.Request) -> bool:
        """Whether it was sent on this machine, and as far as it says not for somebody else."""
        return is_loopback(request.remote or "") and not any(name in request.headers for name in _PASSED_ON)

    def is_proxy(self, address: str) -> bool:
        """Whether this is the address of a trusted proxy."""
        return self._is_proxy(_address(address))

    def _is_proxy(self, address: _Address | None) -> bool:
        return address is not None and any(address in network for network in self._proxies)

    def _own_origin(self, request: web.Request) -> _Origin | None:
        host = request.host
        if self._is_proxy(_address(request.remote or "")):
            host = _last(request, "X-Forwarded-Host") or host
        return _origin(f"{self._scheme(request)}://{host}")

    def _scheme(self, request: web.Request) -> str:
        own = "https" if request.secure else "http"
        if not self._is_proxy(_address(request.remote or "")):
            return own
        return _last(request, "X-Forwarded-Proto").lower() or own


def client_network(address: str) -> str:
    """What one client can have: the address, or of an IPv6 one its /64; a text that is no address stays as it is."""
    found = _address(address)
    if not isinstance(found, ipaddress.IPv6Address):
        return address
    rest = 128 - _IPV6_CLIENT_BITS
    return str(ipaddress.IPv6Network((int(found) >> rest << rest, _IPV6_CLIENT_BITS)))


def _last(request: web.Request, header: str) -> str:
    """What the nearest proxy wrote."""
    return ",".join(request.headers.getall(header, [])).rpartition(",")[2].strip()


def _origin(text: str) -> _Origin | None:
    """Scheme, host and port, also where the port is the scheme's own; None for "null" and what is no origin."""
    try:
        url = urlsplit(text.lower())
        host, port = url.hostname, url.port
    except ValueError:
        return None
    if not url.scheme or not host or url.path or url.query or url.fragment or "@" in url.netloc:
        return None
    return _Origin(url.scheme, host, port or _PORTS.get(url.scheme))


@functools.lru_cache(maxsize=1024)  # 20 µs to parse one, and three are for each request (measured)
def _address(text: str) -> _Address | None:
    """An address as peers and X-Forwarded-For have it: with brackets or a port, or an IPv4 one in IPv6 clothes."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _hostname(netloc: str) -> str:
    try:
        return (urlsplit(f"//{netloc}").hostname or "").lower()
    except ValueError:
        return ""
