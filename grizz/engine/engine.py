"""The engine: takes requests, keeps their replies, ends what nobody else can end. It is the *home* of its responses.

Everything a client names by id is looked up here, and nowhere else, together with whose it is: a foreign id is answered
exactly like an unknown one.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from grizz.core.job import Delivery, Job
from grizz.engine.history import History, Scope, Turn, read_turns
from grizz.engine.peers import Peers
from grizz.engine.pulse import Pulse
from grizz.engine.replies import Replies
from grizz.engine.reply import Reply
from grizz.engine.worker import STOPPED, Ending, Work, failed
from grizz.errors import Code, QueueFull, RequestError, TransportClosed
from grizz.protocol.compose import Composer
from grizz.protocol.events import Event, response_object
from grizz.protocol.items import Item, check_calls_match, with_ids
from grizz.protocol.reader import usage
from grizz.protocol.requests import Request
from grizz.tasks import TaskOwner
from grizz.telemetry.metrics import Metrics
from grizz.transport.base import Archive, Cause, Found, Transport

log = logging.getLogger(__name__)

_SWEEP_S = 1.0
# A cancelled answer ends within milliseconds; a worker that does not obey must not hold the caller.
_CANCEL_WAIT_S = 5.0
_QUEUE_FULL_RETRY_S = 5.0
# A finished response is stored together with others, a tenth of a second after its end.
_STORE_LOOKS = 5
_STORE_LOOK_S = 0.1
# An attempt that must begin anew on another node is numbered from a multiple of this: above all that was seen before.
RESTART_STEP = 1_000_000


def new_id(prefix: str) -> str:
    """A short id, unique among one owner's items: 48 bits."""
    return f"{prefix}_{secrets.token_hex(6)}"


