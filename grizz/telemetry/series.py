"""How many series a process may have, and which names get series of their own. Pure.

What counts is what Prometheus stores: each bucket of a histogram is a series, so that one model costs as much as a
dozen counters. What is not worth series of its own is folded into `other`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

OTHER = "other"
# At most so many series a process; a hundred processes are then a small Prometheus's load.
ROOM = 600
# What the exposition has (a test counts): with all names left out, more for each model, and for each upstream.
BESIDE_THEM = 208
OF_A_MODEL = 59
OF_AN_UPSTREAM = 48
_MOST_UPSTREAMS = 4


class Own(NamedTuple):
    """The names that have series of their own, in the order given."""

    models: tuple[str, ...]
    upstreams: tuple[str, ...]


def own_names(models: Sequence[str], upstreams: Sequence[str]) -> Own:
    """Give series of their own to the first names, as many as there is room for.

    Upstreams come first, since their breakers raise alerts: up to four, or three and `other`. Models get what is left,
    one at least; `other` always has its own, for names that clients make up.
    """
    labels = min(len(upstreams), _MOST_UPSTREAMS)
    own = len(upstreams) if len(upstreams) <= _MOST_UPSTREAMS else _MOST_UPSTREAMS - 1
    room = (ROOM - BESIDE_THEM - labels * OF_AN_UPSTREAM) // OF_A_MODEL - 1
    named = [name for name in dict.fromkeys(models) if name != OTHER]
    return Own(tuple(named[: max(1, room)]), tuple(upstreams[:own]))
