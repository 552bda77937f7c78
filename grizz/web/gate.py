"""The outermost door: how many TCP connections there may be, and how long one may take to ask for something.

aiohttp bounds neither: a connection that never sends a whole request head would stay for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from aiohttp import web

from grizz.tasks import TaskOwner

log = logging.getLogger(__name__)

_SWEEP_S = 1.0
_HANDSHAKE_S = 10.0
# As many as reconnect at once when a process comes back: 2,000 overflowed a queue of 1,024 (measured). The kernel
# takes no more than its net.core.somaxconn.
_BACKLOG = 4096
# Small buffers: what a client has not read shall wait in the reply, not in the kernel. One that stops reading costs
# about 0.3 MB with these, and 4.2 MB without (measured).
_WRITE_BUFFER = 32 * 1024
_SEND_BUFFER = 64 * 1024
# The kernel gives up on a peer that acknowledges nothing for so long; its own patience is a quarter of an hour.
_UNACKNOWLEDGED_MS = 20_000


class _TurnedAway(asyncio.Protocol):
    """A connection more than there may be: closed without a word; with TLS after its handshake, or `_HANDSHAKE_S`."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.abort()  # type: ignore[attr-defined]  # what a server accepts can be aborted


class Gate:
    """Counts who comes in, and sends away who only stands there.

    Args:
        max_connections: as of now; asked at each connection.
        max_of_address: the same for one address; 0 for no limit.
        is_counted: whether an address is counted by itself; not this machine, nor a proxy that many come through.
        patience_s: seconds from the connection to its first whole request head.
    """

    def __init__(
        self,
        *,
        max_connections: Callable[[], int],
        max_of_address: Callable[[], int],
        is_counted: Callable[[str], bool],
        patience_s: float,
        tasks: TaskOwner,
    ) -> None:
        self._max_connections = max_connections
        self._max_of_address = max_of_address
        self._is_counted = is_counted
        self._patience_s = patience_s
        self._tasks = tasks
        # Accepted, and not yet counted by the server: for a turn of the loop, or for a TLS handshake.
        self._entering: dict[asyncio.BaseProtocol, float] = {}
        # Those that have asked for nothing yet, in the order they came.
        self._silent: dict[asyncio.BaseProtocol, float] = {}
        self._addresses: dict[asyncio.BaseProtocol, str] = {}
        # Who wants to be told when a connection is lost.
        self._told: dict[asyncio.BaseProtocol, Callable[[], None]] = {}
        self._of_address: Counter[str] = Counter()
        self._turned_away = 0
        self._server: web.Server
        self._site: _Site | None = None

    async def listen(
        self,
        runner: web.AppRunner,
        host: str,
        port: int,
        tls: ssl.SSLContext | None,
        *,
        reuse_port: bool = False,
        held: socket.socket | None = None,
    ) -> int:
        """Let clients in; returns the port.

        Args:
            runner: set up already; what serves the requests.
            reuse_port: others may listen there, too.
            held: listens there already; it is taken over.

        Raises:
            OSError: the address cannot be bound.
        """
        assert runner.server is not None
        self._server = runner.server
        self._watch(self._server)
        patience_s = min(self._patience_s, _HANDSHAKE_S)
        self._site = _Site(runner, self._enter, host, port, tls, patience_s, reuse_port=reuse_port, held=held)
        await self._site.start()
        self._tasks.spawn(self._sweep(), name="watch for silent connections")
        return self._site.port

    async def close(self) -> None:
        """Take no new connections; those there are go on."""
        if self._site is not None:
            await self._site.stop()

    def asked(self, request: web.Request) -> None:
        """A request has come: its connection is silent no more."""
        self._silent.pop(request.protocol, None)

    @contextlib.contextmanager
    def lost(self, request: web.Request, tell: Callable[[], None]) -> Iterator[None]:
        """Call `tell` if the connection of a request is lost within the block; by then its transport may still stand.

        aiohttp tells a handler only by cancelling it, all of them or none.
        """
        self._told[request.protocol] = tell
        try:
            yield
        finally:
            self._told.pop(request.protocol, None)

    def _watch(self, server: web.Server) -> None:
        """Hear of each connection of the server when it is there, and when it is gone."""
        made, lost = server.connection_made, server.connection_lost

        def connection_made(handler: web.RequestHandler, transport: asyncio.Transport) -> None:
            made(handler, transport)
            self._made(handler, transport)

        def connection_lost(handler: web.RequestHandler, exc: BaseException | None = None) -> None:
            lost(handler, exc)
            self._lost(handler)

        server.connection_made = connection_made  # type: ignore[method-assign]
        server.connection_lost = connection_lost  # type: ignore[method-assign]

    def _enter(self) -> asyncio.BaseProtocol:
        if len(self._server.connections) + len(self._entering) >= self._max_connections():
            self._turned_away += 1
            return _TurnedAway()
        handler = self._server()
        self._entering[handler] = asyncio.get_running_loop().time()
        return handler

    def _made(self, handler: asyncio.BaseProtocol, transport: asyncio.Transport) -> None:
        self._entering.pop(handler, None)
        self._silent[handler] = asyncio.get_running_loop().time()
        _narrow(transport)
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if isinstance(peer, tuple) else ""
        most = self._max_of_address()
        if not most or not self._is_counted(address):
            return
        self._addresses[handler] = address
        self._of_address[address] += 1
        if self._of_address[address] > most:
            self._turned_away += 1
            transport.abort()

    def _lost(self, handler: asyncio.BaseProtocol) -> None:
        self._silent.pop(handler, None)
        if tell := self._told.get(handler):
            tell()
        address = self._addresses.pop(handler, None)
        if address is not None:
            self._of_address[address] -= 1
            if not self._of_address[address]:
                del self._of_address[address]

    async def _sweep(self) -> None:
        told = 0
        while True:
            await asyncio.sleep(min(_SWEEP_S, self._patience_s / 2))
            now = asyncio.get_running_loop().time()
            for handler in _older(self._silent, now - self._patience_s):
                transport = getattr(handler, "transport", None)
                if transport is not None:
                    transport.abort()
            # A handshake that failed is never heard of again.
            _older(self._entering, now - _HANDSHAKE_S - _SWEEP_S)
            if self._turned_away > told:
                count, told = self._turned_away - told, self._turned_away
                log.warning("connections turned away, there are as many as may be", extra={"count": count})


