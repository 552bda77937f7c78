"""Grizz beside the model it stands in front of and the least that Python can do, interleaved: `make bench`.

Prints Markdown tables, the second one of ratios to the floor (floor.py), round by round. Exits 1 when a word was lost
or doubled. Everything runs on loopback, bounded in count and time. Read ratios, not single numbers: shared machines
differ by half between two runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson

ROOT = Path(__file__).parent.parent
TICKS = os.sysconf("SC_CLK_TCK")
LIMIT_S = 60.0
# Before anything is pinned: what this process starts would else see one core alone, and share it.
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def pin(core: int) -> None:
    """Keep the server under test on one core and everything else on the other, where the system can."""
    if len(CORES) > 1:
        os.sched_setaffinity(0, {CORES[core]})


def start(arguments: list[str], core: int, **environ: str) -> tuple[subprocess.Popen[str], str]:
    """Start a server and wait for the address it prints; returns both."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "GRIZZ_HISTORY_STORE": "memory", **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: pin(core),
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "http://" in line:
            return process, "http://" + line.split("http://")[1].split()[0].rstrip("/")
    raise SystemExit(f"{arguments} did not start")


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_kib(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1])


def prompt(words: int, rate: float) -> str:
    return f"[[words:{words}]] [[rate:{rate:g}]]"


async def direct(http: aiohttp.ClientSession, url: str, text: str) -> tuple[str, float]:
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": text}]}
    began, first, parts = time.perf_counter(), 0.0, []
    async with http.post(f"{url}/chat/completions", json=body) as answer:
        async for line in answer.content:
            if not line.startswith(b"data: {"):
                continue
            choices = orjson.loads(line[6:])["choices"]
            if choices and (content := choices[0]["delta"].get("content")):
                first = first or time.perf_counter() - began
                parts.append(content)
    return "".join(parts), first


async def over_sse(http: aiohttp.ClientSession, url: str, text: str) -> tuple[str, float]:
    began, first, parts = time.perf_counter(), 0.0, []
    async with http.post(f"{url}/v1/responses", json={"input": text, "stream": True, "store": False}) as answer:
        async for line in answer.content:
            if line.startswith(b'data: {"type":"response.output_text.delta"'):
                first = first or time.perf_counter() - began
                parts.append(orjson.loads(line[6:])["delta"])
    return "".join(parts), first


async def over_websocket(http: aiohttp.ClientSession, url: str, text: str) -> tuple[str, float]:
    async with http.ws_connect(f"{url}/v1/responses", max_msg_size=0) as ws:
        began, first, parts = time.perf_counter(), 0.0, []
        await ws.send_json({"type": "response.create", "input": text, "store": False})
        async for message in ws:
            event = orjson.loads(message.data)
            if event["type"] == "response.output_text.delta":
                first = first or time.perf_counter() - began
                parts.append(event["delta"])
            elif event["type"] in ("response.completed", "response.failed", "response.incomplete", "error"):
                break
    return "".join(parts), first


Ask = Callable[[aiohttp.ClientSession, str, str], Awaitable[tuple[str, float]]]


async def load(ask: Ask, url: str, pid: int, streams: int, words: int, rate: float) -> dict[str, float]:
    """Run `streams` answers at once, staggered over half a second, and check every word."""
    expected = "".join(f"w{n} " for n in range(words))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), read_bufsize=2**18) as http:

        async def one(n: int) -> tuple[bool, float]:
            await asyncio.sleep(0.5 * n / streams)
            text, first = await ask(http, url, prompt(words, rate))
            return text == expected, first

        before, began = cpu_s(pid), time.perf_counter()
        async with asyncio.timeout(LIMIT_S):
            answers = await asyncio.gather(*(one(n) for n in range(streams)))
        took = time.perf_counter() - began
    firsts = sorted(first * 1000 for _, first in answers)
    return {
        "tokens_per_s": streams * words / took,
        "ttft_p50_ms": statistics.median(firsts),
        "ttft_p99_ms": firsts[int(len(firsts) * 0.99) - 1],
        "cpu_s_per_1000": (cpu_s(pid) - before) / (streams * words) * 1000,
        "wrong": sum(not right for right, _ in answers),
    }


async def idle_sockets(url: str, pid: int, count: int) -> float:
    """KiB of the server's memory for each idle WebSocket."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        before = rss_kib(pid)
        sockets = [await http.ws_connect(f"{url}/v1/responses") for _ in range(count)]
        await asyncio.sleep(1)
        grown = rss_kib(pid) - before
        for ws in sockets:
            await ws.close()
    return grown / count


def progress(done: int, of: int, what: str) -> None:
    bar = "#" * (30 * done // of)
    print(f"\r[{bar:30}] {done}/{of} {what:40}", end="" if done < of else "\n", file=sys.stderr, flush=True)


# Load → streams at once, words of each answer, words a second of each (0: as fast as they come).
LOADS = {
    "paced": (50, 150, 50.0),
    "steady": (200, 200, 50.0),
    "saturation": (200, 500, 200.0),
    "burst": (100, 1500, 0.0),
}
QUICK = {"paced": (50, 50, 50.0), "steady": (200, 50, 50.0), "saturation": (200, 100, 200.0), "burst": (50, 300, 0.0)}
FLOOR = "floor, openai"


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured: how it is asked, where, and the process whose CPU counts."""

    name: str
    ask: Ask
    pid: int
    url: str


