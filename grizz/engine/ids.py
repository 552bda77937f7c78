"""Ids and other random text."""

from __future__ import annotations

import secrets


def new_id(prefix: str) -> str:
    """A short id, unique among one owner's items: 48 bits."""
    return f"{prefix}_{secrets.token_hex(6)}"


def noise(length: int) -> str:
    """So many random characters, the same in JSON and on the wire."""
    return secrets.token_urlsafe(length)[:length]


def new_response_id(node: str, now: float) -> str:
    """Who is its home, and in which hour it was made: where to look for it costs no look-up.

    Args:
        now: seconds since the epoch.
    """
    return f"resp_{node}{int(now / 3600) & 0xFFFF:04x}{secrets.token_hex(14)}"
