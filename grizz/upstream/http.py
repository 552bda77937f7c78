"""HTTP for the openai package: aiohttp, with the body of a response at hand for whoever reads a stream of tokens.

The package's own aiohttp transport hides it below two generators, and moves a timer at each read; for a stream of
tokens that costs as much as the reading itself (measured in docs/architecture.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from functools import cache
from typing import Self
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx2

from grizz.config import is_loopback
from grizz.errors import UpstreamError

# What of an error's body is read; a broken one may have no end.
_MAX_ERROR = 64 * 1024
# aiohttp decodes the body, so what describes its form on the wire is not passed on.
_OF_WIRE = (b"content-encoding", b"content-length", b"transfer-encoding")
# After a standstill of the process timers may run before what came meanwhile is read: seconds it gets then.
_GRACE_S = 0.1
# A variable of the task: the openai package lies between who asks for it and the transport.
_fresh: ContextVar[bool] = ContextVar("fresh", default=False)


@contextlib.contextmanager
def fresh_connection() -> Iterator[None]:
    """Requests of this task that are sent inside get a connection of their own, never a pooled one."""
    token = _fresh.set(True)
    try:
        yield
    finally:
        _fresh.reset(token)


@cache
def trust(cert_file: str | None, cert_dir: str | None) -> ssl.SSLContext:
    """Whose certificates are believed: as these variables of the environment say, else the system's.

    Read once in a process, since that is 20 ms (measured), and shared by all upstreams.
    """
    if cert_file or cert_dir:
        return ssl.create_default_context(cafile=cert_file or None, capath=None if cert_file else cert_dir)
    return httpx2.create_ssl_context(trust_env=False)


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """Sends requests through one aiohttp session; its errors pass as they are.

    An answer holds its `aiohttp.ClientResponse` as `extensions["aiohttp"]`; an error or a redirect has its body read,
    as far as it comes, so that none is left open and the status counts even if the body breaks off.

    Args:
        connect_timeout_s: seconds to a connection.
        idle_timeout_s: seconds to the headers, and between two reads.
        max_connections: open at a time; fresh ones are counted apart.
    """

    def __init__(self, *, connect_timeout_s: float, idle_timeout_s: float, max_connections: int) -> None:
        self._timeout = aiohttp.ClientTimeout(sock_connect=connect_timeout_s, sock_read=idle_timeout_s)
        self._max_connections = max_connections
        self._ssl = trust(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._proxies: dict[tuple[str, str], str | None] = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send it, and return once the headers are there.

        Raises:
            aiohttp.ClientError: no answer came.

        Cancel-safe: a cancelled caller leaves no connection behind.
        """
        response = await self._opened(_fresh.get()).request(
            request.method,
            str(request.url),
            proxy=await self._proxy(request.url),
            headers=request.headers,
            data=await request.aread(),
            allow_redirects=False,
            timeout=self._timeout,
            server_hostname=request.extensions.get("sni_hostname"),
        )
        if response.status >= 300:
            headers = [pair for pair in response.raw_headers if pair[0].lower() not in _OF_WIRE]
            return httpx2.Response(response.status, headers=headers, content=await _body_of_error(response))
        # Of an answer the package reads its type alone.
        headers = [pair for pair in response.raw_headers if pair[0].lower() == b"content-type"]
        extensions = {"aiohttp": response}
        return httpx2.Response(response.status, headers=headers, stream=_Stream(response), extensions=extensions)

    async def _proxy(self, url: httpx2.URL) -> str | None:
        """The proxy that the environment names for this address, looked up once.

        aiohttp's own look-up, with `trust_env`, is two jobs for a thread at each request: half a millisecond of CPU,
        and the loop waits for those threads at everything that lets them run (measured).
        """
        origin = url.scheme, url.host
        if origin not in self._proxies:
            self._proxies[origin] = await asyncio.to_thread(_proxy_of, *origin)  # some systems ask others for it
        return self._proxies[origin]

    def _opened(self, fresh: bool) -> aiohttp.ClientSession:
        # Late, since a session belongs to the loop that runs when it is made.
        if (session := self._sessions.get(fresh)) is None:
            keeping = {"force_close": True} if fresh else {"keepalive_timeout": 30.0}
            connector = aiohttp.TCPConnector(limit=self._max_connections, ssl=self._ssl, **keeping)
            jar = aiohttp.DummyCookieJar()
            session = aiohttp.ClientSession(connector=connector, cookie_jar=jar)
            self._sessions[fresh] = session
        return session

    async def aclose(self) -> None:
        """Close pooled connections."""
        for session in self._sessions.values():
            await session.close()


