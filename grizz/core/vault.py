"""Seals what clients keep for the server: only this installation opens it again, and only for the same owner.

The `cryptography` package does the work: Fernet (AES-128-CBC and HMAC-SHA256) under a key that HKDF makes of the secret
and the owner. So another owner's token fails its check as an invented one does, and nobody has to compare anything.
"""

from __future__ import annotations

import base64

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

# Tells our tokens from those of model APIs, which look alike behind it.
_PREFIX = "grizz1."


class Vault:
    """Seals and opens for one owner at a time.

    Args:
        secret: shared by all processes that shall open each other's tokens.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def __repr__(self) -> str:
        return "<Vault>"

    @staticmethod
    def made(token: str) -> bool:
        """Does it look like a token of a vault? Says nothing about whether it opens."""
        return token.startswith(_PREFIX)

    def seal(self, owner: str, data: bytes) -> str:
        """A token that tells nobody anything, and is 4/3 as long as `data`."""
        return _PREFIX + self._fernet(owner).encrypt(data).decode()

    def open(self, owner: str, token: str) -> bytes | None:
        """What was sealed; None when it was sealed for another owner, with another secret, or was changed."""
        if not self.made(token):
            return None
        try:
            return self._fernet(owner).decrypt(token.removeprefix(_PREFIX))
        except (InvalidToken, ValueError):  # ValueError: it is no ASCII
            return None

    def _fernet(self, owner: str) -> Fernet:
        derived = HKDF(hashes.SHA256(), length=32, salt=None, info=b"grizz compaction\0" + owner.encode())
        return Fernet(base64.urlsafe_b64encode(derived.derive(self._secret)))
