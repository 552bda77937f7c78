"""Fixtures with a Redis in them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.redis_servers import RedisServer


@pytest.fixture(scope="session")
def redis_process() -> Iterator[RedisServer]:
    """The server that all tests of this process share, one after the other; tests take `redis_server`."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_server(redis_process: RedisServer) -> RedisServer:
    """An empty server that counts commands from here; not to be killed, paused or configured."""
    redis_process.wipe()
    return redis_process


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A server of the test's own, which it may kill, pause and configure."""
    with RedisServer() as server:
        yield server
