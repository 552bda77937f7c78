"""Several processes on one port (`server.processes`): forked from one, watched, reloaded and drained together.

The kernel spreads connections over them (SO_REUSEPORT). They find each other's responses through the Redis, as
processes on several machines do, so no client needs to come back to the one it was at. A parent that only waits has
imported everything before it forks: N processes then start in the time of one, and share that memory. It runs no event
loop and no thread, since what forks must not.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import NoReturn

import grizz.scaled  # noqa: F401  # before the fork, not after it in each process
from grizz import systemd
from grizz.app import serve
from grizz.config import Settings, address_of, change
from grizz.errors import ConfigError
from grizz.telemetry import logs

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
# A process ends by itself three seconds after its drain at the latest; then it is ended.
_PATIENCE_S = 10.0
# Seconds before a lost process is replaced; doubled while it does not last for so long.
_FIRST_REST_S, _LONGEST_REST_S, _LASTED_S = 0.1, 10.0, 30.0


def supervise(settings: Settings, read_again: Callable[[], Settings]) -> int:
    """Run `server.processes` processes until a signal; returns the exit status: 0 if all ended well.

    Args:
        read_again: reads the settings anew, at a SIGHUP; raises ConfigError.
    """
    with logs.unthreaded(settings.log.level, settings.log.format):
        server = settings.server
        if systemd.has_sockets():
            log.error("cannot start", extra={"err": "a socket of systemd goes to one process, not to server.processes"})
            return 2
        try:
            held = _hold(server.host, server.port)
        except OSError as error:
            log.error("cannot listen", extra={"host": server.host, "port": server.port, "err": str(error)})
            return 1
        with held:
            port = held.getsockname()[1]
            gc.collect()
            gc.freeze()
            return _Group(settings, port, held, read_again).run()


def settings_of(settings: Settings, number: int, port: int) -> Settings:
    """What the process with that number (from 0) runs with."""
    server = replace(settings.server, port=port, processes=1, reuse_port=True)
    if server.metrics_listen:
        host, metrics_port = address_of(server.metrics_listen)
        shown = f"[{host}]" if ":" in host else host
        server = replace(server, metrics_listen=f"{shown}:{metrics_port + number if metrics_port else 0}")
    return replace(settings, server=server)


@dataclass(slots=True)
class _Slot:
    """The place of one process.

    Attributes:
        pid: 0 while it has none.
        since: when it was started, or when the next one is due.
        rest_s: how long the next one waits.
        ready: it has said that it listens.
        outdated: the settings were read again before it could hear of it.
    """

    pid: int = 0
    since: float = 0.0
    rest_s: float = _FIRST_REST_S
    ready: bool = False
    outdated: bool = False


class _Group:
    """The processes, and what a signal or an end among them asks for.

    Args:
        held: is bound to the port, so that nobody else gets it, and does not listen.
    """

    def __init__(self, settings: Settings, port: int, held: socket.socket, read_again: Callable[[], Settings]) -> None:
        self._settings = settings
        self._port = port
        self._held = held
        self._read_again = read_again
        self._slots = [_Slot() for _ in range(settings.server.processes)]
        self._status = 0
        self._kill_at = float("inf")
        self._asked = 0  # how many signals have asked for an end
        self._beat_every_s = systemd.beat_every_s()
        self._complete = False  # all have been ready at once

    def run(self) -> int:
        with _pipe() as self._signals, _pipe() as self._tidings, _pipe() as self._lifeline, self._caught():
            while self._asked == 0 or any(slot.pid for slot in self._slots):
                self._start_due()
                self._wait()
        log.info("all processes have ended", extra={"status": self._status})
        return self._status

    @contextlib.contextmanager
    def _caught(self) -> Iterator[None]:
        """Signals arrive as bytes in a pipe, whatever the process does just then."""
        os.set_blocking(self._signals[1], False)
        before = {number: signal.signal(number, lambda number, frame: None) for number in _SIGNALS}
        waker = signal.set_wakeup_fd(self._signals[1])
        try:
            yield
        finally:
            signal.set_wakeup_fd(waker)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _start_due(self) -> None:
        for number, slot in enumerate(self._slots):
            if not slot.pid and not self._asked and slot.since <= time.monotonic():
                slot.since, slot.outdated = time.monotonic(), False
                self._fork(number, slot)

    def _fork(self, number: int, slot: _Slot) -> None:
        sys.stderr.flush()
        # A signal in between would be the new one's and be written into the pipe that both have yet.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            slot.pid = os.fork() or self._be(number, before)
        except OSError as error:  # no memory, or too many processes: the others go on
            self._rest(slot)
            log.error("a process cannot be started", extra={"number": number, "err": str(error)})
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _wait(self) -> None:
        """Until something happens, or is due."""
        due = [slot.since for slot in self._slots if not slot.pid and not self._asked]
        if self._beat_every_s:  # that of the parent alone; a process that hangs is for its clients to notice
            systemd.tell("WATCHDOG=1")
            due.append(time.monotonic() + self._beat_every_s)
        within_s = min([*due, self._kill_at]) - time.monotonic()
        ready, _, _ = select.select(
            [self._signals[0], self._tidings[0]], [], [], max(0.0, within_s) if within_s < float("inf") else None
        )
        if self._tidings[0] in ready:
            for number in os.read(self._tidings[0], 4096):
                self._on_ready(self._slots[number])
        if self._signals[0] in ready:
            for signum in os.read(self._signals[0], 4096):
                self._on_signal(signum)
        self._reap()
        if not self._complete and all(slot.ready for slot in self._slots):
            self._complete = True
            systemd.tell("READY=1", f"STATUS={len(self._slots)} processes serve port {self._port}")
            log.info("all processes are ready", extra={"processes": len(self._slots), "port": self._port})
        if time.monotonic() > self._kill_at:
            self._kill_at = float("inf")
            log.error("processes did not end in time, and are killed")
            self._tell(signal.SIGKILL)

    def _on_signal(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._end()
        elif number == signal.SIGHUP:
            self._reload()

    def _on_ready(self, slot: _Slot) -> None:
        slot.ready = True
        if slot.outdated and slot.pid:
            slot.outdated = False
            os.kill(slot.pid, signal.SIGHUP)

    def _reload(self) -> None:
        """All shall read the settings again; and who is started later begins with them. What is wrong, they say."""
        with contextlib.suppress(ConfigError):
            self._settings = change(self._settings, self._read_again()).settings
        for slot in self._slots:
            if slot.pid and slot.ready:
                os.kill(slot.pid, signal.SIGHUP)
            slot.outdated = not slot.ready

    def _end(self) -> None:
        """All shall drain; asked again, they end at once."""
        self._asked += 1
        if self._asked == 1:
            systemd.tell("STOPPING=1", "STATUS=Drains: running answers finish, then clients are sent away")
            server = self._settings.server
            self._kill_at = time.monotonic() + server.drain_delay_s + server.drain_timeout_s + _PATIENCE_S
            self._held.close()
        self._tell(signal.SIGTERM)

    def _tell(self, number: int) -> None:
        for slot in self._slots:
            if slot.pid:
                os.kill(slot.pid, number)

    def _reap(self) -> None:
        for number, slot in enumerate(self._slots):
            if slot.pid and (found := os.waitpid(slot.pid, os.WNOHANG))[0]:
                self._ended(number, slot, os.waitstatus_to_exitcode(found[1]))

    def _ended(self, number: int, slot: _Slot, status: int) -> None:
        told = {"number": number, "pid": slot.pid, "status": status}
        lasted_s = time.monotonic() - slot.since
        was_ready, slot.pid, slot.ready = slot.ready, 0, False
        if self._asked:
            self._status = self._status or (1 if status else 0)
        elif not self._complete and not was_ready:
            # It has said why. What one cannot, the others cannot either: a start fails as a whole.
            log.error("a process did not start, so none does", extra=told)
            self._status = status if status > 0 else 1
            self._end()
        else:
            if lasted_s > _LASTED_S:
                slot.rest_s = _FIRST_REST_S
            self._rest(slot)
            log.error(
                "a process ended by itself, and is replaced",
                extra={**told, "in_s": round(slot.since - time.monotonic(), 1)},
            )

    def _rest(self, slot: _Slot) -> None:
        """When its next process is due."""
        slot.since = time.monotonic() + slot.rest_s
        slot.rest_s = min(2 * slot.rest_s, _LONGEST_REST_S)

    def _be(self, number: int, mask: Iterable[int]) -> NoReturn:
        """What the new process does.

        Args:
            mask: of signals, from before they were blocked.
        """
        status = 1
        try:
            # A Ctrl-C in the terminal is for the parent, which tells the others once.
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            for each in _SIGNALS:
                # A reload before it can is asked for again once it says that it is ready.
                signal.signal(each, signal.SIG_IGN if each == signal.SIGHUP else signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            logging.getLogger().handlers.clear()  # the parent's, which writes from the loop's thread
            self._held.close()
            systemd.be_silent()
            for unused in (*self._signals, self._tidings[0], self._lifeline[1]):
                os.close(unused)
            threading.Thread(target=_follow, args=(self._lifeline[0],), name="lifeline", daemon=True).start()
            status = serve(
                settings_of(self._settings, number, self._port),
                lambda: settings_of(self._read_again(), number, self._port),
                partial(self._say, number),
            )
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)  # not the parent's way out, which is on this stack, too

    def _say(self, number: int) -> None:
        """To the parent: this process is ready."""
        with contextlib.suppress(OSError):  # it has just died, and `_follow` ends this process
            os.write(self._tidings[1], bytes([number]))


def _follow(lifeline: int) -> None:
    """When the parent dies, end as a signal would: nobody else could tell this process to."""
    os.read(lifeline, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def _hold(host: str, port: int) -> socket.socket:
    """A socket that has the port, so that 0 becomes one, and does not listen.

    Raises:
        OSError: the address cannot be bound.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Without SO_REUSEPORT: another installation that listens there with it must not be joined by mistake.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
    held = socket.socket(family, socket.SOCK_STREAM)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(address)
    except OSError:
        held.close()
        raise
    return held


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)
