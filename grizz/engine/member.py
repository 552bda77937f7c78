"""One upstream as the fleet sees it: what the operator says about it, and what is known about its health."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from grizz.core.breaker import Breaker, Circuit
from grizz.errors import UpstreamError
from grizz.upstream.base import Upstream

# How long a job waits when there is nobody else to ask: for a server that named a time, and for one that is sick.
PAUSE_PATIENCE_S = 30.0
REST_PATIENCE_S = 5.0
# A server that asks for more is asked again after that: who sends an hour may mean a quota that was raised meanwhile.
_LONGEST_PAUSE_S = 300.0
_LOOK_AGAIN_S = 1.0
_SETTLE_S = 60.0
_WINDOW_S = 60.0
# The longest rest of one that is not ready, seconds: to ask it costs nothing, and somebody waits for it.
UNREADY_REST_S = 2.0
# How long jobs wait for one that refuses connections: it may be starting, and has not said so.
_REFUSED_PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the operator says about one upstream.

    Attributes:
        priority: lower ones are asked first, equal ones take turns.
        models: asked name → name there, of all the models it has; empty takes any.
        max_retries: further tries of a job there, before the first delta.
        first_token_timeout_s: seconds from the request to the first content.
        loading_timeout_s: seconds that it may say 503, as while it loads its model, and jobs still wait for it.
        max_tokens_field: see `chat.body`.
        developer_role: see `chat.body`.
        breaker_failures: failures in a row, within a minute, after which it rests.
        breaker_first_s: its shortest rest, in seconds.
        breaker_longest_s: its longest rest.
        api: what it speaks: Chat Completions, or the Responses API itself.
        base_url: where it is.
        named: has it a name of its own, which clients may see? One alone may be called by its host.
    """

    priority: int = 1
    models: Mapping[str, str] = field(default_factory=dict)
    max_retries: int = 2
    first_token_timeout_s: float = 60.0
    loading_timeout_s: float = 30.0
    max_tokens_field: str = "max_tokens"
    developer_role: bool = False
    breaker_failures: int = 5
    breaker_first_s: float = 2.0
    breaker_longest_s: float = 60.0
    api: str = "chat"
    named: bool = False
    base_url: str = ""


class Obstacle(NamedTuple):
    """Why an upstream may not be asked now, for how many seconds, and how long a job waits for that at most."""

    text: str
    wait_s: float
    patience_s: float


class Member:
    """One upstream and its health."""

    def __init__(self, upstream: Upstream, terms: Terms) -> None:
        self.upstream = upstream
        self.terms = terms
        self.taken = 0  # when it was last chosen: a count, not a time
        self.paused_until = 0.0
        self.complained_at = -math.inf
        self._probe_until = -math.inf
        self._unready_since = self._unready_at = self._unready_until = -math.inf
        self.breaker = Breaker(
            threshold=terms.breaker_failures,
            first_s=terms.breaker_first_s,
            longest_s=max(terms.breaker_first_s, terms.breaker_longest_s),
            settle_s=_SETTLE_S,
            window_s=_WINDOW_S,
            jitter=random.random,
        )

    def __repr__(self) -> str:
        return f"<Member {self.name}: {self.breaker!r}>"

    @property
    def name(self) -> str:
        """Label value on metrics."""
        return self.upstream.name

    def pause(self, seconds: float, now: float) -> None:
        """It asked to be left alone, by any job."""
        self.paused_until = max(self.paused_until, now + min(seconds, _LONGEST_PAUSE_S))

    def unready(self, error: UpstreamError, now: float) -> bool:
        """It refused the connection, or said 503: it may be loading its model. Is that news?"""
        is_news = now - self._unready_at > _WINDOW_S
        if is_news:
            self._unready_since = now
        self._unready_at = now
        self._unready_until = self._unready_since + self.patience_s(error)
        return is_news

    def patience_s(self, error: UpstreamError) -> float:
        """How long one that is not ready is waited for, by what it said."""
        refused = error.result == "connect"
        return min(self.terms.loading_timeout_s, _REFUSED_PATIENCE_S) if refused else self.terms.loading_timeout_s

    def ready(self) -> bool:
        """It has answered. Is that news?"""
        is_news = self._unready_at > -math.inf
        self._unready_since = self._unready_at = self._unready_until = -math.inf
        return is_news

    def loading_left_s(self, now: float) -> float:
        """For how many seconds more jobs wait for it to become ready; 0 when it is, or has been unready too long."""
        return max(0.0, self._unready_until - now)

    def probed(self, now: float) -> None:
        """A probe was sent. Others wait for what comes of it, as long as for a rest.

        After a server that was not ready as long as for a first word: it says no again at once, or thinks.
        """
        loading = self.loading_left_s(now) > 0
        self._probe_until = now + (self.terms.first_token_timeout_s if loading else REST_PATIENCE_S)

    def promised(self, sent_at: float) -> None:
        """The probe's stream has opened: the server lives, and others wait for its first word as long as the probe.

        Not closed yet: a server that loads a model or hangs behind a proxy may say 200 long before it says a word.
        """
        self._probe_until = sent_at + self.terms.first_token_timeout_s

    def has(self, model: str) -> bool:
        """May it be asked for this model?"""
        return not self.terms.models or model in self.terms.models

    def sent(self, model: str) -> str:
        """What that model is called there."""
        return self.terms.models.get(model, model)

    def obstacle(self, now: float) -> Obstacle | None:
        """Why it may not be asked now, or None."""
        pause_s, rest_s = self.paused_until - now, self.breaker.wait_s(now)
        loading_s = self.loading_left_s(now)
        if pause_s > 0 and pause_s >= rest_s:
            patience_s = math.inf if pause_s <= loading_s else PAUSE_PATIENCE_S
            return Obstacle(f"asked for a pause of {math.ceil(pause_s)} s", pause_s, patience_s)
        count = self.breaker.failures
        failures = f"after {count} failure{'s' if count > 1 else ''}"
        if rest_s > 0:
            patience_s = math.inf if rest_s <= loading_s else REST_PATIENCE_S
            return Obstacle(f"rests for {math.ceil(rest_s)} s {failures}", rest_s, patience_s)
        if self.breaker.state is Circuit.HALF_OPEN:
            patience_s = math.inf if now < self._probe_until else REST_PATIENCE_S
            return Obstacle(f"is being tried again {failures}", _LOOK_AGAIN_S, patience_s)
        return None

    def named(self, error: UpstreamError) -> UpstreamError:
        """The error as a client may see it: it names the upstream, and neither its address nor its key."""
        text = self.upstream.discreet(error.message)
        if self.terms.named and text.startswith("the upstream"):
            text = f"upstream '{self.name}'{text.removeprefix('the upstream')}"
        return UpstreamError(
            error.code,
            text,
            result=error.result,
            retryable=error.retryable,
            retry_after_s=error.retry_after_s,
            upstream=self.name,
            unready=error.unready,
        )
