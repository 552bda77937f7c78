"""The transport's parts, made and handed to each other: one place for `scaled.py` and for the contract's tests."""

from __future__ import annotations

from collections.abc import Callable

from grizz.core.budget import Thrift
from grizz.tasks import TaskOwner
from grizz.telemetry.metrics import RedisMetrics
from grizz.transport.redis.bus import Bus
from grizz.transport.redis.chores import Chores
from grizz.transport.redis.dispatch import Dispatcher, Limits
from grizz.transport.redis.errands import Errands
from grizz.transport.redis.inbox import Inbox
from grizz.transport.redis.inheritance import Inheritance
from grizz.transport.redis.intake import Intake
from grizz.transport.redis.keeper import Keeper
from grizz.transport.redis.keys import Keys
from grizz.transport.redis.link import Link
from grizz.transport.redis.record import Codec
from grizz.transport.redis.reports import Reports
from grizz.transport.redis.transport import RedisTransport


def transport_of(
    limits: Limits,
    *,
    keys: Keys,
    link: Link,
    bus: Bus,
    chores: Chores,
    codec: Codec,
    metrics: RedisMetrics,
    tasks: TaskOwner,
    thrift: Callable[[], Thrift],
) -> RedisTransport:
    """A transport over that link.

    Args:
        thrift: how much the command budget asks to save.
    """
    dispatcher = Dispatcher(
        keys=keys,
        link=link,
        bus=bus,
        chores=chores,
        codec=codec,
        metrics=metrics,
        limits=limits,
        thrift=thrift,
    )
    inheritance, inbox = Inheritance(keys, link, bus), Inbox()
    errands = Errands(bus, lease_s=limits.lease_s, tell_every_s=min(5.0, limits.lease_s / 2))
    Reports(bus=bus, chores=chores, metrics=metrics, dispatcher=dispatcher, inheritance=inheritance)
    return RedisTransport(
        keys=keys,
        link=link,
        bus=bus,
        chores=chores,
        metrics=metrics,
        tasks=tasks,
        dispatcher=dispatcher,
        errands=errands,
        intake=Intake(
            bus=bus,
            chores=chores,
            codec=codec,
            metrics=metrics,
            tasks=tasks,
            dispatcher=dispatcher,
            errands=errands,
            inbox=inbox,
            inheritance=inheritance,
        ),
        keeper=Keeper(
            bus=bus,
            chores=chores,
            metrics=metrics,
            tasks=tasks,
            dispatcher=dispatcher,
            errands=errands,
            inbox=inbox,
            inheritance=inheritance,
            lease_s=limits.lease_s,
        ),
        inheritance=inheritance,
        reads=bool(limits.local_slots),
        lease_s=limits.lease_s,
    )
