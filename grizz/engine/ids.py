"""Ids of items and other random text, made here; a response's own id is the engine's business."""

from __future__ import annotations

import secrets


def new_id(prefix: str) -> str:
    """A short id, unique among one owner's items: 48 bits."""
    return f"{prefix}_{secrets.token_hex(6)}"


def noise(length: int) -> str:
    """So many random characters, the same in JSON and on the wire."""
    return secrets.token_urlsafe(length)[:length]
