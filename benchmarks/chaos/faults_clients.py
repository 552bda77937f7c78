"""Faults of clients: those that stall, vanish, crowd in or come back all at once."""

from __future__ import annotations

import asyncio
import random

from benchmarks.chaos.fleet import metrics
from benchmarks.chaos.judge import words
from benchmarks.chaos.raw import Raw, open_idle, text
from benchmarks.chaos.readers import Asker, tag
from benchmarks.chaos.scene import Fault, Scene, session

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
    try:
        async with asyncio.timeout(10):
            while (await metrics(scene.desk, node))[dropped] < before + STALLED:
                await asyncio.sleep(0.1)
    except TimeoutError:
        scene.blame("hung", "a client that reads nothing was not cut off")
    for client in clients:
        client.vanish()
    scene.crowd.askers += [
        Asker(scene.http, [node], one, response_id=response_id, owner="") for one, response_id in zip(said, ids, strict=True)
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


async def idle(scene: Scene) -> None:
    """They open a socket and say nothing."""
    node = scene.fleet.live[0]
    sockets = await open_idle(node.url, IDLE)
    scene.cleanup.callback(lambda: [one.transport.abort() for one in sockets if one.transport])
    if refused := sum(not one.opened.result() for one in sockets):
        scene.blame("wrong", f"{refused} of {IDLE} sockets were refused")
    await scene.crowd.end()
    if gone := sum(one.transport is None for one in sockets):
        scene.blame("lost", f"{gone} idle sockets were closed")
    for one in sockets:
        if one.transport:
            one.transport.abort()


async def stampede(scene: Scene) -> None:
    """Two thousand clients that follow the crowd's answers lose their sockets in the same moment."""
    askers = list(scene.crowd.askers)
    herd = await scene.cleanup.enter_async_context(session())
    again = await scene.cleanup.enter_async_context(session())
    followers = []
    for n in range(STAMPEDE):
        asker = askers[n % len(askers)]
        said, ident = asker.seen.expected.text, asker.response_id
        same = {"response_id": ident, "owner": asker.owner, "patience_s": scene.fault.patience_s}
        followers.append(Asker(herd, scene.fleet.live, said, **same))
        if n % 250 == 249:
            await scene.crowd.all_streaming(followers)
    scene.crowd.askers += followers
    for follower in followers:
        follower.reconnect_with(again)
    if early := sum(follower.over for follower in followers):
        scene.blame("wrong", f"{early} answers had ended before the stampede")
    await herd.close()


FAULTS = [
    Fault("stalled", f"{STALLED} clients read nothing: cut off, and resumed whole", stalled, length=160),
    Fault("vanished", f"{2 * VANISHED} clients vanish (RST): half resume, half are never seen again", vanished),
    Fault("idle", f"{IDLE:,} idle sockets", idle, length=240),
    Fault(
        "stampede",
        f"{STAMPEDE:,} clients drop at once and resume",
        stampede,
        crowd=(SHARED,),
        length=48,
        rate=4,
        patience_s=10,
    ),
]