def _older(since: dict[asyncio.BaseProtocol, float], than: float) -> list[asyncio.BaseProtocol]:
    """Take out those that came before that time; they are in the order they came."""
    found = list(itertools.takewhile(lambda handler: since[handler] <= than, since))
    for handler in found:
        del since[handler]
    return found


class _Site(web.BaseSite):
    """One listening address, known to the runner so that it is closed with it."""

    def __init__(
        self,
        runner: web.AppRunner,
        enter: Callable[[], asyncio.BaseProtocol],
        host: str,
        port: int,
        tls: ssl.SSLContext | None,
        handshake_s: float,
        *,
        reuse_port: bool,
        held: socket.socket | None,
    ) -> None:
        super().__init__(runner, backlog=_BACKLOG, ssl_context=tls)
        self._held = held
        self._reuse_port = reuse_port
        self._enter = enter
        self._host = host
        self._port = port
        self._tls = tls
        self._handshake_s = handshake_s

    @property
    def name(self) -> str:
        """Where it listens."""
        return f"{'https' if self._tls else 'http'}://{self._host}:{self._port}"

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address cannot be bound.
        """
        await super().start()
        handshake_s = self._handshake_s if self._tls else None
        create = partial(
            asyncio.get_running_loop().create_server,
            self._enter,
            backlog=_BACKLOG,
            ssl=self._tls,
            ssl_handshake_timeout=handshake_s,
        )
        if self._held is not None:
            self._server = await create(sock=self._held)
        else:
            self._server = await create(self._host, self._port, reuse_port=self._reuse_port or None)

    @property
    def port(self) -> int:
        """The port it got."""
        sockets: Sequence[socket.socket] = getattr(self._server, "sockets", ())
        return int(sockets[0].getsockname()[1])


def _narrow(transport: asyncio.Transport) -> None:
    transport.set_write_buffer_limits(high=_WRITE_BUFFER)
    raw = transport.get_extra_info("socket")
    if raw is None or raw.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with contextlib.suppress(OSError):  # the peer may be gone already
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        if patience := getattr(socket, "TCP_USER_TIMEOUT", 0):  # Linux alone has it
            raw.setsockopt(socket.IPPROTO_TCP, patience, _UNACKNOWLEDGED_MS)
