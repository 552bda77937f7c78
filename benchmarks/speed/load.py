"""One load on one subject: many answers at once, every piece timed, every word checked."""

from __future__ import annotations

import asyncio
import contextlib
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp

from benchmarks.processes import MIB
from benchmarks.speed.asks import Refused, prompt
from benchmarks.speed.model import word
from benchmarks.speed.subjects import Subject

# Nothing that is measured here may take longer: then it is cut, and what came until then counts.
CAP_S = 60.0
# Tokens are counted by the half second.
_BIN_S = 0.5


@dataclass(frozen=True, slots=True)
class Load:
    """Answers to ask for.

    Attributes:
        streams: at once.
        words: of each.
        rate: tokens a second of each, from the model; 0: as fast as they are read.
        starts_s: seconds over which they begin.
        cap_s: seconds after which what is left is cut off.
    """

    streams: int
    words: int
    rate: float
    starts_s: float = 1.0
    cap_s: float = CAP_S


class _Stream:
    """What one answer's reader saw."""

    __slots__ = ("asked_at", "pieces", "times", "whole")

    def __init__(self) -> None:
        self.asked_at = 0.0
        self.pieces: list[str] = []
        self.times: list[float] = []
        self.whole = False

    def heard(self, piece: str) -> None:
        if not piece:
            self.asked_at = time.perf_counter()
            return
        self.times.append(time.perf_counter())
        self.pieces.append(piece)


async def run(subject: Subject, load: Load) -> dict[str, float]:
    """Put a load on a server; returns what was measured.

    Times are milliseconds. `ttft` is from the request (`Heard`) to the first text, `gap` between two pieces of one
    answer, `late` how long after its turn a token came: the model's turn, had it begun when it was asked. Memory is of
    all processes.
    """
    streams = [_Stream() for _ in range(load.streams)]
    text = prompt(load.words, load.rate)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, read_bufsize=2**18) as http:

        async def one(n: int, stream: _Stream) -> None:
            await asyncio.sleep(load.starts_s * n / load.streams)
            stream.asked_at = time.perf_counter()
            with contextlib.suppress(Refused, aiohttp.ClientError):  # counted as cut
                await subject.ask(http, subject.url, text, stream.heard)
                stream.whole = True

        async def greet() -> None:
            async with http.get(subject.url + subject.hello) as answer:
                await answer.read()

        if subject.hello:
            await asyncio.gather(*(greet() for _ in streams))
        commands = subject.redis.commands() if subject.redis else 0
        before, began = _cpu_s(subject), time.perf_counter()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(load.cap_s):
                await asyncio.gather(*(one(n, stream) for n, stream in enumerate(streams)))
        cpu_s, took = _cpu_s(subject) - before, time.perf_counter() - began
    found = _summary(load, streams, cpu_s, took)
    found["rss_mib"] = sum(one.rss_kib() for one in subject.processes) / MIB
    if subject.redis:
        found["redis_commands_per_reply"] = (subject.redis.commands() - commands) / load.streams
    return found


def _cpu_s(subject: Subject) -> float:
    return sum(one.cpu_s() for one in subject.processes)


def _summary(load: Load, streams: Sequence[_Stream], cpu_s: float, took: float) -> dict[str, float]:
    expected = "".join(word(n) for n in range(load.words))
    firsts, gaps, late, arrivals = [], [], [], []
    wrong = 0
    for stream in streams:
        text = "".join(stream.pieces)
        wrong += text != expected if stream.whole else not expected.startswith(text)
        if not stream.times:
            continue
        firsts.append((stream.times[0] - stream.asked_at) * 1000)
        count = 0
        for n, (at, piece) in enumerate(zip(stream.times, stream.pieces, strict=True)):
            if n:
                gaps.append((at - stream.times[n - 1]) * 1000)
            tokens = piece.count(" ")
            arrivals.append((at, tokens))
            if load.rate:
                due = stream.asked_at + (count + 1) / load.rate
                late += [(at - due - k / load.rate) * 1000 for k in range(tokens)]
            count += tokens
    tokens = sum(count for _, count in arrivals)
    if not tokens:
        return {"tokens_per_s": 0.0, "cut": float(load.streams), "wrong": float(wrong)}
    found = {
        "tokens": float(tokens),
        "tokens_per_s": _rate(arrivals, took, load.starts_s),
        "tokens_per_core": tokens / cpu_s,
        "cpu_s_per_1000": cpu_s / tokens * 1000,
        "cut": float(sum(not stream.whole for stream in streams)),
        "wrong": float(wrong),
    }
    for name, values in (("ttft", firsts), ("gap", gaps), ("late", late)):
        if values:
            values.sort()
            found[f"{name}_p50_ms"] = values[len(values) // 2]
            found[f"{name}_p99_ms"] = values[min(len(values) - 1, int(len(values) * 0.99))]
    return found


def _rate(arrivals: Sequence[tuple[float, int]], took: float, starts_s: float) -> float:
    """Tokens a second: the median of the half seconds in which all streams run, or the mean where these are few."""
    began, bins = min(at for at, _ in arrivals), [0] * (int(took / _BIN_S) + 1)
    for at, count in arrivals:
        bins[min(len(bins) - 1, int((at - began) / _BIN_S))] += count
    while bins and not bins[-1]:
        bins.pop()
    full = bins[math.ceil(starts_s / _BIN_S) : -1]
    return statistics.median(full) / _BIN_S if len(full) > 2 else sum(bins) / took
