"""One connection to a Redis: where the server is, how commands go there, and the count of what went.

redis-py's connection classes do the handshake, TLS and parsing; its clients, pools and retries are left out. Measured
on redis-py 8.1: a pool hands out a connection with an unread reply unless maintenance notifications are off, a client
made from keywords sends a timed-out XADD up to eleven times, and each handshake costs four commands. Here the
handshake is AUTH alone where there is a password, and nothing is ever sent twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import RedisError, ResponseError

from grizz.config.redis_url import RedisUrl

CONNECT_S = 2.0

Command = tuple[Any, ...]
Place = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Which Redis, and how to prove oneself to it.

    Attributes:
        slot_key: any key of the installation; all of them hash to one slot, so a cluster has one node for us.
        ca_file: certificates that may sign the server's; "" trusts what the system trusts.
        cert_file: the client's certificate, "" for none; `key_file` is its key.
        sent: called with the name of each command that is sent to the Redis.
    """

    url: RedisUrl
    slot_key: str
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    sent: Callable[[str], None] = lambda name: None

    def wire(self) -> Wire:
        """A connection that is not open yet."""
        return Wire(self)


class Wire:
    """One connection, used by one task at a time. Any failure closes it; `open` makes it anew."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._connection: AbstractConnection | None = None

    def __repr__(self) -> str:
        return f"<Wire to {self._target.url.where}{'' if self._connection else ', closed'}>"

    @property
    def is_open(self) -> bool:
        """Was it opened, and not closed since?"""
        return self._connection is not None

    async def open(self) -> None:
        """Find the server, connect and authenticate.

        Raises:
            RedisError, OSError, TimeoutError: it did not work; the connection is closed.
        """
        await self.close()
        place = await _find(self._target)
        connection = _connection(self._target, place)
        try:
            with _closed_under_us():
                await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            await _shut(connection)
            raise
        self._connection = connection

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one write and read all replies; an error reply is an element of the list, not raised.

        Raises:
            RedisError, OSError: the connection failed; whether the commands were executed is unknown.

        Not cancel-safe: a cancelled call closes the connection, so that no reply can reach the wrong caller.
        """
        connection = self._connection
        if connection is None:
            raise ConnectionError("the connection is closed")
        try:
            with _closed_under_us():
                await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
                return [await _reply(connection) for _ in commands]
        except BaseException:
            await self.close()
            raise

    async def subscribe(self, channels: Sequence[str]) -> None:
        """Subscribe by one command, and wait until all of it is confirmed.

        Raises:
            RedisError, OSError: the connection failed, or it was refused.
        """
        await self.send(("SUBSCRIBE", *channels))
        for _ in channels:
            if isinstance(answer := await self.next(), RedisError):
                raise answer

    async def next(self) -> Any:
        """Wait for the next message of a subscribed connection.

        Raises:
            RedisError, OSError: the connection failed.

        Cancel-safe in the sense of `ask`.
        """
        connection = self._connection
        if connection is None:
            raise ConnectionError("the connection is closed")
        try:
            with _closed_under_us():
                return await _reply(connection)
        except BaseException:
            await self.close()
            raise

    async def send(self, command: Command) -> None:
        """Send a command whose reply `next` will bring.

        Raises:
            RedisError, OSError: the connection failed.
        """
        connection = self._connection
        if connection is None:
            raise ConnectionError("the connection is closed")
        with _closed_under_us():
            await connection.send_packed_command(connection.pack_command(*command), check_health=False)

    async def close(self) -> None:
        """Close it; harmless when it is closed."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await _shut(connection)


@contextlib.contextmanager
def _closed_under_us() -> Iterator[None]:
    """uvloop says RuntimeError when one writes to a socket that was reset a moment ago."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(str(error)) from error


