"""Every kind of Redis one can be told to use: TLS, few rights, shared, a socket, Sentinels, a cluster."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from redis.crc import key_slot

from tests.faults.test_redis_faults import is_up, ride_through, until
from tests.nodes import ROOT, Client, Node, Nodes, metric, nodes_on
from tests.player import numbers
from tests.redis_servers import Cluster, RedisServer, Sentinels, TlsServer

pytestmark = pytest.mark.timeout(120)

# The least rights that suffice, on every server; the documentation names the same.
RIGHTS = (
    "resetchannels ~{grizz}:* &{grizz}:* -@all +publish +subscribe +unsubscribe +pubsub|numsub"
    " +xadd +xreadgroup +xack +xdel +xclaim +xpending +xrange +xlen +xinfo|consumers"
    " +xgroup|create +xgroup|createconsumer +xgroup|delconsumer"
    " +hset +hdel +hgetall +hmget +get +mget +set +del +exists +expire +renamenx +incrby"
    " +eval +time +hget +hvals +hsetnx +pexpire"
    " +zadd +zrem +zcard +zrank +zrevrank +zrange +zrevrange +zremrangebyscore"
)


async def ask(http: aiohttp.ClientSession, node: Node, words: int = 30, **fields: Any) -> Client:
    """A whole answer of a node, checked."""
    client = Client(http, [node])
    await client.ask(f"[[words:{words}]]", **fields)
    client.check()
    assert client.text == numbers(words)
    return client


async def runs_elsewhere(http: aiohttp.ClientSession, nodes: Nodes, **settings: object) -> tuple[Node, Node]:
    """A home without slots and a worker, between which an answer went."""
    home = await nodes.start(workers__concurrency=0, **settings)
    worker = await nodes.start(**settings)
    await ask(http, home)
    assert await metric(http, worker, 'grizz_jobs_placed_total{place="elsewhere"}') == 1
    return home, worker


async def survives_its_home(http: aiohttp.ClientSession, home: Node, other: Node, words: int = 100) -> Client:
    """An answer whose home is killed goes on at the other node, once and in order."""
    client = Client(http, [home, other])
    asking = asyncio.create_task(client.ask(f"[[words:{words}]] [[rate:50]]"))
    async with asyncio.timeout(10):
        while len(client.events) < 10:
            await asyncio.sleep(0.05)
    home.kill()
    await asking
    client.check()
    assert client.text == numbers(words)
    assert client.longest_pause_s < 15
    return client


async def leaves_a_dead_letter(http: aiohttp.ClientSession, nodes: Nodes, **settings: object) -> Client:
    """An answer whose only attempt is lost with its worker; no other node may have a slot."""
    settings = {"workers__lease_s": 1, "workers__max_attempts": 1, **settings}
    home = await nodes.start(workers__concurrency=0, **settings)
    worker = await nodes.start(**settings)
    client = Client(http, [home])
    asking = asyncio.create_task(client.ask("[[words:2000]] [[rate:50]]"))
    async with asyncio.timeout(10):
        while len(client.events) < 10:
            await asyncio.sleep(0.05)
    worker.kill()
    await asking
    client.check()
    assert client.events[-1]["type"] == "response.failed"
    return client


async def dead_letters(url: str, *arguments: str) -> str:
    """What `grizz.py dead-letters` writes."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / "grizz.py"), "dead-letters", *arguments),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "GRIZZ_REDIS_URL": url, "GRIZZ_HISTORY_STORE": "redis"},
    )
    async with asyncio.timeout(10):
        out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


def keys(server: RedisServer) -> set[str]:
    """All keys of its database 0."""
    found: set[str] = set()
    cursor = "0"
    while True:
        cursor, some = server.command("SCAN", cursor, "COUNT", 1000)
        found.update(some)
        if cursor == "0":
            return found


# TLS


class TlsCluster(TlsServer):
    """A cluster of one."""

    def listen_lines(self) -> list[str]:
        """Without `tls-cluster` it would name its port without TLS, which is none."""
        return [*super().listen_lines(), "cluster-enabled yes", *(["tls-cluster yes"] if self.built_in else [])]

    def start(self) -> TlsCluster:
        """Start, and let it name the port where TLS is spoken."""
        super().start()
        if not self.built_in:
            self.command("CONFIG", "SET", "cluster-announce-port", self.url.rpartition(":")[2])
        return self


