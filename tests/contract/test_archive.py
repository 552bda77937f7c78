"""What every archive promises (`transport.base.Archive`), and what the file alone does."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from grizz.tasks import TaskOwner
from grizz.transport.base import Archive
from grizz.transport.sqlite import upkeep
from grizz.transport.sqlite.store import Store
from tests.contract.cast import LEASE_S, Node, Recorder, a_store, job
from tests.redis_servers import RedisServer

IDS = [f"resp_0a1b2c3d{hour:04x}{number:028x}" for hour in (1, 2) for number in range(2)]


@pytest.fixture(params=["redis", "sqlite"])
async def archive(request: pytest.FixtureRequest, tmp_path: Path, tasks: TaskOwner) -> AsyncIterator[Archive]:
    if request.param == "sqlite":
        store = await a_store(tmp_path)
        yield store.archive
        await store.close()
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    node = Node(server, tasks, 0, 3, LEASE_S)
    node.transport.connect(Recorder(), Recorder())
    await node.transport.start()
    yield node.archive
    await node.transport.close()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await a_store(tmp_path)
    yield opened
    await opened.close()


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.02)


async def test_what_was_kept_is_fetched_and_what_is_not_there_is_left_out(archive: Archive) -> None:
    for number, one in enumerate(IDS[:3]):
        archive.keep(one, "alice", b'{"n":%d}' % number)

    async def all_there() -> bool:
        return len(await archive.fetch(IDS)) == 3

    await until(all_there)
    assert await archive.fetch(IDS) == {one: b'{"n":%d}' % number for number, one in enumerate(IDS[:3])}
    assert await archive.fetch([IDS[3]]) == await archive.fetch([]) == {}


async def test_an_end_is_stored_with_a_record_and_not_without(archive: Archive) -> None:
    waits = [archive.settle(IDS[0], "alice", b"{}"), archive.settle(IDS[1], "alice", None)]
    await asyncio.gather(*[one for one in waits if one is not None])

    async def there() -> bool:
        return bool(await archive.fetch(IDS))

    await until(there)
    assert await archive.fetch(IDS) == {IDS[0]: b"{}"}


async def test_what_is_discarded_is_gone_also_before_it_was_written(archive: Archive) -> None:
    archive.keep(IDS[0], "alice", b"{}")
    archive.keep(IDS[1], "alice", b"{}")
    archive.discard(IDS[1])

    async def stored() -> bool:
        return IDS[0] in await archive.fetch(IDS)

    await until(stored)
    archive.discard(IDS[0])

    async def gone() -> bool:
        return not await archive.fetch(IDS)

    await until(gone)


async def test_a_touch_harms_nothing(archive: Archive) -> None:
    archive.keep(IDS[0], "alice", b"{}")
    archive.touch(IDS)

    async def stored() -> bool:
        return await archive.fetch(IDS) == {IDS[0]: b"{}"}

    await until(stored)


async def test_the_end_of_a_job_and_its_answer_are_one_transaction(store: Store) -> None:
    await store.journal.accepted(job(IDS[0]), 1)
    before = store.writer.commits
    done = store.archive.settle(IDS[0], "alice", b"{}")
    assert done is not None
    await done
    assert store.writer.commits == before + 1
    assert (await store.journal.unfinished(), await store.archive.fetch(IDS)) == ([], {IDS[0]: b"{}"})


async def test_a_turn_in_a_conversation_its_answer_and_the_end_of_its_job_are_one_transaction(store: Store) -> None:
    from grizz.transport.shelf import Conversation

    await store.shelf.create(Conversation("conv_1", "alice", 1, 0.0), [])
    await store.journal.accepted(job(IDS[0]), 1)
    before = store.writer.commits
    done = store.archive.settle(IDS[0], "alice", b"{}", in_conversation=True)
    assert done is not None
    await asyncio.sleep(0.05)  # the append of its turn may come a little later
    assert not done.done()
    await store.shelf.append("conv_1", [{"id": "a", "type": "message"}], turn=IDS[0])
    await done
    assert store.writer.commits == before + 1
    # And when no append comes, the answer is stored all the same.
    alone = store.archive.settle(IDS[1], "alice", b"{}", in_conversation=True)
    assert alone is not None
    async with asyncio.timeout(5):
        await alone
    assert set(await store.archive.fetch(IDS)) == {IDS[0], IDS[1]}


async def test_what_comes_while_it_commits_is_committed_together(store: Store) -> None:
    before = store.writer.commits
    futures = [store.archive.settle(f"resp_{number}", "alice", b"{}") for number in range(300)]
    await asyncio.gather(*[one for one in futures if one is not None])
    assert store.writer.commits - before < 30


async def test_a_step_that_fails_takes_no_other_with_it_and_is_counted(store: Store) -> None:
    def wrong(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO turns (id) VALUES ('half')")

    bad, good = store.writer.write(wrong), store.archive.settle(IDS[0], "alice", b"{}")
    assert good is not None
    with pytest.raises(sqlite3.IntegrityError):
        await bad
    await good
    assert await store.archive.fetch([IDS[0], "half"]) == {IDS[0]: b"{}"}


async def test_jobs_are_read_back_as_they_were_with_their_attempts(store: Store, tmp_path: Path) -> None:
    for number, attempt in ((0, 0), (1, 1)):
        await store.journal.accepted(job(IDS[number], "owner ä", 7), attempt)
    await store.close()
    again = await a_store(tmp_path)
    found = await again.journal.unfinished()
    assert [(one.job.id, one.job.owner, one.job.payload, one.job.size) for one in found] == [
        (one, "owner ä", {"ask": one}, 7) for one in IDS[:2]
    ]
    assert [one.attempt for one in found] == [0, 1]
    await again.close()


async def test_the_file_stays_within_its_bound_and_the_least_recently_used_go_first(tmp_path: Path) -> None:
    store = await a_store(tmp_path, max_bytes=1 << 20)
    await store.journal.accepted(job("resp_waits"), 0)
    record = b"x" * 20_000
    for number in range(200):
        done = store.archive.settle(f"resp_{number:03}", "alice", record)
        assert done is not None
        await done
        if number % 10 == 0:
            store.archive.touch(["resp_000"])
        await asyncio.sleep(0.01)

    async def trimmed() -> bool:
        return store.upkeep.bytes <= 1 << 20

    await asyncio.sleep(0.6)
    await until(trimmed)
    kept = await store.archive.fetch([f"resp_{number:03}" for number in range(200)])
    assert "resp_199" in kept and "resp_000" in kept and "resp_001" not in kept
    assert 20 < len(kept) < 60
    assert [one.job.id for one in await store.journal.unfinished()] == ["resp_waits"]
    await store.close()
    assert sum(part.stat().st_size for part in (tmp_path / "state").iterdir()) < 6 << 20


async def test_what_nobody_used_for_long_enough_goes(tmp_path: Path) -> None:
    store = await a_store(tmp_path)
    for one in IDS[:2]:
        await asyncio.wait([store.archive.settle(one, "alice", b"{}")])  # type: ignore[list-item]
    await store.close()
    db = sqlite3.connect(tmp_path / "state" / "grizz.db")
    db.execute("UPDATE turns SET used_at = ? WHERE id = ?", (time.time() - 61, IDS[0]))
    db.commit()
    db.close()
    store = await a_store(tmp_path, keep_s=60)

    async def expired() -> bool:
        return set(await store.archive.fetch(IDS)) == {IDS[1]}

    await until(expired)
    await store.close()


async def test_what_was_deleted_is_gone_from_the_log_of_writes_soon_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "_CUT_EVERY_S", 0.1)
    store = await a_store(tmp_path)
    log = tmp_path / "state" / "grizz.db-wal"
    await store.journal.accepted(job(IDS[0], "some-owner"), 1)
    assert b"some-owner" in log.read_bytes()
    reads = sqlite3.connect(tmp_path / "state" / "grizz.db", isolation_level=None)
    reads.execute("BEGIN")
    reads.execute("SELECT count(*) FROM jobs").fetchall()
    done = store.journal.remove(IDS[0])
    assert done is not None
    await done
    await asyncio.sleep(1.2)
    assert b"some-owner" in log.read_bytes()  # a reader may still need it, and holds up nobody
    await asyncio.wait_for(store.archive.discard(IDS[0]), 2)
    reads.close()

    async def gone() -> bool:
        return not any(b"some-owner" in part.read_bytes() for part in (tmp_path / "state").iterdir())

    await until(gone)
    await store.close()