async def _reply(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response(timeout=math.inf, disconnect_on_error=False)
    except ResponseError as error:
        return error


async def _shut(connection: AbstractConnection) -> None:
    with contextlib.suppress(RedisError, OSError, TimeoutError):
        await connection.disconnect(nowait=True)


class _Counted(AbstractConnection):
    """Counts commands where they are packed, which is the one way onto the wire."""

    sent: Callable[[str], None]

    def pack_command(self, *args: Any) -> list[bytes]:
        self.sent(_name(args))
        packed: list[bytes] = super().pack_command(*args)
        return packed


class _Tcp(_Counted, Connection):
    pass


class _Tls(_Counted, SSLConnection):
    pass


class _Unix(_Counted, UnixDomainSocketConnection):
    async def _connect(self) -> None:
        # redis-py's own also runs the handshake here, a second time: two AUTH for one connection.
        self._reader, self._writer = await asyncio.open_unix_connection(path=self.path)


def _name(args: Sequence[Any]) -> str:
    name = args[0] if isinstance(args[0], str) else args[0].decode()
    return name.partition(" ")[0].lower()


def _connection(target: Target, place: Place | None) -> AbstractConnection:
    url = target.url
    options: dict[str, Any] = {
        "db": url.db,
        "username": url.user or None,
        "password": url.password or None,
        "protocol": 2,
        "driver_info": None,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": None,  # deadlines belong to the caller; with one, Python 3.11 loses 3 % of cancels
        "socket_connect_timeout": CONNECT_S,
        "health_check_interval": 0,
    }
    connection: AbstractConnection
    if place is None:
        connection = _Unix(path=url.path, **options)
    elif url.tls:
        connection = _Tls(host=place[0], port=place[1], **options, **_tls_options(target))
    else:
        connection = _Tcp(host=place[0], port=place[1], **options)
    assert isinstance(connection, _Counted)
    connection.sent = target.sent
    return connection


def _tls_options(target: Target) -> dict[str, Any]:
    return {
        "ssl_ca_certs": target.ca_file or None,
        "ssl_certfile": target.cert_file or None,
        "ssl_keyfile": target.key_file or None,
    }


async def _find(target: Target) -> Place | None:
    """Where the server is now; None for a Unix socket. Asked anew at each connect: masters move."""
    url = target.url
    if url.kind == "unix":
        return None
    if url.kind == "single":
        return url.hosts[0]
    ask = _ask_sentinel if url.kind == "sentinel" else _ask_cluster
    failures: list[str] = []
    for host in url.hosts:
        try:
            async with asyncio.timeout(CONNECT_S / 2):
                place = await ask(target, host)
        except (RedisError, OSError, TimeoutError) as error:
            failures.append(f"{host[0]}:{host[1]}: {str(error) or type(error).__name__}")
            continue
        if place is not None:
            return place
        failures.append(f"{host[0]}:{host[1]} knows no master")
    raise ConnectionError("; ".join(failures))


async def _ask_once(target: Target, host: Place, url: RedisUrl, command: Command) -> Any:
    connection = _connection(replace(target, url=url, sent=lambda name: None), host)
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
        await connection.send_packed_command(connection.pack_command(*command), check_health=False)
        return await connection.read_response(timeout=math.inf)
    finally:
        await _shut(connection)


async def _ask_sentinel(target: Target, host: Place) -> Place | None:
    # Sentinels have accounts of their own, usually none.
    url = RedisUrl(kind="single", tls=target.url.tls, hosts=(host,))
    found = await _ask_once(target, host, url, ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", target.url.master))
    return (found[0].decode(), int(found[1])) if found else None


async def _ask_cluster(target: Target, host: Place) -> Place | None:
    url = target.url
    account = RedisUrl(kind="single", tls=url.tls, hosts=(host,), user=url.user, password=url.password)
    slot = key_slot(target.slot_key.encode())
    for first, last, master, *_ in await _ask_once(target, host, account, ("CLUSTER", "SLOTS")):
        if first <= slot <= last:
            name = master[0].decode() if master[0] else host[0]
            return name or host[0], int(master[1])
    return None


def pairs(flat: Iterable[Any]) -> dict[str, Any]:
    """A flat list of names and values, as RESP2 has it, as a dict."""
    items = iter(flat)
    return {name.decode(): value for name, value in zip(items, items, strict=True)}
