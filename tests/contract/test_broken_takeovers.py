"""Takeovers amid which Redis fails: nothing of the dead node is lost or run twice, and who lives stays who they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from grizz.core.job import Job
from grizz.errors import RedisDown
from grizz.protocol.events import Event
from grizz.tasks import TaskOwner
from grizz.telemetry.metrics import Metrics
from grizz.transport.redis.census import Census
from grizz.transport.redis.heir import Heir
from grizz.transport.redis.record import Codec
from tests.contract.cast import END, KEYS, Node, Recorder, event, job, leased, until
from tests.redis_servers import RedisServer

LEASE_S = 0.4


class Home(Recorder):
    """Adopts nothing that it has."""

    def adopt(self, job: Job, attempt: int, log: Sequence[Event] | None) -> Job | None:
        return None if job.id in self.adopted else super().adopt(job, attempt, log)

    def knows(self, job_id: str) -> bool:
        return job_id in self.adopted


class Actor:
    """A node that can take over, and whose next commands of a kind fail."""

    def __init__(self, server: RedisServer, tasks: TaskOwner, slots: int) -> None:
        self.node = Node(server, tasks, slots, 100, 60)
        self.home = Home(free=slots)
        self.node.transport.connect(self.home, self.home)
        self.heir = Heir(
            keys=KEYS,
            link=self.node.link,
            bus=self.node.bus,
            chores=self.node.chores,
            census=Census(KEYS, self.node.link),
            transport=self.node.transport,
            codec=Codec(pack=lambda p: p, unpack=lambda p: p, may_keep=lambda p: True),
            home=self.home,
            metrics=Metrics(version="test", mode="redis", models=[], upstreams=["test"]),
            tasks=tasks,
            max_attempts=2,
            lease_s=LEASE_S,
            archived=self.archived,
        )
        self.failing = ""
        self.before_archived: Callable[[], Any] = lambda: None
        self._ask, self.node.link.ask = self.node.link.ask, self.ask

    async def ask(self, *command: Any) -> Any:
        if command[0] == self.failing:
            await asyncio.sleep(0.1)
            raise RedisDown("as if it were")
        return await self._ask(*command)

    async def archived(self, ids: Sequence[str]) -> Any:
        self.before_archived()
        return await self.node.archive.ended(ids)

    @property
    def name(self) -> str:
        return self.node.bus.node

    async def finished(self) -> None:
        await until(lambda: not self.heir.is_behind and not self.heir.is_busy)


Cast = Callable[..., Any]


@pytest.fixture
async def cast(redis_server: RedisServer, tasks: TaskOwner) -> AsyncIterator[Cast]:
    """Nodes with so many slots each."""
    actors: list[Actor] = []

    async def start(*slots: int) -> list[Actor]:
        for count in slots:
            actors.append(Actor(redis_server, tasks, count))
            await actors[-1].node.transport.start()
        return actors

    yield start
    for actor in actors:
        await actor.node.transport.close()
    redis_server.command("FLUSHALL")


async def test_an_end_that_an_heir_hears_who_has_got_no_further_is_kept_by_who_said_it(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grizz.transport.redis.errands._STORED_S", 0.1)
    home, worker, heir = await cast(0, 4, 0)
    await home.node.transport.put(job("a"))
    running = await leased(worker.node.transport)
    await home.node.link.close()
    heir.failing = "PUBLISH"  # it can tell nobody
    assert not await heir.heir.relieve(home.name)
    worker.node.transport.publish(running, [event(0), event(1, END)])
    await worker.node.transport.ack(running)
    await asyncio.sleep(0.3)
    heir.failing = ""
    await heir.finished()
    assert (worker.home.adopted, heir.home.adopted) == (["a"], [])


async def test_what_was_claimed_as_the_link_broke_is_begun_anew_also_where_no_slot_is_free(
    cast: Cast, redis_server: RedisServer
) -> None:
    home, worker, heir = await cast(0, 4, 0)
    await home.node.transport.put(job("a"))
    await leased(worker.node.transport)
    await home.node.link.close()
    await worker.node.link.close()
    await asyncio.sleep(0.5)  # a claim takes what was read so long ago
    heir.failing = "HDEL"
    ask = heir._ask

    async def claim_and_break(*command: Any) -> Any:
        reply = await ask(*command)
        if command[0] == "XCLAIM":
            heir._ask = ask
            redis_server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            raise RedisDown("its reply was lost")
        return reply

    heir._ask = claim_and_break
    assert not await heir.heir.relieve(home.name)
    heir.failing = ""
    await heir.finished()
    await until(lambda: heir.home.adopted)
    assert heir.home.adopted == ["a"]


async def test_what_was_begun_anew_before_the_break_is_not_begun_again_though_it_has_ended_and_is_forgotten(
    cast: Cast,
) -> None:
    home, heir = await cast(4, 4)
    await home.node.transport.put(job("a"))
    await until(lambda: KEYS.records(home.name) and home.node.transport.jobs.places.get("a").recorded)
    await home.node.link.close()
    heir.failing = "DEL"
    assert not await heir.heir.relieve(home.name)
    assert heir.home.adopted == ["a"]
    again = await leased(heir.node.transport)
    heir.node.transport.publish(again, [event(0), event(1, END)])
    await heir.node.transport.ack(again)
    heir.home.adopted.clear()  # its user deletes it
    heir.failing = ""
    await heir.finished()
    assert heir.home.adopted == []


async def test_who_lives_after_all_is_left_alone_when_redis_has_forgotten_the_mark(
    cast: Cast, redis_server: RedisServer
) -> None:
    home, heir = await cast(4, 4)
    await home.node.transport.put(job("a"))
    await leased(home.node.transport)
    heir.failing = "HSET"
    assert not await heir.heir.relieve(home.name)
    redis_server.command("DEL", KEYS.heir(home.name))  # a failover lost it
    heir.failing = ""
    await heir.finished()
    assert (heir.home.adopted, home.home.deposals) == ([], [])
    assert home.name not in heir.node.transport.inheritance


async def test_an_heir_who_cannot_mark_whom_it_has_inherited_from_meanwhile_still_listens_there(cast: Cast) -> None:
    home, worker, other = await cast(0, 4, 0)
    await home.node.transport.put(job("a"))
    await leased(worker.node.transport)
    await home.node.link.close()
    worker.failing = "SET"
    taking_over = asyncio.create_task(worker.heir.relieve(home.name))
    other.node.bus.shout({"k": "bereft", "home": home.name})
    await until(lambda: worker.home.adopted)
    assert not await taking_over
    assert home.name in worker.node.transport.inheritance


async def test_what_a_node_kept_for_a_dead_home_goes_on_when_it_and_then_its_own_heir_die(cast: Cast) -> None:
    home, keeper = await cast(0, 1)
    await home.node.transport.put(job("a"))
    await leased(keeper.node.transport)
    *_, heir, last = await cast(4, 4)
    await home.node.link.close()
    assert await last.heir.relieve(home.name)
    await until(lambda: keeper.home.adopted)
    await asyncio.sleep(0.5)  # it says so, and a claim takes what was read so long ago
    await keeper.node.link.close()
    assert await heir.heir.relieve(keeper.name)
    assert heir.home.adopted == ["a"]
    await until(lambda: heir.node.transport.jobs.places.get("a").recorded)
    await heir.node.link.close()
    assert await last.heir.relieve(heir.name)
    assert last.home.adopted == ["a"]


async def test_a_record_that_makes_trouble_stands_in_no_takeovers_way_for_ever(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, heir = await cast(4, 4)
    await home.node.transport.put(job("a"))
    await until(lambda: home.node.transport.jobs.places.get("a").recorded)
    await home.node.link.close()

    def adopt(*of: object) -> None:
        raise KeyError("trouble")

    monkeypatch.setattr(heir.home, "adopt", adopt)
    with pytest.raises(KeyError):
        await heir.heir.relieve(home.name)
    assert not heir.heir.is_behind
    assert heir.heir.under_way_since(asyncio.get_running_loop().time() + 1) is False
