"""Faults of several processes on one Redis: killed, paused, sent away; and the Redis itself.

The first process is the home of most answers, more than it has slots for, so that the others run some of them.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.chaos.scene import Fault, Scene
from tests.nodes import Node
from tests.redis_servers import RedisServer

# Settings that only make the suite shorter: by default a lease is 10 s.
SETTINGS: dict[str, Any] = {"workers__concurrency": 24, "workers__lease_s": 2}
PATIENCE_S = 15.0
PAUSE_S = 5.0
OUTAGE_S = 2.0
IMPATIENT = 20
NEW = 6


def _replace(scene: Scene, node: Node) -> None:
    """Another process takes the place of one that is gone; the scene waits for it at its end."""
    fleet = scene.fleet
    fleet.live[fleet.live.index(node)] = fleet.launch()


def _killed(*which: int) -> Callable[[Scene], Awaitable[None]]:
    async def strike(scene: Scene) -> None:
        victims = [scene.fleet.live[n] for n in which]
        for node in victims:
            node.signal(signal.SIGKILL)
        for node in victims:
            node.popen.wait()
            _replace(scene, node)

    return strike


async def paused(scene: Scene) -> None:
    """For longer than the lease; some of its clients lose patience and ask another process, which takes it over."""
    node = scene.fleet.live[0]
    node.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(PAUSE_S / 5)
        for asker in scene.crowd.askers[:IMPATIENT]:
            asker.cut()
        await asyncio.sleep(PAUSE_S * 4 / 5)
    finally:
        node.signal(signal.SIGCONT)


async def sent_away(scene: Scene) -> None:
    """SIGTERM, as in a deploy."""
    node = scene.fleet.live[0]
    _replace(scene, node)
    try:
        status = await node.end(within_s=20)
    except subprocess.TimeoutExpired:
        scene.blame("hung", "it did not end after SIGTERM")
    else:
        if status:
            scene.blame("wrong", f"exit status {status} after SIGTERM")


Break = Callable[[RedisServer], object]


def _redis(harm: Break, heal: Break, outage_s: float = OUTAGE_S) -> Callable[[Scene], Awaitable[None]]:
    """Harm it, ask a few more questions meanwhile, heal it."""

    async def strike(scene: Scene) -> None:
        redis, nodes = scene.fleet.redis, scene.fleet.live
        assert redis is not None
        await asyncio.to_thread(harm, redis)
        try:
            await asyncio.sleep(0.2)
            for first in range(len(nodes)):
                order = [*nodes[first:], *nodes[:first]]
                scene.crowd.ask(scene.http, order, NEW // len(nodes), 40, scene.fault.rate)
            await asyncio.sleep(outage_s)
        finally:
            await asyncio.to_thread(heal, redis)

    return strike


def _fault(name: str, what: str, strike: Callable[[Scene], Awaitable[None]], *crowd: int, length: int = 100) -> Fault:
    return Fault(name, what, strike, crowd=crowd, length=length, patience_s=PATIENCE_S)


FAULTS = [
    _fault("worker-killed", "kill -9 of a process that runs answers of others", _killed(1), 36, 0, 24),
    _fault("home-killed", "kill -9 of a home; some of its answers run elsewhere", _killed(0), 40, 10, 10),
    _fault("both-killed", "kill -9 of a home and a worker at once", _killed(0, 1), 40, 10, 10),
    _fault(
        "home-paused",
        f"a home stands still for {PAUSE_S:g} s (SIGSTOP) and is taken over meanwhile",
        paused,
        40,
        10,
        10,
    ),
    _fault("fleet-sigterm", "SIGTERM of a home under load: its answers move", sent_away, 40, 10, 10),
    _fault(
        *("redis-emptied", "Redis is emptied (FLUSHALL)"),
        _redis(lambda redis: redis.command("FLUSHALL"), lambda redis: None, 1.0),
        *(40, 10, 10),
    ),
    _fault(
        *("redis-full", "Redis is full (maxmemory)"),
        _redis(
            lambda redis: redis.command("CONFIG", "SET", "maxmemory", "1"),
            lambda redis: redis.command("CONFIG", "SET", "maxmemory", "0"),
        ),
        *(40, 10, 10),
    ),
    _fault(
        *("redis-read-only", "Redis is read-only (READONLY, as after a failover)"),
        _redis(
            lambda redis: redis.command("REPLICAOF", "127.0.0.1", "1"),
            lambda redis: redis.command("REPLICAOF", "NO", "ONE"),
        ),
        *(40, 10, 10),
    ),
    _fault(
        *("redis-paused", "Redis stands still (SIGSTOP)"),
        _redis(RedisServer.pause, RedisServer.resume, 2.5),
        *(40, 10, 10),
        length=140,
    ),
    _fault(
        *("redis-killed", "Redis is killed, and comes back empty"),
        _redis(RedisServer.kill, RedisServer.start),
        *(40, 10, 10),
    ),
]