async def measure(options: argparse.Namespace, subjects: list[Subject]) -> dict[str, Any]:
    loads = QUICK if options.quick else LOADS
    grizz = next(subject for subject in subjects if subject.name.startswith("Grizz"))
    # Before any load: a process that has freed memory would hand that out, and the sockets would look too cheap.
    idle_kib = await idle_sockets(grizz.url, grizz.pid, 1000)
    rows: dict[str, list[dict[str, float]]] = {}
    steps = [(name, subject) for _ in range(options.runs) for name in loads for subject in subjects]
    for done, (name, one) in enumerate(steps):
        progress(done, len(steps), f"{name}, {one.name}")
        rows.setdefault(f"{name} | {one.name}", []).append(await load(one.ask, one.url, one.pid, *loads[name]))
    progress(len(steps), len(steps), "done")
    return {"loads": list(loads), "rows": rows, "idle_kib": idle_kib}


def spread(values: list[float], digits: int) -> str:
    """The median and, in brackets, the range."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} [{low:,.{digits}f} to {high:,.{digits}f}]"


def table(result: dict[str, Any]) -> str:
    columns = {"tokens_per_s": 0, "ttft_p50_ms": 1, "ttft_p99_ms": 1, "cpu_s_per_1000": 4}
    lines = [
        "| load | through | tokens/s | TTFT p50 ms | TTFT p99 ms | server CPU s per 1,000 tokens |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in result["rows"].items():
        cells = [spread([run[column] for run in runs], digits) for column, digits in columns.items()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"An idle WebSocket costs {result['idle_kib']:.1f} KiB of the server's memory."])


def ratios(result: dict[str, Any]) -> str:
    """Tokens for a second of the server's core, as a part of the floor's in the same round; and TTFT beyond direct."""
    lines = [
        "| load | through | tokens/s per core | of the floor | TTFT p50 over direct, ms | p99 |",
        "|---|---|---|---|---|---|",
    ]
    rows = result["rows"]
    for name in result["loads"]:
        floor, direct = rows[f"{name} | {FLOOR}"], rows[f"{name} | direct"]
        for key, runs in rows.items():
            of, _, who = key.partition(" | ")
            if of != name or who == "direct":
                continue
            per_core = [1000 / run["cpu_s_per_1000"] for run in runs]
            part = [low["cpu_s_per_1000"] / run["cpu_s_per_1000"] for low, run in zip(floor, runs, strict=True)]
            late = [
                [run[column] - base[column] for run, base in zip(runs, direct, strict=True)]
                for column in ("ttft_p50_ms", "ttft_p99_ms")
            ]
            cells = [spread(per_core, 0), spread(part, 2), *(spread(one, 1) for one in late)]
            lines.append(f"| {name} | {who} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="how often each load is run (default: 3)")
    parser.add_argument("--quick", action="store_true", help="small loads, for a first look")
    parser.add_argument("--json", type=Path, help="write every run to this file")
    options = parser.parse_args()
    started: list[subprocess.Popen[str]] = []

    def launch(arguments: list[str], core: int, **environ: str) -> tuple[int, str]:
        process, url = start(arguments, core, **environ)
        started.append(process)
        return process.pid, url

    try:
        demo = launch(["-m", "grizz.upstream.demo", "--tokens-per-second", "0"], 0)
        settings = {"OPENAI_BASE_URL": demo[1], "OPENAI_API_KEY": "x", "GRIZZ_WORKERS_CONCURRENCY": "1000"}
        grizz = launch(["grizz.py", "--port", "0", "--log-format", "text"], 1, **settings)
        subjects = [
            Subject("direct", direct, *demo),
            Subject(FLOOR, over_websocket, *launch(["benchmarks/floor.py", "openai"], 1, **settings)),
            Subject("floor, aiohttp", over_websocket, *launch(["benchmarks/floor.py", "aiohttp"], 1, **settings)),
            Subject("Grizz, WebSocket", over_websocket, *grizz),
            Subject("Grizz, SSE", over_sse, *grizz),
        ]
        pin(0)
        result = asyncio.run(measure(options, subjects))
    finally:
        for process in started:
            process.terminate()
            process.communicate()
    print(table(result))
    print(f"\n{ratios(result)}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    wrong = sum(run["wrong"] for runs in result["rows"].values() for run in runs)
    print(f"\nAnswers with a lost or doubled word: {wrong:.0f}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
