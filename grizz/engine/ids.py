"""Ids and other random text."""

from __future__ import annotations

import base64
import secrets

from grizz.protocol.events import NewId

_RESPONSE = "resp_"
_PLACE_BYTES = 20  # of a response's id: node, hour and random
_PLACE = 27  # characters of it in Base64


def new_id(prefix: str) -> str:
    """A short id, unique among one owner's items: 48 bits."""
    return f"{prefix}_{secrets.token_hex(6)}"


def ids_of(response_id: str) -> NewId:
    """Makes ids for the items of one response, which tell whose they are: so a reference to one leads to it from
    everywhere, also after a restart, without an index. A call's id is only sent to and fro, and stays short.
    """
    try:
        place = bytes.fromhex(response_id.removeprefix(_RESPONSE))
    except ValueError:
        return new_id
    if len(place) != _PLACE_BYTES:
        return new_id
    told = base64.urlsafe_b64encode(place).decode().rstrip("=")
    return lambda prefix: new_id(prefix) if prefix == "call" else f"{prefix}_{told}{secrets.token_urlsafe(4)}"


def response_of(item_id: str) -> str | None:
    """The id of the response that has an item of this id, if `ids_of` made it."""
    told = item_id.partition("_")[2][:_PLACE]
    try:
        place = base64.urlsafe_b64decode(told + "=")
    except ValueError:
        return None
    return _RESPONSE + place.hex() if len(place) == _PLACE_BYTES else None


def noise(length: int) -> str:
    """So many random characters, the same in JSON and on the wire."""
    return secrets.token_urlsafe(length)[:length]


def new_response_id(node: str, now: float) -> str:
    """Who is its home, and in which hour it was made: where to look for it costs no look-up.

    Args:
        now: seconds since the epoch.
    """
    return f"resp_{node}{int(now / 3600) & 0xFFFF:04x}{secrets.token_hex(14)}"
