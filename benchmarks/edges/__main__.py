"""The promises Grizz makes about its limits, measured from outside on real processes: `make edges`.

Prints a Markdown table and exits 1 when a promise is broken. Grizz has one core to itself; the demo upstream and the
clients share the other. Everything runs on loopback, bounded in count and time: about 5 minutes, 80 s with --quick.
Needs Linux (/proc).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import aiohttp

from benchmarks.edges.load import flat, lag, probe
from benchmarks.edges.parts import UNBATCHED, RawClient, Row, create, demo, grizz, say, unsent
from benchmarks.edges.stalled import stalled
from benchmarks.processes import Process, allow_files, pin
from benchmarks.speed.asks import prompt

# 1. Idle sockets


def idle(upstream: str, quick: bool) -> list[Row]:
    count = 5000
    with grizz(upstream, GRIZZ_LIMITS_CONNECTIONS="10000") as server:
        for warm in [RawClient(server.port) for _ in range(20)]:
            warm.close()
        time.sleep(1)
        before = server.rss_kib()
        clients = [RawClient(server.port) for _ in range(count)]
        time.sleep(2)
        each = (server.rss_kib() - before) / count
        for client in clients:
            client.close()
    return [Row(f"memory of an idle WebSocket, {count:,} open", f"{each:.1f} KiB", "20 KiB", each <= 20)]


# 2. A stop with stalled clients


async def _healthy(http: aiohttp.ClientSession, url: str, reading: asyncio.Event) -> int | None:
    """Read an answer until the server closes; returns the close code."""
    async with http.ws_connect(f"{url}/v1/responses", max_msg_size=0) as ws:
        await ws.send_json({"type": "response.create", "input": prompt(100_000, 20), "store": False})
        async for _ in ws:
            reading.set()
        return ws.close_code


def _settle(server: Process, ports: list[int], within_s: float = 60.0) -> None:
    """Wait until the send queues of these clients stand still and are not empty."""
    give_up, last, since = time.monotonic() + within_s, {}, time.monotonic()
    while time.monotonic() < give_up:
        queues = unsent(server.port)
        now = {port: queues.get(port, 0) for port in ports}
        if now != last:
            last, since = now, time.monotonic()
        elif all(now.values()) and time.monotonic() - since > 1.0:
            return
        time.sleep(0.05)
    raise SystemExit("the clients would not stall")


async def _stop(server: Process, drain_s: float) -> Row:
    stalled = [RawClient(server.port, 4096) for _ in range(5)]
    for client in stalled:
        create(client, prompt(100_000, 500))
    async with aiohttp.ClientSession() as http:
        events = [asyncio.Event() for _ in range(50)]
        readers = [asyncio.create_task(_healthy(http, server.url, event)) for event in events]
        await asyncio.gather(*(event.wait() for event in events))
        await asyncio.to_thread(_settle, server, [client.port for client in stalled])
        began = time.monotonic()
        server.terminate()
        took = await asyncio.to_thread(server.wait, drain_s + 30) - began
        done, pending = await asyncio.wait(readers, timeout=2)
        for reader in pending:
            reader.cancel()
        polite = sum(reader.exception() is None and reader.result() == 1012 for reader in done)
    for client in stalled:
        client.close()
    return Row(
        f"SIGTERM with 55 clients in mid-answer, 5 of them stalled, drain_timeout_s = {drain_s:g}",
        f"exit after {took:.1f} s, {polite} of 50 closed with 1012",
        f"{drain_s + 3:g} s, 50 of 50",
        took <= drain_s + 3 and polite == 50,
    )


def stop(upstream: str, quick: bool) -> list[Row]:
    drain_s = 5.0
    # Nobody is cut before the stop, however long it takes until the last one stalls.
    settings = {"GRIZZ_SERVER_DRAIN_TIMEOUT_S": str(drain_s), "GRIZZ_SERVER_STALL_TIMEOUT_S": "300"}
    with grizz(upstream, **settings, **UNBATCHED) as server:
        return [asyncio.run(_stop(server, drain_s))]


PARTS: dict[str, Callable[[str, bool], list[Row]]] = {
    "idle": idle,
    "stop": stop,
    "stalled": stalled,
    "lag": lag,
    "flat": flat,
}


def table(rows: list[Row]) -> str:
    lines = ["| promise | measured | allowed | kept |", "|---|---|---|---|"]
    lines += [f"| {row.promise} | {row.measured} | {row.allowed} | {'yes' if row.kept else '**no**'} |" for row in rows]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="measure only these")
    parser.add_argument("--quick", action="store_true", help="shorter loads, for a first look")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    parser.add_argument("--probe", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        probe(options.probe[0], float(options.probe[1]))
        return 0
    allow_files(5500)
    pin(0)
    rows: list[Row] = []
    with demo() as upstream:
        for name in options.only:
            print(f"{name} …", file=sys.stderr, flush=True)
            began = time.monotonic()
            rows += PARTS[name](upstream.url, options.quick)
            say(f"took {time.monotonic() - began:.0f} s")
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return 0 if all(row.kept for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
