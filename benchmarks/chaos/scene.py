"""One fault: a crowd whose answers stream, the strike, and what is wrong afterwards."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from benchmarks.chaos.fleet import Broken, Fleet
from benchmarks.chaos.judge import KINDS, Finding, Kind, Seen, judge
from benchmarks.chaos.machine import Slowness
from benchmarks.chaos.readers import Crowd

# Answers that must stream when a fault strikes.
LEAST = 50


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the table.

    Attributes:
        name: what `--only` takes.
        what: what happens, and what is right afterwards.
        strike: does it, and undoes it where that belongs to it.
        prepare: what must be there before the crowd asks.
        crowd: how many ask at each process.
        length: words of each answer.
        rate: words a second.
        patience_s: the longest silence that is no hang.
        least: answers that must stream when it strikes.
    """

    name: str
    what: str
    strike: Callable[[Scene], Awaitable[None]]
    prepare: Callable[[Scene], Awaitable[None]] | None = None
    crowd: tuple[int, ...] = (56,)
    length: int = 80
    rate: float = 40.0
    patience_s: float = 10.0
    least: int = LEAST


@dataclass(slots=True)
class Row:
    """What a fault did.

    Attributes:
        streaming: answers that were half told when it struck.
        answers: answers that were judged, those of victims too.
        concerned: those that noticed: lost their connection, began anew, or went on as another item.
        longest_s: the longest silence that any of them saw.
        allowed_s: the longest that is no hang, on a machine of our own.
        slowness: how many times slower this one was.
        took_s: from the first question to the last check.
    """

    name: str
    what: str
    streaming: int = 0
    answers: int = 0
    concerned: int = 0
    longest_s: float = 0.0
    allowed_s: float = 0.0
    slowness: float = 1.0
    took_s: float = 0.0
    findings: list[Finding] = field(default_factory=list)

    def count(self, kind: Kind) -> int:
        return sum(finding.kind == kind for finding in self.findings)

    @property
    def counts(self) -> dict[str, int]:
        return {kind: self.count(kind) for kind in KINDS}


class Scene:
    """What a strike may use.

    Attributes:
        http: what the crowd is connected with.
        desk: for everything else; it is not the crowd's.
        witnesses: what others than the crowd saw, to be judged too.
        owner: whose the whole crowd's answers are; None: each asker is somebody of its own.
        herd: raw clients that were there before the crowd.
        held: sockets that the strike leaves open at its end.
    """

    def __init__(self, fault: Fault, fleet: Fleet, http: aiohttp.ClientSession, desk: aiohttp.ClientSession) -> None:
        self.fault, self.fleet, self.http, self.desk = fault, fleet, http, desk
        self.slowness = Slowness(lambda: [node.popen.pid for node in fleet.live])
        self.crowd = Crowd(fault.patience_s, self.slowness)
        self.witnesses: list[Seen] = []
        self.owner: str | None = None
        self.herd: list[Any] = []
        self.held = 0
        self.row = Row(fault.name, fault.what, allowed_s=fault.patience_s)
        self.cleanup = contextlib.AsyncExitStack()

    def blame(self, kind: Kind, why: str) -> None:
        """Something is wrong that no client could see."""
        self.row.findings.append(Finding(kind, why))

    async def gather(self) -> None:
        """Let the crowd ask, until all of it is being answered."""
        fault, nodes = self.fault, self.fleet.live
        for longer in (1, 2, 4):
            for first, count in enumerate(fault.crowd):
                order = [*nodes[first:], *nodes[:first]]
                self.crowd.ask(self.http, order, count, longer * fault.length, fault.rate, owner=self.owner)
            await self.crowd.begun()
            self.row.streaming = self.crowd.streaming
            if self.row.streaming >= fault.least:
                return
        raise Broken(f"only {self.row.streaming} answers stream")


async def inflict(fault: Fault, fleet: Fleet) -> Row:
    """Strike while a crowd is answered, wait for all answers, and judge."""
    began = time.monotonic()
    async with contextlib.AsyncExitStack() as stack:
        http, desk = [await stack.enter_async_context(session()) for _ in range(2)]
        scene = Scene(fault, fleet, http, desk)
        stack.push_async_callback(scene.cleanup.aclose)
        stack.push_async_callback(scene.crowd.cancel)
        if fault.prepare is not None:
            await fault.prepare(scene)
        await scene.gather()
        await fault.strike(scene)
        await scene.crowd.end()
        await fleet.complete()
        row = scene.row
        seen = [*(asker.seen for asker in scene.crowd.askers), *scene.witnesses]
        row.slowness = scene.slowness.factor()
        row.findings += [finding for one in seen for finding in judge(one, row.slowness)]
        row.findings += [Finding("wrong", why) for why in await fleet.troubles(desk, scene.held)]
        row.concerned = sum(one.concerned for one in seen)
        row.answers, row.longest_s = len(seen), max(one.longest_s for one in seen)
    row.took_s = time.monotonic() - began
    return row


def session() -> aiohttp.ClientSession:
    """As many connections as are wanted, and no proxy between."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
