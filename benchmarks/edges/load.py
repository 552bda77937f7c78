"""The fourth and fifth part of edges.py: the event loop under load, and memory over many responses."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import statistics
import subprocess
import sys
import time

import aiohttp

from benchmarks.edges.parts import Row, grizz, metric, say, scrape
from benchmarks.edges.stalled import warm
from benchmarks.processes import MIB, Process
from benchmarks.speed.asks import over_websocket, prompt, whole


def probe(url: str, seconds: float) -> None:
    """Print the round trips of /livez in ms, as JSON; a process of its own, since the load would delay it."""
    host, port = url.removeprefix("http://").split(":")
    connection, trips, end = http.client.HTTPConnection(host, int(port)), [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        connection.request("GET", "/livez")
        connection.getresponse().read()
        trips.append((time.perf_counter() - began) * 1000)
        time.sleep(0.02)
    print(json.dumps(sorted(trips)))


async def _load(url: str, seconds: float) -> tuple[float, int, list[float]]:
    """10,000 tokens/s and a scrape twice a second; returns tokens/s, wrong answers and the round trips in ms."""
    streams, rate = 200, 50
    words = round(rate * seconds)
    expected = "".join(f"w{n} " for n in range(words))
    prober = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.edges", "--probe", url, str(seconds), stdout=subprocess.PIPE
    )
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:

        async def one(n: int) -> str:
            await asyncio.sleep(n / streams)
            return await whole(over_websocket, http, url, prompt(words, rate))

        began = time.monotonic()
        answers = asyncio.gather(*(one(n) for n in range(streams)))
        while not answers.done():
            await asyncio.to_thread(scrape, url)
            await asyncio.sleep(0.5)
        took = time.monotonic() - began
    out, _ = await prober.communicate()
    return streams * words / (took - 1), sum(text != expected for text in answers.result()), json.loads(out)


def lag(upstream: str, quick: bool) -> list[Row]:
    seconds = 8.0 if quick else 30.0
    name = "grizz_event_loop_lag_seconds"
    with grizz(upstream) as server:
        asyncio.run(warm(server.url))
        before, began, waited = scrape(server.url), time.monotonic(), server.waited_s()
        rate, wrong, trips = asyncio.run(_load(server.url, seconds))
        after = scrape(server.url)
        waited = (server.waited_s() - waited) / (time.monotonic() - began) * 100
    counts = {
        edge: metric(after, f'{name}_bucket{{le="{edge}"}}') - metric(before, f'{name}_bucket{{le="{edge}"}}')
        for edge in re.findall(rf'{name}_bucket{{le="([^"]+)"}}', after)
    }
    every = counts["+Inf"]
    p99 = next(edge for edge, count in counts.items() if count >= 0.99 * every)
    late = every - counts["0.02"]
    say(f"{rate:,.0f} tokens/s, {every:.0f} ticks, {wrong} wrong answers, {len(trips)} probes, counts {counts}")
    p50, tail = statistics.median(trips), trips[int(len(trips) * 0.99) - 1]
    return [
        Row(
            "event-loop lag, p99, at 10,000 tokens/s and 2 scrapes/s",
            f"≤ {float(p99) * 1000:g} ms ({late:.0f} of {every:.0f} ticks over 20 ms); /livez p50 {p50:.1f}, "
            f"p99 {tail:.1f} ms beside the load; {rate:,.0f} tokens/s, {wrong} wrong answers; "
            f"Grizz waited {waited:.0f} % of the time for its core",
            "20 ms",
            counts["0.02"] >= 0.99 * every and not wrong,
        )
    ]


# 5. Flat memory


async def _short(http: aiohttp.ClientSession, url: str, count: int, done: list[int]) -> None:
    """Answers one after the other on one socket."""
    async with http.ws_connect(f"{url}/v1/responses", max_msg_size=0) as ws:
        for _ in range(count):
            await ws.send_json({"type": "response.create", "input": prompt(20, 0)})
            async for message in ws:
                if b'"type":"response.completed"' in message.data.encode()[:40]:
                    break
                if message.data.startswith(('{"type":"error"', '{"type":"response.failed"')):
                    raise SystemExit(f"an answer failed: {message.data[:300]}")
            done[0] += 1


async def _flood(server: Process, total: int) -> list[tuple[int, int]]:
    """Returns (responses so far, RSS in KiB) over time."""
    sockets, done, samples = 25, [0], []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        work = asyncio.gather(*(_short(http, server.url, total // sockets, done) for _ in range(sockets)))
        while not work.done():
            samples.append((done[0], server.rss_kib()))
            if len(samples) % 20 == 0:
                say(f"{done[0]:,} of {total:,} responses, {samples[-1][1] / MIB:.1f} MiB")
            await asyncio.wait({work}, timeout=0.5)
        await work
    return samples


def flat(upstream: str, quick: bool) -> list[Row]:
    total, bound = (4000, 2) if quick else (50_000, 16)
    bounds = {"GRIZZ_REPLIES_MAX_BYTES": f"{bound}MiB", "GRIZZ_HISTORY_MAX_BYTES": f"{bound}MiB"}
    bounds["GRIZZ_REPLIES_MAX_REPLY_BYTES"] = "1MiB"
    with grizz(upstream, **bounds) as server:
        samples = asyncio.run(_flood(server, total))
        page = scrape(server.url)
    kept = {what: metric(page, f'grizz_kept_bytes{{what="{what}"}}') / 2**20 for what in ("replies", "history")}
    second = [rss / MIB for count, rss in samples if count >= total / 2]
    middle = statistics.median(second)
    off = max(abs(rss - middle) for rss in second) / middle * 100
    reached = all(0.9 * bound <= held <= bound for held in kept.values())
    return [
        Row(
            f"memory over {total:,} responses with {bound} MiB bounds, second half",
            f"±{off:.1f} % around {middle:.0f} MiB ({kept['replies']:.1f} MiB of replies, "
            f"{kept['history']:.1f} of history kept)",
            "±5 %",
            off <= 5 and reached,
        )
    ]
