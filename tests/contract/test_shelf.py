"""What every shelf promises (`grizz/transport/shelf.py`), on each adapter: add another one to the fixture `shelf`."""

from __future__ import annotations

import asyncio
import itertools
import random
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from grizz.errors import ConversationLocked, ShelfDown
from grizz.tasks import TaskOwner
from grizz.transport import shelf as port
from grizz.transport.redis.shelf import RedisShelf
from grizz.transport.shelf import Conversation, Shelf, Wanted
from grizz.transport.shelf_memory import MemoryShelf
from tests.contract.cast import KEYS, LEASE_S, Node, a_store
from tests.redis_servers import RedisServer

KEEP_S = 60.0


@pytest.fixture(params=["memory", "redis", "sqlite"])
async def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Shelf]:
    if request.param == "memory":
        yield MemoryShelf(keep_s=KEEP_S, max_bytes=1 << 20)
        return
    if request.param == "sqlite":
        store = await a_store(tmp_path, keep_s=KEEP_S)
        yield store.shelf
        await store.close()
        return
    tasks = TaskOwner("contract")
    node = Node(request.getfixturevalue("redis_server"), tasks, 0, 3, LEASE_S)
    node.transport.connect(*(2 * [_Nobody()]))
    await node.transport.start()
    yield RedisShelf(KEYS, node.link, keep_s=KEEP_S)
    await node.transport.close()
    assert await tasks.close(within_s=1) == []


class _Nobody:
    """A home and a pool that are told nothing."""

    free = 0


def item(name: str, text: str = "hello") -> dict[str, Any]:
    content = [{"type": "input_text", "text": text}]
    return {"id": name, "type": "message", "role": "user", "status": "completed", "content": content}


def items(*names: str) -> list[dict[str, Any]]:
    return [item(name) for name in names]


async def made(shelf: Shelf, *names: str, owner: str = "alice", **known: Any) -> str:
    conversation_id = f"conv_{secrets.token_hex(20)}"
    await shelf.create(Conversation(conversation_id, owner, 1_790_000_000, 0.0, **known), items(*names))
    return conversation_id


async def ids(shelf: Shelf, conversation_id: str) -> list[str]:
    found = await shelf.read(conversation_id)
    assert found is not None
    return [one["id"] for one in found]


async def page(shelf: Shelf, conversation_id: str, after: str | None, limit: int, newest_first: bool = False) -> Any:
    found = await shelf.page(conversation_id, after=after, limit=limit, newest_first=newest_first)
    return found and ([one["id"] for one in found[0]], found[1])


async def listed(shelf: Shelf, owner: str = "alice", **how: Any) -> Any:
    how = {"after": None, "limit": 100, "newest_first": True, "wanted": Wanted(), **how}
    found = await shelf.listing(owner, **how)
    return found and ([one.id for one in found[0]], found[1])


async def test_a_new_conversation_is_what_was_made_with_what_it_holds_counted(shelf: Shelf) -> None:
    name = await made(shelf, "a", "b", metadata={"topic": "ä"}, opening="Hello…")
    known = await shelf.get(name)
    assert known is not None
    assert (known.id, known.owner, known.created_at) == (name, "alice", 1_790_000_000)
    assert (known.metadata, known.opening, known.version, known.items) == ({"topic": "ä"}, "Hello…", 1, 2)
    assert known.bytes > 100
    assert known.updated_at > known.created_at
    assert await shelf.read(name) == items("a", "b")
    assert await shelf.item(name, "b") == item("b")
    assert await shelf.item(name, "c") is None


async def test_of_what_is_not_there_every_question_is_answered_with_none(shelf: Shelf) -> None:
    name = await made(shelf, "a")
    assert await shelf.delete(name)
    assert not await shelf.delete(name)
    for answer in (
        shelf.get(name),
        shelf.update(name, {}),
        shelf.append(name, items("b")),
        shelf.append(name, items("b"), turn="resp_1"),
        shelf.page(name, after=None, limit=5, newest_first=True),
        shelf.item(name, "a"),
        shelf.remove(name, "a"),
        shelf.begin(name, "resp_1", 5.0),
        shelf.read(name),
    ):
        assert await answer is None
    await shelf.release(name, "resp_1")
    assert await listed(shelf) == ([], False)


