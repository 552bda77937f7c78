"""Workers: lease a job, stream it from the upstream, publish its events, settle it.

One `Run` is one delivery. Whatever happens to it (the upstream fails, its owner cancels, its time is over), it
publishes exactly one terminal event and settles; only a lost lease ends it in silence: another attempt speaks then.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from grizz.core.job import RESTART_STEP, Delivery
from grizz.engine.fleet import Fleet
from grizz.engine.flusher import Flusher
from grizz.engine.ids import noise
from grizz.engine.tries import Tries
from grizz.errors import Code, GrizzError, LeaseLost, TransportClosed, UpstreamError
from grizz.protocol.compose import Composer
from grizz.protocol.events import NewId
from grizz.protocol.items import Item
from grizz.protocol.obfuscate import padded
from grizz.protocol.requests import Request
from grizz.tasks import TaskOwner
from grizz.telemetry.gaps import Gaps
from grizz.telemetry.metrics import Metrics
from grizz.telemetry.traces import Traces
from grizz.transport.base import Cause, Transport
from grizz.upstream.base import Chunks

log = logging.getLogger(__name__)

# A read of so many tokens need not wait for more: they came in bulk, and a pause would only hold up the rest.
_PLENTY = 16
# The outcome as metrics name it, and the keyword arguments of `Composer.finish`.
Ending = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Work:
    """A job's payload: what was asked, all the model shall see, and the Response so far."""

    request: Request
    context: Sequence[Item]
    response: dict[str, Any]

    def to_wire(self) -> dict[str, Any]:
        """It as JSON; this turn's input, which ends the context, is not repeated."""
        request, own = self.request, len(self.request.input)
        same = own <= len(self.context) and list(self.context[len(self.context) - own :]) == list(request.input)
        return {
            "model": request.model,
            "fields": request.fields,
            "input": own if same else list(request.input),
            "context": list(self.context),
            "response": {key: value for key, value in self.response.items() if key != "output"},
        }

    @classmethod
    def from_wire(cls, body: dict[str, Any]) -> Work:
        """The opposite of `to_wire`.

        Raises:
            KeyError, TypeError: it is not such a thing.
        """
        context, given = body["context"], body["input"]
        items = context[len(context) - given :] if isinstance(given, int) else given
        request = Request(model=body["model"], input=tuple(items), fields=body["fields"])
        return cls(request, context, {**body["response"], "output": []})

    @staticmethod
    def in_background(body: dict[str, Any]) -> dict[str, Any]:
        """What `to_wire` gave, as work that nobody needs to watch."""
        fields, response = {**body["fields"], "background": True}, {**body["response"], "background": True}
        return {**body, "fields": fields, "response": response}

    @property
    def may_keep(self) -> bool:
        """May it be kept after the response has ended?"""
        return self.request.store


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How jobs are run.

    Attributes:
        concurrency: jobs at a time; 0 runs none.
        job_timeout_s: seconds from a worker's start to the end of the answer.
        lease_s: seconds between two signs of life at most; renewed three times as often.
        max_reply_bytes: an answer whose events hold more is ended.
    """

    concurrency: int
    job_timeout_s: float
    lease_s: float
    max_reply_bytes: int


class Pool:
    """Runs up to `rules.concurrency` deliveries at a time."""

    def __init__(
        self,
        *,
        transport: Transport,
        fleet: Fleet,
        rules: Rules,
        flusher: Flusher,
        metrics: Metrics,
        ids_of: Callable[[str], NewId],
        tasks: TaskOwner,
        traces: Traces,
    ) -> None:
        self.traces = traces
        self.transport = transport
        self.fleet = fleet
        self.rules = rules
        self.flusher = flusher
        self.metrics = metrics
        self.ids_of = ids_of
        self._tasks = tasks
        self._slots = asyncio.Semaphore(rules.concurrency)
        self._runs: dict[str, Run] = {}

    def __repr__(self) -> str:
        return f"<Pool: {len(self._runs)} of {self.rules.concurrency} slots busy>"

    @property
    def free(self) -> int:
        """Slots without a job."""
        return self.rules.concurrency - len(self._runs)

    @property
    def running(self) -> int:
        """Jobs being streamed now."""
        return len(self._runs)

    def read(self) -> Gaps:
        """The tokens of all streams since the start, those that still run included."""
        together = self.metrics.gaps()
        for run in self._runs.values():
            together.add(run.gaps)
        return together

    def start(self) -> None:
        """Begin to lease jobs."""
        if self.rules.concurrency:
            self._tasks.spawn(self._lease(), name="lease jobs")
            self._tasks.spawn(self._renew(), name="renew leases")

    def stop(self, delivery: Delivery, cause: Cause) -> None:
        """See `transport.base.Workers.stop`."""
        run = self._runs.get(delivery.job.id)
        if run is not None and run.delivery.token == delivery.token:
            run.stop(cause)

    def abandon(self, delivery: Delivery) -> None:
        """See `transport.base.Workers.abandon`."""
        run = self._runs.get(delivery.job.id)
        if run is not None and run.delivery.token == delivery.token:
            run.abandon()

    async def _lease(self) -> None:
        while True:
            await self._slots.acquire()
            try:
                delivery = await self.transport.lease()
            except TransportClosed:
                return
            run = self._runs[delivery.job.id] = Run(delivery, self)
            run.task = self._tasks.spawn(self._watch(run), name=f"run {delivery.job.id}")

    async def _watch(self, run: Run) -> None:
        try:
            await run.execute()
        finally:
            if self._runs.get(run.delivery.job.id) is run:
                del self._runs[run.delivery.job.id]
            self._slots.release()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self.rules.lease_s / 3)
            for run in list(self._runs.values()):
                try:
                    await self.transport.renew(run.delivery)
                except LeaseLost:
                    run.abandon()
                run.insist()


class Run:
    """One delivery on its way to its terminal event."""

    def __init__(self, delivery: Delivery, pool: Pool) -> None:
        self.delivery = delivery
        self.task: asyncio.Task[None] | None = None
        self._pool = pool
        self._work: Work = delivery.job.payload
        self._cause: Cause | None = None
        self._lost = False
        self._begun = False
        self._over = False  # how it ends is decided: nothing may interrupt the settling
        self._label = pool.metrics.model(self._work.request.model)
        self.gaps = Gaps()
        self._first_read_at = self._last_read_at = 0.0
        self._new_id = pool.ids_of(delivery.job.id)
        self._composer = Composer(
            dict(self._work.response),
            new_id=self._new_id,
            next_seq=delivery.job.next_seq,
            output=delivery.job.output,
            raw_reasoning=self._work.request.raw_reasoning,
        )

    def __repr__(self) -> str:
        return f"<Run {self.delivery.job.id} attempt {self.delivery.attempt}, next event {self._composer.next_seq}>"

    def stop(self, cause: Cause) -> None:
        """Close the upstream request and end the response with `cause`; the first cause counts."""
        if self._cause is None:
            self._cause = cause
            self.insist()

    def insist(self) -> None:
        """Cancel again what was stopped and still runs: on Python 3.11 a library can swallow a cancel."""
        if (self._cause is not None or self._lost) and self.task is not None and self._begun and not self._over:
            self.task.cancel()

    def abandon(self) -> None:
        """The lease is lost: stop without another word."""
        self._lost = True
        self.insist()

    async def execute(self) -> None:
        """Stream it to its end. Raises nothing that concerns the response; a cancel from outside releases the job."""
        self._begun = True  # a task that is cancelled before it begins says nothing, and gives no slot back
        job = self.delivery.job
        started_at = asyncio.get_running_loop().time()
        waited_s = started_at - job.accepted_at
        self._pool.metrics.waited(waited_s)
        if self.delivery.attempt == 1 and not job.output and job.next_seq < RESTART_STEP:  # else it had begun before
            self._pool.traces.waited(job.trace, response_id=job.id, seconds=waited_s)
        try:
            outcome, ending = await self._ending()
            self._over = True
            self._composer.finish(completed_at=int(time.time()), **ending)
            self._publish()
            self._pool.metrics.finished.labels(self._label, outcome).inc()
            await self._pool.transport.ack(self.delivery)
        except LeaseLost:
            log.warning("lease lost", extra={"response_id": job.id, "attempt": self.delivery.attempt})
        finally:
            self._pool.metrics.add_gaps(self._work.request.model, self.gaps)

    async def _ending(self) -> Ending:
        """Stream, and say how the response ends."""
        if self._lost:
            raise LeaseLost("stopped before it began")
        early = self._cause
        if early is not None:
            return STOPPED[early]
        try:
            if self.delivery.attempt == 1 and self.delivery.job.next_seq < RESTART_STEP:  # else that was said already
                self._composer.lifecycle("in_progress", "in_progress")
                self._publish()
            ending = await self._tries().answer()
            return ("ok" if ending["status"] == "completed" else "length"), ending
        except UpstreamError as error:
            # Not the message: a model API may quote the prompt in it, and prompts are never logged.
            extra = {"response_id": self.delivery.job.id, "result": error.result, "code": str(error.code)}
            extra["upstream"] = error.upstream
            log.warning("upstream failed", extra=extra)
            return ("timeout" if error.result.startswith("timeout") else "error"), failed(error.code, error.message)
        except asyncio.CancelledError:
            if self._lost:
                raise LeaseLost("stopped") from None
            if self._cause is None:
                await self._give_back()
                raise
            asyncio.current_task().uncancel()  # type: ignore[union-attr]  # it runs in a task: it was cancelled
            return STOPPED[self._cause]
        except LeaseLost:
            raise
        except Exception:
            log.exception("a worker failed", extra={"response_id": self.delivery.job.id})
            self._pool.metrics.unhandled_errors.labels("worker").inc()
            return "error", failed(Code.SERVER_ERROR, "the server failed while it was answering")

    async def _give_back(self) -> None:
        """Cancelled from outside: as if never delivered, unless somebody may have seen some of it."""
        if self._composer.next_seq == self.delivery.job.next_seq:
            await self._pool.transport.release(self.delivery)
        else:
            await self._pool.transport.nack(self.delivery)

    def _tries(self) -> Tries:
        pool = self._pool
        return Tries(
            pool.fleet,
            self._work.request,
            self._work.context,
            self._composer,
            delivery=self.delivery,
            traces=pool.traces,
            new_id=self._new_id,
            job_timeout_s=pool.rules.job_timeout_s,
            on_content=self._content_read,
            is_stopped=lambda: self._cause is not None,
        )

    def _content_read(self, chunks: Chunks, tokens: int) -> None:
        """Account for a read that brought content, and see that it goes out."""
        now = asyncio.get_running_loop().time()
        if self._last_read_at:
            self.gaps.observe((now - self._last_read_at) / tokens, tokens)
        else:
            self._first_read_at = now
            self.gaps.first = tokens
        self._last_read_at = now
        self._publish()
        if self._composer.dirty:
            flusher = self._pool.flusher
            if tokens < _PLENTY and now - self._first_read_at > flusher.interval_s:
                # Either way text waits for more; below, where it costs nothing, rather than here.
                self._flush()
                chunks.pause()
                flusher.add(chunks.resume)
            else:
                flusher.add(self._flush)
        if self._composer.bytes > self._pool.rules.max_reply_bytes:
            text = f"the answer grew beyond {self._pool.rules.max_reply_bytes} bytes"
            raise UpstreamError(Code.SERVER_ERROR, text, result="too_long")

    def _flush(self) -> None:
        """Called by the ticker, outside the run's own task."""
        self._composer.flush()
        try:
            self._publish()
        except LeaseLost:
            self.abandon()
        except GrizzError:
            log.exception("publishing failed", extra={"response_id": self.delivery.job.id})

    def _publish(self) -> None:
        events = self._composer.take()
        if events:
            if self._work.request.obfuscated:
                events = [padded(event, noise) for event in events]
            self._pool.transport.publish(self.delivery, events)


def failed(code: Code, message: str) -> dict[str, Any]:
    """The ending of a failed response."""
    return {"status": "failed", "error": {"code": str(code), "message": message}}


STOPPED: dict[Cause, Ending] = {
    Cause.CANCELLED: ("cancelled", {"status": "cancelled"}),
    Cause.ABANDONED: ("cancelled", {"status": "cancelled"}),
    Cause.DELETED: ("cancelled", {"status": "cancelled"}),
    Cause.OVERDUE: ("timeout", failed(Code.SERVER_ERROR, "no worker was free in time")),
    Cause.SHUTDOWN: (
        "error",
        failed(Code.SERVER_ERROR, "the server was restarted before the answer was complete"),
    ),
}
