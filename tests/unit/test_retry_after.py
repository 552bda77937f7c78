"""Retry-After in all its forms, and what is none."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from grizz.upstream.retry_after import retry_after_s

NOON = "Wed, 21 Oct 2015 12:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "-3"}, 0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9),
        ({"retry-after": "Wed, 21 Oct 2015 12:00:30 GMT", "date": NOON}, 30),
        ({"retry-after": "Wed, 21 Oct 2015 11:00:00 GMT", "date": NOON}, 0),
        ({"retry-after": "Wednesday, 21-Oct-15 12:00:30 GMT", "date": NOON}, 30),
        ({"retry-after": "Wed Oct 21 12:00:30 2015", "date": NOON}, 30),
        ({"retry-after": "Wed, 21 Oct 2015 12:00:30 GMT"}, 0),
        *(({"retry-after": odd}, None) for odd in ("", "soon", "nan", "inf", "1e999", "Wed, 99 Oct 2015 12:00:30 GMT")),
        ({}, None),
    ],
)
def test_the_header_is_read_as_seconds(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers) == seconds


def test_a_date_without_the_servers_own_is_compared_with_our_clock() -> None:
    seconds = retry_after_s({"retry-after": formatdate(time.time() + 100, usegmt=True)})
    assert seconds is not None
    assert 90 < seconds <= 101
