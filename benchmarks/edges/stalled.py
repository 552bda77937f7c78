"""The third part of edges.py: clients that stop reading, or are gone without a word."""

from __future__ import annotations

import asyncio
import statistics
import time

import aiohttp
import orjson

from benchmarks.edges.parts import TERMINAL, UNBATCHED, RawClient, Row, create, grizz, metric, say, scrape, unsent
from benchmarks.processes import MIB, Process
from benchmarks.speed.asks import over_websocket, prompt, whole

# Answers that fill a socket in two seconds and have ended before stall_timeout_s: then the replies are equally large.
CLIENTS, WORDS, RATE = 8, 2400, 400


def _stalled(server: Process) -> tuple[int, float, int, list[float], int]:
    """Clients stop reading.

    Returns what RSS and kept replies grew by in KiB, unsent bytes, seconds until each abort, and whole answers.
    """
    before, kept_before, began = server.rss_kib(), _kept_kib(server), time.monotonic()
    clients = [RawClient(server.port, 4096) for _ in range(CLIENTS)]
    seen = [create(client, prompt(WORDS, RATE)) for client in clients]
    blocked: dict[int, tuple[int, float]] = {}  # what waits in the kernel, and since when it has been that much
    aborted: dict[int, float] = {}
    grown, kernel, kept = 0, 0, 0.0
    while len(aborted) < CLIENTS and time.monotonic() - began < 60:
        now, queues = time.monotonic(), unsent(server.port)
        if not grown and now - began > WORDS / RATE + 0.5 and _running(server) == 0:
            if aborted:
                raise SystemExit("the machine is too busy: answers of 6 s did not end within 10 s")
            grown, kept = server.rss_kib() - before, _kept_kib(server) - kept_before
            kernel = sum(queues[client.port] for client in clients)
        for port in (client.port for client in clients):
            if port not in queues:
                aborted.setdefault(port, now - blocked.get(port, (0, began))[1])
            elif queues[port] != blocked.get(port, (0, began))[0]:
                blocked[port] = (queues[port], now)
        time.sleep(0.05)
    whole = asyncio.run(_resume(server.url, seen))
    for client in clients:
        client.close()
    return grown, kept, kernel, list(aborted.values()), whole


def _running(server: Process) -> float:
    return metric(scrape(server.url), "grizz_jobs_running")


def _kept_kib(server: Process) -> float:
    return metric(scrape(server.url), 'grizz_kept_bytes{what="replies"}') / 1024


async def _resume(url: str, seen: list[tuple[str, int, str]]) -> int:
    """Continue each answer at another connection; returns how many came out exactly right."""
    expected = "".join(f"w{n} " for n in range(WORDS))

    async def one(http: aiohttp.ClientSession, response_id: str, after: int, text: str) -> bool:
        async with http.ws_connect(f"{url}/v1/responses", max_msg_size=0) as ws:
            await ws.send_json({"type": "grizz:attach", "response_id": response_id, "starting_after": after})
            async for message in ws:
                event = orjson.loads(message.data)
                if event["type"] == "response.output_text.delta":
                    text += event["delta"]
                elif event["type"] in TERMINAL:
                    return event["type"] == "response.completed" and text == expected
        return False

    async with aiohttp.ClientSession() as http, asyncio.timeout(90):
        return sum(await asyncio.gather(*(one(http, *which) for which in seen)))


async def _read_all(server: Process) -> float:
    """The same answers, read by clients that keep up; returns the KiB of RSS for each KiB of reply."""
    before, kept_before = server.rss_kib(), await asyncio.to_thread(_kept_kib, server)
    async with aiohttp.ClientSession() as http:
        await asyncio.gather(*(whole(over_websocket, http, server.url, prompt(WORDS, RATE)) for _ in range(CLIENTS)))
        kept = await asyncio.to_thread(_kept_kib, server) - kept_before
        return (server.rss_kib() - before) / kept


def _gone(server: Process, client: RawClient, since: float) -> float:
    """Seconds after which the server gave up a client that answers no ping."""
    while client.port in unsent(server.port) and time.monotonic() - since < 60:
        time.sleep(0.1)
    return time.monotonic() - since


def stalled(upstream: str, quick: bool) -> list[Row]:
    # Each process has served a few answers before: its allocator's pools are no part of the difference.
    with grizz(upstream, **UNBATCHED) as server, grizz(upstream, **UNBATCHED) as normal:
        for process in (server, normal):
            asyncio.run(warm(process.url))
        gone, since = RawClient(server.port), time.monotonic()
        grown, kept, kernel, aborts, whole = _stalled(server)
        ratio = asyncio.run(_read_all(normal))
        gone_s = _gone(server, gone, since)
        gone.close()
    beside = (grown - kept * ratio) / CLIENTS / MIB
    mib = beside + kernel / CLIENTS / MIB / 1024
    slowest = max(aborts, default=99.0)
    say(f"RSS +{grown} KiB for {kept:.0f} KiB of replies; with reading clients {ratio:.2f} KiB for each of those")
    return [
        Row(
            "memory of a client that stops reading, beside its reply",
            f"{mib:.2f} MiB ({beside:.2f} process, {mib - beside:.2f} kernel)",
            "0.5 MiB",
            mib <= 0.5,
        ),
        Row(
            "its first blocked write to its end",
            f"{statistics.median(aborts or [99]):.1f} s, at most {slowest:.1f} s",
            "15 s",
            len(aborts) == CLIENTS and slowest <= 15,
        ),
        Row("its answer, resumed elsewhere word for word", f"{whole} of {CLIENTS}", "all", whole == CLIENTS),
        Row("a client that is gone without a word", f"noticed after {gone_s:.1f} s", "40 s", gone_s <= 40),
    ]


async def warm(url: str) -> None:
    """Have a few answers served, so that what every process needs once is not measured."""
    async with aiohttp.ClientSession() as http:
        await asyncio.gather(*(whole(over_websocket, http, url, prompt(200, 0)) for _ in range(CLIENTS)))
