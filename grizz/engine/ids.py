"""Ids and other random text."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable

from grizz.protocol.events import NewId

_RESPONSE = "resp_"
_PLACE_BYTES = 20  # of a response's id: node, hour and random
_HOUR = slice(4, 6)  # where in it the hour is
_PLACE = 27  # characters of it in Base64
_BLOCK_BYTES = 4096
_OWN_BYTES, _OWN = 4, 6  # an item's own, and characters of it


def _entropy() -> Callable[[int], bytes]:
    """`secrets.token_bytes`, from a block of the system's random bytes at a time.

    A call to the system for each id takes 30 µs on a busy loop, where other threads wait for the interpreter that it
    lets go (measured), and an answer needs five. For the event loop only: two threads might get the same bytes.
    """
    block = b""

    def take(count: int) -> bytes:
        nonlocal block
        if len(block) < count:
            block = os.urandom(max(count, _BLOCK_BYTES))
        taken, block = block[:count], block[count:]
        return taken

    def forget() -> None:
        nonlocal block
        block = b""

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forget)  # or two processes would make the same ids
    return take


_random = _entropy()


def new_id(prefix: str) -> str:
    """A short id, unique among one owner's items: 48 bits."""
    return f"{prefix}_{_random(6).hex()}"


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
    return lambda prefix: new_id(prefix) if prefix == "call" else f"{prefix}_{told}{_text(_OWN_BYTES)}"


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


def _text(count: int) -> str:
    """So many random bytes in Base64."""
    return base64.urlsafe_b64encode(_random(count)).decode().rstrip("=")


def noise(length: int) -> str:
    """So many random characters, the same in JSON and on the wire."""
    return _text(length)[:length]


def new_response_id(node: str, now: float) -> str:
    """Who is its home, and in which hour it was made: where to look for it costs no look-up.

    Args:
        now: seconds since the epoch.
    """
    return f"resp_{node}{int(now / 3600) & 0xFFFF:04x}{_random(14).hex()}"