async def test_tls_with_a_private_authority(tmp_path: Path) -> None:
    with TlsServer() as server:
        async with nodes_on(server.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
            await runs_elsewhere(http, nodes, redis__tls_ca_file=server.ca_file)


async def test_a_server_whose_certificate_is_not_trusted_is_not_used_and_the_log_says_why(tmp_path: Path) -> None:
    with TlsServer() as server:
        url = server.url.replace("//", "//someone:hunter2@")
        async with nodes_on(url, tmp_path) as nodes, aiohttp.ClientSession() as http:
            began = time.monotonic()
            node = await nodes.start()
            assert time.monotonic() - began < 30
            await ask(http, node)
            async with http.get(f"{node.url}/readyz") as answer:
                assert (answer.status, (await answer.json())["degraded"]) == (200, ["redis: down"])
            assert "certificate verify failed" in node.log
            assert "hunter2" not in node.log
        assert not keys(server)


async def test_a_server_that_wants_a_certificate_gets_one(tmp_path: Path) -> None:
    with TlsServer(mutual=True) as server:
        mine = {"redis__tls_ca_file": server.ca_file, "redis__tls_cert_file": server.cert_file}
        mine["redis__tls_key_file"] = server.key_file
        async with nodes_on(server.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
            await runs_elsewhere(http, nodes, **mine)
            without = await nodes.start(redis__tls_ca_file=server.ca_file)
            await ask(http, without)
            assert not await is_up(http, without)
            assert "redis cannot be used" in without.log


async def test_a_cluster_that_wants_a_certificate_gets_one_also_when_it_is_asked_for_its_slots(tmp_path: Path) -> None:
    with TlsCluster(mutual=True) as server:
        server.command("CLUSTER", "ADDSLOTS", *range(16384))
        mine = {"redis__tls_ca_file": server.ca_file, "redis__tls_cert_file": server.cert_file}
        mine["redis__tls_key_file"] = server.key_file
        url = server.url.replace("rediss", "rediss+cluster")
        async with nodes_on(url, tmp_path) as nodes, aiohttp.ClientSession() as http:
            await runs_elsewhere(http, nodes, **mine)


# Rights


async def test_an_account_with_the_least_rights_can_do_everything(own_redis: RedisServer, tmp_path: Path) -> None:
    own_redis.command("ACL", "SETUSER", "grizz", "on", ">right:one/@", *RIGHTS.split())
    url = own_redis.url.replace("//", "//grizz:right%3Aone%2F%40@")
    async with nodes_on(url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        failed = await leaves_a_dead_letter(http, nodes)
        assert [row[1][1] for row in own_redis.command("XRANGE", "{grizz}:dead", "-", "+")] == [failed.response_id]
        home, worker = await runs_elsewhere(http, nodes)
        together = await asyncio.gather(*(ask(http, worker) for _ in range(6)))
        await asyncio.sleep(0.3)
        for client in together:
            again = await ask(http, home, previous_response_id=client.response_id)
        async with http.delete(f"{home.url}/v1/responses/{again.response_id}") as answer:
            assert answer.status == 200
        # An answer whose worker lives, one whose worker is its home, and what people do by hand.
        lone = await nodes.start()
        of_two, of_one = await asyncio.gather(
            survives_its_home(http, home, worker, words=350), survives_its_home(http, lone, worker)
        )
        assert of_two.last < 1_000_000 < of_one.last
        assert failed.response_id in await dead_letters(url, "list")
        await dead_letters(url, "drop", failed.response_id)
        assert own_redis.command("XLEN", "{grizz}:dead") == 0
        assert await worker.end() == 0
        # INFO may be denied: it is asked for what the server can do, and nothing depends on it.
        denied = {dict(zip(row[::2], row[1::2], strict=True))["object"] for row in own_redis.command("ACL", "LOG")}
        assert denied <= {"info"}
        for node in nodes.all:
            assert "right:one" not in node.log and "refused" not in node.log


async def test_a_right_that_is_missing_means_degraded_and_the_log_says_which(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    own_redis.command("ACL", "SETUSER", "grizz", "on", ">hunter2", *RIGHTS.split(), "-xreadgroup")
    url = own_redis.url.replace("//", "//grizz:hunter2@")
    async with nodes_on(url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        node = await nodes.start()
        await ask(http, node)
        await until(lambda: _says(node, "xreadgroup"), 10)
        await ask(http, node)
        assert "hunter2" not in node.log


async def _says(node: Node, word: str) -> bool:
    return word in node.log


# Shared servers


async def test_two_installations_on_one_server_know_nothing_of_each_other(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        ours = await nodes.start(workers__concurrency=0, redis__prefix="one")
        theirs = await nodes.start(redis__prefix="one-more")
        client = Client(http, [ours])
        asking = asyncio.create_task(client.ask("[[words:30]]"))
        async with asyncio.timeout(5):
            while not any(":jobs" in key and own_redis.command("XLEN", key) for key in keys(own_redis)):
                await asyncio.sleep(0.05)
        # A node of the other installation has all slots free, then works; neither way it reads what is not its own.
        await asyncio.sleep(0.5)
        assert nodes.demo.requests == 0
        other = await ask(http, theirs)
        assert nodes.demo.requests == 1
        worker = await nodes.start(redis__prefix="one")
        await asking
        client.check()
        await asyncio.sleep(0.3)
        for made, at_home, elsewhere in ((client, worker, theirs), (other, theirs, ours)):
            for node, status in ((at_home, 200), (elsewhere, 404)):
                async with http.get(f"{node.url}/v1/responses/{made.response_id}") as answer:
                    assert answer.status == status
            stray = Client(http, [elsewhere])
            await stray.ask("[[words:30]]", previous_response_id=made.response_id)
            assert stray.errors[-1]["error"]["code"] == "previous_response_not_found"
        assert nodes.demo.requests == 2
        found = keys(own_redis)
        assert {key.partition(":")[0] for key in found} == {"{one}", "{one-more}"}


@pytest.mark.parametrize("kind", ["port", "socket"])
async def test_a_numbered_database_gets_all_keys(kind: str, own_redis: RedisServer, tmp_path: Path) -> None:
    url = f"{own_redis.url}/3" if kind == "port" else f"{own_redis.unix_url}?db=3"
    async with nodes_on(url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        home, worker = await runs_elsewhere(http, nodes)
        first = await ask(http, home)
        await asyncio.sleep(0.3)
        await ask(http, worker, previous_response_id=first.response_id)
        assert own_redis.info("keyspace").keys() == {"db3"}


async def test_a_unix_socket(own_redis: RedisServer, tmp_path: Path) -> None:
    async with nodes_on(own_redis.unix_url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        home, _ = await runs_elsewhere(http, nodes)
        assert f"redis={own_redis.directory}/socket" in home.log
        assert "{grizz}:jobs" in keys(own_redis)


# Several servers


async def test_a_failover_interrupts_no_answer_and_work_goes_on_at_the_new_master(tmp_path: Path) -> None:
    with Sentinels() as redis:
        async with nodes_on(redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
            home, worker = await nodes.start(workers__concurrency=1), await nodes.start()
            old = redis.master
            new = next(node for node in redis.nodes if node is not old)

            def promoted() -> None:
                deadline = time.monotonic() + 30
                while new.command("ROLE")[0] != "master" or redis.master_port() != new.port:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)

            began = time.monotonic()
            await ride_through(nodes, home, worker, http, old.kill, promoted, for_s=0)
            door = await nodes.start(workers__concurrency=0)
            await ask(http, door)
            assert time.monotonic() - began < 30
            assert "{grizz}:jobs" in keys(new)


async def test_an_answer_that_ends_at_its_worker_while_its_home_is_dead_is_not_lost(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
        home, worker = await runs_elsewhere(http, nodes)
        # It ends about a second after the kill, and the takeover comes about two later.
        client = await survives_its_home(http, home, worker, words=60)
        assert client.last < 1_000_000
        third = await nodes.start(workers__concurrency=0)
        await asyncio.sleep(0.3)
        await ask(http, third, previous_response_id=client.response_id)


async def test_a_cluster_of_three_has_everything_in_one_slot(tmp_path: Path) -> None:
    with Cluster() as redis:
        async with nodes_on(redis.url, tmp_path) as nodes, aiohttp.ClientSession() as http:
            home, worker = await runs_elsewhere(http, nodes)
            third = await nodes.start(workers__concurrency=0)
            client = Client(http, [home])
            asking = asyncio.create_task(client.ask("[[words:2000]] [[rate:50]]"))
            while len(client.events) < 10:
                await asyncio.sleep(0.05)
            async with http.post(f"{third.url}/v1/responses/{client.response_id}/cancel") as answer:
                assert (answer.status, (await answer.json())["status"]) == (200, "cancelled")
            await asking
            client.check()
            assert client.events[-1]["response"]["status"] == "cancelled"
            client = await survives_its_home(http, worker, await nodes.start())
            assert client.last > 1_000_000
            await ask(http, third, previous_response_id=client.response_id)
        found = [keys(node) for node in redis.nodes]
        everything = set().union(*found)
        assert len(everything) >= 4
        assert sum(map(bool, found)) == 1
        slots = {redis.nodes[0].command("CLUSTER", "KEYSLOT", key) for key in everything}
        assert slots == {key_slot(b"{grizz}:jobs")}
