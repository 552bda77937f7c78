"""API keys, known by their hashes alone."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from grizz.config import KeySettings
from grizz.core.api_keys import hash_of
from grizz.web.auth.identity import Identity


class Keys:
    """The keys of all [keys.NAME] tables."""

    def __init__(self, tables: Mapping[str, KeySettings]) -> None:
        self._by_hash = {
            digest: Identity(owner=f"key:{table.user or name}", key=name, proof=digest)
            for name, table in tables.items()
            for digest in table.hashes
        }

    def find(self, key: str) -> Identity | None:
        """Whose key it is. The look-up is by hash, so that its time tells nothing about any key."""
        digest = hash_of(key)
        found = self._by_hash.get(digest)
        if found is None or not hmac.compare_digest(found.proof, digest):
            return None
        return found

    def knows(self, identity: Identity) -> bool:
        """Whether the key by which it came in is still there, in the same table and for the same user."""
        return self._by_hash.get(identity.proof) == identity
