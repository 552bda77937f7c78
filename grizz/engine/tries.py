"""The requests of one job to the upstreams: until one is answered to its end, or none may help any more.

Before the first delta a failed try is unseen, and the next upstream is asked, or the same one again. After it the
answer is what it is: no other model would go on in the middle of a sentence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from grizz.core.job import Delivery
from grizz.engine.fleet import ELSEWHERE, Ask, Fleet, Trial
from grizz.errors import Code, UpstreamError
from grizz.protocol import chat, responses, sse, truncate
from grizz.protocol.compose import Composer
from grizz.protocol.events import NewId
from grizz.protocol.items import Item
from grizz.protocol.reader import Reader
from grizz.protocol.relay import Relay
from grizz.protocol.requests import Request
from grizz.telemetry.traces import Traces
from grizz.upstream.base import Chunks

# After the finish reason only usage and [DONE] can follow; a server that sends neither must not hold the answer.
_AFTER_FINISH_S = 1.0


class Tries:
    """Reads one job's answer into a composer.

    Args:
        job_timeout_s: seconds that all tries may take together.
        on_content: called after each read that brought content, with what is read from and how many tokens came.
        is_stopped: has somebody ended the job? Asked at each read, since on Python 3.11 a library can swallow a cancel.
    """

    def __init__(
        self,
        fleet: Fleet,
        request: Request,
        context: Sequence[Item],
        composer: Composer,
        *,
        delivery: Delivery,
        traces: Traces,
        new_id: NewId,
        job_timeout_s: float,
        on_content: Callable[[Chunks, int], None],
        is_stopped: Callable[[], bool],
    ) -> None:
        self._fleet = fleet
        self._request = request
        self._context = context
        self._composer = composer
        self._delivery = delivery
        self._traces = traces
        self._new_id = new_id
        self._job_timeout_s = job_timeout_s
        self._on_content = on_content
        self._is_stopped = is_stopped
        self._truncated = 0

    async def answer(self) -> dict[str, Any]:
        """Ask until there is an answer: how the response ends, as keyword arguments of `Composer.finish`.

        Raises:
            UpstreamError: the last try failed, nobody may be asked, or the job's time is over.

        Cancel-safe: the open request is closed, and its upstream not blamed.
        """
        loop = asyncio.get_running_loop()
        model = self._fleet.resolve(self._request.model)
        deadline = loop.time() + self._job_timeout_s
        ask = Ask(self._delivery.job.id, model, deadline)
        while True:
            trial = await self._fleet.take(ask)
            try:
                ending = await self._once(trial, ask)
            except UpstreamError as error:
                seen = self._fleet.failed(trial, error)
                if self._was_truncated(error):
                    ask = Ask(self._delivery.job.id, model, deadline)
                    continue
                if self._composer.produced or not (error.retryable or error.result in ELSEWHERE):
                    raise seen from error
                ask.failed(trial.member, seen, loop.time())
            except BaseException:
                self._fleet.stopped(trial)
                raise
            else:
                self._fleet.succeeded(trial)
                return ending

    def _was_truncated(self, error: UpstreamError) -> bool:
        """The conversation is too long for the model: is it a shorter one now, because the client lets it be?"""
        if error.code is not Code.CONTEXT_LENGTH or self._composer.produced or not self._request.may_truncate:
            return False
        self._truncated += 1
        shorter = truncate.shorter(self._context) if self._truncated <= truncate.MOST_TIMES else None
        if shorter is None:
            return False
        self._context = shorter
        return True

    async def _once(self, trial: Trial, ask: Ask) -> dict[str, Any]:
        """One upstream request, read to its end."""
        loop = asyncio.get_running_loop()
        reader, decoder = self._reader(trial), sse.Decoder()
        first_by = trial.sent_at + trial.member.terms.first_token_timeout_s
        finishing = False
        body = self._body(trial, ask)
        self._trace(trial, body["model"])
        try:
            async with (
                asyncio.timeout_at(min(first_by, ask.deadline)) as scope,
                trial.member.upstream.open(
                    body, lambda: self._fleet.may_resend(trial, ask), trial.span.headers
                ) as chunks,
            ):
                self._fleet.opened(trial)
                async for data in chunks:
                    if self._is_stopped() or scope.expired():
                        raise asyncio.CancelledError
                    self._read(decoder.feed(data), reader, chunks, trial, ask, scope)
                    if reader.done:
                        break
                    if reader.finishing and not finishing:
                        finishing = True
                        scope.reschedule(min(ask.deadline, loop.time() + _AFTER_FINISH_S))
                self._read(decoder.close(), reader, chunks, trial, ask, scope)  # all of it, if it was no stream
        except TimeoutError:
            if not scope.expired():
                raise
            if not reader.finishing:
                raise self._timeout(trial, early=not trial.answered and first_by <= ask.deadline) from None
        for payload in decoder.close():
            reader.feed(payload)
        ending = reader.end()
        trial.span.succeeded(reader.source, reason=reader.finish_reason, usage=ending["usage"])
        return ending

    def _trace(self, trial: Trial, model: str) -> None:
        job, terms = self._delivery.job, trial.member.terms
        trial.span = self._traces.request(
            job.trace,
            response_id=job.id,
            attempt=self._delivery.attempt,
            model=model,
            upstream=trial.member.name,
            url=terms.base_url,
        )

    def _read(
        self,
        payloads: list[bytes],
        reader: Reader | Relay,
        chunks: Chunks,
        trial: Trial,
        ask: Ask,
        scope: asyncio.Timeout,
    ) -> None:
        """What one read of the stream brought."""
        tokens = reader.tokens
        for payload in payloads:
            reader.feed(payload)
        if reader.tokens != tokens:
            if not trial.answered:
                self._fleet.first_word(trial, asyncio.get_running_loop().time())
                scope.reschedule(ask.deadline)
            self._on_content(chunks, reader.tokens - tokens)

    def _reader(self, trial: Trial) -> Reader | Relay:
        if trial.member.terms.api == "responses":
            sealed = self._request.sealed_reasoning
            return Relay(self._composer, new_id=self._new_id, sealed=sealed)
        return Reader(self._composer, new_id=self._new_id, most_calls=self._request.most_calls)

    def _body(self, trial: Trial, ask: Ask) -> dict[str, Any]:
        """What is asked there: the next upstream may speak another API."""
        terms = trial.member.terms
        if terms.api == "responses":
            body = responses.body(self._request, self._context)
        elif sealed := [item["id"] for item in self._context if item["type"] == "compaction"]:
            text = f"compaction item '{sealed[0]}' is of another model server, and this one cannot read it"
            raise UpstreamError(Code.INVALID_PROMPT, text, result="400")
        else:
            body = chat.body(
                self._request,
                self._context,
                max_tokens_field=terms.max_tokens_field,
                developer_role=terms.developer_role,
            )
        body["model"] = trial.member.sent(ask.model)
        return body

    def _timeout(self, trial: Trial, *, early: bool) -> UpstreamError:
        if early:
            text = f"the upstream sent no word within {trial.member.terms.first_token_timeout_s:g} s"
            return UpstreamError(Code.SERVER_ERROR, text, result="timeout_first", retryable=True)
        # A job whose time was nearly over when it came here says nothing about the upstream.
        fair_s = min(trial.member.terms.first_token_timeout_s, self._job_timeout_s) / 2
        trial.silent = not trial.answered and asyncio.get_running_loop().time() - trial.sent_at >= fair_s
        text = f"the upstream did not finish the answer within the job's {self._job_timeout_s:g} s"
        return UpstreamError(Code.SERVER_ERROR, text, result="timeout_total")