async def test_metadata_is_replaced_as_a_whole_and_every_write_is_a_new_version(shelf: Shelf) -> None:
    name = await made(shelf, "a", metadata={"a": "1", "b": "2"})
    first = await shelf.get(name)
    updated = await shelf.update(name, {"c": "3"})
    appended = await shelf.append(name, items("b"))
    removed = await shelf.remove(name, "a")
    assert first and updated and appended and removed
    assert (updated.metadata, updated.items, updated.created_at) == ({"c": "3"}, 1, first.created_at)
    assert [one.version for one in (first, updated, appended, removed)] == [1, 2, 3, 4]
    assert (removed.items, removed.bytes) == (1, first.bytes)
    assert await shelf.get(name) == removed


async def test_items_stay_in_order_and_one_whose_id_is_there_is_left_out(shelf: Shelf) -> None:
    name = await made(shelf, "b", "a")
    await shelf.append(name, [item("a", "another"), item("0")])
    await shelf.remove(name, "b")
    await shelf.append(name, items("b"))
    assert await ids(shelf, name) == ["a", "0", "b"]
    assert await shelf.item(name, "a") == item("a")


async def test_the_first_words_are_kept_from_the_first_append_that_brings_some(shelf: Shelf) -> None:
    name = await made(shelf)
    for opening, kept in (("", ""), ("one", "one"), ("two", "one"), ("", "one")):
        known = await shelf.append(name, (), opening=opening)
        assert known is not None and known.opening == known.title == kept
    titled = await shelf.update(name, {"title": "mine"})
    assert titled is not None and titled.title == "mine"


async def test_a_turn_is_appended_once_whoever_appends_it_and_whatever_came_between(shelf: Shelf) -> None:
    name = await made(shelf, "a")
    await shelf.append(name, items("b", "c"), turn="resp_1")
    await shelf.append(name, items("d"), turn="resp_2")
    await shelf.remove(name, "b")
    known = await shelf.append(name, items("e", "f"), turn="resp_1")
    assert known is not None and known.items == 3
    assert await ids(shelf, name) == ["a", "c", "d"]
    assert await shelf.append(name, (), turn="resp_3") is not None
    await shelf.append(name, items("g"), turn="resp_3")
    assert await ids(shelf, name) == ["a", "c", "d"]


async def test_a_turn_has_the_conversation_to_itself_until_it_is_appended(shelf: Shelf) -> None:
    name = await made(shelf, "a")
    assert [one["id"] for one in await shelf.begin(name, "resp_1", 5.0) or ()] == ["a"]
    with pytest.raises(ConversationLocked):
        await shelf.begin(name, "resp_2", 5.0)
    assert await shelf.begin(name, "resp_1", 5.0) == items("a")
    assert not await shelf.renew(name, "resp_2", 5.0)
    assert await shelf.renew(name, "resp_1", 5.0)
    await shelf.release(name, "resp_2")
    await shelf.append(name, items("z"))  # by hand, which no turn forbids
    await shelf.append(name, items("y"), turn="resp_0")
    with pytest.raises(ConversationLocked):
        await shelf.begin(name, "resp_2", 5.0)
    await shelf.append(name, items("b"), turn="resp_1")
    assert await shelf.begin(name, "resp_2", 5.0) == items("a", "z", "y", "b")
    await shelf.append(name, items("x"), turn="resp_1")  # again: it frees nothing that is not its own
    with pytest.raises(ConversationLocked):
        await shelf.begin(name, "resp_1", 5.0)
    await shelf.release(name, "resp_2")
    assert await shelf.begin(name, "resp_3", 5.0) == items("a", "z", "y", "b")


async def test_a_turn_that_was_appended_by_another_frees_its_lock_all_the_same(shelf: Shelf) -> None:
    name = await made(shelf)
    await shelf.append(name, items("a"), turn="resp_1")
    await shelf.begin(name, "resp_1", 5.0)
    await shelf.append(name, items("b"), turn="resp_1")
    assert await shelf.begin(name, "resp_2", 5.0) == items("a")


async def test_a_lock_that_nobody_renews_runs_out_and_the_late_turn_comes_behind(shelf: Shelf) -> None:
    name = await made(shelf, "a")
    await shelf.begin(name, "resp_1", 0.05)
    await asyncio.sleep(0.1)
    assert await shelf.begin(name, "resp_2", 5.0) == items("a")
    assert not await shelf.renew(name, "resp_1", 5.0)
    await shelf.append(name, items("late"), turn="resp_1")
    with pytest.raises(ConversationLocked):
        await shelf.begin(name, "resp_3", 5.0)
    await shelf.append(name, items("b"), turn="resp_2")
    assert await ids(shelf, name) == ["a", "late", "b"]
    await shelf.begin(name, "resp_4", 0.05)
    await asyncio.sleep(0.1)
    assert await shelf.renew(name, "resp_5", 5.0)  # an heir may come when it is free
    with pytest.raises(ConversationLocked):
        await shelf.begin(name, "resp_4", 5.0)


