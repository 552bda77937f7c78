"""Pages of a list."""

from __future__ import annotations

import pytest

from grizz.errors import RequestError
from grizz.web.paging import page

ITEMS = [{"id": str(number), "type": "message"} for number in range(5)]


@pytest.mark.parametrize(
    ("query", "ids", "more"),
    [
        ({}, "43210", False),
        ({"order": "asc"}, "01234", False),
        ({"order": "asc", "limit": "2"}, "01", True),
        ({"order": "asc", "limit": "2", "after": "1"}, "23", True),
        ({"order": "asc", "limit": "3", "after": "1"}, "234", False),
        ({"order": "asc", "after": "4"}, "", False),
        ({"order": "asc", "before": "3"}, "012", False),
        ({"order": "asc", "before": "3", "limit": "2"}, "12", True),
        ({"order": "asc", "after": "0", "before": "4", "limit": "2"}, "12", True),
        ({"after": "3", "limit": "2"}, "21", True),
        ({"before": "2", "limit": "1"}, "3", True),
    ],
)
def test_a_page_holds_what_was_asked_for(query: dict[str, str], ids: str, more: bool) -> None:
    shown = page(ITEMS, query)
    assert "".join(item["id"] for item in shown["data"]) == ids
    assert shown["has_more"] is more
    assert (shown["first_id"], shown["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))


@pytest.mark.parametrize(
    "query", [{"limit": "0"}, {"limit": "101"}, {"limit": "٣"}, {"order": "up"}, {"after": "x"}, {"before": "x"}]
)
def test_a_bad_query_names_what_is_wrong(query: dict[str, str]) -> None:
    with pytest.raises(RequestError) as refused:
        page(ITEMS, query)
    assert refused.value.param in query
