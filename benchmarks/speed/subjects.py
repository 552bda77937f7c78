"""What is measured: each server on core 1, alone with what it needs; the model and the clients on core 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.peers.subjects import PEERS, Peer
from benchmarks.processes import Measured, Process, RedisServer
from benchmarks.speed import asks
from benchmarks.speed.asks import Ask

DIRECT, FLOOR, BARE_FLOOR = "direct", "floor, openai", "floor, aiohttp"
WEBSOCKET, LOCAL, REMOTE = "Grizz, WebSocket", "Grizz, 2 nodes, local", "Grizz, 2 nodes, remote"
SLOTS = "1000"


@dataclass(frozen=True, slots=True)
class Subject:
    """A server that is asked.

    Attributes:
        processes: whose CPU and memory count.
        redis: whose commands count, or None.
        hello: a path that HTTP clients ask for first, so that they have connections as WebSocket clients have.
    """

    name: str
    ask: Ask
    url: str
    processes: Sequence[Measured]
    redis: RedisServer | None = None
    hello: str = ""


class Stage(ExitStack):
    """Starts what a benchmark needs, and ends all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = self.start(["-m", "benchmarks.speed.model"], 0)
        self.settings = {
            "OPENAI_BASE_URL": self.model.url,
            "OPENAI_API_KEY": "none",
            "OPENAI_MODEL": "m",
            "GRIZZ_WORKERS_CONCURRENCY": SLOTS,
        }

    def start(self, command: Sequence[str], core: int, **environ: str) -> Process:
        """A process that ends with the stage."""
        process = Process(command, core, **environ)
        self.callback(process.stop)
        return process

    def grizz(self, **environ: str) -> Process:
        """A Grizz with these settings."""
        return self.start(["grizz.py", "--port", "0", "--log-format", "text"], 1, **{**self.settings, **environ})

    def redis(self) -> RedisServer:
        """A Redis on the measured core: what a design makes it do is its own cost."""
        server = RedisServer(1)
        self.callback(server.stop)
        return server

    def subjects(self) -> list[Subject]:
        """All but the peers."""
        grizz = self.grizz()
        floors = [
            Subject(name, asks.over_websocket, process.url, [process])
            for name, process in (
                (f"floor, {kind}", self.start(["-m", "benchmarks.speed.floor", kind], 1, **self.settings))
                for kind in ("openai", "aiohttp")
            )
        ]
        redis = self.redis()
        return [
            Subject(DIRECT, asks.direct, self.model.url, [self.model], hello="/models"),
            *floors,
            Subject(WEBSOCKET, asks.over_websocket, grizz.url, [grizz]),
            Subject("Grizz, SSE", asks.over_sse, grizz.url, [grizz], hello="/livez"),
            self._pair(LOCAL, redis, home=SLOTS, other=SLOTS),
            self._pair(REMOTE, redis, home="0", other=SLOTS),
        ]

    def _pair(self, name: str, redis: RedisServer, *, home: str, other: str) -> Subject:
        """Two nodes; the client is at the first, which runs the answers itself, or has no slots to."""
        shared = {"GRIZZ_REDIS_URL": redis.url, "GRIZZ_REDIS_PREFIX": name.rpartition(" ")[2]}
        shared["GRIZZ_HISTORY_STORE"] = "redis"
        nodes = [self.grizz(**shared, GRIZZ_WORKERS_CONCURRENCY=slots) for slots in (home, other)]
        return Subject(name, asks.over_websocket, nodes[0].url, [*nodes, redis], redis)


def peers() -> dict[str, Callable[[Stage], Subject]]:
    """By name, how to start each on a stage of its own: one that was cut off may be at it for long."""

    def starter(peer: Peer) -> Callable[[Stage], Subject]:
        def start(stage: Stage) -> Subject:
            redis = stage.redis() if peer.needs_redis else None
            environ = stage.settings | ({"REDIS_URL": redis.url} if redis else {})
            process = stage.start(peer.command, 1, **environ)
            return Subject(peer.name, peer.ask, process.url, [process, *([redis] if redis else [])], redis)

        return start

    return {peer.name: starter(peer) for peer in PEERS}
