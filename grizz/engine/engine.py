"""The engine: takes requests, finds responses, stops them, leaves without breaking one. `home.py` writes replies.

Everything a client names by id is looked up here, and nowhere else, together with whose it is: a foreign id is answered
exactly like an unknown one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from grizz.core.job import Job
from grizz.engine.call import NOBODY, Asked, Call, OnEnd
from grizz.engine.compaction import Compactions
from grizz.engine.conversations import Conversations
from grizz.engine.history import History, Scope, Turn
from grizz.engine.home import STORE_WITHIN_S, Home
from grizz.engine.ids import new_id, new_response_id
from grizz.engine.lookup import Lookup
from grizz.engine.once import Once
from grizz.engine.origins import Origin, Origins
from grizz.engine.pulse import Pulse
from grizz.engine.refusals import not_found, queue_full, reason, restarting
from grizz.engine.replies import Replies
from grizz.engine.reply import Reply
from grizz.engine.turns import Turns
from grizz.engine.worker import STOPPED, Work
from grizz.errors import Code, QueueFull, RequestError, TransportClosed
from grizz.protocol.compose import Composer
from grizz.protocol.events import response_object
from grizz.protocol.items import Item
from grizz.protocol.reader import usage
from grizz.protocol.requests import Request
from grizz.tasks import TaskOwner
from grizz.telemetry import continuity
from grizz.telemetry.metrics import Metrics
from grizz.telemetry.traces import Traces
from grizz.transport.base import Archive, Cause, Found, Transport
from grizz.transport.shelf import Shelf

log = logging.getLogger(__name__)

_SWEEP_S = 1.0
# A cancelled answer ends within milliseconds; a worker that does not obey must not hold the caller.
_CANCEL_WAIT_S = 5.0
_SAY_AGAIN_S = 1.0
# When the drain is over: how long workers may take to end what is left; after that it is ended without them.
_END_WITHIN_S = 1.0
# What a create may wait for other nodes and their Redis, in all.
_ELSEWHERE_S = 2.0


class Engine:
    """What clients ask for.

    Args:
        node: tells this process's short id, part of every response id it makes.
        free_slots: how many local workers are free, to know whether a job will wait.
        readers_per_response: cursors that may follow one response.
        lease_s: seconds of standstill after which another node may have taken over.
        keep_s: seconds a stored response is kept after its last use.
        max_chain_bytes: of input and output in a chain of responses that may be continued.
        archive: where finished responses are stored for every node, or None.
        compactions: seals and opens compaction items.
        once: the idempotency keys in use.
        shelf: where conversations are.

    Attributes:
        delivered: counts what an event took from the log to a socket, in seconds.
        check_continuity: see `telemetry.continuity.check`.
        home: what the transport talks to.
        lookup: finds responses that are no reply of this node.
        conversations: what clients ask of conversations.
    """

    def __init__(
        self,
        *,
        node: Callable[[], str],
        transport: Transport,
        replies: Replies,
        history: History,
        metrics: Metrics,
        tasks: TaskOwner,
        free_slots: Callable[[], int],
        readers_per_response: int,
        lease_s: float,
        keep_s: float,
        max_chain_bytes: int,
        compactions: Compactions,
        once: Once,
        shelf: Shelf,
        traces: Traces,
        archive: Archive | None = None,
    ) -> None:
        self.compactions = compactions
        self.once = once
        self.pulse = Pulse(lease_s, transport.may_speak)
        self.replies = replies
        self.history = history
        self.lookup = Lookup(history, archive, keep_s=keep_s, max_chain_bytes=max_chain_bytes)
        self.conversations = Conversations(shelf)
        self._turns = Turns(shelf, tasks, lease_s=lease_s, is_home=lambda one: replies.get(one) is not None)
        self._origins = Origins(self.lookup, self.conversations, self._turns, self.reply)
        self.home = Home(replies, self.lookup, self.pulse, self._turns, metrics, traces)
        self.draining = False
        self.node = node
        self._transport = transport
        self._metrics = metrics
        self.delivered = metrics.delivered
        self.check_continuity = partial(continuity.check, metrics)
        self._tasks = tasks
        self._free_slots = free_slots
        self.readers_per_response = readers_per_response

    def __repr__(self) -> str:
        return f"<Engine {self.node()}: {self.replies!r}, {self.history!r}>"

    def start(self) -> None:
        """Begin to sweep: graces, expiries; and to watch that time does not stand still."""
        self._tasks.spawn(self._sweep(), name="sweep")
        self._tasks.spawn(self.pulse.beat(), name="pulse")

    @property
    def trouble(self) -> str:
        """Why this process runs on its memory alone, in a word; "" when nothing is wrong."""
        return self._transport.trouble

    # What clients ask for

    async def submit(
        self,
        request: Request,
        owner: str,
        *,
        scope: Scope | None,
        size: int,
        call: Call = NOBODY,
        on_end: OnEnd | None = None,
        response_id: str | None = None,
    ) -> Reply:
        """Accept a request: from here on it has an id, and will have exactly one terminal event.

        Args:
            scope: the connection that alone may continue it when it is not stored, or None.
            size: bytes of the request as it came, for the byte bounds.
            call: the request that asks for it.
            on_end: called once with the Response when it has ended, or leaves this node.
            response_id: made by `new_response_id`; None makes one.

        Raises:
            RequestError: it is refused; nothing was accepted.
        """
        try:
            name = response_id or self.new_response_id()
            return await self._submit(request, Asked(name, owner, scope, size, call, on_end))
        except QueueFull as error:
            self._metrics.rejected.labels("queue_full").inc()
            raise queue_full(error) from error
        except TransportClosed as error:
            self._metrics.rejected.labels("draining").inc()
            raise restarting() from error
        except RequestError as error:
            self._metrics.rejected.labels(reason(error, draining=self.draining)).inc()
            raise

    async def context(self, request: Request, owner: str) -> list[Item]:
        """All that a model would see of a request, which does not become a response by that. Cancel-safe.

        Raises:
            RequestError: it names something that is not there, or not its own.
        """
        origin = await self._origins.read(request, owner, self._now() + _ELSEWHERE_S)
        return await origin.seen(self.compactions, owner)

    def reply(self, response_id: str, owner: str) -> Reply | None:
        """The log of a response, if it is still kept (or mirrored) here and this owner's."""
        reply = self.replies.get(response_id) or self.lookup.mirror(response_id)
        return reply if reply is not None and reply.owner == owner else None

    async def find(self, response_id: str, owner: str) -> Reply | Turn:
        """A response's log, wherever it is; once that is gone its turn, if it was stored. Cancel-safe.

        Raises:
            RequestError: 404.
        """
        found = self.reply(response_id, owner) or await self.lookup.find(response_id, owner)
        if found is None:
            raise not_found(response_id)
        return found

    async def find_stored(self, response_id: str, owner: str) -> Reply | Turn:
        """As `find`, but an unstored response is not to be had by its id alone.

        Raises:
            RequestError: 404.
        """
        found = await self.find(response_id, owner)
        if isinstance(found, Reply) and not found.request.store:
            raise not_found(response_id)
        return found

    def queued_of(self, owner: str) -> int:
        """How many of this owner's jobs wait for a worker."""
        return self._transport.queued_of(owner)

    @property
    def waiting(self) -> int:
        """Jobs of this node that wait for a worker."""
        return self._transport.depth().queued

    def positions(self) -> Mapping[str, int]:
        """How many jobs will be handed out before each that waits at this node; takes time for each of them."""
        return self._transport.positions()

    def check_readers(self, reply: Reply) -> None:
        """May one more reader follow it?

        Raises:
            RequestError: 429, it has as many as are allowed.
        """
        if reply.readers >= self.readers_per_response:
            text = f"This response has {reply.readers} readers, which is the limit."
            raise RequestError(429, Code.RATE_LIMIT, text, retry_after_s=1.0)

    def snapshot(self, found: Reply | Turn) -> dict[str, Any]:
        """The Response as it stands."""
        return found.response if isinstance(found, Turn) else found.snapshot(new_id)

    async def cancel(self, response_id: str, owner: str) -> Reply | Turn:
        """Stop a response wherever it is; harmless when it has ended.

        Raises:
            RequestError: 404.
        """
        found = await self.find(response_id, owner)
        if isinstance(found, Reply):
            await self._stop_and_wait(found, Cause.CANCELLED)
        return found

    async def delete(self, response_id: str, owner: str) -> None:
        """Forget a response everywhere, and stop it first if it runs.

        Raises:
            RequestError: 404.
        """
        found = await self.find_stored(response_id, owner)
        if isinstance(found, Reply):
            await self._stop_and_wait(found, Cause.DELETED)
            self.replies.remove(found)
            self.lookup.take_mirror(found.id)
        await self.lookup.delete(response_id, owner)

    def deleted_elsewhere(self, response_id: str, owner: str) -> None:
        """Another node deletes a response of that owner, of which there may be a copy here."""
        reply = self.reply(response_id, owner)
        if reply is not None and reply.ended:
            self.replies.remove(reply)
            self.lookup.take_mirror(response_id)
        if reply is not None or self.history.find(response_id, owner, self._now()) is not None:
            self.lookup.deleted_elsewhere(response_id)

    # Leaving

    async def drain(self, within_s: float) -> None:
        """Refuse new work and wait at most `within_s` seconds for what runs; then end the rest honestly."""
        self.draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._transport.leave()
                await self.replies.idle.wait()
        safe = set(await self._transport.hand_over())
        for reply in self.replies.all_running():
            if reply.id in safe:
                self.replies.remove(reply)
                reply.revoke()
        left = list(self.replies.all_running())
        if safe:
            log.warning("answers handed over by the shutdown", extra={"count": len(safe)})
        if left:
            log.warning("answers cut short by the shutdown", extra={"count": len(left)})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_WITHIN_S):
                for reply in left:
                    await self.stop(reply, Cause.SHUTDOWN)
                await self.replies.idle.wait()
        for reply in left:
            self.home.end(reply.id, STOPPED[Cause.SHUTDOWN])
        with contextlib.suppress(TimeoutError):  # an end is shown when it is stored, or that takes too long
            async with asyncio.timeout(STORE_WITHIN_S + _END_WITHIN_S):
                await self.replies.idle.wait()

    # Inside

    async def _submit(self, request: Request, asked: Asked) -> Reply:
        if self.draining:
            raise restarting()
        await self.pulse.sure()
        deadline = self._now() + _ELSEWHERE_S
        origin = await self._origins.of(request, asked.owner, asked.scope, asked.name, deadline)
        try:
            return await self._accept(asked, origin, deadline + origin.waited_s)
        except BaseException:
            self._turns.give_up(asked.name)
            raise

    async def _accept(self, asked: Asked, origin: Origin, until: float) -> Reply:
        request, name, owner, size = origin.request, asked.name, asked.owner, asked.size
        context = await origin.seen(self.compactions, owner)
        # It may have begun, or become another node, while this one waited for others; from here on nothing waits.
        if self.draining or not name.startswith(f"resp_{self.node()}"):
            raise restarting()
        waits = request.generate and self._transport.depth().queued >= self._free_slots()
        status = "queued" if waits else "in_progress"
        response = response_object(name, int(time.time()), request, status)
        reply = Reply(
            {**response},
            owner,
            request,
            parent=origin.parent,
            scope=asked.scope,
            given=origin.given,
            size=size,
            now=self._now(),
            request_id=asked.call.request_id,
        )
        reply.on_end = asked.on_end
        composer = Composer(response, new_id=new_id)
        composer.lifecycle("created", status)
        if waits:
            composer.lifecycle("queued", status)
        self.replies.add(reply)
        self.home.begins(reply, asked.call)
        self.home.publish(reply, composer)
        if request.generate:
            work = Work(request, context, composer.response)
            try:
                job = Job(reply.id, owner, work, size, reply.created_at, composer.next_seq, trace=reply.span.headers)
                with contextlib.suppress(TimeoutError):  # it is queued; only its record is late
                    async with asyncio.timeout_at(until):
                        await self._transport.put(job)
            except BaseException:
                reply.on_end = None  # it has not been, and who asked is told so by the exception
                reply.span.ended({**reply.response, "status": "failed", "error": {"code": "not_accepted"}})
                self.replies.remove(reply)
                # A cancelled `put` may have queued it: nobody would have it, and it would be begun after a restart.
                self._tasks.spawn(self._transport.cancel(reply.id, Cause.ABANDONED), name=f"withdraw {reply.id}")
                raise
        else:
            composer.lifecycle("in_progress", "in_progress")
            composer.finish("completed", completed_at=int(time.time()), usage=usage({}))
            self.home.publish(reply, composer)
        self._metrics.submitted.labels(self._metrics.model(request.model)).inc()
        self.home.accepted(reply)
        return reply

    def new_response_id(self) -> str:
        """An id for a response that is about to be made here."""
        return new_response_id(self.node(), time.time())

    async def stop(self, reply: Reply, cause: Cause) -> None:
        """Stop a response of this node or another, also for another node's client; harmless when it has ended."""
        if reply.ended:
            return
        if self.lookup.mirror(reply.id) is reply and self.lookup.peers is not None:
            self.lookup.peers.cancel(reply, cause)
            return
        if await self._transport.cancel(reply.id, cause) is Found.QUEUED:
            self.home.end(reply.id, STOPPED[cause])

    async def _stop_and_wait(self, reply: Reply, cause: Cause) -> None:
        """Stop it and wait for its end; a word to another node may be lost, so it is said again."""
        for _ in range(round(_CANCEL_WAIT_S / _SAY_AGAIN_S)):
            await self.stop(reply, cause)
            if await reply.ends_within(_SAY_AGAIN_S):
                return
        log.error("a stopped answer did not end", extra={"response_id": reply.id})

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = self._now()
            self.replies.expire(now)
            self.lookup.sweep(now)
            self.conversations.sweep()
            self._turns.sweep()
            self.home.say_queued_again(self._transport.advance)
            for reply in self.replies.abandoned(now):
                log.info("nobody watches this answer any more", extra={"response_id": reply.id})
                await self.stop(reply, Cause.ABANDONED)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
