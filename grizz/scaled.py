"""Scaled mode, composed: everything that one process needs to be one of several over a Redis."""

from __future__ import annotations

import asyncio
import calendar
import logging
import math
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from redis.exceptions import RedisError

from grizz.config import Settings
from grizz.config.redis_url import parse_redis_url
from grizz.core.budget import Budget, Thrift
from grizz.engine.engine import Engine
from grizz.engine.erase import forget_owner
from grizz.engine.nodes import Nodes
from grizz.engine.peers import Peers
from grizz.engine.vitals import Vitals
from grizz.engine.worker import Pool, Work
from grizz.errors import RedisDown
from grizz.tasks import TaskOwner
from grizz.telemetry.metrics import Metrics
from grizz.transport.redis.archive import RedisArchive
from grizz.transport.redis.bus import Bus
from grizz.transport.redis.census import Census
from grizz.transport.redis.chores import Chores
from grizz.transport.redis.claims import RedisClaims
from grizz.transport.redis.connection import Target
from grizz.transport.redis.dispatch import Limits
from grizz.transport.redis.finder import RedisFinder
from grizz.transport.redis.greetings import Greetings
from grizz.transport.redis.handover import Handover
from grizz.transport.redis.heir import Heir
from grizz.transport.redis.keys import Keys
from grizz.transport.redis.link import Link
from grizz.transport.redis.parts import transport_of
from grizz.transport.redis.record import Codec
from grizz.transport.redis.shelf import RedisShelf

log = logging.getLogger(__name__)

_TELL_EVERY_S = 3600.0
_FIRST_TOLD_S = 60.0
_COUNT_LETTERS_S = 3600.0
CODEC = Codec(Work.to_wire, Work.from_wire, lambda work: work.may_keep)
# What the budget asks for, as seconds between two messages to another node.
_INTERVAL_S = {Thrift.SLOW: 1.0, Thrift.SLOWER: 2.0, Thrift.LOCAL: 2.0}


def target_of(settings: Settings, sent: Callable[[str], None] = lambda name: None) -> Target:
    """The Redis that the settings name."""
    redis = settings.redis
    return Target(
        url=parse_redis_url(redis.url),
        slot_key=Keys(redis.prefix).jobs,
        ca_file=redis.tls_ca_file,
        cert_file=redis.tls_cert_file,
        key_file=redis.tls_key_file,
        sent=sent,
    )


