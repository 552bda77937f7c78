"""Ids and other random text."""

from __future__ import annotations

import base64
import secrets

from grizz.protocol.events import NewId

_RESPONSE = "resp_"
_PLACE_BYTES = 20  # of a response's id: node, hour and random
_HOUR = slice(4, 6)  # where in it the hour is
_PLACE = 27  # characters of it in Base64
_OWN_BYTES, _OWN = 4, 6  # an item's own, and characters of it


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
    return lambda prefix: new_id(prefix) if prefix == "call" else f"{prefix}_{told}{secrets.token_urlsafe(_OWN_BYTES)}"


def response_of(item_id: str, now: float) -> str | None:
    """The id of the response that has an item of this id, if `ids_of` made it.

    Other servers' ids may look alike, and what they seem to tell would be searched for in vain: so its length must be
    right, and its hour not to come. The hours count to 65,536, 7.5 years; half of them are taken for those to come.

    Args:
        now: seconds since the epoch.
    """
    told = item_id.partition("_")[2]
    if len(told) != _PLACE + _OWN:
        return None
    try:
        place = base64.urlsafe_b64decode(told[:_PLACE] + "=")
    except ValueError:
        return None
    if len(place) != _PLACE_BYTES:
        return None
    # An hour ahead is as good as now: the clocks of two nodes differ.
    age_h = (int(now / 3600) + 1 - int.from_bytes(place[_HOUR], "big")) & 0xFFFF
    return _RESPONSE + place.hex() if age_h < 0x8000 else None


def noise(length: int) -> str:
    """So many random characters, the same in JSON and on the wire."""
    return secrets.token_urlsafe(length)[:length]


def new_response_id(node: str, now: float) -> str:
    """Who is its home, and in which hour it was made: where to look for it costs no look-up.

    Args:
        now: seconds since the epoch.
    """
    return f"resp_{node}{int(now / 3600) & 0xFFFF:04x}{secrets.token_hex(14)}"
