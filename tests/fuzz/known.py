"""Input that the server does not stand yet. The searches pass it over, or they would find nothing else.

Each kind has a test in `test_known.py` that is expected to fail; the one that mends it makes that test fail for
succeeding, and then takes the mark there and the line here away.
"""

from __future__ import annotations

import re


def breaks_websocket(frame: bytes) -> bool:
    """Other frames than creates with something nested deeper than JSON is written, or than the stack."""
    deep = b"[" * 200 in frame or b'{"type":' * 200 in frame
    return deep and not frame.lstrip().startswith(b'{"type": "response.create"')


def breaks_http(request: bytes) -> bool:
    """An Origin or Host that is not ASCII."""
    return re.search(rb"^(origin|host):.*[\x80-\xff]", request, re.MULTILINE | re.IGNORECASE) is not None


def misses_every_route(path: str) -> bool:
    """A path with the end of a line in it."""
    return "%0a" in path.lower()
