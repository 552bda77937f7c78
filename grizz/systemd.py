"""What systemd is told (sd_notify), and the socket it may hand over. Without systemd all of it does nothing.

Only the environment says whether there is a systemd: NOTIFY_SOCKET, WATCHDOG_USEC and LISTEN_FDS, see sd_notify(3),
sd_watchdog_enabled(3) and sd_listen_fds(3).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

from grizz.errors import ConfigError

_FIRST_FD = 3


def tell(*lines: str) -> None:
    """Send lines like `READY=1`; a systemd that does not hear must not end what serves."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # a name in the abstract namespace
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.sendto("\n".join(lines).encode(), address)


def beat_every_s() -> float:
    """Seconds between two signs of life, a third of what systemd allows; 0 if it wants none from this process."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    allowed = os.environ.get("WATCHDOG_USEC", "")
    return int(allowed) / 3e6 if allowed.isascii() and allowed.isdecimal() else 0.0


async def beat(every_s: float) -> None:
    """Tell that the event loop is alive, for as long as it is."""
    while True:
        tell("WATCHDOG=1")
        await asyncio.sleep(every_s)


def be_silent() -> None:
    """What a process that was forked does: only its parent talks to systemd."""
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        os.environ.pop(name, None)


def has_sockets() -> bool:
    """Whether this process was handed sockets."""
    return os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS", "0") != "0"


def inherited(host: str, port: int) -> socket.socket | None:
    """The listening socket that systemd has for this process, or None.

    Args:
        host: where the settings say that it listens. Who may come in was decided by it, so it must be true.
        port: the same; 0 takes any.

    Raises:
        ConfigError: there are several, it is no TCP socket that listens, or it listens elsewhere.
    """
    if not has_sockets():
        return None
    if os.environ["LISTEN_FDS"] != "1":
        raise ConfigError("systemd hands over several sockets; keep one ListenStream= in the .socket unit")
    try:
        held = socket.socket(fileno=_FIRST_FD)
    except OSError as error:
        raise ConfigError(f"LISTEN_FDS: there is no socket to take over: {error}") from None
    try:
        _check(held, host, port)
    except BaseException:
        held.close()
        raise
    held.set_inheritable(False)
    held.setblocking(False)
    return held


def _check(held: socket.socket, host: str, port: int) -> None:
    is_tcp = held.family in (socket.AF_INET, socket.AF_INET6) and held.type == socket.SOCK_STREAM
    if not is_tcp or not held.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ConfigError("systemd hands over something else than a TCP socket that listens")
    address, its_port = held.getsockname()[:2]
    meant = {found[4][0] for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    if address not in meant or port not in (0, its_port):
        text = f"systemd listens on {address} port {its_port}, the settings say {host} port {port}"
        raise ConfigError(f"{text}; make server.host and server.port what ListenStream= says")
