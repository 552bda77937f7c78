"""JWT: tokens of another login system. PyJWT checks them; here stands what is asked of it.

The algorithm follows from our key, never from the token alone: a secret is only good for HS256, a public key only for
the algorithm of its kind. So no token can make us use a public key as a secret, and "none" fits no key.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from grizz.config import AuthSettings
from grizz.errors import Code, ConfigError, RequestError
from grizz.web.auth.identity import Identity, refused
from grizz.web.auth.key_sets import KeySet, SigningKey

# A check takes 0.15 to 0.3 ms of CPU, remembering it 5 µs (measured); SDKs show the same token with each request.
MAX_CACHED = 10_000
# RFC 7518: an HS256 secret is at least as long as the hash. A shorter one can be guessed from any token, offline.
MIN_SECRET_BYTES = 32
# The year 33,658: an integer of a token may be larger than a float can be.
_NEVER = 10**12
_MAX_SUBJECT = 1024


def looks_like_token(text: str) -> bool:
    """Whether it has the three parts of a JWT."""
    return text.count(".") == 2


class Tokens:
    """Verifies tokens, by the [auth] section and the keys of a set.

    Raises:
        ConfigError: the secret is too short to be safe.
    """

    def __init__(self, auth: AuthSettings, key_set: KeySet | None = None, now: Callable[[], float] = time.time) -> None:
        self._auth = auth
        self._key_set = key_set
        self._now = now
        self._cache: OrderedDict[bytes, Identity] = OrderedDict()
        self._rules = "|".join((auth.jwt_issuer, auth.jwt_audience, auth.jwt_user_claim))
        self._secret: tuple[SigningKey, ...] = ()
        self._seen: tuple[SigningKey, ...] | None = None  # those of the set that `_proofs` is of
        self._proofs: frozenset[str] = frozenset()
        if auth.jwt_secret:
            secret = auth.jwt_secret.encode()
            if len(secret) < MIN_SECRET_BYTES:
                raise ConfigError(f"auth.jwt_secret = ***: must have at least {MIN_SECRET_BYTES} characters")
            self._secret = (SigningKey("", "HS256", secret, hashlib.sha256(secret).hexdigest()),)

    async def verify(self, token: str) -> Identity:
        """Whose token it is.

        Raises:
            RequestError: 401, it does not count or no longer; 503, the keys to check it are not there yet.
        """
        digest = hashlib.sha256(token.encode()).digest()
        cached = self._cache.get(digest)
        if cached is not None and self.knows(cached):
            self._cache.move_to_end(digest)
            return cached
        self._cache.pop(digest, None)
        identity = self._identity(*self._decode(token, await self._candidates(token)))
        self._cache[digest] = identity
        if len(self._cache) > MAX_CACHED:
            self._cache.popitem(last=False)
        return identity

    def knows(self, identity: Identity) -> bool:
        """Whether a token that was verified earlier still counts: not expired, its signer still ours."""
        fresh = identity.expires_at is None or self._now() < identity.expires_at
        return fresh and identity.proof in self._signers()

    def _keys(self) -> tuple[SigningKey, ...]:
        return self._secret + (self._key_set.keys if self._key_set is not None else ())

    def _signers(self) -> frozenset[str]:
        """The proofs of all keys; asked for every connection every few seconds, so not made each time."""
        keys = self._key_set.keys if self._key_set is not None else ()
        if keys is not self._seen:
            self._seen, self._proofs = keys, frozenset(map(self._proof, self._keys()))
        return self._proofs

    def _proof(self, key: SigningKey) -> str:
        return f"jwt:{key.fingerprint}:{self._rules}"

    async def _candidates(self, token: str) -> list[SigningKey]:
        """The keys that may have signed it, judged by its header, which is not verified yet."""
        header = _header(token)
        algorithm, kid = header.get("alg"), header.get("kid")
        if "crit" in header:
            raise refused("The token has critical extensions, which are not supported.")
        fitting = self._fitting(algorithm, kid)
        if not fitting and algorithm in ("RS256", "ES256") and self._key_set is not None:
            await self._key_set.look_again()
            fitting = self._fitting(algorithm, kid)
            if not fitting and not self._key_set.answered:
                text = "The keys that sign tokens could not be fetched yet; try again."
                raise RequestError(503, Code.OVERLOADED, text, retry_after_s=5.0)
        if not fitting:
            raise refused("The token is signed by a key or an algorithm that is not known here.")
        return fitting

    def _fitting(self, algorithm: object, kid: object) -> list[SigningKey]:
        # A secret has no id of its own; keys of a set that have one must be named by it, if the token names any.
        return [key for key in self._keys() if key.algorithm == algorithm and (kid is None or key.kid in ("", kid))]

    def _decode(self, token: str, keys: list[SigningKey]) -> tuple[dict[str, Any], SigningKey]:
        import jwt

        auth = self._auth
        for key in keys:
            try:
                claims = jwt.decode(
                    token,
                    key.key,
                    algorithms=[key.algorithm],
                    issuer=auth.jwt_issuer or None,
                    audience=auth.jwt_audience or None,
                    leeway=auth.jwt_leeway_s,
                    options={"require": ["exp"], "verify_aud": bool(auth.jwt_audience)},
                )
            except jwt.InvalidSignatureError:
                continue
            except jwt.ExpiredSignatureError:
                raise refused("The token has expired; get a new one.", Code.TOKEN_EXPIRED) from None
            except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
                raise refused(f"The token does not count: {_reason(error)}.") from None
            return claims, key
        raise refused("The token's signature is wrong.")

    def _identity(self, claims: dict[str, Any], key: SigningKey) -> Identity:
        claim = self._auth.jwt_user_claim
        subject = claims.get(claim)
        if not isinstance(subject, str | int) or isinstance(subject, bool) or not 0 < len(str(subject)) <= _MAX_SUBJECT:
            raise refused(f"The token does not name its user: it has no usable claim '{claim}'.")
        # Hashed because owners stand in logs and subjects may be addresses; as JSON because both may hold any letter.
        name = json.dumps([str(claims.get("iss", "")), str(subject)])
        owner = "user:" + hashlib.sha256(name.encode()).hexdigest()[:32]
        expires_at = min(int(claims["exp"]), _NEVER) + self._auth.jwt_leeway_s
        return Identity(owner, expires_at=expires_at, proof=self._proof(key))


def _header(token: str) -> dict[str, Any]:
    import jwt

    try:
        return jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise refused("The API key is neither known nor a token.") from None


def _reason(error: Exception) -> str:
    import jwt

    reasons: dict[type[Exception], str] = {
        jwt.InvalidIssuerError: "another issuer",
        jwt.InvalidAudienceError: "made for another audience",
        jwt.ImmatureSignatureError: "not valid yet",
    }
    if isinstance(error, jwt.MissingRequiredClaimError):
        return f"it has no claim '{error.claim}'"
    return next((text for kind, text in reasons.items() if isinstance(error, kind)), "its claims are malformed")
