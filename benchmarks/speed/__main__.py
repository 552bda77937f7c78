"""Grizz beside the model it stands in front of, the least that Python can do and, if asked, its peers: `make bench`.

Every load runs on every subject in turn, round after round, so that what disturbs one disturbs all; read the ratios,
not single numbers: shared machines differ by half between two runs. Then what it costs as work grows. Prints Markdown;
exits 1 when a promise is broken. Everything is on loopback, bounded in count and time: 20 minutes, 10 more with peers,
3 with --quick. Needs Linux and, to mean something, two cores that nobody else uses.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.peers.subjects import PYTHON as PEER_PYTHON
from benchmarks.processes import CORES, ROOT, allow_files, pin
from benchmarks.speed import checks, compare, growth, report, result_charts, wire
from benchmarks.speed.checks import Check
from benchmarks.speed.load import Load, run
from benchmarks.speed.subjects import Stage, Subject, peers

LOADS = {
    "paced": Load(50, 150, 50),
    "steady": Load(200, 200, 50, starts_s=2),
    "saturation": Load(200, 500, 200),
    "short": Load(300, 20, 0, starts_s=3),
}
QUICK = {
    "paced": Load(50, 100, 50),
    "steady": Load(200, 100, 50, starts_s=2),
    "saturation": Load(200, 200, 200),
    "short": Load(100, 20, 0),
}
_DESCRIBED = {
    "paced": "50 answers at once, 50 tokens/s each",
    "steady": "200 answers at once, 50 tokens/s each: 10,000 tokens/s",
    "saturation": "200 answers at once, 200 tokens/s each: more than one core can do",
    "short": "100 answers a second of 20 tokens",
}
WARM = Load(20, 50, 0, starts_s=0.2)
# Seconds that a peer may take for a load: what is left then is cut off.
PEER_CAP_S = 12.0
# They are measured in this: what they cannot do takes long, and each begins anew for it.
PEER_LOADS = ("saturation",)
_GROWTH_QUICK = {"streams": (1, 100), "reply length": (100, 1000), "tabs": (1, 100), "idle sockets": (0, 1000)}


class Progress:
    """A bar on standard error, and the time that is left."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began = time.monotonic()

    def say(self, what: str) -> None:
        """What begins now."""
        part = min(0.99, (time.monotonic() - self._began) / self._seconds)
        left = max(0, self._seconds - (time.monotonic() - self._began))
        bar = "#" * int(30 * part)
        print(f"\r[{bar:30}] {part:4.0%}, {left / 60:4.1f} min left: {what:50.50}", end="", file=sys.stderr, flush=True)

    def done(self) -> None:
        """The last line."""
        print(f"\r[{'#' * 30}] done in {(time.monotonic() - self._began) / 60:.1f} min{'':60}", file=sys.stderr)


