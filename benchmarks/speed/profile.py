"""Where an answer's CPU goes, by function: `python -m benchmarks.speed.profile [WORDS [RATE]]`.

Two runs under cProfile, one longer than the other, and the difference by answer, so that the start does not count.
cProfile takes a part of its own for each call, three times what a short function needs: read the order and the counts
of calls, which no busy machine changes, and not the microseconds. What takes the loop for how long, threads and waiting
for the interpreter included, a sampling profiler tells: `py-spy record --pid PID --rate 500 --format raw`.
"""

from __future__ import annotations

import asyncio
import pstats
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.processes import Process, pin
from benchmarks.speed.asks import over_websocket
from benchmarks.speed.load import Load, run
from benchmarks.speed.subjects import Stage, Subject

FEW, MANY, SHOWN = 100, 500, 40
Stats = dict[tuple[str, int, str], tuple[int, int, float, float, Any]]


def profiled(stage: Stage, answers: int, words: int, rate: float, file: Path) -> Stats:
    """What a Grizz did for so many answers, 100 of them a second."""
    command = ["-m", "cProfile", "-o", str(file), "grizz.py", "--port", "0", "--log-format", "text"]
    process: Process = stage.start(command, 1, **stage.settings)
    load = Load(answers, words, rate, starts_s=answers / 100)
    asyncio.run(run(Subject("", over_websocket, process.url, [process]), load))
    process.terminate()
    process.wait(30)
    return pstats.Stats(str(file)).stats  # type: ignore[attr-defined, no-any-return]


def place(function: tuple[str, int, str]) -> str:
    """A function's place and name, short."""
    file, line, name = function
    return name if file == "~" else f"{'/'.join(Path(file).parts[-2:])}:{line} {name}"


def main() -> None:
    words = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    rate = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
    with Stage() as stage, tempfile.TemporaryDirectory() as folder:
        pin(0)
        few, many = (profiled(stage, count, words, rate, Path(folder, f"{count}")) for count in (FEW, MANY))
    none = (0, 0, 0.0, 0.0, None)
    rows = [
        ((row[2] - few.get(name, none)[2]), (row[1] - few.get(name, none)[1]), row[3] - few.get(name, none)[3], name)
        for name, row in many.items()
    ]
    by = MANY - FEW
    print(f"{sum(row[1] for row in rows) / by:,.0f} calls an answer of {words} words\n")
    print("| µs | calls | µs with what it calls | function |\n|--:|--:|--:|---|")
    for own, calls, whole, name in sorted(rows, reverse=True)[:SHOWN]:
        print(f"| {own / by * 1e6:.0f} | {calls / by:.1f} | {whole / by * 1e6:.0f} | `{place(name)}` |")


if __name__ == "__main__":
    main()