class Engine:
    """Implements `transport.base.Home`.

    Args:
        node: tells this process's short id, part of every response id it makes.
        free_slots: how many local workers are free, to know whether a job will wait.
        concurrent_per_owner: responses an owner may have running or queued; 0 = no limit.
        readers_per_response: cursors that may follow one response.
        lease_s: seconds of standstill after which another node may have taken over.
        archive: where finished responses are stored for every node, or None.
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
        concurrent_per_owner: int,
        readers_per_response: int,
        lease_s: float,
        archive: Archive | None = None,
    ) -> None:
        self.pulse = Pulse(lease_s, transport.may_speak)
        self.peers: Peers | None = None
        self.pulse.after = self._release
        # What came while it was not known who speaks: for two seconds at most.
        self._held: list[tuple[str, Sequence[Event]]] = []
        self._archive = archive
        self.replies = replies
        self.history = history
        self.draining = False
        self._node = node
        self._transport = transport
        self._metrics = metrics
        self._tasks = tasks
        self._free_slots = free_slots
        self._concurrent_per_owner = concurrent_per_owner
        self._readers_per_response = readers_per_response

    def __repr__(self) -> str:
        return f"<Engine {self._node()}: {self.replies!r}, {self.history!r}>"

    def start(self) -> None:
        """Begin to sweep: graces, expiries; and to watch that time does not stand still."""
        self._tasks.spawn(self._sweep(), name="sweep")
        self._tasks.spawn(self.pulse.beat(), name="pulse")

    @property
    def trouble(self) -> str:
        """Why this process runs on its memory alone, in a word; "" when nothing is wrong."""
        return self._transport.trouble

    # What clients ask for

    async def submit(self, request: Request, owner: str, *, scope: Scope | None, size: int) -> Reply:
        """Accept a request: from here on it has an id, and will have exactly one terminal event.

        Args:
            scope: the connection that alone may continue it when it is not stored, or None.
            size: bytes of the request as it came, for the byte bounds.

        Raises:
            RequestError: it is refused; nothing was accepted.
        """
        try:
            return await self._submit(request, owner, scope, size)
        except QueueFull as error:
            self._metrics.rejected.labels("queue_full").inc()
            text = f"The queue is full: {error}. Try again later."
            raise RequestError(429, Code.RATE_LIMIT, text, retry_after_s=_QUEUE_FULL_RETRY_S) from error
        except TransportClosed as error:
            self._metrics.rejected.labels("draining").inc()
            raise _restarting() from error
        except RequestError as error:
            self._metrics.rejected.labels(_REJECTED.get(error.code, "invalid")).inc()
            raise

    def reply(self, response_id: str, owner: str) -> Reply | None:
        """The log of a response, if it is still kept (or mirrored) here and this owner's."""
        reply = self.replies.get(response_id) or (self.peers.mirror(response_id) if self.peers else None)
        return reply if reply is not None and reply.owner == owner else None

    async def find(self, response_id: str, owner: str) -> Reply | Turn:
        """A response's log, wherever it is; once that is gone its turn, if it was stored. Cancel-safe.

        Raises:
            RequestError: 404.
        """
        reply = self.reply(response_id, owner)
        if reply is not None:
            return reply
        turn = self.history.find(response_id, owner, self._now())
        if turn is None and self.peers is not None:
            reply = await self.peers.find(response_id, owner)
            if reply is not None:
                return reply
        turn = turn or await self._fetch(response_id, owner)
        if turn is None:
            raise not_found(response_id)
        return turn

    async def find_stored(self, response_id: str, owner: str) -> Reply | Turn:
        """As `find`, but an unstored response is not to be had by its id alone.

        Raises:
            RequestError: 404.
        """
        found = await self.find(response_id, owner)
        if isinstance(found, Reply) and not found.request.store:
            raise not_found(response_id)
        return found

    def check_readers(self, reply: Reply) -> None:
        """May one more reader follow it?

        Raises:
            RequestError: 429, it has as many as are allowed.
        """
        if reply.readers >= self._readers_per_response:
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
            await self._stop(found, Cause.CANCELLED)
            await self._wait_for_end(found)
        return found

    async def delete(self, response_id: str, owner: str) -> None:
        """Forget a response, and stop it first if it runs.

        Raises:
            RequestError: 404.
        """
        found = await self.find_stored(response_id, owner)
        if isinstance(found, Reply):
            await self._stop(found, Cause.DELETED)
            await self._wait_for_end(found)
            self.replies.remove(found)
            if self.peers is not None:
                self.peers.remove(found)
        self.history.forget(response_id)
        if self._archive is not None:
            self._archive.discard(response_id)

    # What the transport says (see transport.base.Home)

    def deliver(self, job_id: str, events: Sequence[Event]) -> None:
        """The next events of a response, in order."""
        if not self.pulse.is_sure:
            self._held.append((job_id, events))
            return
        reply = self.replies.get(job_id)
        if reply is None:
            return  # deleted meanwhile
        now = self._now()
        if not reply.started and any(event.key is not None for event in events):
            reply.started = True
            label = self._metrics.model(reply.request.model)
            self._metrics.first_token.labels(label).observe(now - reply.created_at)
        self._append(reply, events, now)

    def _release(self) -> None:
        held, self._held = self._held, []
        for job_id, events in held:
            self.deliver(job_id, events)

    def interrupted(self, delivery: Delivery, *, drained: bool = False) -> Job:
        """This attempt was lost, or `drained`: close what it left open; the job returned continues there."""
        if not drained:
            self._metrics.attempts_lost.inc()
            log.warning("attempt lost", extra={"response": delivery.job.id, "attempt": delivery.attempt})
        reply = self.replies.get(delivery.job.id)
        if reply is None:
            return delivery.job
        composer = reply.composer(new_id)
        composer.interrupt()
        if reply.status == "queued":
            composer.lifecycle("in_progress", "in_progress")
        self._publish(reply, composer)
        return dataclasses.replace(delivery.job, next_seq=composer.next_seq, output=composer.output)

    def buried(self, delivery: Delivery) -> None:
        """The last attempt was lost: end the response as failed."""
        self._metrics.dead_letters.labels("attempts").inc()
        text = f"the server lost this answer {delivery.attempt} times and gave it up"
        self._end(delivery.job.id, ("dead", failed(Code.SERVER_ERROR, text)))

    def overdue(self, job: Job) -> None:
        """It waited longer than allowed: end it as failed."""
        self._metrics.dead_letters.labels("expired").inc()
        self._end(job.id, STOPPED[Cause.OVERDUE])

    def stopped(self, job_id: str, cause: Cause) -> None:
        """The worker that was to stop it is gone: end it here."""
        self._end(job_id, STOPPED[cause])

    def log_of(self, job_id: str) -> Sequence[Event]:
        """Every event of a response that this node keeps; none when it does not."""
        reply = self.replies.get(job_id)
        return reply.after(-1, sys.maxsize) if reply is not None else ()

    def knows(self, job_id: str) -> bool:
        """Is the response's log kept here, as its home?"""
        return self.replies.get(job_id) is not None

    def adopt(self, job: Job, attempt: int, log: Sequence[Event] | None) -> Job | None:
        """The job's home is gone, and this node is its home from now on: see `transport.base.Home.adopt`."""
        if self.knows(job.id):
            return None
        work: Work = job.payload
        now = self._now()
        mirror = self.peers.take(job.id) if self.peers is not None else None
        reply = mirror or Reply(
            {**work.response, "status": "in_progress"},
            job.owner,
            work.request,
            parent=None,
            scope=None,
            given=(),
            size=job.size,
            now=now,
        )
        # The whole context stands for the turns before it: they may be gone with the home, and are only read again.
        reply.given = tuple(work.context)
        self.replies.add(reply)
        if log is None:
            composer = Composer({**work.response}, new_id=new_id, next_seq=(attempt - 1) * RESTART_STEP)
            composer.lifecycle("created", "in_progress")
            composer.lifecycle("in_progress", "in_progress")
            self.replies.restart(reply, composer.take(), attempt, now)
            return dataclasses.replace(job, next_seq=composer.next_seq, output=())
        begun = Composer({**work.response}, new_id=new_id, next_seq=job.next_seq - 1, output=job.output)
        begun.lifecycle("created", "in_progress")
        reply.attempt = max(reply.attempt, job.next_seq // RESTART_STEP + 1)
        whole = reply.last_seq >= 0 or (log and log[0].type == "response.created")
        self._append(reply, [*(() if whole else begun.take()), *log], now)
        return job

    def forget(self, job_id: str, node: str) -> None:
        """How it ended is not true any more: it runs again, at that node."""
        reply = self.replies.get(job_id)
        if reply is not None and reply.ended:
            self.replies.remove(reply)
        self.history.forget(job_id)
        if self._archive is not None:
            self._archive.discard(job_id)
        if self.peers is not None:
            self.peers.moved(job_id, node)

    def deposed(self) -> None:
        """Others speak for this node's responses now: not one more word of them from here."""
        for reply in self.replies.all_running():
            self.replies.remove(reply)
            reply.revoke()
        if self.peers is not None:
            self.peers.clear()

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
        for reply in left:
            await self._stop(reply, Cause.SHUTDOWN)
        for reply in left:
            await self._wait_for_end(reply)

    # Inside

    async def _submit(self, request: Request, owner: str, scope: Scope | None, size: int) -> Reply:
        if self.draining:
            raise _restarting()
        limit = self._concurrent_per_owner
        if limit and self.replies.running_of(owner) >= limit:
            text = f"You have {limit} responses running, which is the limit; wait for one to end."
            raise RequestError(429, Code.RATE_LIMIT, text, retry_after_s=1.0)
        await self.pulse.sure()
        parent = await self._parent(request, owner, scope)
        request = dataclasses.replace(request, input=tuple(with_ids(request.input, new_id)))
        given = self._resolve(request.input, owner, scope)
        context = [*(parent.context() if parent else ()), *given]
        check_calls_match(context)
        waits = request.generate and self._transport.depth().queued >= self._free_slots()
        status = "queued" if waits else "in_progress"
        response = response_object(self._response_id(), int(time.time()), request, status)
        reply = Reply({**response}, owner, request, parent=parent, scope=scope, given=given, size=size, now=self._now())
        composer = Composer(response, new_id=new_id)
        composer.lifecycle("created", status)
        if waits:
            composer.lifecycle("queued", status)
        self.replies.add(reply)
        self._publish(reply, composer)
        if request.generate:
            work = Work(request, context, composer.response)
            try:
                await self._transport.put(Job(reply.id, owner, work, size, reply.created_at, composer.next_seq))
            except BaseException:
                self.replies.remove(reply)
                raise
        else:
            composer.lifecycle("in_progress", "in_progress")
            composer.finish("completed", completed_at=int(time.time()), usage=usage({}))
            self._publish(reply, composer)
        self._metrics.submitted.labels(self._metrics.model(request.model)).inc()
        return reply

    def _response_id(self) -> str:
        """Who is its home, and in which hour it was made: where to look for it costs no look-up."""
        hour = int(time.time() / 3600) & 0xFFFF
        return f"resp_{self._node()}{hour:04x}{secrets.token_hex(14)}"

    async def _parent(self, request: Request, owner: str, scope: Scope | None) -> Turn | None:
        previous = request.previous_response_id
        if previous is None:
            return None
        turn = self.history.find(previous, owner, self._now(), scope)
        if turn is None:
            turn = await self._parent_elsewhere(previous, owner)
        if turn is not None and turn.continuable:
            return turn
        running = self.reply(previous, owner)
        state = " has not ended yet" if running is not None and not running.ended else " not found"
        text = f"Previous response with id '{previous}'{state}."
        raise RequestError(400, Code.PREVIOUS_RESPONSE_NOT_FOUND, text, param="previous_response_id")

    async def _parent_elsewhere(self, response_id: str, owner: str) -> Turn | None:
        """A turn that another node made; one that has just ended may be on its way to the archive."""
        turn = await self._fetch(response_id, owner)
        if turn is None and self.peers is not None and await self.peers.find(response_id, owner) is not None:
            for _ in range(_STORE_LOOKS):
                await asyncio.sleep(_STORE_LOOK_S)
                turn = await self._fetch(response_id, owner)
                if turn is not None:
                    break
        return turn

    def _resolve(self, items: Sequence[Item], owner: str, scope: Scope | None) -> list[Item]:
        resolved = []
        for index, item in enumerate(items):
            if item["type"] == "item_reference":
                found = self.history.item(item["id"], owner, scope)
                if found is None:
                    text = f"Item with id '{item['id']}' not found."
                    raise RequestError(400, Code.ITEM_NOT_FOUND, text, param=f"input[{index}].id")
                item = found
            resolved.append(item)
        return resolved

    async def _fetch(self, response_id: str, owner: str) -> Turn | None:
        """A turn that another node stored, with its ancestors; kept here from then on, as if it had been made here."""
        if self._archive is None:
            return None
        found = read_turns(list((await self._archive.fetch([response_id])).values()))
        if response_id not in found or found[response_id][0].owner != owner:
            return None
        turn, lineage = found[response_id]
        now = self._now()
        missing = [one for one in lineage if self.history.find(one, owner, now) is None]
        older = read_turns(list((await self._archive.fetch(missing)).values())) if missing else {}
        parent: Turn | None = None
        for one in lineage:
            ancestor = self.history.find(one, owner, now)
            if ancestor is None:
                if one not in older or older[one][0].owner != owner:
                    turn.gone = True  # half a conversation cannot be continued
                    return turn
                ancestor = older[one][0]
                ancestor.parent = parent
                self.history.add(ancestor, now)
            parent = ancestor
        turn.parent = parent
        if (known := self.history.find(response_id, owner, now)) is not None:
            return known
        self.history.add(turn, now)
        return turn

    async def _stop(self, reply: Reply, cause: Cause) -> None:
        if reply.ended:
            return
        if self.peers is not None and self.peers.mirror(reply.id) is reply:
            self.peers.cancel(reply, cause)
            return
        if await self._transport.cancel(reply.id, cause) is Found.QUEUED:
            self._end(reply.id, STOPPED[cause])

    async def stop(self, reply: Reply, cause: Cause) -> None:
        """Stop a response of this node, for another node's client."""
        await self._stop(reply, cause)

    async def _wait_for_end(self, reply: Reply) -> None:
        ended = asyncio.Event()

        def look() -> None:
            if reply.ended:
                ended.set()

        reply.watch(look)
        try:
            look()
            async with asyncio.timeout(_CANCEL_WAIT_S):
                await ended.wait()
        except TimeoutError:
            log.error("a stopped answer did not end", extra={"response": reply.id})
        finally:
            reply.unwatch(look, self._now())

    def _end(self, response_id: str, ending: Ending) -> None:
        """Write the terminal event of a response that no worker holds."""
        reply = self.replies.get(response_id)
        if reply is None or reply.ended:
            return
        outcome, how = ending
        composer = reply.composer(new_id)
        composer.finish(**how)
        self._metrics.finished.labels(self._metrics.model(reply.request.model), outcome).inc()
        self._publish(reply, composer)

    def _publish(self, reply: Reply, composer: Composer) -> None:
        self._append(reply, composer.take(), self._now())

    def _append(self, reply: Reply, events: Sequence[Event], now: float) -> None:
        if not events or reply.ended:
            return
        self._metrics.events.inc(len(events))
        self.replies.extend(reply, events, now)
        if reply.ended:
            self._settled(reply, now)

    def _settled(self, reply: Reply, now: float) -> None:
        """A response has ended: remember the turn, count it, write the one line."""
        request, response = reply.request, reply.response
        scope = None if request.store else reply.scope
        if request.store or scope is not None:
            turn = Turn(reply.id, reply.owner, reply.parent, reply.given, response, reply.last_seq, scope)
            self.history.add(turn, now)
            if self._archive is not None and scope is None:
                self._archive.keep(turn.id, turn.to_wire())
        reply.given, reply.parent, reply.scope = (), None, None
        label = self._metrics.model(request.model)
        took = now - reply.created_at
        self._metrics.duration.labels(label).observe(took)
        tokens = response["usage"] or usage({})
        self._metrics.tokens.labels(label, "input").inc(tokens["input_tokens"])
        self._metrics.tokens.labels(label, "cached").inc(tokens["input_tokens_details"]["cached_tokens"])
        self._metrics.tokens.labels(label, "output").inc(tokens["output_tokens"])
        log.info(
            "response ended",
            extra={
                "response": reply.id,
                "status": response["status"],
                "model": response["model"],
                "dur_ms": round(took * 1000),
                "tokens": tokens["output_tokens"],
                "events": reply.last_seq + 1,
                "err": (response["error"] or {}).get("code"),
            },
        )

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = self._now()
            self.replies.expire(now)
            self.history.sweep(now)
            if self.peers is not None:
                self.peers.sweep(now)
            for reply in self.replies.abandoned(now):
                log.info("nobody watches this answer any more", extra={"response": reply.id})
                await self._stop(reply, Cause.ABANDONED)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def not_found(response_id: str) -> RequestError:
    """The one answer to an id that is unknown, expired or somebody else's."""
    return RequestError(404, Code.RESPONSE_NOT_FOUND, f"Response with id '{response_id}' not found.")


def last_event(turn: Turn) -> Event:
    """The terminal event of a response whose log is gone, under its original number."""
    status = turn.response["status"]
    name = f"response.{status if status in ('completed', 'failed') else 'incomplete'}"
    body = {"type": name, "sequence_number": turn.last_seq, "response": turn.response}
    return Event(turn.last_seq, name, orjson.dumps(body))


def _restarting() -> RequestError:
    return RequestError(503, Code.OVERLOADED, "The server is restarting; try again.", retry_after_s=1.0)


_REJECTED = {Code.OVERLOADED: "draining", Code.RATE_LIMIT: "rate_limited"}
