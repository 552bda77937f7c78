"""Processes of Grizz for tests, at a thirtieth of what a start costs: forked from one that has imported it.

A start is 1.5 s of CPU, nearly all of it imports, and the tests start several hundred. What is forked is a process like
any other: it has its own environment, log and signals, and runs the same command line. Tests of the start itself, and
the benchmarks, start Grizz as its users do.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
# The command line imports most of Grizz late; a fork has it all before.
_context.set_forkserver_preload(["grizz.app", "grizz.cli", "grizz.scaled", "tests.forks_source"])


class Fork:
    """One process, with the part of `subprocess.Popen` that tests use."""

    def __init__(self, arguments: list[str], environ: Mapping[str, str], log: Path) -> None:
        log.touch()
        # A daemon: it ends with the tests, if they are interrupted before they end it.
        self._process = _context.Process(target=_run, args=(arguments, dict(environ), str(log)), daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Its exit status if it has ended: as a Popen has it, a negative signal number if one ended it."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; the exit status.

        Raises:
            subprocess.TimeoutExpired: it has not ended within that many seconds.
        """
        self._process.join(timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired("grizz", timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        """Send it that, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _run(arguments: list[str], environ: dict[str, str], log: str) -> None:
    from grizz.cli import main

    with open(log, "ab", buffering=0) as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    os.chdir("/")
    os.environ.clear()
    os.environ.update(environ)
    sys.argv[1:] = arguments
    sys.exit(main(arguments))
