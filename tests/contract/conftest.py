"""Every adapter of the transport port, as a fixture.

Three of them: one process's memory; one node on a Redis, whose own slots run the jobs; and two nodes on a Redis, a
home without slots and a worker.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from grizz.tasks import TaskOwner
from grizz.transport.base import Transport
from grizz.transport.memory import MemoryTransport
from tests.contract.cast import (
    LEASE_S,
    MAX_WAIT_S,
    Elsewhere,
    Node,
    Recorder,
    stored,
    until,
)
from tests.redis_servers import RedisServer


@pytest.fixture
def told() -> Recorder:
    return Recorder()


@pytest.fixture(params=["memory", "redis", "redis-elsewhere"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def tasks() -> AsyncIterator[TaskOwner]:
    owner = TaskOwner("contract")
    yield owner
    assert await owner.close(within_s=1) == []


@pytest.fixture
async def transport(
    request: pytest.FixtureRequest, kind: str, told: Recorder, tasks: TaskOwner
) -> AsyncIterator[Transport]:
    if kind == "memory":
        adapter: Any = MemoryTransport(
            max_jobs=3, max_bytes=1000, lease_s=LEASE_S, max_attempts=2, max_wait_s=MAX_WAIT_S, tasks=tasks
        )
    elif kind == "redis":
        adapter = Node(request.getfixturevalue("redis_server"), tasks, 4, 3, LEASE_S).transport
    else:
        server = request.getfixturevalue("redis_server")
        adapter = Elsewhere(Node(server, tasks, 0, 3, LEASE_S), Node(server, tasks, 4, 3, LEASE_S))
    adapter.connect(told, told)
    await adapter.start()
    yield adapter
    await adapter.close()
    if kind == "redis-elsewhere":
        assert adapter.no_workers.heard == adapter.no_home.heard == {}


@pytest.fixture
async def elsewhere(redis_server: RedisServer, told: Recorder, tasks: TaskOwner) -> AsyncIterator[Elsewhere]:
    """The two nodes, for what only they promise, or a test can only do to them; with room for many jobs."""
    pair = Elsewhere(Node(redis_server, tasks, 0, 100, LEASE_S), Node(redis_server, tasks, 4, 100, LEASE_S))
    pair.connect(told, told)
    await pair.start()
    yield pair
    await pair.close()


@pytest.fixture
def comes(kind: str) -> Callable[[Callable[[], object]], Awaitable[None]]:
    """What is so at once in one process is so soon between two."""

    async def check(condition: Callable[[], object]) -> None:
        if kind == "redis-elsewhere":
            await until(condition)
        assert condition()

    return check


@pytest.fixture
def left(request: pytest.FixtureRequest, kind: str, transport: Transport) -> Callable[[], dict[str, object]]:
    """What there still is of any job, wherever."""

    def look() -> dict[str, object]:
        depth = transport.depth()
        here = {"queued": depth.queued, "leased": depth.leased}
        found: dict[str, object] = {name: number for name, number in here.items() if number}
        return found if kind == "memory" else found | stored(request.getfixturevalue("redis_server"))

    return look
