"""All upstreams of this process: whom to ask next, and what is known about the health of each.

Nothing here is shared with other nodes: each finds out for itself, which costs a probe each and no Redis command.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from grizz.core.breaker import Circuit
from grizz.engine.member import PAUSE_PATIENCE_S, UNREADY_REST_S, Member
from grizz.errors import Code, UpstreamError
from grizz.telemetry.metrics import RETRY_REASONS, Metrics
from grizz.telemetry.traces import NO_REQUEST, RequestSpan

log = logging.getLogger(__name__)

# What the upstream is to blame for; anything else says nothing about its health.
FAULTS = frozenset({"5xx", "connect", "timeout_first", "timeout_idle", "truncated"})
# Where another upstream may do better: the operator's key, a model that is not there, a limit that is reached.
ELSEWHERE = FAULTS | {"401", "403", "404", "429", "busy"}
_KEY = ("401", "403")
# An answer to a request that cannot be served: the server lives, which is all that a probe asks.
_ALIVE = frozenset({"400", "401", "403", "404", "429"})

_BACKOFF_S = 0.5
_LONGEST_BACKOFF_S = 8.0
_COMPLAIN_EVERY_S = 60.0
_MOST_NAMES = 20


@dataclass(slots=True)
class Ask:
    """What one job asks for, and what came of it so far. Times are seconds of the loop's clock."""

    response_id: str
    model: str
    deadline: float
    tries: dict[str, int] = field(default_factory=dict)
    given_up: set[str] = field(default_factory=set)  # asking them once more would not help
    not_before: dict[str, float] = field(default_factory=dict)
    resent: set[str] = field(default_factory=set)  # where a dropped connection was replaced
    repeats: int = 0
    blocked_since: float | None = None
    error: UpstreamError | None = None
    failed_at: tuple[Member, str] | None = None  # where the last try failed, and its result

    def may_try(self, member: Member, now: float) -> bool:
        """Has it the model, and a try left? A first one at each upstream is free, all repeats share one count.

        Those at an upstream that is not ready are free, too, while jobs wait for it: they begin nothing.
        """
        if member.name in self.given_up or not member.has(self.model):
            return False
        spent = member.name in self.tries and self.repeats >= member.terms.max_retries
        return not spent or member.loading_left_s(now) > 0

    def failed(self, member: Member, error: UpstreamError, now: float) -> None:
        """A try failed, and another one is wanted."""
        # What one that lacks the model or the key says is less to the point than what the others said.
        if self.error is None or error.result not in ("404", *_KEY):
            self.error = error
        self.failed_at = member, error.result
        if not error.retryable:
            self.given_up.add(member.name)
        pause_s = min(_LONGEST_BACKOFF_S, _BACKOFF_S * 2.0**self.repeats) * random.uniform(0.5, 1.0)
        # Also when the upstream named a time: it may have named none to speak of, and its pause goes beside this one.
        self.not_before[member.name] = now + pause_s


@dataclass(slots=True)
class Trial:
    """One request to one upstream. What came of it is told to the fleet once.

    Attributes:
        era: of the member's breaker.
        sent_at: the loop's time.
        answered: has content come?
        silent: none came until the job's time was over, and there was time enough for some.
        span: of its trace.
    """

    member: Member
    era: int
    sent_at: float
    answered: bool = False
    silent: bool = False
    span: RequestSpan = NO_REQUEST


