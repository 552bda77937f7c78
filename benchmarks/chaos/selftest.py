"""Would the suite notice? It is run against builds of Grizz that are broken on purpose."""

from __future__ import annotations

import asyncio
from pathlib import Path

from benchmarks.chaos.fleet import fleet_of
from benchmarks.chaos.judge import KINDS, Kind
from benchmarks.chaos.scene import Fault, Row, Scene, inflict

# What is broken, and what the suite must find: that and nothing else, once.
BUILDS: dict[str, tuple[str, Kind]] = {
    "drop": ("an event is dropped on its way to a socket", "lost"),
    "double": ("an event is sent twice", "doubled"),
    "hang": ("a socket falls silent, its end never comes", "hung"),
    "swallow": ("a word is lost before events are numbered", "lost"),
    "stutter": ("a word is said twice, numbers in order", "doubled"),
    "mix-up": ("a word of another answer takes the place of one", "wrong"),
}


async def nothing(scene: Scene) -> None:
    """The build itself is the fault."""


async def build(name: str, folder: Path) -> tuple[Row, str]:
    """The row of one broken build, and what is amiss with the suite: nothing if it found just what it must."""
    what, kind = BUILDS[name]
    fault = Fault(f"broken-{name}", f"self-test: {what}", nothing, length=60, patience_s=3.0)
    launcher = ("-m", "benchmarks.chaos.patched", name, "--")
    async with fleet_of(folder, 1, *launcher, workers__concurrency=200) as fleet:
        row = await inflict(fault, fleet)
    must = dict.fromkeys(KINDS, 0) | {kind: 1}
    # A word in the place of another is also one word less.
    may = must | {"lost": 1} if name == "mix-up" else must
    if row.counts in (must, may):
        return row, ""
    return row, f"the suite does not work: a build in which {what} was judged {row.counts} instead of one {kind}"


async def selftest(folder: Path, names: list[str]) -> list[tuple[Row, str]]:
    """All of them, two at a time."""
    gate = asyncio.Semaphore(2)

    async def one(name: str) -> tuple[Row, str]:
        async with gate:
            return await build(name, folder)

    return await asyncio.gather(*(one(name) for name in names))
