"""How much a client may do: connections, unfinished responses, requests and tokens per minute, its part of the queue.

Each is counted for the user, or for the API key where its [keys.NAME] table has a limit of its own. Counts are of this
process alone.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from grizz.config import KeySettings, LimitSettings, is_loopback
from grizz.core.bucket import Buckets
from grizz.engine.call import Call
from grizz.engine.engine import Engine
from grizz.engine.history import Scope
from grizz.engine.reply import Reply
from grizz.errors import Code, RequestError
from grizz.protocol import requests
from grizz.web.auth import LOCAL, Identity

# What a token is taken to be until the model has counted: four bytes, as for English.
_BYTES_A_TOKEN = 4
_CONNECT_RETRY_S = 10.0


# Scopes of connections beside users, keys and addresses.
ALL, LOOPBACK, STRANGERS = "all", "this machine", "strangers"


class Place:
    """The place of one connection in the counts; taken at once, given back once."""

    __slots__ = ("_counts", "_scopes")

    def __init__(self, counts: Counter[str], *scopes: str) -> None:
        self._counts = counts
        self._scopes = scopes
        counts.update(scopes)

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *exc: object) -> None:
        self.give_back()

    def give_back(self) -> None:
        """The connection is over."""
        for scope in self._scopes:
            _less(self._counts, scope)

    def add(self, scope: str) -> None:
        """Count it in one scope more; with its user's it is no stranger any longer."""
        if STRANGERS in self._scopes:
            self._scopes = tuple(known for known in self._scopes if known != STRANGERS)
            _less(self._counts, STRANGERS)
        self._scopes = (*self._scopes, scope)
        self._counts[scope] += 1


class Admission:
    """One admitted response; settle it exactly once, when it has ended or was refused after all."""

    __slots__ = ("_estimate", "_limits", "_scopes")

    def __init__(self, limits: Limits, scopes: Mapping[str, tuple[str, int]], estimate: int) -> None:
        self._limits = limits
        self._scopes: Mapping[str, tuple[str, int]] | None = scopes
        self._estimate = estimate

    def refused(self) -> None:
        """It never became a response: only the request counts."""
        self._settle(0)

    def ended(self, response: Mapping[str, Any]) -> None:
        """It has ended; what it used is charged instead of the estimate, or what it produced if nobody counted."""
        used = response.get("usage")
        produced = len(orjson.dumps(response.get("output") or [])) // _BYTES_A_TOKEN
        self._settle(self._estimate + produced if used is None else used["total_tokens"])

    def _settle(self, tokens: int) -> None:
        scopes, self._scopes = self._scopes, None
        if scopes is not None:
            self._limits.settle(scopes, tokens - self._estimate)


