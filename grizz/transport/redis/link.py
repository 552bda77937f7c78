"""The way to one Redis: either up or down, and never waited for longer than `DEADLINE_S`.

Three connections: one for commands, one blocking reader, one subscriber. Commands of everybody are collected while the
last batch is under way and go out together (group commit), so what must be durable costs one round trip and a burst
costs few. The first failure of any connection brings all three down: whatever broke one has usually broken the
others, and half a Redis is worse than none. Then a breaker decides when to try again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from redis.exceptions import RedisError

from grizz.core.breaker import Breaker, Circuit
from grizz.errors import ConfigError, RedisDown
from grizz.tasks import TaskOwner
from grizz.telemetry.metrics import RedisMetrics
from grizz.transport.redis.connection import Command, Target, Wire
from grizz.transport.redis.faults import Fault, fault_of

log = logging.getLogger(__name__)

# All that a request may wait for Redis: the sum of queueing, sending and the reply.
DEADLINE_S = 2.0
# The way back makes several round trips; nobody waits for it.
_ESTABLISH_S = 5.0
# A blocked read costs one command when its time is over: one in an hour.
BLOCK_S = 3600.0
# After entries came, more are likely on their way: reading them together saves a command for each.
_GATHER_S = 0.02
_MAX_PENDING_BYTES = 64 << 20
_MAX_BATCH = 256

Then = Callable[[Any], None]


class Session(Protocol):
    """What is done over a link."""

    async def establish(self, cmd: Wire, sub: Wire, *, first: bool) -> None:
        """Make ready what the Redis must hold, and subscribe; raises what went wrong."""

    def up(self) -> None:
        """The link is up."""

    def down(self) -> None:
        """The link went down; nothing is sent until `up`."""

    def message(self, payload: bytes) -> None:
        """Something was published to this node."""

    async def appetite(self) -> Command:
        """Wait until a job could be taken; the read to send for it."""

    def entries(self, reply: Any) -> None:
        """What that read brought."""


class Link:
    """Implements the state machine between up and down.

    Attributes:
        is_up: may something be sent?
        up_since: when it last came up, seconds of the loop's clock.
        writable: does the Redis take what needs memory? False for a while after it said it is full.
    """

    _session: Session

    def __init__(self, target: Target, metrics: RedisMetrics, tasks: TaskOwner) -> None:
        self._target = target
        self._metrics = metrics
        self._tasks = tasks
        self._cmd, self._reader, self._sub = target.wire(), target.wire(), target.wire()
        self._breakers = {
            Fault.DOWN: _breaker(1.0, 30.0),
            Fault.QUOTA: _breaker(600.0, 900.0),
            Fault.LOGIN: _breaker(60.0, 600.0),
            Fault.LOST: _breaker(0.1, 10.0),
        }
        self._room = _breaker(1.0, 30.0)
        self._pending: deque[tuple[Command, Then | None]] = deque()
        self._pending_bytes = 0
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._broken = asyncio.Event()
        self._came_up = asyncio.Event()
        self._fault = Fault.DOWN
        self.is_up = False
        self.up_since = 0.0
        self.closing = False

    def __repr__(self) -> str:
        state = "up" if self.is_up else f"down: {self._fault}"
        return f"<Link to {self._target.url.where}, {state}, {len(self._pending)} pending>"

    @property
    def where(self) -> str:
        """The server, for logs and health, without secrets."""
        return self._target.url.where

    @property
    def trouble(self) -> str:
        """What is wrong, in one word, or "" when nothing is."""
        if not self.is_up:
            return str(self._fault)
        return "" if self._room.state is Circuit.CLOSED else str(Fault.FULL)

    @property
    def writable(self) -> bool:
        """See the class; one write is let through as a probe when its wait is over."""
        return self.is_up and not self._room.wait_s(_now())

    def serve(self, session: Session) -> None:
        """Say what is done over it; once, before `start`."""
        self._session = session

    async def start(self) -> None:
        """Connect, waiting at most `DEADLINE_S`; without a Redis the process starts all the same, degraded.

        Raises:
            ConfigError: the Redis is there and refuses the login, which waiting will not mend.
        """
        first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks.spawn(self._keep(first), name="keep the link to redis")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DEADLINE_S):
                await asyncio.shield(first)

    async def close(self) -> None:
        """Send what waits, within `DEADLINE_S`, then close all connections."""
        self.closing = True
        if self.is_up:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DEADLINE_S):
                    await self._idle.wait()
        self.is_up = False
        for wire in (self._cmd, self._reader, self._sub):
            await wire.close()

    def send(self, *command: Any, then: Then | None = None) -> bool:
        """Send a command soon, with the others; False when the link is down. Never waits.

        Args:
            then: called with the reply, or with the exception instead; it must not wait or raise.
        """
        if not self.is_up:
            return False
        size = sum(len(part) for part in command if isinstance(part, bytes | str))
        if self._pending_bytes + size > _MAX_PENDING_BYTES:
            self._metrics.errors.labels("overflow").inc()
            return False
        self._pending_bytes += size
        self._pending.append((command, then))
        self._idle.clear()
        self._work.set()
        return True

    async def ask(self, *command: Any) -> Any:
        """Send a command and wait for its reply, `DEADLINE_S` at most.

        Raises:
            RedisDown: the link is down, or went down meanwhile; whether it was executed is unknown.
            RedisError: the reply was an error.

        Cancel-safe: a cancelled call does not cancel the command.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def then(reply: Any) -> None:
            if not future.done():
                future.set_result(reply)

        if not self.send(*command, then=then):
            raise RedisDown(f"redis is {self.trouble or 'busy'}")
        try:
            async with asyncio.timeout(DEADLINE_S):
                reply = await future
        except TimeoutError:
            raise RedisDown("redis did not answer in time") from None
        if isinstance(reply, BaseException):
            raise reply
        return reply

    async def subscribe(self, channel: str, *, on: bool = True) -> None:
        """Begin or end to listen to one more channel; the confirmation is not awaited."""
        if self.is_up:
            with contextlib.suppress(RedisError, OSError):
                await self._sub.send(("SUBSCRIBE" if on else "UNSUBSCRIBE", channel))

    async def up_within(self, seconds: float) -> bool:
        """Wait until it is up, for so long at most. Cancel-safe."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._came_up.wait()
        return self.is_up

    def fail(self, error: BaseException) -> None:
        """Something broke: bring everything down. The first error counts."""
        if not self.is_up:
            return
        self._fault = fault_of(error)
        if self._fault not in self._breakers:
            self._fault = Fault.DOWN
        self._metrics.errors.labels(str(self._fault)).inc()
        log.warning("redis lost", extra={"fault": str(self._fault), "err": str(error), "redis": self.where})
        self.is_up = False
        self._came_up.clear()
        self._drop_pending()
        self._session.down()
        self._broken.set()

    # The tasks

    async def _keep(self, first: asyncio.Future[None]) -> None:
        """Hold the link up, for as long as the process lives."""
        while True:
            try:
                async with asyncio.timeout(_ESTABLISH_S):
                    await self._cmd.open()
                    await self._reader.open()
                    await self._sub.open()
                    await self._session.establish(self._cmd, self._sub, first=not first.done())
            except (RedisError, OSError, TimeoutError) as error:
                self._could_not(error, first)
            except Exception as error:  # a bug must not leave this process alone for ever
                log.exception("making the link ready failed")
                self._could_not(error, first)
            else:
                await self._hold(first)
            for wire in (self._cmd, self._reader, self._sub):
                await wire.close()
            breaker = self._breakers[self._fault]
            breaker.failed(_now())
            self._metrics.breaker(self._fault)
            await asyncio.sleep(breaker.wait_s(_now()))
            breaker.allows(_now())

    def _could_not(self, error: BaseException, first: asyncio.Future[None]) -> None:
        fault = fault_of(error)
        self._fault = fault if fault in self._breakers else Fault.DOWN
        self._metrics.errors.labels(str(self._fault)).inc()
        log.warning("redis cannot be used", extra={"fault": str(fault), "err": str(error), "redis": self.where})
        if first.done():
            return
        if fault is Fault.LOGIN:
            first.set_exception(ConfigError(f"redis.url: {self.where} refuses the login: {error}"))
            first.exception()  # retrieved, should nobody wait any more
        else:
            first.set_result(None)

    async def _hold(self, first: asyncio.Future[None]) -> None:
        """Run while everything works; the tasks of one session end with it."""
        for breaker in self._breakers.values():
            breaker.succeeded(_now())
        self._metrics.breaker(None)
        self._broken.clear()
        self._idle.set()
        self._came_up.set()
        self.is_up, self.up_since = True, _now()
        log.info("redis in use", extra={"redis": self.where})
        self._session.up()
        if not first.done():
            first.set_result(None)
        tasks = [
            self._tasks.spawn(self._guard(self._pump()), name="send to redis"),
            self._tasks.spawn(self._guard(self._listen()), name="listen to redis"),
            self._tasks.spawn(self._guard(self._read()), name="read jobs from redis"),
        ]
        try:
            await self._broken.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=DEADLINE_S)

    async def _guard(self, work: Any) -> None:
        try:
            await work
        except (RedisError, OSError, TimeoutError) as error:
            if not self.closing:
                self.fail(error)
        except Exception as error:  # up without one of its tasks is worse than down
            log.exception("the link failed")
            self.fail(error)

    async def _pump(self) -> None:
        while True:
            await self._work.wait()
            batch = [self._pending.popleft() for _ in range(min(len(self._pending), _MAX_BATCH))]
            if not self._pending:
                self._work.clear()
                self._pending_bytes = 0
            if not batch:
                continue
            sent_at = _now()
            try:
                async with asyncio.timeout(DEADLINE_S):
                    replies = await self._cmd.ask([command for command, _ in batch])
            except BaseException as error:
                _tell(batch, RedisDown(f"redis failed: {error!r}"))
                raise
            self._metrics.took(_now() - sent_at)
            for (command, then), reply in zip(batch, replies, strict=True):
                if isinstance(reply, RedisError):
                    self._refused(command, reply)
                elif command[0] in _NEED_ROOM:
                    self._room.succeeded(_now())
                if then is not None:
                    _tell([(command, then)], reply)
            if not self._pending:
                self._idle.set()

    def _refused(self, command: Command, error: RedisError) -> None:
        """An error reply: some concern the whole link, some only what was asked."""
        fault = fault_of(error)
        if fault is Fault.FULL:
            if self._room.state is Circuit.CLOSED:
                log.error("redis is out of memory; new work stays on this process", extra={"redis": self.where})
            if not self._room.wait_s(_now()):  # the rest of a batch says nothing new
                self._room.failed(_now())
            self._metrics.errors.labels(str(fault)).inc()
        elif fault is Fault.COMMAND or (fault is Fault.LOGIN and command[0] in _MAY_LACK):
            self._metrics.errors.labels(str(fault)).inc()
            log.warning("redis refused a command", extra={"command": str(command[0]), "err": str(error)})
        elif fault is not Fault.LOST:
            self.fail(error)

    async def _listen(self) -> None:
        while True:
            frame = await self._sub.next()
            if isinstance(frame, RedisError):
                raise frame
            if isinstance(frame, list) and frame[0] == b"message":
                self._session.message(frame[2])

    async def _read(self) -> None:
        while True:
            command = await self._session.appetite()
            async with asyncio.timeout(BLOCK_S + 10):
                reply = (await self._reader.ask([command]))[0]
            if isinstance(reply, RedisError):
                raise reply
            if reply:
                self._session.entries(reply)
                await asyncio.sleep(_GATHER_S)

    def _drop_pending(self) -> None:
        batch = list(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        self._work.clear()
        _tell(batch, RedisDown(f"redis is {self._fault}"))


_NEED_ROOM = frozenset({"HSET", "XADD"})
# An account that may not do these has no conversations, or no count of dead letters; everything else goes on.
_MAY_LACK = frozenset({"EVAL", "HGET", "HVALS", "XLEN", "ZRANGE"})


def _tell(batch: list[tuple[Command, Then | None]], reply: Any) -> None:
    for command, then in batch:
        if then is not None:
            try:
                then(reply)
            except Exception:  # one caller's mistake is no reason to stop for the others
                log.exception("a reply was not understood", extra={"command": str(command[0])})


def _breaker(first_s: float, longest_s: float) -> Breaker:
    return Breaker(threshold=1, first_s=first_s, longest_s=longest_s, settle_s=60.0, jitter=random.random)


def _now() -> float:
    return asyncio.get_running_loop().time()
