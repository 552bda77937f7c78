"""Would the suite notice? It is run against builds of Grizz that are broken on purpose."""

from __future__ import annotations

import asyncio
from pathlib import Path

from benchmarks.chaos.fleet import Model, fleet_of, model_of
from benchmarks.chaos.judge import KINDS, Kind
from benchmarks.chaos.scene import Fault, Row, Scene, inflict

CROWD = 12
# What is broken, and what the suite must find: that and nothing else, once.
BUILDS: dict[str, tuple[str, Kind]] = {
    "drop": ("an event is dropped on its way to a socket", "lost"),
    "double": ("an event is sent twice", "doubled"),
    "hang": ("a socket falls silent, its end never comes", "hung"),
    "swallow": ("a word is lost before events are numbered", "lost"),
    "stutter": ("a word is said twice, numbers in order", "doubled"),
    "mix-up": ("a word of another answer takes the place of one", "wrong"),
}


def broken_launcher(name: str) -> tuple[str, ...]:
    """What to start that build with."""
    return ("-m", "benchmarks.chaos.patched", name, "--")


async def nothing(scene: Scene) -> None:
    """The build itself is the fault."""


async def build(name: str, folder: Path, model: Model) -> tuple[Row, str]:
    """The row of one broken build, and what is amiss with the suite: nothing if it found just what it must."""
    what, kind = BUILDS[name]
    fault = Fault(
        f"broken-{name}", f"self-test: {what}", nothing, crowd=(CROWD,), length=60, patience_s=3.0, least=CROWD
    )
    async with fleet_of(folder, 1, *broken_launcher(name), model=model, workers__concurrency=200) as fleet:
        row = await inflict(fault, fleet)
    must = dict.fromkeys(KINDS, 0) | {kind: 1}
    # A word in the place of another is also one word less.
    may = must | {"lost": 1} if name == "mix-up" else must
    if row.counts in (must, may):
        return row, ""
    return row, f"the suite does not work: a build in which {what} was judged {row.counts} instead of one {kind}"


async def selftest(folder: Path) -> list[tuple[Row, str]]:
    """All of them, side by side."""
    async with model_of(folder) as model:
        return await asyncio.gather(*(build(name, folder, model) for name in BUILDS))