class Fleet:
    """All upstreams, best first. Its calls belong to the event loop.

    Args:
        resolve: the model that a name stands for.
    """

    def __init__(
        self, members: Iterable[Member], metrics: Metrics, resolve: Callable[[str], str] = lambda model: model
    ) -> None:
        self.resolve = resolve
        self.members = tuple(sorted(members, key=lambda member: member.terms.priority))
        self._metrics = metrics
        self._taken = 0
        self._change = asyncio.Event()
        for member in self.members:
            label = metrics.upstream(member.name)
            folded = [other for other in self.members if metrics.upstream(other.name) == label]
            metrics.on_scrape(metrics.upstream_open.labels(label), partial(_busy, folded))
            metrics.on_scrape(metrics.upstream_pause.labels(label), partial(_pause_left_s, folded))

    def __repr__(self) -> str:
        return f"<Fleet of {len(self.members)}: {', '.join(map(repr, self.members))}>"

    async def take(self, ask: Ask) -> Trial:
        """Choose whom to ask next; wait if nobody may be asked at once but somebody soon.

        Raises:
            UpstreamError: nobody is left, or nobody within the time that a job waits.

        Cancel-safe: a cancelled caller has taken nothing.
        """
        while True:
            now = _now()
            left = [member for member in self.members if ask.may_try(member, now)]
            if ask.error is not None and (not left or now >= ask.deadline):
                raise ask.error
            if not left:
                raise self._unknown(ask.model)
            if now >= ask.deadline:
                raise self._nobody(ask, left, now)
            free = [m for m in left if m.obstacle(now) is None and ask.not_before.get(m.name, 0.0) <= now]
            if free:
                return self._admit(ask, min(free, key=lambda member: _order(ask, member)), now)
            await self._wait(ask, left, now)

    def _admit(self, ask: Ask, member: Member, now: float) -> Trial:
        with self._watching(member):
            member.breaker.allows(now)
        if member.breaker.state is Circuit.HALF_OPEN:
            member.probed(now)
        self._taken += 1
        member.taken = self._taken
        if ask.failed_at is not None:
            self._count_again(ask, *ask.failed_at, member)
        if member.name in ask.tries and not member.loading_left_s(now):
            ask.repeats += 1
        ask.tries[member.name] = ask.tries.get(member.name, 0) + 1
        ask.blocked_since = None
        return Trial(member, member.breaker.era, now)

    def _count_again(self, ask: Ask, failed: Member, result: str, member: Member) -> None:
        extra = {"response_id": ask.response_id, "upstream": member.name, "failed": failed.name, "result": result}
        if member is failed:
            reason = result.split("_")[0]
            reason = reason if reason in RETRY_REASONS else "5xx"
            self._metrics.upstream_retries.labels(self._metrics.upstream(member.name), reason).inc()
            if not member.loading_left_s(_now()):
                log.info("upstream is tried again", extra=extra)
        else:
            self._metrics.upstream_failovers.labels(self._metrics.upstream(failed.name)).inc()
            log.warning("another upstream is tried", extra=extra)

    async def _wait(self, ask: Ask, left: list[Member], now: float) -> None:
        """Wait until the first of them may be asked, or until something changed.

        Raises:
            UpstreamError: that is too long.
        """
        if ask.blocked_since is None:
            ask.blocked_since = now
        blocked_s = now - ask.blocked_since
        soonest_s = math.inf
        spread_s = 0.0
        for member in left:
            wait_s, obstacle = ask.not_before.get(member.name, 0.0) - now, member.obstacle(now)
            if obstacle is not None:
                if obstacle.wait_s + blocked_s > obstacle.patience_s:
                    continue
                wait_s = max(wait_s, obstacle.wait_s)
            if wait_s < soonest_s:
                # Of all who wait for the end of a pause, not all shall ask in the same moment.
                soonest_s, spread_s = wait_s, wait_s / 4 if obstacle is not None else 0.0
        if now + soonest_s >= ask.deadline:
            raise self._nobody(ask, left, now)
        change = self._change
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(soonest_s + random.uniform(0.0, spread_s), ask.deadline - now)):
                await change.wait()

    def _nobody(self, ask: Ask, left: list[Member], now: float) -> UpstreamError:
        hindered = [(member, obstacle) for member in left if (obstacle := member.obstacle(now)) is not None]
        if (error := ask.error) is not None:
            others = [f"{m.name} {why.text}" for m, why in hindered if m.name not in ask.tries]
            text = f"{error.message} ({', '.join(others)})" if others else error.message
            return UpstreamError(error.code, text, result=error.result, upstream=error.upstream)
        states = [f"{member.name if member.terms.named else 'it'} {why.text}" for member, why in hindered]
        states = states or ["there was none before the job's time was over"]
        paused = bool(hindered) and all(why.patience_s == PAUSE_PATIENCE_S for _, why in hindered)
        return UpstreamError(
            Code.RATE_LIMIT if paused else Code.SERVER_ERROR,
            f"no model server is available: {', '.join(states)}",
            result="unavailable",
        )

    def _unknown(self, model: str) -> UpstreamError:
        names = sorted({name for member in self.members for name in member.terms.models})
        shown = ", ".join(names[:_MOST_NAMES]) + (", …" if len(names) > _MOST_NAMES else "")
        text = f"no model server has the model '{model[:200]}'; there are: {shown}"
        return UpstreamError(Code.MODEL_NOT_FOUND, text, result="404")

    # What came of a trial

    def may_resend(self, trial: Trial, ask: Ask) -> bool:
        """A connection was dropped at once: may the request go out on another one? Once for a job and an upstream.

        No repeat, since a server may drop what it kept open at any time; counted as one in the metrics.
        """
        name = trial.member.name
        if name in ask.resent:
            return False
        ask.resent.add(name)
        self._metrics.upstream_retries.labels(self._metrics.upstream(name), "connect").inc()
        return True

    def opened(self, trial: Trial) -> None:
        """Its stream has opened; no word has come yet."""
        if trial.member.ready():
            log.info("upstream is ready", extra={"upstream": trial.member.name})
        breaker = trial.member.breaker
        if breaker.state is Circuit.HALF_OPEN and breaker.era == trial.era:
            trial.member.promised(trial.sent_at)

    def first_word(self, trial: Trial, now: float) -> None:
        """The first content came."""
        trial.answered = True
        trial.span.first_word()
        self._metrics.answered(trial.member.name, now - trial.sent_at)
        with self._watching(trial.member):
            trial.member.breaker.answered(now, trial.era)

    def succeeded(self, trial: Trial) -> None:
        """It ended as an answer should."""
        self._count(trial, "2xx")
        with self._watching(trial.member):
            trial.member.breaker.succeeded(_now(), trial.era)

    def stopped(self, trial: Trial) -> None:
        """We ended it: cancelled by its user, or a trouble of our own."""
        self._count(trial, "cancelled")
        trial.span.stopped()
        self._forgive(trial)

    def failed(self, trial: Trial, error: UpstreamError) -> UpstreamError:
        """It failed; returns the error as clients may see it."""
        member, now = trial.member, _now()
        self._count(trial, error.result)
        trial.span.failed(error.result)
        if error.retry_after_s and error.retryable:
            member.pause(error.retry_after_s, now)
        is_news = member.unready(error, now) if error.unready else member.ready()
        if error.result in FAULTS or trial.silent:
            with self._watching(member):
                member.breaker.failed(now, trial.era, at_most_s=UNREADY_REST_S if error.unready else math.inf)
        elif error.result in _ALIVE:
            with self._watching(member):
                member.breaker.answered(now, trial.era)
        else:
            self._forgive(trial)
        operators = error.result in _KEY or error.code is Code.INSUFFICIENT_QUOTA
        if operators and now - member.complained_at >= _COMPLAIN_EVERY_S:
            member.complained_at = now
            log.error("upstream refuses this server's key", extra={"upstream": member.name, "result": error.result})
        elif error.unready and is_news:
            # Not the message, here as elsewhere: a model server may quote the prompt in it.
            extra = {"upstream": member.name, "result": error.result, "wait_s": member.loading_left_s(now)}
            log.warning("upstream is not ready, jobs wait for it", extra=extra)
        elif error.result == "connect" and not error.unready:
            log.warning("upstream cannot be used", extra={"upstream": member.name, "err": _deepest(error)})
        return member.named(error)

    def _count(self, trial: Trial, result: str) -> None:
        self._metrics.upstream_requests.labels(self._metrics.upstream(trial.member.name), result).inc()

    def _forgive(self, trial: Trial) -> None:
        """It says nothing, unless words came: then the upstream did well for as long as it was wanted."""
        with self._watching(trial.member):
            if trial.answered:
                trial.member.breaker.succeeded(_now(), trial.era)
            else:
                trial.member.breaker.forgave(trial.era)

    @contextlib.contextmanager
    def _watching(self, member: Member) -> Iterator[None]:
        """Show what becomes of the breaker inside the block, and wake those who wait for it."""
        before = member.breaker.state
        yield
        state = member.breaker.state
        if state is before:
            return
        self._metrics.breaker(member.name, str(state))
        change, self._change = self._change, asyncio.Event()
        change.set()
        extra: dict[str, object] = {"upstream": member.name}
        if state is Circuit.OPEN and not member.loading_left_s(_now()):
            rest_s = member.breaker.wait_s(_now())
            log.warning(
                "upstream rests", extra={**extra, "rest_s": round(rest_s, 1), "failures": member.breaker.failures}
            )
        elif state is Circuit.CLOSED:
            log.info("upstream answers again", extra=extra)


def _order(ask: Ask, member: Member) -> tuple[int, bool, int, int]:
    """Whom this job has tried least, then who has a place, then the operator's order, then by turns."""
    return ask.tries.get(member.name, 0), member.upstream.full, member.terms.priority, member.taken


def _busy(members: Iterable[Member]) -> float:
    return sum(member.upstream.busy for member in members)


def _pause_left_s(members: Iterable[Member]) -> float:
    now = _now()
    return max(0.0, *(member.paused_until - now for member in members))


def _deepest(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def _now() -> float:
    return asyncio.get_running_loop().time()