class Scaled:
    """The parts of scaled mode.

    Attributes:
        transport, archive, claims, shelf, bus: what the engine works with.
        budget: commands against the monthly budget.
        nodes: all nodes, once `join` was called.
    """

    def __init__(self, settings: Settings, metrics: Metrics, tasks: TaskOwner) -> None:
        self._settings = settings
        self._metrics = metrics
        self._tasks = tasks
        self.keys = Keys(settings.redis.prefix)
        self.budget = Budget(settings.redis.monthly_command_budget)
        self._thrift = Thrift.NONE
        self.link = Link(target_of(settings, self._sent), metrics.redis, tasks)
        flush_s = settings.redis.flush_ms / 1000
        self.bus = Bus(
            secrets.token_hex(4),
            self.keys,
            self.link,
            metrics.redis,
            interval_s=lambda: max(flush_s, _INTERVAL_S.get(self._thrift, 0.0)),
        )
        self.chores = Chores(self.keys, self.link, lambda: self.bus.node, lambda: self._thrift)
        self.claims = RedisClaims(self.keys, self.link)
        self.archive = RedisArchive(self.keys, self.link, self.chores, keep_s=settings.history.keep_s)
        self.shelf = RedisShelf(self.keys, self.link, keep_s=settings.history.keep_s)
        limits = Limits(
            max_jobs=settings.queue.max_jobs,
            max_bytes=settings.queue.max_bytes,
            local_slots=settings.workers.concurrency,
            lease_s=settings.workers.lease_s,
            max_attempts=settings.workers.max_attempts,
            max_wait_s=settings.queue.max_wait_s,
            job_s=settings.workers.job_timeout_s,
        )
        self.transport = transport_of(
            limits,
            keys=self.keys,
            link=self.link,
            bus=self.bus,
            chores=self.chores,
            codec=CODEC,
            metrics=metrics.redis,
            tasks=tasks,
            thrift=lambda: self._thrift,
        )
        metrics.on_scrape(metrics.redis.month, self._projected)
        metrics.on_scrape(metrics.redis.cost, lambda: self._projected() / 1e5 * settings.redis.price_per_100k)
        metrics.on_scrape(metrics.redis.thrift, lambda: int(self._thrift))
        metrics.on_scrape(metrics.redis.dead_letters, self._dead_letters)
        metrics.redis.budget.set(settings.redis.monthly_command_budget)
        self._letters, self._letters_at = 0, -math.inf

    def __repr__(self) -> str:
        return f"<Scaled {self.bus.node}: {self.link!r}>"

    def join(self, engine: Engine, pool: Pool, vitals: Vitals) -> None:
        """Let the engine find, follow and take over what other nodes have; let nodes ask each other how they are."""
        peers = engine.lookup.peers = Peers(
            bus=self.bus,
            finder=self._look_out(engine),
            tasks=self._tasks,
            lease_s=self._settings.workers.lease_s,
            local=engine.replies.get,
            cancel=engine.stop,
            forget=engine.deleted_elsewhere,
        )
        self.bus.watch(peers.reached)
        self.nodes = Nodes(
            self.bus,
            known=lambda: self._greetings.known,
            own=vitals.row,
            may_ask=lambda: self._thrift is not Thrift.LOCAL,
        )
        self.bus.on("erase", lambda sender, part, lines: self._erase(engine, sender, part["owner"]))
        self.transport.handed_over = Handover(
            keys=self.keys,
            link=self.link,
            bus=self.bus,
            chores=self.chores,
            transport=self.transport,
            codec=CODEC,
            home=engine.home,
            workers=pool,
            tasks=self._tasks,
        ).give
        self._tasks.spawn(self._govern(), name="watch the command budget")

    def _look_out(self, engine: Engine) -> RedisFinder:
        """What finds the dead, and their heir."""
        lease_s = self._settings.workers.lease_s
        census = Census(self.keys, self.link)
        heir = Heir(
            keys=self.keys,
            link=self.link,
            bus=self.bus,
            chores=self.chores,
            census=census,
            transport=self.transport,
            codec=CODEC,
            home=engine.home,
            metrics=self._metrics,
            tasks=self._tasks,
            max_attempts=self._settings.workers.max_attempts,
            lease_s=lease_s,
            archived=self.archive.ended,
        )
        finder = RedisFinder(
            keys=self.keys,
            link=self.link,
            bus=self.bus,
            census=census,
            heir=heir,
            transport=self.transport,
            tasks=self._tasks,
            lease_s=lease_s,
        )
        self._greetings = Greetings(
            link=self.link,
            bus=self.bus,
            chores=self.chores,
            census=census,
            finder=finder,
            heir=heir,
            transport=self.transport,
            tasks=self._tasks,
            lease_s=lease_s,
        )
        return finder

    def start(self) -> None:
        """Begin what needs the link; after the transport has started."""
        self._greetings.start()

    async def stop(self) -> None:
        """Before the link closes: tell what this process has sent."""
        if self.budget.monthly and self.link.is_up:
            await self._tell()

    def _erase(self, engine: Engine, sender: str, owner: str) -> None:
        """A command deletes what a user has (`transport.redis.people`)."""

        async def erase() -> None:
            count = await forget_owner(engine, owner)
            self.chores.flush()  # before the answer, and on the same connection: so the command sees all of it
            self.bus.post(sender, {"k": "erased"})
            log.warning("a user's history was deleted by a command", extra={"owner": owner, "in_memory": count})

        self._tasks.spawn(erase(), name=f"erase the history of {owner}")

    def _sent(self, command: str) -> None:
        self._metrics.redis.sent(command)
        self.budget.spent(1, time.monotonic())

    def _dead_letters(self) -> float:
        """How many there were when they were last counted: one command, once an hour at most."""
        now = time.monotonic()
        if now - self._letters_at > _COUNT_LETTERS_S and self.link.send("XLEN", self.keys.dead, then=self._counted):
            self._letters_at = now
        return self._letters

    def _counted(self, reply: Any) -> None:
        if isinstance(reply, int):
            self._letters = reply

    def _projected(self) -> float:
        return self.budget.projected(time.monotonic(), _left_h(time.time()))

    def facts(self) -> dict[str, Any]:
        """What the status page tells of the Redis; see docs/operations.md."""
        projected, price = self._projected(), self._settings.redis.price_per_100k
        monthly = self.budget.monthly
        return {
            "trouble": self.link.trouble,
            "per_hour": self.budget.per_hour(time.monotonic()),
            "processes": self.budget.processes,
            "used_month": self.budget.used,
            "projected_month": round(projected),
            "budget_month": monthly,
            "share": round(projected / monthly, 4) if monthly else None,
            "price_per_100k": price,
            "projected_cost": round(projected / 1e5 * price, 4),
            "budget_cost": round(monthly / 1e5 * price, 4) if monthly else None,
            "thrift": int(self._thrift),
        }

    async def _govern(self) -> None:
        """See to it that the month's commands last; the shared tally costs one command an hour, with a budget only."""
        told_at = time.monotonic() - _TELL_EVERY_S + _FIRST_TOLD_S
        while True:
            await asyncio.sleep(1.0)
            now = time.monotonic()
            self.budget.processes = 1 + len(self._greetings.known)
            if self.budget.monthly and now - told_at > _TELL_EVERY_S and self.link.is_up:
                told_at = now
                await self._tell()
            thrift = self.budget.thrift(now, _left_h(time.time()))
            if thrift is not self._thrift:
                log.warning(
                    "the command budget of redis changes what is sent",
                    extra={"thrift": thrift.name.lower(), "projected": round(self._projected())},
                )
                self._thrift = thrift

    async def _tell(self) -> None:
        reported = self.budget.unreported
        key = self.keys.usage(datetime.now(UTC).strftime("%Y-%m"))
        try:
            total = await self.link.ask("INCRBY", key, reported)
            if total == reported:
                await self.link.ask("EXPIRE", key, 40 * 86_400)
        except (RedisDown, RedisError) as error:
            log.info("the tally of commands could not be told", extra={"err": str(error)})
            return
        self.budget.told(total, reported)


def _left_h(now: float) -> float:
    """Hours until the month ends (UTC)."""
    today = datetime.fromtimestamp(now, UTC)
    days = calendar.monthrange(today.year, today.month)[1]
    return (days - today.day) * 24.0 + 24.0 - today.hour - today.minute / 60
