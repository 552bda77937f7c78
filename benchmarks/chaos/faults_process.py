"""Faults of the process itself: its clock jumps, and it is told to stop while it answers."""

from __future__ import annotations

import asyncio
import struct
import subprocess
from pathlib import Path

from benchmarks.chaos.fleet import Fleet
from benchmarks.chaos.readers import Asker
from benchmarks.chaos.scene import Fault, Scene

HOUR_S = 3600.0
JUMPS = (HOUR_S, -HOUR_S, 30 * 24 * HOUR_S, 0.0)
CLOCK = "clock"


def clock_launcher(folder: Path) -> tuple[str, ...]:
    """What to start a process with whose clock `jump` can move."""
    file = folder / CLOCK
    _set(file, 0.0)
    return ("-m", "benchmarks.chaos.patched", "clock", str(file), "--")


def _set(file: Path, shift_s: float) -> None:
    with file.open("wb" if not file.exists() else "r+b") as out:
        out.write(struct.pack("<d", shift_s))


def jump(fleet: Fleet, shift_s: float) -> None:
    """Let the wall clock of those processes be wrong by that much from now on."""
    _set(fleet.folder / CLOCK, shift_s)


async def clock_jumps(scene: Scene) -> None:
    """Forth and back, with new questions after each jump."""
    for shift_s in JUMPS:
        jump(scene.fleet, shift_s)
        fresh = scene.crowd.ask(scene.http, scene.fleet.live, 5, 20, scene.fault.rate)
        await asyncio.sleep(0.4)
        for asker in fresh[:2]:
            asker.cut()


async def sigterm(scene: Scene) -> None:
    """It must answer everything it has begun, turn new clients away, and end with status 0."""
    fleet = scene.fleet
    node = fleet.live.pop()
    before = len(node.log)
    ending = asyncio.create_task(node.end(within_s=20))
    await asyncio.sleep(0.3)
    late = Asker(scene.http, [node], "late.0")
    await scene.crowd.end()
    late.task.cancel()
    if late.events:
        scene.blame("wrong", "a new question was taken after SIGTERM")
    try:
        status = await ending
    except subprocess.TimeoutExpired:
        scene.blame("hung", "it did not end after SIGTERM")
    else:
        log = node.log[before:]
        if status or "Traceback" in log or "stopped" not in log:
            scene.blame("wrong", f"exit status {status} after SIGTERM: {log[-500:]}")
    fleet.live.append(fleet.launch())


CLOCK_FAULTS = [
    Fault("clock", "the wall clock jumps by an hour, back, and by 30 days", clock_jumps, length=100),
]
FAULTS = [
    Fault("sigterm", "SIGTERM under load: all is answered, exit status 0", sigterm, length=120),
]
