"""A conversation of which memory has lost a part, while the file has all of it, goes on with all of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from grizz.engine.history import History, Turn
from grizz.engine.lookup import Lookup
from grizz.transport.sqlite.store import Store
from tests.contract.cast import a_store

WHOLE = ["one", "two", "three"]


def turn(name: str, parent: Turn | None) -> Turn:
    said = {"type": "message", "role": "user", "content": name}
    response = {"id": name, "status": "completed", "created_at": 1, "output": []}
    return Turn(name, "me", parent, [said], response, 1, None)


def new_history() -> History:
    return History(keep_s=600, max_bytes=10**9)


async def said(lookup: Lookup, name: str) -> list[str] | None:
    found = await lookup.turn(name, "me", None)
    return [item["content"] for item in found.context()] if found is not None and found.continuable else None


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await a_store(tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
async def lookup(store: Store) -> Lookup:
    lookup, parent = Lookup(new_history(), store.archive, keep_s=600, max_chain_bytes=10**6), None
    for name in WHOLE:
        parent = turn(name, parent)
        lookup.keep(parent, asyncio.get_running_loop().time())
    await store.writer.write(lambda db: None)
    return lookup


@pytest.mark.parametrize("lost", [["one"], ["two"], ["one", "two"], ["one", "three"], WHOLE])
async def test_whatever_memory_has_lost_the_conversation_goes_on_whole(lookup: Lookup, lost: list[str]) -> None:
    for name in lost:
        lookup.history.forget(name)
    assert await said(lookup, "three") == WHOLE


@pytest.mark.parametrize("lost", [WHOLE, WHOLE[::-1], ["two", "three", "one"]])
async def test_an_answer_that_ends_after_memory_has_lost_what_came_before_is_stored_with_all_of_it(
    store: Store, lookup: Lookup, lost: list[str]
) -> None:
    now = asyncio.get_running_loop().time()
    before = lookup.history.find("three", "me", now)
    for name in lost:
        lookup.history.forget(name)
    lookup.keep(turn("four", before), now)
    await store.writer.write(lambda db: None)
    assert await said(Lookup(new_history(), store.archive, keep_s=600, max_chain_bytes=10**6), "four") == [
        *WHOLE,
        "four",
    ]


async def test_many_look_ups_at_once_in_this_process_s_own_file_are_all_answered(store: Store, lookup: Lookup) -> None:
    anew = Lookup(new_history(), store.archive, keep_s=600, max_chain_bytes=10**6)
    assert await asyncio.gather(*(said(anew, "three") for _ in range(100))) == [WHOLE] * 100
