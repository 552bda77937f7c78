"""Faults of clients: those that stall, vanish, crowd in or come back all at once."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable

from benchmarks.chaos.fleet import Broken, metrics
from benchmarks.chaos.judge import Seen, words
from benchmarks.chaos.raw import Follower, Raw, open_idle, text
from benchmarks.chaos.readers import Asker, tag
from benchmarks.chaos.scene import Fault, Scene

STALLED, LONG = 10, 8000
VANISHED, IDLE = 28, 5000
STAMPEDE, SHARED = 2000, 80


async def stalled(scene: Scene) -> None:
    """They ask for much and read nothing; cut off, their answers can be had from the beginning."""
    node = scene.fleet.live[0]
    dropped = 'grizz_client_drops_total{reason="write_stall"}'
    before = (await metrics(scene.desk, node))[dropped]
    said = [words(tag(), LONG) for _ in range(STALLED)]
    clients = [await Raw.open(node.url, narrow=True) for _ in said]
    ids = []
    for client, one in zip(clients, said, strict=True):
        await client.send(text({"type": "response.create", "input": f"[[echo:{one}]] [[rate:0]]"}))
    for client in clients:
        ids.append((await client.event())["response"]["id"])
    deadline = time.monotonic() + 10
    while (await metrics(scene.desk, node))[dropped] < before + STALLED:
        if time.monotonic() > deadline:
            scene.blame("hung", "clients that read nothing were not cut off")
            break
        await asyncio.sleep(0.1)
    for client in clients:
        client.vanish()
    scene.crowd.askers += [
        Asker(scene.http, [node], one, response_id=response_id, owner="")
        for one, response_id in zip(said, ids, strict=True)
    ]


async def vanished(scene: Scene) -> None:
    """Half of the crowd is cut off and comes back; others ask and are never seen again."""
    node = scene.fleet.live[0]
    for asker in random.sample(scene.crowd.askers, VANISHED):
        asker.cut()
    for _ in range(VANISHED):
        client = await Raw.open(node.url)
        await client.send(text({"type": "response.create", "input": f"[[echo:{words(tag(), 30)}]]"}))
        if random.random() < 0.5:
            await client.event()
        client.vanish()


async def open_sockets(scene: Scene) -> None:
    """They open a socket and say nothing."""
    scene.herd = await open_idle(scene.fleet.live[0].url, IDLE)
    scene.cleanup.callback(_close, scene)
    if refused := sum(not one.opened.result() for one in scene.herd):
        scene.blame("wrong", f"{refused} of {IDLE} sockets were refused")


async def idle(scene: Scene) -> None:
    """The crowd is answered beside them; then, as its answers are half told, all of them go at once."""
    await asyncio.sleep(1)
    if gone := sum(one.transport is None for one in scene.herd):
        scene.blame("lost", f"{gone} idle sockets were closed")
    _close(scene)


def _close(scene: Scene) -> None:
    for one in scene.herd:
        one.drop()


async def herd(scene: Scene) -> None:
    """Two thousand clients connect."""
    scene.owner = secrets.token_urlsafe(32)
    scene.herd = [Follower(scene.fleet.live[0].url, scene.owner) for _ in range(STAMPEDE)]
    scene.cleanup.callback(_close, scene)
    for n in range(0, STAMPEDE, 250):
        await _all_come(scene.herd[n : n + 250])


async def stampede(scene: Scene) -> None:
    """They follow the crowd's answers, lose their sockets in the same moment, and all come back."""
    askers = list(scene.crowd.askers)
    for n, follower in enumerate(scene.herd):
        asker = askers[n % len(askers)]
        name = f"{asker.seen.name} to follower {n}"
        seen = Seen(name, asker.seen.expected, scene.fault.patience_s, time.monotonic())
        follower.follow(asker.response_id, seen)
    await _until(lambda: all(follower.seen.events for follower in scene.herd), 20)
    if (early := sum(follower.seen.ended for follower in scene.herd)) > STAMPEDE / 2:
        raise Broken(f"{early} answers had ended before the stampede")
    _close(scene)
    await asyncio.sleep(0)
    await _all_come(scene.herd)
    await _until(lambda: all(follower.over for follower in scene.herd), 90)
    for follower in scene.herd:
        follower.drop()
        follower.seen.over_at = follower.seen.over_at or time.monotonic()
    scene.witnesses += [follower.seen for follower in scene.herd]


async def _all_come(herd: list[Follower]) -> None:
    """At once. The system lets about a thousand wait at the door; others knock again after 1, 3, 7, 15 s."""
    await asyncio.gather(*(follower.come() for follower in herd))
    await _until(lambda: all(follower.on_line or follower.over for follower in herd), 40)


async def _until(so: Callable[[], bool], within_s: float) -> None:
    """Wait for something at most so long; the judge sees what did not come."""
    deadline = time.monotonic() + within_s
    while not so() and time.monotonic() < deadline:  # noqa: ASYNC110  # a look at thousands, not an event of each
        await asyncio.sleep(0.05)


FAULTS = [
    Fault("stalled", f"{STALLED} clients read nothing: cut off, and resumed whole", stalled, length=160),
    Fault("vanished", f"{2 * VANISHED} clients vanish (RST): half resume, half are never seen again", vanished),
    Fault("idle", f"{IDLE:,} idle sockets, then closed at once", idle, open_sockets, length=120),
    Fault(
        "stampede",
        f"{STAMPEDE:,} clients drop at once and resume",
        stampede,
        herd,
        crowd=(SHARED,),
        length=16,
        rate=2,
        patience_s=30,
    ),
]
