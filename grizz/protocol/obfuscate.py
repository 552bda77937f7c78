"""`stream_options.include_obfuscation`: deltas of few sizes, so that who sees only lengths cannot guess the words."""

from __future__ import annotations

from collections.abc import Callable

from grizz.protocol.events import Event

# A delta's event is as long as the next multiple of so many bytes.
_STEP = 64


def padded(event: Event, noise: Callable[[int], str]) -> Event:
    """The event, with an `obfuscation` field when it is a delta.

    Args:
        noise: makes so many characters that need no escaping.
    """
    if event.key is None:
        return event
    missing = -(len(event.data) + len(b',"obfuscation":""')) % _STEP
    return Event(event.seq, event.type, event.data[:-1] + b',"obfuscation":"%b"}' % noise(missing).encode(), event.key)
