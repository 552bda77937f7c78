"""Breaks real processes under load, and says which alert a real Prometheus raises, and how soon.

    make alerts                       # all, some eight minutes; the exit status is 1 when one is missing or wrong
    make alerts ARGS="--only redis"   # those whose name has that in it

Each fault gets two new nodes, a Redis, a model server and a Prometheus with the rules of deploy/prometheus, in which
a minute lasts a second: ranges, `for` and intervals are divided by sixty, thresholds are as they are shipped.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import re
import resource
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from benchmarks.chaos.raw import Raw, text
from tests.deploy.real_prometheus import FILES, Prometheus, prometheus
from tests.nodes import Node, Nodes, nodes_on
from tests.redis_servers import RedisServer

MINUTE_S = 1.0
CALM_S = 8.0  # of load before each fault, in which nothing may be raised
AFTER_S = 3.0  # and after the last alert that is expected
# More than the buffers on the way to a client hold, in few tokens.
LONG_WORDS = f"[[echo:{' '.join(['w' * 999] * 250)}]]"
FIRING = 'ALERTS{alertstate="firing"}'


def hurried(rules: str) -> str:
    """The same rules, for minutes that last a second."""

    def shrunk(match: re.Match[str]) -> str:
        seconds = int(match[2]) * {"s": 1, "m": 60, "h": 3600}[match[3]] / 60 * MINUTE_S
        return f"{match[1]}{max(1, round(seconds))}s"

    return re.sub(r"(\[|for: |interval: )(\d+)([smh])", shrunk, rules)


@dataclass(slots=True)
class Scene:
    """What a fault may use.

    Attributes:
        ask: what the clients ask; another one from the next question on.
        redis: the Redis of the nodes, None where they have a file instead.
    """

    http: aiohttp.ClientSession
    nodes: Nodes
    live: list[Node]
    redis: RedisServer | None
    ask: str
    settings: Mapping[str, object]
    tasks: asyncio.TaskGroup
    held: list[Raw] = field(default_factory=list)

    def go(self, work: Awaitable[None]) -> None:
        """Let that go on until the end."""
        self.tasks.create_task(_quietly(work))

    async def client(self, number: int) -> None:
        """Asks again and again, whatever comes of it."""
        while True:
            node = self.live[number % len(self.live)]
            with contextlib.suppress(aiohttp.ClientError, OSError):
                async with self.http.post(f"{node.url}/v1/responses", json={"input": self.ask}) as answer:
                    await answer.read()
                    if answer.status == 200:
                        continue
            await asyncio.sleep(0.2)


async def _quietly(work: Awaitable[None]) -> None:
    with contextlib.suppress(aiohttp.ClientError, OSError):
        await work


Strike = Callable[[Scene], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """One row: what happens, and exactly which alerts are right then.

    Attributes:
        ask: what the clients ask before.
        may: alerts that are no mistake either.
    """

    name: str
    what: str
    strike: Strike
    alerts: frozenset[str]
    may: frozenset[str] = frozenset()
    settings: Mapping[str, object] = field(default_factory=dict)
    clients: int = 20
    ask: str = "[[words:10]] [[rate:50]]"
    redis: bool = True
    within_s: float = 60.0


async def model_dies(scene: Scene) -> None:
    await scene.nodes.demo.stop()


async def model_hangs(scene: Scene) -> None:
    scene.ask = "[[first:300]]"


async def first_word_is_late(scene: Scene) -> None:
    scene.ask = "[[first:4]] [[words:3]]"


async def words_are_slow(scene: Scene) -> None:
    scene.ask = "[[words:12]] [[rate:3]]"


async def answers_are_long(scene: Scene) -> None:
    scene.ask = "[[words:100]] [[rate:10]]"


async def more_come(scene: Scene) -> None:
    for number in range(20):
        scene.go(scene.client(number))


async def node_is_killed(scene: Scene) -> None:
    scene.live.pop(0).kill()


async def node_dies_again_and_again(scene: Scene) -> None:
    old = scene.live.pop(0)
    port = old.url.rpartition(":")[2]
    old.kill()

    async def in_its_place() -> None:
        while True:
            node = scene.nodes.launch("--port", port, **scene.settings)
            await node.ready()
            await asyncio.sleep(2.5)
            node.kill()

    scene.go(in_its_place())


async def node_drains_for_long(scene: Scene) -> None:
    scene.live.pop(0).signal(signal.SIGTERM)


async def redis_dies(scene: Scene) -> None:
    assert scene.redis is not None
    scene.redis.kill()


async def nothing(scene: Scene) -> None:
    """What is wrong was set before."""


async def clients_read_nothing(scene: Scene) -> None:
    async def one(number: int) -> None:
        await asyncio.sleep(number / 2)
        while True:
            raw = await Raw.open(scene.live[number % len(scene.live)].url, narrow=True)
            scene.held.append(raw)
            await raw.send(text({"type": "response.create", "input": LONG_WORDS}))
            await asyncio.sleep(4)

    for number in range(8):
        scene.go(one(number))


async def logs_are_unknown(scene: Scene) -> None:
    async def one(number: int) -> None:
        url = f"{scene.live[number % len(scene.live)].url}/v1/responses"
        async with scene.http.ws_connect(url, protocols=("responses", "grizz")) as socket:
            while True:
                await socket.send_json({"type": "grizz:attach", "response_id": "resp_" + "0" * 40})
                await socket.receive()
                await asyncio.sleep(0.2)

    for number in range(4):
        scene.go(one(number))


async def file_is_full(scene: Scene) -> None:
    for node in scene.live:
        _, hard = resource.prlimit(node.popen.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(node.popen.pid, resource.RLIMIT_FSIZE, (4096, hard))


async def loop_stands_still(scene: Scene) -> None:
    async def stutter(node: Node) -> None:
        while True:
            node.signal(signal.SIGSTOP)
            await asyncio.sleep(0.3)
            node.signal(signal.SIGCONT)
            await asyncio.sleep(0.3)

    scene.go(stutter(scene.live[0]))


def _of(*names: str) -> frozenset[str]:
    return frozenset(f"Grizz{name}" for name in names)


FAULTS = (
    Fault("model", "the model server is gone", model_dies, _of("BreakerOpen", "AnswersFail")),
    Fault(
        *("hangs", "the model server says nothing any more", model_hangs, _of("BreakerOpen", "AnswersFail")),
        settings={"upstream__first_token_timeout_s": 2, "upstream__max_retries": 0},
    ),
    Fault(
        *("slow-first", "the first word takes 4 s", first_word_is_late, _of("SlowFirstToken")),
        settings={"workers__concurrency": 100},
        clients=80,
    ),
    Fault(
        *("slow-words", "three words a second", words_are_slow, _of("SlowTokens")),
        settings={"workers__concurrency": 120},
        clients=200,
        ask="[[words:10]] [[rate:5]]",
    ),
    Fault(
        *("queue", "answers of 10 s, one slot a node", answers_are_long, _of("QueueWaits")),
        settings={"workers__concurrency": 1},
        clients=10,
    ),
    Fault(
        *("full", "more work than the queue takes", more_come, _of("RefusesWork")),
        settings={"workers__concurrency": 1, "queue__max_jobs": 4},
        clients=2,
    ),
    Fault("killed", "kill -9 of a node", node_is_killed, _of("Down")),
    Fault("restarts", "a node dies 2.5 s after each start", node_dies_again_and_again, _of("Restarts"), _of("Down")),
    Fault(
        *("drain", "SIGTERM, and a long drain", node_drains_for_long, _of("NotReady")),
        settings={"server__drain_delay_s": 40},
    ),
    Fault("redis", "the Redis is gone", redis_dies, _of("RedisDown")),
    Fault(
        *("budget", "ten times the commands that a month may have", nothing, _of("RedisBudget")),
        settings={"redis__monthly_command_budget": 100_000},
        within_s=120,
    ),
    Fault(
        *("readers", "clients that read nothing", clients_read_nothing, _of("DropsClients")),
        settings={"server__stall_timeout_s": 1},
        clients=4,
        ask="[[words:40]] [[rate:10]]",
    ),
    Fault("resumes", "clients come back for what nobody has", logs_are_unknown, _of("ResumesFail")),
    Fault(
        *("expired", "jobs wait longer than they may", answers_are_long, _of("DeadLetters", "AnswersFail")),
        settings={"workers__concurrency": 1, "queue__max_wait_s": 2},
        clients=10,
    ),
    Fault("file", "the history's file takes nothing more", file_is_full, _of("HistoryFails"), redis=False),
    Fault("loop", "a process stands still for 0.3 s, again and again", loop_stands_still, _of("EventLoopLate")),
)


@dataclass(slots=True)
class Row:
    """What a fault raised: alert → seconds from the strike, which stand for minutes."""

    fault: Fault
    before: set[str]
    raised: dict[str, float]

    @property
    def wrong(self) -> list[str]:
        """What should not be so, in words."""
        expected, may = self.fault.alerts, self.fault.may
        missing, more = expected - set(self.raised), set(self.raised) - expected - may
        found = [f"raised before: {', '.join(sorted(self.before))}"] if self.before else []
        found += [f"missing: {', '.join(sorted(missing))}"] if missing else []
        return found + ([f"not expected: {', '.join(sorted(more))}"] if more else [])


async def firing(ask: Prometheus) -> set[str]:
    return {found["metric"]["alertname"] for found in await ask.now(FIRING)}


@contextlib.asynccontextmanager
async def fleet(fault: Fault, folder: Path) -> AsyncIterator[tuple[Nodes, list[Node], RedisServer | None]]:
    """Two nodes as the fault wants them."""
    with RedisServer() as redis:
        async with nodes_on(redis.url, folder) as nodes:
            if fault.redis:
                yield nodes, [await nodes.start(**fault.settings) for _ in range(2)], redis
                return
            paths = [folder / f"history-{number}.db" for number in range(2)]
            alone = {"redis_url": " ", "history__store": "sqlite"}
            live = [await nodes.start(**alone, history__path=path, **fault.settings) for path in paths]
            yield nodes, live, None


async def play(fault: Fault, folder: Path, http: aiohttp.ClientSession) -> Row:
    """Load, calm, strike, and what is raised."""
    rules = folder / "rules.yml"
    rules.write_text(hurried((FILES / "grizz.rules.yml").read_text()))
    row = Row(fault, set(), {})
    async with fleet(fault, folder) as (nodes, live, redis):
        targets = [node.url for node in live]
        async with prometheus(*targets, folder=folder, rules=rules, within_s=None) as ask:
            try:
                async with asyncio.TaskGroup() as tasks:
                    scene = Scene(http, nodes, live, redis, fault.ask, fault.settings, tasks)
                    await ask('count(up{job="grizz"} == 1) == 2')
                    for number in range(fault.clients):
                        scene.go(scene.client(number))
                    calm = time.monotonic() + (0 if fault.strike is nothing else CALM_S)
                    while time.monotonic() < calm:
                        row.before |= await firing(ask)
                        await asyncio.sleep(0.5)
                    await watch(row, scene, ask)
                    raise _Over
            except* _Over:
                pass
    return row


class _Over(Exception):
    """Ends the tasks of a scene."""


async def watch(row: Row, scene: Scene, ask: Prometheus) -> None:
    """Strike, and write down what is raised, until all that is expected was, and a little longer."""
    struck = time.monotonic()
    await row.fault.strike(scene)
    until = struck + row.fault.within_s
    complete = False
    while time.monotonic() < until:
        for name in await firing(ask):
            row.raised.setdefault(name, time.monotonic() - struck)
        if not complete and row.fault.alerts <= set(row.raised):
            complete, until = True, time.monotonic() + AFTER_S
        await asyncio.sleep(0.25)


async def run(only: str) -> int:
    """Every fault whose name has `only` in it; the exit status."""
    rows = []
    print("| fault, under load | alerts, after so many minutes | |\n|---|---|---|", flush=True)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        for fault in (fault for fault in FAULTS if only in fault.name):
            with tempfile.TemporaryDirectory() as folder:
                row = await play(fault, Path(folder), http)
            rows.append(row)
            shown = ", ".join(f"{name} {after:.0f}" for name, after in sorted(row.raised.items(), key=lambda it: it[1]))
            print(f"| {fault.what} | {shown} | {'; '.join(row.wrong) or 'right'} |", flush=True)
    wrong = sum(bool(row.wrong) for row in rows)
    print(f"\n{len(rows)} faults, {wrong} with other alerts than expected")
    return int(wrong > 0 or not rows)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Break it under load, and see which alert a real Prometheus raises.")
    parser.add_argument("--only", default="", metavar="NAME", help="only faults with that in their name")
    only = parser.parse_args().only
    logging.disable()  # what breaks here is meant to
    return asyncio.run(run(only))


if __name__ == "__main__":
    sys.exit(main())
