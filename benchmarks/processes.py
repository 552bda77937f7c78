"""Servers under measurement, each pinned to a core, and what the kernel says of them. Needs Linux (/proc)."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from benchmarks.redis_parts import find_server

ROOT = Path(__file__).parent.parent
MIB = 1024  # KiB
_START_S = 60.0
# Before anything is pinned: what this process starts would else see one core alone, and share it.
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def pin(core: int) -> None:
    """Keep this process on one core, where the system can: 0 for models and clients, 1 for what is measured."""
    if len(CORES) > 1:
        os.sched_setaffinity(0, {CORES[core]})


def allow_files(count: int) -> None:
    """Let this process and its children open that many files."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard not in (resource.RLIM_INFINITY, -1) and hard < count:
        raise SystemExit(f"needs {count} open files, the limit is {hard}: raise it with `ulimit -n {count}`")
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


class Measured:
    """A process by its id, as the kernel sees it."""

    pid: int

    def cpu_s(self) -> float:
        """Seconds of CPU of all its threads, to the nanosecond: its CPU clock, as by clock_getcpuclockid(3)."""
        return time.clock_gettime((~self.pid << 3) | 2)

    def rss_kib(self) -> int:
        """Resident memory."""
        return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())[0])

    def waited_s(self) -> float:
        """Seconds its threads were ready to run while something else had the core."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[1]) for task in tasks) / 1e9


class Process(Measured):
    """A server under measurement, pinned to a core; its output goes to a file, so that it never waits for us.

    Args:
        command: what comes after this Python; or the whole of it, when it begins with another environment's.
        core: see `pin`.
        environ: added to the environment.

    Raises:
        SystemExit: it printed no address, with what it printed instead.
    """

    def __init__(self, command: Sequence[str], core: int, **environ: str) -> None:
        self._output = tempfile.TemporaryFile()
        own = not command[0].startswith(".venv")
        self._process = subprocess.Popen(
            [*([sys.executable] if own else []), *command],
            cwd=ROOT,
            env={**os.environ, "GRIZZ_HISTORY_STORE": "memory", **environ},
            stdout=self._output,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: pin(core),
        )
        self.pid = self._process.pid
        try:
            self.url = self._wait_for_url()
        except BaseException:  # also when somebody loses patience: nobody else knows of it yet
            self.stop()
            raise
        self.port = int(self.url.split(":")[2].split("/")[0])

    def __repr__(self) -> str:
        return f"<Process {self.pid} at {self.url}>"

    def _wait_for_url(self) -> str:
        give_up = time.monotonic() + _START_S
        while time.monotonic() < give_up and self._process.poll() is None:
            # pread: the child shares the file's position.
            found = re.search(r"(http://[^\s\"]+)\s", os.pread(self._output.fileno(), 2**16, 0).decode())
            if found:
                return found.group(1).rstrip("/")
            time.sleep(0.02)
        printed = os.pread(self._output.fileno(), 2**16, 0).decode()
        raise SystemExit(f"did not start: {self._process.args}\n{printed}")

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self, within_s: float) -> float:
        """Wait for its exit, but no longer than that; returns when that was, by time.monotonic()."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(within_s)
        return time.monotonic()

    def stop(self) -> None:
        """Kill it if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._output.close()


class RedisServer(Measured):
    """A Redis of our own, in memory and on loopback, pinned to a core."""

    def __init__(self, core: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = f"--port {port} --bind 127.0.0.1 --appendonly no --maxmemory-policy noeviction --save".split()
        self._process = subprocess.Popen(
            [find_server(None), *options, ""],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: pin(core),
        )
        self.pid = self._process.pid
        self.url = f"redis://127.0.0.1:{port}/0"
        self._meter = Redis(port=port)
        give_up = time.monotonic() + _START_S
        while True:
            try:
                self._meter.ping()
                return
            except RedisError:
                if time.monotonic() > give_up or self._process.poll() is not None:
                    self.stop()
                    raise
                time.sleep(0.05)

    def commands(self) -> int:
        """Every command so far, those inside of scripts too, but not our own INFO and PING."""
        rows = self._meter.info("commandstats").items()
        return sum(row["calls"] for name, row in rows if name not in ("cmdstat_info", "cmdstat_ping"))

    def stop(self) -> None:
        """Kill it if it still runs; it keeps nothing."""
        self._meter.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