async def test_of_many_who_want_the_next_turn_one_gets_it(shelf: Shelf) -> None:
    name = await made(shelf, "a")
    begun = await asyncio.gather(*(shelf.begin(name, f"resp_{n}", 5.0) for n in range(20)), return_exceptions=True)
    assert sorted(type(one).__name__ for one in begun) == [*19 * ["ConversationLocked"], "list"]


async def test_items_are_paged_in_both_orders_from_any_of_them(shelf: Shelf) -> None:
    name = await made(shelf, *"abcde")
    assert await page(shelf, name, None, 2) == (["a", "b"], True)
    assert await page(shelf, name, "b", 3) == (["c", "d", "e"], False)
    assert await page(shelf, name, "e", 3) == ([], False)
    assert await page(shelf, name, None, 2, newest_first=True) == (["e", "d"], True)
    assert await page(shelf, name, "b", 3, newest_first=True) == (["a"], False)
    assert await page(shelf, name, "x", 3) is None
    assert await page(shelf, await made(shelf), None, 3) == ([], False)


async def test_a_listing_has_the_last_written_first_and_only_its_owners(shelf: Shelf) -> None:
    a, b, c = [await made(shelf, owner=owner) for owner in ("alice", "alice", "bob")]
    await asyncio.sleep(0.01)
    await shelf.append(a, items("x"))
    assert await listed(shelf) == ([a, b], False)
    assert await listed(shelf, newest_first=False) == ([b, a], False)
    await asyncio.sleep(0.01)
    await shelf.update(b, {})
    assert await listed(shelf, limit=1) == ([b], True)
    assert await listed(shelf, limit=1, after=b) == ([a], False)
    assert await listed(shelf, after=a) == ([], False)
    assert await listed(shelf, after=c) is None
    assert await listed(shelf, "bob") == ([c], False)
    assert await listed(shelf, "nobody") == ([], False)
    await shelf.delete(b)
    assert await listed(shelf) == ([a], False)


async def test_a_listing_says_which_turn_runs_in_a_conversation(shelf: Shelf) -> None:
    a, b = [await made(shelf) for _ in range(2)]

    async def running() -> dict[str, str]:
        page = await shelf.listing("alice", after=None, limit=10, newest_first=True, wanted=Wanted())
        assert page is not None
        for one in page[0]:
            assert await shelf.get(one.id) == one
        return {one.id: one.running for one in page[0]}

    await shelf.begin(a, "resp_1", 60.0)
    assert await running() == {a: "resp_1", b: ""}
    await shelf.append(a, items("x"), turn="resp_1")
    assert await running() == {a: "", b: ""}


async def test_a_listing_finds_by_title_in_any_case_and_by_metadata(shelf: Shelf) -> None:
    names = [
        await made(shelf, opening=f"Über Zug {n}", metadata={"kind": str(n % 2), "title": "Plan"} if n % 3 else {})
        for n in range(6)
    ]
    found, _ = await listed(shelf, newest_first=False, wanted=Wanted("über zug"))
    assert sorted(found) == sorted([names[0], names[3]])
    found, _ = await listed(shelf, wanted=Wanted("PLAN", {"kind": "0"}))
    assert sorted(found) == sorted([names[2], names[4]])
    assert await listed(shelf, wanted=Wanted(metadata={"kind": "2"})) == ([], False)


async def test_a_search_pages_through_what_matches_alone(shelf: Shelf) -> None:
    names = [await made(shelf, opening="rare" if n % 50 == 7 else "often") for n in range(250)]
    rare, after = [], None
    for more in (True, True, False):
        found = await listed(shelf, after=after, limit=2, wanted=Wanted("rare"))
        assert found is not None and found[1] is more
        rare += found[0]
        after = rare[-1]
    assert sorted(rare) == sorted(names[7::50])


