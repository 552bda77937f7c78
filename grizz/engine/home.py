"""The home of this node's responses: writes their replies, as workers and the transport say, and settles them.

Implements `transport.base.Home`. What another node has taken over meanwhile is never said again; see `pulse.py`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from grizz.core.job import RESTART_STEP, Delivery, Job
from grizz.engine.call import Call
from grizz.engine.history import Turn
from grizz.engine.ids import new_id
from grizz.engine.lookup import Lookup
from grizz.engine.pulse import Pulse
from grizz.engine.replies import Replies
from grizz.engine.reply import Reply
from grizz.engine.turns import Turns, given_in
from grizz.engine.worker import STOPPED, Ending, Work, failed
from grizz.errors import Code
from grizz.protocol.compose import Composer
from grizz.protocol.events import Event
from grizz.protocol.reader import usage
from grizz.telemetry import continuity
from grizz.telemetry.metrics import Metrics
from grizz.telemetry.traces import Traces
from grizz.transport.base import Cause

log = logging.getLogger(__name__)

# What takes longer to store an answer does not hold up its end any more.
STORE_WITHIN_S = 2.0
# Who waits for a worker is told so again: clients that hear nothing for some minutes give up (Codex: five), however
# many pings come, and a queue may be longer than that.
QUEUED_AGAIN_S = 60.0
# As much of it in one sweep, a second: each is the whole Response, and stays in the log.
_MOST_AGAIN, _MOST_AGAIN_BYTES = 100, 1 << 20


class Home:
    """Implements `transport.base.Home`.

    Args:
        pulse: says whether this node may speak.
        turns: what ends in a conversation is in it before its end is shown.
    """

    def __init__(
        self, replies: Replies, lookup: Lookup, pulse: Pulse, turns: Turns, metrics: Metrics, traces: Traces
    ) -> None:
        self._replies = replies
        self._lookup = lookup
        self._pulse = pulse
        self._turns = turns
        self._metrics = metrics
        self._traces = traces
        # Replies whose end is not shown before it is stored, and their turn in its conversation. Not their ids: a reply
        # that was given away may come back under its id as another one.
        self._ending: set[Reply] = set()
        # What came while it was not known who speaks: for two seconds at most.
        self._held: list[tuple[str, Sequence[Event]]] = []
        pulse.after = self._release

    def __repr__(self) -> str:
        return f"<Home of {self._replies!r}>"

    def begins(self, reply: Reply, call: Call) -> None:
        """A response has an id."""
        self._trace(reply, call.trace)

    def accepted(self, reply: Reply) -> None:
        """And will have an end."""
        extra = {"response_id": reply.id, "request_id": reply.request_id, "owner": reply.owner}
        log.info("response accepted", extra={**extra, "status": reply.status, "model": reply.request.model})

    def _trace(self, reply: Reply, parent: Mapping[str, str]) -> None:
        model, request_id = reply.request.model, reply.request_id
        reply.span = self._traces.answer(parent, response_id=reply.id, request_id=request_id, model=model)

    def deliver(self, job_id: str, events: Sequence[Event]) -> None:
        """The next events of a response, in order."""
        if not self._pulse.is_sure:
            self._held.append((job_id, events))
            return
        reply = self._replies.get(job_id)
        if reply is None:
            return  # deleted meanwhile
        now = _now()
        if not reply.started and any(event.key is not None for event in events):
            reply.started = True
            reply.span.first_word()
            label = self._metrics.model(reply.request.model)
            self._metrics.began(label, now - reply.created_at)
        self._append(reply, events, now)

    def _release(self) -> None:
        held, self._held = self._held, []
        for job_id, events in held:
            self.deliver(job_id, events)

    def interrupted(self, delivery: Delivery, *, drained: bool = False) -> Job:
        """This attempt was lost, or `drained`: close what it left open; the job returned continues there."""
        if not drained:
            self._metrics.attempts_lost.inc()
            log.warning("attempt lost", extra={"response_id": delivery.job.id, "attempt": delivery.attempt})
        reply = self._replies.get(delivery.job.id)
        if reply is None:
            return delivery.job
        if not drained:
            reply.span.attempt_lost(delivery.attempt)
        composer = reply.composer(new_id)
        composer.interrupt()
        if reply.started and not drained:
            self._metrics.restarted.inc()
        if reply.status == "queued":
            composer.lifecycle("in_progress", "in_progress")
        self.publish(reply, composer)
        reply.losses, reply.left = (*reply.losses, composer.next_seq), len(composer.output)
        return dataclasses.replace(delivery.job, next_seq=composer.next_seq, output=composer.output)

    def buried(self, delivery: Delivery) -> None:
        """The last attempt was lost: end the response as failed."""
        self._metrics.dead_letters.labels("attempts").inc()
        extra = {"response_id": delivery.job.id, "attempt": delivery.attempt}
        log.warning("response given up, its attempts are spent", extra=extra)
        text = f"the server lost this answer {delivery.attempt} times and gave it up"
        self.end(delivery.job.id, ("dead", failed(Code.SERVER_ERROR, text)))

    def overdue(self, job: Job) -> None:
        """It waited longer than allowed: end it as failed."""
        self._metrics.dead_letters.labels("expired").inc()
        log.warning("response given up, it waited too long", extra={"response_id": job.id})
        self.end(job.id, STOPPED[Cause.OVERDUE])

    def stopped(self, job_id: str, cause: Cause) -> None:
        """The worker that was to stop it is gone: end it here."""
        self.end(job_id, STOPPED[cause])

    def log_of(self, job_id: str) -> Sequence[Event]:
        """Every event of a response that this node keeps; none when it does not."""
        reply = self._replies.get(job_id)
        return reply.after(-1, sys.maxsize) if reply is not None else ()

    def knows(self, job_id: str) -> bool:
        """Is the response's log kept here, as its home?"""
        return self._replies.get(job_id) is not None

    def adopt(self, job: Job, attempt: int, log: Sequence[Event] | None) -> Job | None:
        """The job's home is gone, and this node is its home from now on: see `transport.base.Home.adopt`."""
        if self.knows(job.id):
            return None
        work: Work = job.payload
        now = _now()
        mirror = self._lookup.take_mirror(job.id)
        reply = mirror or _new_reply(job, work, now)
        # The whole context stands for the turns before it: they may be gone with the home, and are only read again.
        # Those of a conversation are in it.
        in_conversation = work.request.conversation is not None
        reply.given = tuple(given_in(work.request.input, work.context) if in_conversation else work.context)
        reply.request = work.request
        if reply.ended:  # its end was shown here already; its turn may have been late
            if work.request.conversation is not None:
                self._turns.settle(reply, reply.response, lambda: None)
            if (turn := _turn_of(reply, reply.response, reply.last_seq)) is not None:
                self._lookup.keep(turn, now)
            reply.given, reply.parent, reply.scope = (), None, None
            return None
        self._replies.add(reply)
        self._trace(reply, job.trace)
        job = dataclasses.replace(job, trace=reply.span.headers or job.trace)
        self._turns.adopt(reply)
        if log is None:
            self._metrics.restarted.inc()
            # Above everything that anybody may have seen, whoever counted the attempts.
            step = 1 + max(attempt - 2, job.next_seq // RESTART_STEP, reply.last_seq // RESTART_STEP)
            composer = Composer({**work.response}, new_id=new_id, next_seq=step * RESTART_STEP)
            composer.lifecycle("created", "in_progress")
            composer.lifecycle("in_progress", "in_progress")
            self._replies.restart(reply, composer.take(), step + 1, now)
            return dataclasses.replace(job, next_seq=composer.next_seq, output=())
        reply.attempt = max(reply.attempt, job.next_seq // RESTART_STEP + 1)
        whole = reply.last_seq >= 0 or (log and log[0].type == "response.created")
        self._append(reply, [*(() if whole else _beginning(job, work)), *log], now)
        return job

    def forget(self, job_id: str, node: str) -> None:
        """How it ended is not true any more: it runs again, at that node."""
        reply = self._replies.get(job_id)
        if reply is not None and reply.ended:
            self._replies.remove(reply)
        self._lookup.forget(job_id)
        self._lookup.moved(job_id, node)

    def deposed(self) -> None:
        """Others speak for this node's responses now: not one more word of them from here."""
        for reply in self._replies.all_running():
            log.warning("response goes on elsewhere, this process was taken over", extra={"response_id": reply.id})
            self._replies.remove(reply)
            reply.revoke()
        self._lookup.distrust()

    def end(self, response_id: str, ending: Ending) -> None:
        """Write the terminal event of a response that no worker holds."""
        reply = self._replies.get(response_id)
        if reply is None or reply.ended or reply in self._ending:
            return
        outcome, how = ending
        composer = reply.composer(new_id)
        composer.finish(**how)
        self._metrics.finished.labels(self._metrics.model(reply.request.model), outcome).inc()
        self.publish(reply, composer)

    def say_queued_again(self, advance: Callable[[str, int], bool]) -> None:
        """Repeat `response.queued` to those who read a reply that has waited long since anything was said.

        Args:
            advance: see `Transport.advance`.
        """
        now, left, room = _now(), _MOST_AGAIN, _MOST_AGAIN_BYTES
        for reply in self._replies.all_running() if self._pulse.is_sure else ():
            # In this order: 100,000 jobs may wait, of which most were told of lately or have no readers.
            if now - reply.told_at < QUEUED_AGAIN_S or not reply.readers or reply.status != "queued":
                continue
            (last,) = reply.after(reply.last_seq - 1, 1)
            if left <= 0 or room <= 0:
                return
            left, room = left - 1, room - len(last.data)
            seq = last.seq + 1
            if last.type == "response.queued" and advance(reply.id, seq + 1):
                body = {**orjson.loads(last.data), "sequence_number": seq}
                self._append(reply, [Event(seq, last.type, orjson.dumps(body))], now)

    def publish(self, reply: Reply, composer: Composer) -> None:
        """Append what the composer has made."""
        self._append(reply, composer.take(), _now())

    def _append(self, reply: Reply, events: Sequence[Event], now: float) -> None:
        if not events or reply.ended or reply in self._ending:
            return
        end = events[-1]
        if not end.terminal:
            self._show(reply, events, now)
            return
        response = orjson.loads(end.data)["response"]
        turn = _turn_of(reply, response, end.seq)
        talks = reply.request.conversation is not None
        stored = self._lookup.settle(reply.id, reply.owner, turn, in_conversation=talks)
        if len(events) > 1:
            self._show(reply, events[:-1], now)
        self._ending.add(reply)
        waits = {name for name, does in (("stored", stored is not None), ("talks", talks)) if does}
        late = asyncio.get_running_loop().call_later(STORE_WITHIN_S, self._show_end, reply, end, turn)

        def done(name: str) -> None:
            waits.discard(name)
            if not waits:
                late.cancel()
                self._show_end(reply, end, turn)

        if stored is not None:
            stored.add_done_callback(lambda _: done("stored"))
        if talks:
            self._turns.settle(reply, response, lambda: done("talks"))
        if not waits:
            done("")

    def _show_end(self, reply: Reply, end: Event, turn: Turn | None) -> None:
        """All that it says is where it belongs, or that takes too long."""
        # Unless it was shown; or nobody has the reply any more, or somebody else speaks for it.
        if reply not in self._ending:
            return
        self._ending.discard(reply)
        if self._replies.get(reply.id) is reply:
            self._show(reply, [end], _now())
            self._settled(reply, turn, _now())

    def _show(self, reply: Reply, events: Sequence[Event], now: float) -> None:
        expected, first = reply.last_seq + 1, events[0].seq
        if 0 < expected < first:
            continuity.check(self._metrics, reply.id, expected - 1, events[0])
        elif first < expected:
            self._metrics.events_doubled.inc(min(len(events), expected - first))
        self._metrics.events.inc(len(events))
        self._replies.extend(reply, events, now)

    def _settled(self, reply: Reply, turn: Turn | None, now: float) -> None:
        """A response has ended: remember the turn, count it, write the one line."""
        request, response = reply.request, reply.response
        if turn is not None:
            turn.response = response  # one object for both
            self._lookup.history.add(turn, now)
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
                "response_id": reply.id,
                "request_id": reply.request_id,
                "status": response["status"],
                "model": response["model"],
                "dur_ms": round(took * 1000),
                "tokens": tokens["output_tokens"],
                "events": reply.last_seq + 1 - reply.first_seq,
                "code": (response["error"] or {}).get("code"),
            },
        )


