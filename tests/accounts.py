"""Two users with an API key each, and the parts of another login system: a secret, key pairs, key sets."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from grizz.core.api_keys import hash_of

# As `new_key` makes them, but the same in every process that runs tests.
ALICE = "grizz-" + "alice_0123456789_ABCDEFGHIJKLMNOPQRSTUVWXYZ"
BOB = "grizz-" + "bobby_0123456789_ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ACCOUNTS = {"GRIZZ_KEYS_ALICE_HASHES": hash_of(ALICE), "GRIZZ_KEYS_BOB_HASHES": hash_of(BOB)}
SECRET = "a-secret-that-is-long-enough-to-be-none-of-those-one-can-guess"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


class Signer:
    """A key pair of another login system."""

    def __init__(self, algorithm: str = "RS256", kid: str | None = "one", bits: int = 2048) -> None:
        self.algorithm, self.kid = algorithm, kid
        self.private: Any
        if algorithm == "RS256":
            self.private = rsa.generate_private_key(public_exponent=65537, key_size=bits)
        else:
            self.private = ec.generate_private_key(ec.SECP256R1())

    def jwk(self, **more: object) -> dict[str, object]:
        """Its public half."""
        kind = RSAAlgorithm if self.algorithm == "RS256" else ECAlgorithm
        public: dict[str, object] = kind.to_jwk(self.private.public_key(), as_dict=True)
        public.pop("key_ops", None)
        if self.kid is not None:
            public["kid"] = self.kid
        return {**public, "use": "sig", "alg": self.algorithm, **more}

    def token(self, headers: dict[str, Any] | None = None, **claims: object) -> str:
        headers = {"kid": self.kid} if headers is None and self.kid else headers
        return jwt.encode(claims_of(**claims), self.private, self.algorithm, headers)


EXPIRES = int(time.time()) + 24 * 3600  # the same for all: two tokens of one user are worth the same


def claims_of(**claims: object) -> dict[str, object]:
    """What a token says; None leaves a claim out."""
    whole = {"sub": "carol", "exp": EXPIRES, **claims}
    return {name: value for name, value in whole.items() if value is not None}


def secret_token(secret: str = SECRET, **claims: object) -> str:
    return jwt.encode(claims_of(**claims), secret, "HS256")


def key_set(*keys: dict[str, object]) -> bytes:
    return json.dumps({"keys": keys}).encode()


class KeySetServer:
    """A key set behind a URL, as login systems have it.

    Attributes:
        body, status: what it answers.
        asked: how often it was asked.
    """

    def __init__(self) -> None:
        self.body, self.status, self.asked, self.url = b"", 200, 0, ""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        return web.Response(body=self.body, status=self.status, content_type="application/json")


@asynccontextmanager
async def key_set_server(body: bytes) -> AsyncIterator[KeySetServer]:
    server = KeySetServer()
    server.body = body
    app = web.Application()
    app.router.add_get("/keys", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/keys"
    try:
        yield server
    finally:
        await runner.cleanup()