def _proxy_of(scheme: str, host: str) -> str | None:
    # No proxy reaches what only this machine can, and the demo model is there.
    return None if is_loopback(host) or proxy_bypass(host) else getproxies().get(scheme)


class _Stream(httpx2.AsyncByteStream):
    """A body for those who read it through httpx2."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for data in self._response.content.iter_any():
            yield data

    async def aclose(self) -> None:
        self._response.release()


async def _body_of_error(response: aiohttp.ClientResponse) -> bytes:
    body = b""
    try:
        async for data in response.content.iter_any():
            body += data
            if len(body) > _MAX_ERROR:
                break
    except aiohttp.ClientError:
        return b""
    finally:
        response.release()
    return body


class Body:
    """The body of a streamed response, read as it comes; see `Chunks` in base.py.

    Takes over the watch for silence from aiohttp, whose timer is cancelled and made anew at each read. `close` ends it,
    and comes before the response's own.

    Args:
        idle_timeout_s: seconds between two reads.
        failed: what to raise when the body breaks off or is silent for too long.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        idle_timeout_s: float,
        failed: Callable[[aiohttp.ClientError], UpstreamError],
    ) -> None:
        self._failed = failed
        self._response = response
        self._content = response.content
        self._idle_timeout_s = idle_timeout_s
        self._loop = asyncio.get_running_loop()
        self._read_at = self._loop.time()
        self._read = 0
        self._late = False
        self._paused: asyncio.Transport | None = None
        if response.connection is not None and response.connection.protocol is not None:
            response.connection.protocol.read_timeout = None
            response.connection.protocol.start_timeout()  # without one it only ends what runs
        self._timer = self._loop.call_later(idle_timeout_s, self._check)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            data = await self._content.readany()
        except aiohttp.ClientError as error:
            raise self._failed(error) from error
        if not data:
            raise StopAsyncIteration
        self._read_at = self._loop.time()
        self._read += len(data)
        return data

    def pause(self) -> None:
        """Leave what comes in the kernel's buffer until `resume`."""
        # After its end the connection is back in the pool, and may be another response's already.
        connection = self._response.connection
        transport = connection.transport if connection is not None else None
        if self._paused is None and transport is not None and transport.is_reading() and not transport.is_closing():
            transport.pause_reading()
            self._paused = transport

    def resume(self) -> None:
        """The opposite of `pause`; harmless when nothing is paused, and after `close`."""
        transport, self._paused = self._paused, None
        if transport is not None and not transport.is_closing():
            transport.resume_reading()

    def close(self) -> None:
        """Watch no more."""
        self.resume()
        self._timer.cancel()

    def _check(self) -> None:
        due_s = self._read_at + self._idle_timeout_s - self._loop.time()
        if due_s <= 0 and self._late and self._is_silent():
            self._content.set_exception(aiohttp.SocketTimeoutError("nothing came"))
            return
        self._late = due_s <= 0 and self._is_silent()
        self._timer = self._loop.call_later(max(due_s, _GRACE_S), self._check)

    def _is_silent(self) -> bool:
        """Has all that came been read, and could more have come? A busy process is not the upstream's silence."""
        return self._paused is None and self._content.total_bytes == self._read
