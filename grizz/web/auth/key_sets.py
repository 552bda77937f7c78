"""JSON Web Key Sets: the public keys with which another login system signs its tokens, from a file or a URL."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiohttp

from grizz.config import is_loopback
from grizz.errors import ConfigError
from grizz.tasks import TaskOwner

log = logging.getLogger(__name__)

MAX_SET_BYTES = 1024 * 1024
MAX_KEYS = 100
FETCH_S = 5.0
EVERY_S = 300.0
# Between two fetches, whoever asks: tokens with made-up key ids must not become a load for the login system.
PAUSE_S = 10.0
_MIN_RSA_BITS = 2048


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A public key, the one algorithm it is good for, and a fingerprint of both."""

    kid: str
    algorithm: str
    key: Any = field(repr=False)
    fingerprint: str = ""


def parse(raw: bytes) -> tuple[SigningKey, ...]:
    """The usable keys of a set: RSA from 2048 bits for RS256, P-256 for ES256; others are left out.

    Raises:
        ValueError: it is no key set, or holds no usable key.
    """
    try:
        entries = json.loads(raw)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError('not a JSON Web Key Set, {"keys": [...]}') from None
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise ValueError(f"its keys are no list of at most {MAX_KEYS}")
    keys = tuple(key for entry in entries if isinstance(entry, dict) and (key := _signing_key(entry)) is not None)
    if not keys:
        raise ValueError("it has no key for RS256 (RSA from 2048 bits) or ES256 (P-256)")
    return keys


def _signing_key(entry: Mapping[str, Any]) -> SigningKey | None:
    from jwt import PyJWTError
    from jwt.algorithms import ECAlgorithm, RSAAlgorithm

    kind = (entry.get("kty"), entry.get("crv"))
    # Public parts only: a private key in the set is somebody's mistake and none of our business.
    parts: tuple[str, ...]
    if kind == ("RSA", None):
        algorithm, parts = "RS256", ("kty", "n", "e")
    elif kind == ("EC", "P-256"):
        algorithm, parts = "ES256", ("kty", "crv", "x", "y")
    else:
        return None
    operations = entry.get("key_ops", ["verify"])
    fits = entry.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations
    if not fits or entry.get("alg", algorithm) != algorithm or not isinstance(entry.get("kid", ""), str):
        return None
    public = {name: entry.get(name) for name in parts}
    try:
        key: Any = (RSAAlgorithm if algorithm == "RS256" else ECAlgorithm).from_jwk(public)
    except (PyJWTError, ValueError, TypeError):
        return None
    if algorithm == "RS256" and key.key_size < _MIN_RSA_BITS:
        return None
    fingerprint = hashlib.sha256(json.dumps(public, sort_keys=True).encode()).hexdigest()
    return SigningKey(entry.get("kid", ""), algorithm, key, fingerprint)


class KeySet(Protocol):
    """Where signing keys come from.

    Attributes:
        keys: those known now.
        answered: whether these are what the source says. Not while a URL has not answered yet: then they are those
            from before it was set, or none.
    """

    keys: tuple[SigningKey, ...]
    answered: bool

    async def look_again(self) -> None:
        """A token names a key that is not there: it may be new."""


class FileKeySet:
    """A set in a file, read once; a reload of the settings makes another.

    Raises:
        ConfigError: it cannot be read, or holds no usable key.
    """

    answered = True

    def __init__(self, path: str) -> None:
        try:
            with Path(path).open("rb") as file:
                raw = file.read(MAX_SET_BYTES + 1)
            if len(raw) > MAX_SET_BYTES:
                raise ValueError("it is larger than 1 MiB")
            self.keys = parse(raw)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"auth.jwt_keys = {json.dumps(path)}: {reason}") from error

    async def look_again(self) -> None:
        """A file is read again at a reload only."""


class UrlKeySet:
    """A set behind a URL, fetched every five minutes and when a token names a new key; the old one stays on failure.

    Args:
        keys: those in force until the URL has answered once. A reload to a URL that is slow or wrong must not throw
            out everybody whose token is good.
    """

    def __init__(self, url: str, keys: tuple[SigningKey, ...] = (), pause_s: float = PAUSE_S) -> None:
        self.url = url
        self.keys = keys
        self.answered = False
        self._pause_s = pause_s
        self._wanted = asyncio.Event()
        self._tried = asyncio.Event()  # a new one for each fetch
        self._fetched_at = -PAUSE_S
        self._task: asyncio.Task[None] | None = None
        parts = urlsplit(url)
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            log.warning("the signing keys of tokens come over plain http; anyone on the way can replace them")

    def begin(self, tasks: TaskOwner) -> None:
        """Keep fetching from now on."""
        self._task = tasks.spawn(self._keep(), name="signing keys")

    async def start(self, tasks: TaskOwner) -> None:
        """Begin, and wait for the first answer, for at most 5 s."""
        tried = self._tried
        self.begin(tasks)
        await tried.wait()

    def stop(self) -> None:
        """Fetch no more."""
        if self._task is not None:
            self._task.cancel()

    async def look_again(self) -> None:
        """Fetch once more and wait for it, unless the last time was just now. Cancel-safe: the fetch is a task's."""
        loop = asyncio.get_running_loop()
        if self._task is None or self._task.done() or loop.time() - self._fetched_at < self._pause_s:
            return
        tried = self._tried
        self._wanted.set()
        await tried.wait()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._fetch()
                self._wanted.clear()  # who asked meanwhile has got what was just fetched
                self._fetched_at = loop.time()
                self._tried.set()
                self._tried = asyncio.Event()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(EVERY_S if self.answered else self._pause_s):
                        await self._wanted.wait()
        finally:
            self._tried.set()

    async def _fetch(self) -> None:
        try:
            keys = await fetch(self.url)
        except (aiohttp.ClientError, OSError, ValueError, TimeoutError) as error:
            what = str(error) or type(error).__name__
            log.warning("signing keys cannot be fetched", extra={"url": self.url, "err": what, "kept": len(self.keys)})
            return
        if keys != self.keys:
            log.info("signing keys fetched", extra={"url": self.url, "keys": len(keys)})
        self.keys, self.answered = keys, True


async def fetch(url: str) -> tuple[SigningKey, ...]:
    """The usable keys of a set behind a URL; waits at most 5 s.

    Raises:
        aiohttp.ClientError, OSError, TimeoutError: nobody answered.
        ValueError: what was answered is of no use.
    """
    return parse(await _download(url))


async def _download(url: str) -> bytes:
    # No redirects: an https URL must not end at a plain one.
    timeout = aiohttp.ClientTimeout(total=FETCH_S)
    async with aiohttp.ClientSession(timeout=timeout) as http, http.get(url, allow_redirects=False) as answer:
        if answer.status != 200:
            raise ValueError(f"HTTP {answer.status}")
        raw = bytearray()
        async for chunk in answer.content.iter_any():
            raw += chunk
            if len(raw) > MAX_SET_BYTES:
                raise ValueError("it is larger than 1 MiB")
        return bytes(raw)
