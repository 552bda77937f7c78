"""API keys: how one is made, and the hash by which it is known. The key itself is shown once and kept nowhere."""

from __future__ import annotations

import hashlib
import secrets

PREFIX = "grizz-"
_RANDOM_BYTES = 32


def new_key() -> str:
    """A key nobody can guess: 256 bits of randomness behind a prefix that secret scanners and our log filter know."""
    return PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def hash_of(key: str) -> str:
    """What config.toml holds instead of the key.

    A plain SHA-256 is enough: slow hashes slow down the guessing of passwords, and 256 random bits are not guessed.
    """
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()
