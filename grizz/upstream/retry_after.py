"""How long a server asks to be left alone: Retry-After in both its forms, and the finer header that some add."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds, at least 0; None when the headers say nothing that can be understood.

    `retry-after-ms` goes first: it is the finer of the two. A date is compared with the server's own `Date`, since
    the clocks of two machines differ by more than such pauses last.
    """
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    given = headers.get("retry-after")
    if (seconds := _number(given)) is not None:
        return seconds
    until = _date(given)
    if until is None:
        return None
    now = _date(headers.get("date"))
    return max(0.0, until.timestamp() - (time.time() if now is None else now.timestamp()))


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return max(0.0, number) if math.isfinite(number) else None


def _date(text: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(text or "")
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