async def test_all_of_an_owner_is_exported_and_deleted_and_nobody_elses(shelf: Shelf) -> None:
    mine = [await made(shelf, "a", "b") for _ in range(3)]
    other = await made(shelf, "c", owner="bob")
    exported = {known.id: [one["id"] for one in kept] async for known, kept in shelf.export("alice")}
    assert exported == dict.fromkeys(mine, ["a", "b"])
    assert await shelf.delete_all("alice") == 3
    assert await shelf.delete_all("alice") == 0
    assert await listed(shelf) == ([], False)
    assert [await shelf.get(name) for name in mine] == [None, None, None]
    assert await listed(shelf, "bob") == ([other], False)


async def test_beyond_the_bound_an_owners_least_recently_used_goes(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("grizz.transport.shelf_memory", "grizz.transport.redis.shelf", "grizz.transport.sqlite.shelf"):
        monkeypatch.setattr(f"{module}.MAX_OF_OWNER", 3)
    assert port.MAX_OF_OWNER == 10_000
    names = []
    for _ in range(3):
        names.append(await made(shelf, "a"))
        await asyncio.sleep(0.002)
    await shelf.append(names[0], items("b"))
    names.append(await made(shelf, "a"))
    other = await made(shelf, owner="bob")
    assert [await shelf.get(name) is not None for name in (*names, other)] == [True, False, True, True, True]
    assert sorted((await listed(shelf))[0]) == sorted([names[0], *names[2:]])


@pytest.mark.parametrize("seed", range(8))
async def test_pages_put_together_are_the_conversation_whatever_was_written(shelf: Shelf, seed: int) -> None:
    luck = random.Random(seed)
    kept: list[str] = []
    name, fresh = await made(shelf), (f"i{n}" for n in itertools.count())
    for turn in range(30):
        if kept and luck.random() < 0.3:
            gone = luck.choice(kept)
            kept.remove(gone)
            await shelf.remove(name, gone)
        else:
            some = [next(fresh) for _ in range(luck.randrange(4))]
            kept += some
            await shelf.append(name, items(*some), turn=luck.choice([None, f"resp_{turn}"]))
        newest_first, limit = luck.random() < 0.5, luck.randrange(1, 8)
        seen: list[str] = []
        after, more = None, True
        while more:
            found, more = await page(shelf, name, after, limit, newest_first)
            assert len(found) == limit or not more
            seen += found
            after = seen[-1] if seen else None
        assert seen == (kept[::-1] if newest_first else kept)
    known = await shelf.get(name)
    assert known is not None and known.items == len(kept)
    assert await ids(shelf, name) == kept


async def test_memory_drops_what_is_old_and_when_it_is_full_the_least_recently_written() -> None:
    now = [1000.0]
    shelf = MemoryShelf(keep_s=10, max_bytes=100_000, clock=lambda: now[0])
    old = await made(shelf, "a")
    now[0] += 8
    young = await made(shelf, "a")
    now[0] += 3
    assert (await shelf.get(old), await listed(shelf)) == (None, ([young], False))
    many = [await made(shelf, *(f"i{n}" for n in range(20))) for _ in range(30)]
    assert shelf.bytes <= 100_000
    kept = [name for name in many if await shelf.get(name)]
    assert 5 < len(kept) < 30 and kept == many[-len(kept) :]
    await shelf.begin(kept[0], "resp_1", 100.0)
    for name in kept:
        await shelf.delete(name)
    now[0] += 100
    shelf.sweep()
    assert (len(shelf), shelf.bytes, shelf._owners, len(shelf._locks)) == (0, 0, {}, 0)


async def test_the_redis_forgets_by_itself_and_leaves_nothing_behind(redis_server: RedisServer) -> None:
    tasks = TaskOwner("contract")
    node = Node(redis_server, tasks, 0, 3, LEASE_S)
    node.transport.connect(*(2 * [_Nobody()]))
    await node.transport.start()
    shelf = RedisShelf(KEYS, node.link, keep_s=0.4)
    name = await made(shelf, "a")
    for turn in range(4):
        await asyncio.sleep(0.15)
        assert await shelf.append(name, items(f"b{turn}"), turn=f"resp_{turn}")
    dated = [redis_server.command("PTTL", key) for key in redis_server.command("KEYS", "*conv*")]
    assert len(dated) == 4 and all(0 < left <= 400 for left in dated)
    await asyncio.sleep(0.5)
    assert redis_server.command("KEYS", "*conv*") == []
    assert (await shelf.get(name), await listed(shelf)) == (None, ([], False))
    await node.transport.close()
    await tasks.close(within_s=1)
    with pytest.raises(ShelfDown):
        await shelf.get(name)
