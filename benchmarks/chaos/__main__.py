"""The fault suite: hurts Grizz in every way while answers stream whose text is known, and judges what clients saw.

Prints a Markdown table; exits 1 when anything was lost, doubled, hung or wrong, or when the suite does not notice
builds that are broken on purpose. Real processes on loopback; progress and findings go to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks.chaos import faults_clients, faults_fleet, faults_frames, faults_process, faults_upstream
from benchmarks.chaos.fleet import Broken, Fleet, fleet_of
from benchmarks.chaos.judge import KINDS
from benchmarks.chaos.scene import LEAST, Fault, Row, inflict
from benchmarks.chaos.selftest import BUILDS, broken_launcher, selftest
from tests.redis_servers import RedisServer

# Shorter than by default only to make the suite shorter.
ALONE: dict[str, Any] = {
    "workers__concurrency": 200,
    "server__stall_timeout_s": 2,
    "upstream__idle_timeout_s": 1.5,
    # One model serves the victims, who fail on purpose, and all the others: it must not be given a rest.
    "upstream__breaker_failures": 1000,
}

SHOWN = 5
# From that slowness on the summary says that the machine was not ours alone.
BUSY = 2.0

UPSTREAM = faults_upstream.FAULTS
CLIENTS = [*faults_clients.FAULTS, *faults_frames.FAULTS, *faults_process.FAULTS]
CLOCK = faults_process.CLOCK_FAULTS
FLEET = [*faults_process.FLEET_FAULTS, *faults_fleet.FAULTS]
ALL = [*UPSTREAM, *CLIENTS, *CLOCK, *FLEET]


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


class Suite:
    """One run.

    Attributes:
        rows: what became of each fault, by name.
        amiss: what is wrong with the suite itself.
    """

    def __init__(self, asked: list[str], folder: Path, build: str = "") -> None:
        self._asked, self._folder, self._build = asked, folder, build
        self.rows: dict[str, Row] = {}
        self.builds: list[Row] = []
        self.amiss: list[str] = []

    def _of(self, faults: list[Fault]) -> list[Fault]:
        return [fault for fault in faults if fault.name in self._asked]

    async def _each(self, fleet: Fleet, faults: list[Fault]) -> None:
        for fault in faults:
            row = self.rows[fault.name] = await inflict(fault, fleet)
            self._tell(row)

    def _tell(self, row: Row) -> None:
        counts = ", ".join(f"{count} {kind}" for kind, count in row.counts.items())
        say(f"{row.name:22} {counts}; {row.answers} answers, {row.concerned} concerned; {row.took_s:.1f} s")
        for kind in KINDS:
            found = [finding.why for finding in row.findings if finding.kind == kind]
            for why in found[:SHOWN]:
                say(f"  {kind}: {why}")
            if len(found) > SHOWN:
                say(f"  {kind}: {len(found) - SHOWN} more like these")

    async def stage(self, faults: list[Fault], *launcher: str) -> None:
        """One process, everything in memory."""
        if chosen := self._of(faults):
            async with fleet_of(self._folder, 1, *launcher, **ALONE) as fleet:
                await self._each(fleet, chosen)

    async def together(self) -> None:
        """Three processes on a Redis."""
        if chosen := self._of(FLEET):
            with RedisServer("maxmemory-policy noeviction") as redis:
                async with fleet_of(self._folder, 2, redis=redis, **faults_fleet.SETTINGS) as fleet:
                    await fleet.start(*faults_process.clock_launcher(self._folder, "fleet-clock"))
                    await self._each(fleet, chosen)

    async def selftest(self) -> None:
        """The builds that are broken on purpose."""
        for row, amiss in await selftest(self._folder):
            self.builds.append(row)
            say(f"{row.name:22} {amiss or 'noticed'}; took {row.took_s:.1f} s")
            if amiss:
                self.amiss.append(amiss)

    async def run(self, *, with_selftest: bool) -> None:
        """Everything; what shares no process runs side by side."""
        async with asyncio.TaskGroup() as stages:
            stages.create_task(self._alone())
            stages.create_task(self._others(with_selftest))

    async def _others(self, with_selftest: bool) -> None:
        if with_selftest:
            await self.selftest()
        await self.together()

    async def _alone(self) -> None:
        launcher = broken_launcher(self._build) if self._build else ()
        await self.stage(UPSTREAM, *launcher)
        await self.stage(CLOCK, *faults_process.clock_launcher(self._folder, "clock"))
        await self.stage(CLIENTS, *launcher)

    @property
    def bad(self) -> bool:
        """Was anything found, or is the suite itself no good?"""
        return bool(self.amiss) or any(row.findings for row in self.rows.values())

    def table(self, took_s: float) -> str:
        """The summary."""
        head = ["fault", "streaming", "concerned", *KINDS, "longest silence, s", "allowed"]
        lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1)]
        rows = [self.rows[fault.name] for fault in ALL if fault.name in self.rows]
        for row in rows:
            cells = [
                row.what,
                row.streaming,
                row.concerned,
                *row.counts.values(),
                f"{row.longest_s:.1f}",
                f"{row.allowed_s:g}",
            ]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
        for row in self.builds:
            found = ", ".join(f"{count} {kind}" for kind, count in row.counts.items() if count) or "nothing"
            lines.append(f"| {row.what}: found {found} | {row.streaming} | | | | | | | |")
        answers = sum(row.answers for row in rows)
        date = time.strftime("%Y-%m-%d")
        slowest = max((row.slowness for row in rows), default=1.0)
        shared = f" Others used the machine too: up to {slowest:.1f} times the silence was allowed." * (slowest > BUSY)
        caption = (
            f"{date}: {len(rows)} faults, each while at least {LEAST} answers stream, {answers:,} answers judged, "
            f"in {took_s:.0f} s. For speed, leases last {faults_fleet.SETTINGS['workers__lease_s']} s, "
            f"stalled clients are cut off after {ALONE['server__stall_timeout_s']} s and a silent model is given up "
            f"after {ALONE['upstream__idle_timeout_s']} s; the breaker of the one model is off. "
            f"All else is by default.{shared}"
        )
        return "\n".join([caption, "", *lines])


def _asked(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[str]:
    names = [fault.name for fault in ALL]
    for name in options.only:
        if name not in names:
            parser.error(f"no fault is called {name}; --list shows them all")
    if options.selftest:
        return []
    return options.only or names


async def measure(options: argparse.Namespace, asked: list[str]) -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        suite = Suite(asked, Path(name), options.build)
        try:
            await suite.run(with_selftest=options.selftest or not (options.only or options.build))
        finally:
            if suite.bad or options.logs:
                kept = options.logs or Path(tempfile.mkdtemp(prefix="chaos-logs-"))
                shutil.copytree(name, kept, dirs_exist_ok=True)
                say(f"The logs of all processes are in {kept}.")
    took_s = time.monotonic() - began
    print(suite.table(took_s))
    for amiss in suite.amiss:
        say(f"BROKEN: {amiss}")
    if options.json:
        rows = [*suite.rows.values(), *suite.builds]
        faults = {row.name: {**row.counts, "streaming": row.streaming, "found": row.findings} for row in rows}
        options.json.write_text(json.dumps({"took_s": took_s, "amiss": suite.amiss, "faults": faults}, indent=1) + "\n")
    return 1 if suite.bad else 0


async def stoppable(work: Callable[[], Awaitable[int]]) -> int:
    """Until it is done, or a signal asks to end; then with all processes gone."""
    task = asyncio.current_task()
    stopped: list[int] = []
    assert task is not None

    def stop(number: int) -> None:
        if not stopped:
            task.cancel()
        stopped.append(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        return await work()
    except asyncio.CancelledError:
        return 128 + stopped[0] if stopped else 1
    except (Broken, TimeoutError, OSError) as error:
        say(f"BROKEN: {error!r}")
    except BaseExceptionGroup as errors:
        _, unforeseen = errors.split((Broken, TimeoutError, OSError))
        if unforeseen is not None:
            raise
        say(f"BROKEN: {errors!r}")
    return 1


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="list the faults by name")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this fault; may be repeated")
    parser.add_argument("--selftest", action="store_true", help="only the builds that are broken on purpose")
    parser.add_argument("--build", default="", choices=BUILDS, help="let one process be this build, broken on purpose")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all findings to this file")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="keep the logs there (default: if any is wrong)")
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{fault.name:22} {fault.what}" for fault in ALL))
        return 0
    asked = _asked(parser, options)
    with contextlib.suppress(KeyboardInterrupt):
        return asyncio.run(stoppable(lambda: measure(options, asked)))
    return 130


if __name__ == "__main__":
    sys.exit(main())