class Limits:
    """Counts what is open; 0 in a setting means no limit.

    Args:
        keys: the [keys.NAME] tables.
        max_queued: jobs that may wait in all.
        slots: jobs that run at the same time.
        now: seconds of any steady clock.

    Attributes:
        check_model: raises RequestError when an API key (its table's name) may not ask for a model.
    """

    check_model: Callable[[str, str], None] = staticmethod(lambda key, model: None)

    def __init__(
        self,
        settings: LimitSettings,
        keys: Mapping[str, KeySettings],
        max_queued: int,
        slots: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_queued = max_queued
        self._slots = slots
        self._now = now
        self._connections: Counter[str] = Counter()
        self._running: Counter[str] = Counter()
        self._buckets = Buckets()
        self.reload(settings, keys)

    def reload(self, settings: LimitSettings, keys: Mapping[str, KeySettings]) -> None:
        """Other limits from now on; what is counted already stays counted."""
        self._settings = settings
        self._keys = keys

    # Connections

    def connection(self, address: str) -> Place:
        """Take the place of one connection, or of one HTTP request that is being answered.

        Raises:
            RequestError: 429 (the address has too many) or 503 (the server has).
        """
        open_, most = self._connections[ALL], self._settings.connections
        if open_ >= most:
            text = f"The server has {open_} connections open, which is its limit."
            raise RequestError(503, Code.TOO_MANY_CONNECTIONS, text, retry_after_s=_CONNECT_RETRY_S)
        address = f"address {address}" if not is_loopback(address) else LOOPBACK
        limit = 0 if address == LOOPBACK else self._settings.connections_per_address
        self._check_connections(address, limit, "Your address has")
        return Place(self._connections, ALL, address)

    def belongs_to(self, place: Place, identity: Identity) -> None:
        """It is known whose connection this is: from now on it is counted for that user, too.

        Raises:
            RequestError: 429, the user or the API key has too many.
        """
        scope, limit = self._scope(identity, "connections", self._settings.connections_per_user)
        self._check_connections(scope, limit, "You have")
        place.add(scope)

    def stranger(self, place: Place) -> None:
        """It is not known yet whose WebSocket this is; until `belongs_to` says so.

        Raises:
            RequestError: 503, too many of them.
        """
        strangers, most = self._connections[STRANGERS], self._settings.connections_unknown
        if strangers >= most:
            text = f"{strangers} connections have not said who they are, which is the limit; send a credential."
            raise RequestError(503, Code.TOO_MANY_CONNECTIONS, text, retry_after_s=_CONNECT_RETRY_S)
        place.add(STRANGERS)

    def _check_connections(self, scope: str, limit: int, whose: str) -> None:
        if limit and self._connections[scope] >= limit:
            text = f"{whose} {self._connections[scope]} connections open, which is the limit."
            raise RequestError(429, Code.TOO_MANY_CONNECTIONS, text, retry_after_s=_CONNECT_RETRY_S)

    # Responses

    def admit(self, identity: Identity, size: int, queued: int) -> Admission:
        """Let one more response begin.

        Args:
            size: bytes of the request, from which its tokens are estimated.
            queued: jobs of this user that wait for a worker.

        Raises:
            RequestError: 429; nothing was taken.
        """
        now, estimate = self._now(), size // _BYTES_A_TOKEN
        scopes = self._scopes(identity)
        if identity.limited_as != identity.owner:
            # Many owners count as one: all that it has unfinished, beyond what can run, waits.
            queued = max(queued, self._running[scopes["running"][0]] - self._slots)
        key = self._keys.get(identity.key)
        # Clients of this machine without accounts are all one user, so there is nobody to leave room for.
        share = 0.0 if identity.owner == LOCAL else (key.queue_share if key else 0.0) or self._settings.queue_share
        if share and queued >= math.ceil(share * self._max_queued):
            text = f"You have {queued} requests waiting for a worker, which is your part of the queue."
            raise RequestError(429, Code.RATE_LIMIT, text, retry_after_s=1.0)
        scope, limit = scopes["running"]
        if limit and self._running[scope] >= limit:
            text = f"You have {self._running[scope]} responses running, and {limit} is the limit; wait for one to end."
            raise RequestError(429, Code.RATE_LIMIT, text, retry_after_s=1.0)
        for kind, cost in (("requests", 1.0), ("tokens", float(estimate))):
            scope, limit = scopes[kind]
            wait_s = self._buckets.wait_s(f"{kind} {scope}", limit, now, cost) if limit else 0.0
            if wait_s:
                text = f"You may use {limit} {kind} a minute; try again in {math.ceil(wait_s)} s."
                raise RequestError(429, Code.RATE_LIMIT, text, retry_after_s=wait_s, headers=self.headers(identity))
        self._take("requests", scopes, now, 1.0)
        self._take("tokens", scopes, now, estimate)
        self._running[scopes["running"][0]] += 1
        return Admission(self, scopes, estimate)

    def settle(self, scopes: Mapping[str, tuple[str, int]], tokens: int) -> None:
        """One response less, and `tokens` more than were estimated for it. For `Admission` alone."""
        _less(self._running, scopes["running"][0])
        self._take("tokens", scopes, self._now(), tokens)

    def headers(self, identity: Identity) -> dict[str, str]:
        """What is left, in the headers that OpenAI's SDKs know; none without a limit per minute."""
        now, found = self._now(), {}
        for kind, (scope, limit) in self._scopes(identity).items():
            if kind == "running" or not limit:
                continue
            left = self._buckets.level(f"{kind} {scope}", limit, now)
            found[f"x-ratelimit-limit-{kind}"] = str(limit)
            found[f"x-ratelimit-remaining-{kind}"] = str(max(0, math.floor(left)))
            found[f"x-ratelimit-reset-{kind}"] = f"{(limit - left) * 60 / limit:.3f}s"
        return found

    def _take(self, kind: str, scopes: Mapping[str, tuple[str, int]], now: float, cost: float) -> None:
        scope, limit = scopes[kind]
        if limit:
            self._buckets.take(f"{kind} {scope}", limit, now, cost)

    def _scopes(self, identity: Identity) -> dict[str, tuple[str, int]]:
        limits = self._settings
        return {
            "running": self._scope(identity, "concurrent_responses", limits.concurrent_responses_per_user),
            "requests": self._scope(identity, "requests_per_minute", limits.requests_per_minute),
            "tokens": self._scope(identity, "tokens_per_minute", limits.tokens_per_minute),
        }

    def _scope(self, identity: Identity, name: str, of_user: int) -> tuple[str, int]:
        """By whom it is counted, and the limit: the key's own where it has one, else the user's."""
        key = self._keys.get(identity.key)
        own: int = getattr(key, name) if key is not None else 0
        return (f"key {identity.key}", own) if own else (identity.limited_as, of_user)


async def submit(
    engine: Engine,
    limits: Limits,
    identity: Identity,
    request: requests.Request,
    size: int,
    scope: Scope | None,
    call: Call,
    response_id: str | None = None,
) -> Reply:
    """Let a client's request in, if its limits allow it; what it used is settled when it has ended.

    Args: as of `Engine.submit`.

    Raises:
        RequestError: it is refused; nothing was accepted.
    """
    limits.check_model(identity.key, request.model)
    admission = limits.admit(identity, size, engine.queued_of(identity.owner))
    try:
        return await engine.submit(
            request,
            identity.owner,
            scope=scope,
            size=size,
            call=call,
            on_end=admission.ended,
            response_id=response_id,
        )
    except BaseException:
        admission.refused()
        raise


def _less(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
