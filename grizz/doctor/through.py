"""Checks of a Grizz that runs, by the address where its clients reach it: the proxy in front is looked at as well."""

from __future__ import annotations

import asyncio
import contextlib
import io
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson

from grizz.config import is_loopback
from grizz.doctor.asking import body_of, proxy_of
from grizz.doctor.findings import Finding
from grizz.doctor.machine import until

_WITHIN_S = 10.0
_FRAME_S = 5.0
_MOST_BODY = 1 << 20
# More than nginx lets through unless it is told otherwise, and less than a photograph.
_UPLOAD = 2 << 20
_UPLOAD_S = 60.0
# An address for documents (RFC 5737): nobody has it.
_FORGED = "203.0.113.7"
_START = "start it, or check the name, the port and the firewall"
_PAGE = "docs/deploy.md has files for nginx, Caddy and HAProxy"
_UPGRADE = "in nginx: proxy_http_version 1.1, and proxy_set_header for Upgrade and Connection; " + _PAGE
_NOT_BELIEVED = "let the proxy pass Host on and set X-Forwarded-Proto, and name it in server.trusted_proxies; " + _PAGE


@dataclass(slots=True)
class Visit:
    """One look from outside, and what is known so far.

    Attributes:
        url: without a slash at its end.
        key: shown as clients show it; "" for none.
        maybe_direct: it may be that nothing is in between: as far as one sees, it is this machine's own Grizz.
        seen: what `GET /v1/seen` said; None while it has not been asked, or would not say.
        believed: it took an address that we invented for ours.
    """

    url: str
    key: str = field(repr=False)
    is_over: bool = False
    maybe_direct: bool = False
    seen: dict[str, Any] | None = None
    believed: bool = False

    @property
    def host(self) -> str:
        """As it stands in the URL."""
        return urlsplit(self.url).hostname or ""

    @property
    def headers(self) -> dict[str, str]:
        """What shows the key."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}


async def through(url: str, key: str) -> AsyncIterator[Finding]:
    """All checks, in order; those that need what failed are left out."""
    visit = Visit(url.rstrip("/"), key)
    tls: ssl.SSLContext | bool = True
    if urlsplit(url).scheme == "https":
        tls = ssl.create_default_context()
        yield await _certificate(visit, tls)
    if visit.is_over:
        return
    timeout = aiohttp.ClientTimeout(total=_WITHIN_S)
    connector = aiohttp.TCPConnector(ssl=tls)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, proxy=proxy_of(url)) as http:
        for look in (_ready, _metrics, _stream, _address, _scheme, _websocket, _upload):
            try:
                async for finding in look(visit, http):
                    yield finding
            except (aiohttp.ClientError, TimeoutError) as error:
                is_there = not isinstance(error, aiohttp.ClientConnectorError)
                advice = f"see the log of the proxy; {_PAGE}" if is_there else _START
                text = f"no answer: {str(error) or 'in time'}"
                yield Finding(look.__name__.strip("_"), "bad", text, advice)
                visit.is_over = visit.is_over or look is _ready
            if visit.is_over:
                return


async def _certificate(visit: Visit, context: ssl.SSLContext) -> Finding:
    try:
        async with asyncio.timeout(_WITHIN_S):
            port = urlsplit(visit.url).port or 443
            _, writer = await asyncio.open_connection(visit.host, port, ssl=context)
    except (OSError, TimeoutError) as error:
        visit.is_over = True
        text = getattr(error, "verify_message", "") or str(error) or "no answer in time"
        advice = "give the proxy a certificate for this name with its whole chain; SSL_CERT_FILE names one of your own"
        if not isinstance(error, ssl.SSLError):
            advice = _START
        elif "WRONG_VERSION_NUMBER" in text:
            advice = "it speaks http there, not https: name it by http://, or let the proxy serve https"
        return Finding("certificate", "bad", f"{visit.host} port {port}: {text}", advice)
    expires = ssl.cert_time_to_seconds(writer.get_extra_info("peercert")["notAfter"])
    writer.close()
    with contextlib.suppress(OSError):  # it has said all that is wanted of it
        await writer.wait_closed()
    return until("certificate", expires)


async def _ready(visit: Visit, http: aiohttp.ClientSession) -> AsyncIterator[Finding]:
    """Is it a Grizz, and does it serve?"""
    async with http.get(f"{visit.url}/readyz", allow_redirects=False) as answer:
        body = await _body(answer)
        own = answer.headers.get("Server", "").startswith("Python/")
    visit.maybe_direct = own and is_loopback(visit.host)
    status = body.get("status")
    if answer.status == 200 and status == "ready":
        for trouble in body.get("degraded", []):
            yield Finding("ready", "note", f"it serves, and not all is well: {trouble}", "see docs/operations.md")
        if "degraded" not in body:
            yield Finding("ready", "ok", "a Grizz, and it serves")
        return
    visit.is_over = True
    if status == "draining":
        yield Finding("ready", "bad", "a Grizz that is being stopped", "ask again when the next one has started")
    elif _code(body) == "forbidden_host":
        advice = f'set server.allowed_hosts = ["{visit.host}"], and let the proxy pass Host on; {_PAGE}'
        yield Finding("ready", "bad", _message(body), advice)
    elif answer.status in (502, 503, 504):
        text = f"the proxy answers {answer.status}: it reaches no Grizz"
        yield Finding("ready", "bad", text, "start Grizz where the proxy looks for it: server.host and server.port")
    elif 300 <= answer.status < 400:
        yield Finding("ready", "bad", f"sent on to {answer.headers.get('Location', 'nowhere')}", "name that address")
    else:
        text = f"/readyz is answered {answer.status}, and not as Grizz does"
        yield Finding("ready", "bad", text, f"check the address; all paths must be passed on to Grizz; {_PAGE}")


async def _metrics(visit: Visit, http: aiohttp.ClientSession) -> AsyncIterator[Finding]:
    """May anybody have them?"""
    async with http.get(f"{visit.url}/metrics", allow_redirects=False) as answer:
        text = (await body_of(answer)).decode(errors="replace")
    if answer.status != 200 or "grizz_" not in text:
        yield Finding("metrics", "ok", f"not for everybody ({answer.status})")
        return
    if visit.maybe_direct:
        yield Finding(
            "metrics", "ok", "open to this machine", "ask by the address of your clients to see what they may"
        )
        return
    advice = "let the proxy answer /metrics with 404, or set server.metrics_listen"
    yield Finding("metrics", "bad", "anybody who reaches this address may read /metrics", advice)


async def _stream(visit: Visit, http: aiohttp.ClientSession) -> AsyncIterator[Finding]:
    """Is the key good, and do events pass as they come?"""
    forged = {"X-Forwarded-For": _FORGED}
    (status, body, held), (_, lied, _) = await asyncio.gather(_seen(visit, http), _seen(visit, http, forged))
    if status == 200 and "address" in body:
        visit.seen, visit.believed = body, lied.get("address") == _FORGED
        if held:
            advice = "let the proxy pass events on at once (in nginx: proxy_buffering off, no gzip for them); " + _PAGE
            yield Finding("stream", "bad", "events are held back until the stream ends", advice)
        else:
            yield Finding("stream", "ok", "events pass as they come")
    elif status == 401 and not visit.key:
        text = "it wants a key: how it streams and which address it sees is not known"
        yield Finding("key", "note", text, "set GRIZZ_DOCTOR_KEY to one of its keys")
    elif status in (401, 403):
        yield Finding("key", "bad", f"refused ({status}): {_message(body)}", "set GRIZZ_DOCTOR_KEY to one of its keys")
    else:
        text = f"/v1/seen is answered {status}: an older Grizz, or a proxy that does not pass it on"
        yield Finding("stream", "note", text, "let it pass, to see how it streams and which address it sees")


async def _address(visit: Visit, http: aiohttp.ClientSession) -> AsyncIterator[Finding]:
    """Is ours known, and no invented one believed?"""
    if (seen := visit.seen) is None:
        return
    address, believed = seen["address"], visit.believed
    says_who = "let the proxy set X-Forwarded-For itself; in nginx: $proxy_add_x_forwarded_for"
    if not seen["forwarded_for"] and believed and not visit.maybe_direct:
        text = "whatever a client says its address is, is believed: the proxy does not say it"
        yield Finding("address", "bad", text, says_who)
    elif not seen["forwarded_for"] and seen["passed_on"]:
        text = f"the proxy does not say who the client is: all of them look like {address}"
        yield Finding("address", "bad", text, says_who)
    elif not seen["forwarded_for"]:
        text = f"no proxy shows itself, and this client is {address}"
        yield Finding("address", "ok", text, f"if one is in between, {says_who}")
    elif not seen["trusted"]:
        text = f"what the proxy says is not believed: all clients look like {address}"
        yield Finding("address", "bad", text, f'set server.trusted_proxies = ["{address}"], if that is the proxy')
    elif believed and not is_loopback(address):
        text = f"{address} is taken for a proxy, and may claim any address"
        yield Finding("address", "bad", text, "name proxies alone in server.trusted_proxies, not their clients")
    elif believed:
        text = "this machine itself, which may claim any address"
        yield Finding("address", "note", text, "ask from another machine to see whether others may, too")
    else:
        yield Finding("address", "ok", f"{address}, and no other that is claimed")


async def _scheme(visit: Visit, http: aiohttp.ClientSession) -> AsyncIterator[Finding]:
    """Does it know what the browser sees?"""
    is_https = visit.url.startswith("https:")
    if not is_https and not is_loopback(visit.host):
        text = "keys, cookies and every word go over the network in the clear"
        yield Finding("https", "note", text, "let the proxy serve https")
    elif visit.seen is not None and is_https and not visit.seen["secure"]:
        text = "it takes https for http: cookies are not Secure, and pages are refused"
        yield Finding("https", "bad", text, _NOT_BELIEVED)
    elif visit.seen is not None:
        yield Finding("https", "ok", "cookies are Secure" if is_https else "not needed on this machine")


async def _websocket(visit: Visit, http: aiohttp.ClientSession) -> AsyncIterator[Finding]:
    """Does one open as a page opens it, and does a frame come back? One that Grizz does not know costs nothing."""
    parts = urlsplit(visit.url)
    origin = f"{parts.scheme}://{parts.netloc}"
    began = asyncio.get_running_loop().time()
    try:
        ws = await http.ws_connect(
            f"{visit.url}/v1/responses", protocols=("responses", "grizz"), origin=origin, headers=visit.headers
        )
    except aiohttp.WSServerHandshakeError as error:
        yield _no_websocket(visit, error)
        return
    try:
        async with ws:
            await ws.send_json({"type": "doctor"})
            message = await ws.receive(timeout=_FRAME_S)
    except TimeoutError:
        yield Finding("websocket", "bad", "it opens, and no frame comes back", f"see the log of the proxy; {_UPGRADE}")
        return
    took_ms = (asyncio.get_running_loop().time() - began) * 1000
    if message.type is not aiohttp.WSMsgType.TEXT:
        text = f"it opens, and is closed with {ws.close_code}"
        yield Finding("websocket", "bad", text, f"see the log of the proxy; {_UPGRADE}")
    elif ws.protocol is None:
        advice = "let the proxy pass Sec-WebSocket-Protocol on, both ways"
        yield Finding("websocket", "bad", "it opens, and the subprotocol is lost on the way", advice)
    else:
        yield Finding("websocket", "ok", f"it opens as a page opens it, and a frame came back after {took_ms:.0f} ms")


def _no_websocket(visit: Visit, error: aiohttp.WSServerHandshakeError) -> Finding:
    status = error.status
    if status == 403:
        text = "pages are refused (403): it takes their origin for a foreign one"
        return Finding("websocket", "bad", text, _NOT_BELIEVED)
    if status == 401 and visit.key:
        return Finding("websocket", "bad", "the key is refused (401)", "set GRIZZ_DOCTOR_KEY to one of its keys")
    if status in (200, 400, 401, 404, 426):  # 401: a stranger that asks for an upgrade is let in to say who it is
        return Finding("websocket", "bad", f"the upgrade does not pass ({status})", _UPGRADE)
    return Finding("websocket", "bad", f"refused ({status})", f"see the log of the proxy; {_PAGE}")


async def _upload(visit: Visit, http: aiohttp.ClientSession) -> AsyncIterator[Finding]:
    """Does a request with a picture in it pass? Ours is blank, which Grizz refuses once it has read it."""
    if visit.seen is None:
        return
    size = f"{_UPLOAD >> 20} MiB"
    blank = io.BytesIO(b" " * _UPLOAD)
    patience = aiohttp.ClientTimeout(total=_UPLOAD_S)
    async with http.post(f"{visit.url}/v1/responses", data=blank, headers=visit.headers, timeout=patience) as answer:
        body = await _body(answer)
    if _code(body) == "invalid_json":
        yield Finding("uploads", "ok", f"{size} pass")
    else:
        advice = "raise the proxy's limit to server.max_message_bytes; in nginx: client_max_body_size 16m"
        yield Finding(
            "uploads", "note", f"a request of {size}, as with a picture, is refused ({answer.status})", advice
        )


async def _seen(
    visit: Visit, http: aiohttp.ClientSession, more: dict[str, str] | None = None
) -> tuple[int, dict[str, Any], bool]:
    """The status, what it said, and whether that came together with the end of the stream."""
    async with http.get(f"{visit.url}/v1/seen", headers={**visit.headers, **(more or {})}) as answer:
        if answer.status != 200:
            return answer.status, await _body(answer), False
        came = b""
        async for chunk in answer.content.iter_any():
            came += chunk
            if b"\n\n" in came or len(came) > _MOST_BODY:
                break
        if answer.connection is not None and answer.connection.transport is not None:
            answer.connection.transport.abort()  # nobody waits for the end
        data = next((line for line in came.splitlines() if line.startswith(b"data: {")), b"")
        return answer.status, _object(data.removeprefix(b"data: ")), b"[DONE]" in came


async def _body(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    return _object(await body_of(answer))


def _object(raw: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(raw)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _error(body: dict[str, Any]) -> dict[str, Any]:
    error = body.get("error")
    return error if isinstance(error, dict) else {}


def _code(body: dict[str, Any]) -> str:
    return str(_error(body).get("code", ""))


def _message(body: dict[str, Any]) -> str:
    return str(_error(body).get("message", "")) or "without a word"