class Bench:
    """One run of the benchmark, in the shape that is written as JSON."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._loads = QUICK if options.quick else LOADS
        self._series = {
            name: series
            for name, series in growth.SERIES.items()
            if name in options.growth and (not options.quick or name in _GROWTH_QUICK)
        }
        self.result: dict[str, Any] = {
            "version": compare.VERSION,
            "at": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
            "commit": _commit(),
            "machine": _machine(),
            "loads": _DESCRIBED,
            "speed": {},
            "growth": {},
        }
        self.checks: list[Check] = []
        self._progress = Progress(self._planned_s())

    def _planned_s(self) -> float:
        per_load = sum(load.words / load.rate + load.starts_s + 3 if load.rate else 6 for load in self._loads.values())
        rounds = self._options.runs * per_load * 7
        if self._options.peers:
            rounds += self._options.runs * len(peers()) * len(PEER_LOADS) * (12 + PEER_CAP_S)
        grown = sum(series.seconds for series in self._series.values()) * self._options.growth_runs
        return rounds + grown + 60

    async def run(self) -> None:
        """Measure everything."""
        pin(0)
        if self._options.runs:
            await self._speed()
        await self._growth()
        self._save()
        if self._options.runs:
            self.checks += checks.of_speed(self.result["speed"])
        if not self._options.quick:
            self.checks += checks.of_growth(self.result["growth"])
        if self._options.wire:
            await self._wire()
        self.result["checks"] = [check.to_json() for check in self.checks]
        self._save()
        self._progress.done()

    def _save(self) -> None:
        """Also before anything is judged: a long run must not be lost for what is wrong with a promise."""
        if self._options.json:
            self._options.json.write_text(json.dumps(self.result, indent=1) + "\n")

    async def _speed(self) -> None:
        with Stage() as stage:
            subjects = stage.subjects()
            for subject in subjects:
                self._progress.say(f"warming up {subject.name}")
                await run(subject, WARM)
            for _ in range(self._options.runs):
                for name, load in self._loads.items():
                    for subject in subjects:
                        await self._measure(name, load, subject)
                for peer, start in peers().items() if self._options.peers else ():
                    await self._peer(peer, start)

    async def _peer(self, name: str, start: Callable[[Stage], Subject]) -> None:
        for load_name in PEER_LOADS:
            self._progress.say(f"starting {name}")
            with Stage() as own:
                subject = start(own)
                await run(subject, Load(5, 20, 50, starts_s=0.2, cap_s=PEER_CAP_S))
                load = self._loads[load_name]
                capped = Load(load.streams, load.words, load.rate, load.starts_s, PEER_CAP_S)
                await self._measure(load_name, capped, subject)

    async def _measure(self, name: str, load: Load, subject: Subject) -> None:
        self._progress.say(f"{name}: {subject.name}")
        found = await run(subject, load)
        self.result["speed"].setdefault(name, {}).setdefault(subject.name, []).append(found)

    async def _growth(self) -> None:
        for name, series in self._series.items():
            at = _GROWTH_QUICK[name] if self._options.quick else series.at
            points: list[dict[str, Any]] = [{"x": x, "runs": []} for x in at]
            self.result["growth"][name] = {"x": series.x, "points": points}
            for _ in range(self._options.growth_runs):
                for point in points:
                    self._progress.say(f"{name}: {point['x']:,} {series.x}")
                    with Stage() as stage:
                        point["runs"].append(await series.measure(stage, point["x"]))

    async def _wire(self) -> None:
        for flush_ms, bound in ((50, 100), (100, 45)):
            name = f"delta frames for a token at 50 tokens/s, flush_ms = {flush_ms}"
            self._progress.say(name)
            with Stage() as stage:
                self.checks.append(Check(name, await wire.delta_bytes(stage, flush_ms), bound, unit="bytes"))
        name = "memory of an answer of 20,000 tokens, of its bytes on the wire"
        self._progress.say(name)
        with Stage() as stage:
            self.checks.append(Check(name, await wire.memory_of_wire(stage), 3))


def _machine() -> dict[str, Any]:
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) or [platform.machine()]
    packages = ("aiohttp", "openai", "orjson", "redis", "uvloop")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {"cpu": names[0], "cores": len(CORES), "python": platform.python_version(), "packages": versions}


def _commit() -> str:
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return asked.stdout.strip()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="rounds of the loads (default: 5; 0 leaves them out)")
    parser.add_argument("--growth-runs", type=int, default=1, help="how often each point of growth is measured")
    parser.add_argument(
        "--growth",
        nargs="*",
        choices=growth.SERIES,
        default=list(growth.SERIES),
        help="only these (none: leave it out)",
    )
    parser.add_argument("--no-wire", dest="wire", action="store_false", help="leave out bytes and memory of an answer")
    parser.add_argument("--peers", action="store_true", help="measure the peers, too; `make bench-peers` installs them")
    parser.add_argument("--quick", action="store_true", help="small loads, for a first look; growth is not judged")
    parser.add_argument("--json", type=Path, help="write every run to this file, for `make bench-compare`")
    parser.add_argument("--svg", type=Path, help="write charts into this folder")
    return parser.parse_args()


def main() -> int:
    options = _options()
    if options.peers and not Path(ROOT, PEER_PYTHON).exists():
        print("the peers are not installed: use `make bench-peers`", file=sys.stderr)
        return 2
    if len(CORES) < 2 or not os.path.exists("/proc/self/stat"):
        print("needs Linux and two cores: one for the model and the clients, one for what is measured", file=sys.stderr)
        return 2
    allow_files(12_000)
    bench = Bench(options)
    asyncio.run(bench.run())
    for part in report.whole(bench.result, bench.checks):
        print(f"{part}\n")
    if options.svg:
        options.svg.mkdir(parents=True, exist_ok=True)
        for name, text in result_charts.of_result(bench.result).items():
            (options.svg / name).write_text(text)
    return 0 if all(check.held for check in bench.checks) else 1


if __name__ == "__main__":
    sys.exit(main())
