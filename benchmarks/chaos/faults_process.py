"""Faults of the process itself: its clock jumps, and it is told to stop while it answers."""

from __future__ import annotations

import asyncio
import struct
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.chaos.readers import Asker
from benchmarks.chaos.scene import Fault, Scene

HOUR_S = 3600.0
JUMPS = (HOUR_S, -HOUR_S, 30 * 24 * HOUR_S, 0.0)
# Ids name the hour they were made in, and other processes take one that is further ahead for an invention.
FLEET_JUMPS = (HOUR_S, -HOUR_S, 0.0)


def clock_launcher(folder: Path, name: str) -> tuple[str, ...]:
    """What to start a process with whose clock the fault of that name can move."""
    _set(folder / name, 0.0)
    return ("-m", "benchmarks.chaos.patched", "clock", str(folder / name), "--")


def _set(file: Path, shift_s: float) -> None:
    with file.open("wb" if not file.exists() else "r+b") as out:
        out.write(struct.pack("<d", shift_s))


def _clock_jumps(*jumps: float) -> Callable[[Scene], Awaitable[None]]:
    """With new questions and lost connections after each jump."""

    async def strike(scene: Scene) -> None:
        nodes = scene.fleet.live[::-1]  # the process whose clock jumps comes last
        for shift_s in jumps:
            _set(scene.fleet.folder / scene.fault.name, shift_s)
            fresh = scene.crowd.ask(scene.http, nodes, 5, 20, scene.fault.rate)
            await asyncio.sleep(0.4)
            for asker in fresh[:2]:
                asker.cut()

    return strike


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


ALONE, ONE = (
    "the wall clock jumps by an hour, back, and by 30 days",
    "the wall clock of one process jumps by an hour and back",
)
CLOCK_FAULTS = [Fault("clock", ALONE, _clock_jumps(*JUMPS), length=100)]
FLEET_FAULTS = [Fault("fleet-clock", ONE, _clock_jumps(*FLEET_JUMPS), crowd=(10, 10, 40), length=100)]
FAULTS = [Fault("sigterm", "SIGTERM under load: all is answered, exit status 0", sigterm, length=120)]