def _now() -> float:
    return asyncio.get_running_loop().time()


def _beginning(job: Job, work: Work) -> list[Event]:
    """What its home had said before the worker's first event, as far as it can be known: the two first events at most.

    What was said by earlier attempts is lost with the home; one `created` stands for it, with what they left behind.
    """
    second = "queued" if job.next_seq < RESTART_STEP else "in_progress"
    two = job.next_seq % RESTART_STEP == 2
    composer = Composer({**work.response}, new_id=new_id, next_seq=job.next_seq - (2 if two else 1), output=job.output)
    composer.lifecycle("created", second if two else "in_progress")
    if two:
        composer.lifecycle(second, second)
    return composer.take()


def _turn_of(reply: Reply, response: dict[str, Any], last_seq: int) -> Turn | None:
    """What is remembered of a response: nothing, unless it is to be stored, or its connection may continue it."""
    scope = None if reply.request.store else reply.scope
    if not reply.request.store and scope is None:
        return None
    return Turn(reply.id, reply.owner, reply.parent, reply.given, response, last_seq, scope)


def _new_reply(job: Job, work: Work, now: float) -> Reply:
    response = {**work.response, "status": "in_progress"}
    return Reply(response, job.owner, work.request, parent=None, scope=None, given=(), size=job.size, now=now)
