"""The fault suite. Prints a Markdown table; exits 1 when anything was lost, doubled, hung or wrong."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.chaos import faults_clients, faults_upstream
from benchmarks.chaos.fleet import Broken, fleet_of
from benchmarks.chaos.judge import KINDS
from benchmarks.chaos.scene import Fault, Row, inflict


def table(rows: list[Row]) -> str:
    head = ["fault", "answers streaming", *KINDS, "longest silence s"]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1)]
    for row in rows:
        cells = [row.what, row.streaming, *row.counts.values(), f"{row.longest_s:.1f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


async def alone(folder: Path, faults: list[Fault]) -> list[Row]:
    rows = []
    async with fleet_of(folder, 1, workers__concurrency=200, server__stall_timeout_s=2) as fleet:
        for fault in faults:
            row = await inflict(fault, fleet)
            say(f"{row.name}: {row.counts} {row.longest_s:.1f} s, took {row.took_s:.1f} s")
            for finding in row.findings[:5]:
                say(f"  {finding.kind}: {finding.why}")
            rows.append(row)
    return rows


async def run(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        rows = await alone(
            Path(name),
            [
                f
                for f in [*faults_upstream.FAULTS, *faults_clients.FAULTS]
                if not options.only or f.name in options.only
            ],
        )
    print(table(rows))
    return 1 if any(row.findings for row in rows) else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--only", action="append")
    options = parser.parse_args()
    try:
        return asyncio.run(run(options))
    except Broken as error:
        say(f"BROKEN: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
