"""A disk that is full or slow: answers go on, what is promised is kept, and the log and the metrics say what is not."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
import time
import types
from pathlib import Path

import aiohttp
import pytest

from grizz.errors import ShelfDown
from grizz.transport.shelf import Conversation
from grizz.transport.sqlite import writer
from tests.conftest import Grizz, running_grizz
from tests.contract.cast import a_store, job


async def ask(http: aiohttp.ClientSession, grizz: Grizz, text: str, **fields: object) -> dict:
    async with http.post(f"{grizz.url}/v1/responses", json={"input": text, **fields}) as answer:
        return await answer.json()


async def errors(http: aiohttp.ClientSession, grizz: Grizz, kind: str) -> float:
    async with http.get(f"{grizz.url}/metrics") as answer:
        text = await answer.text()
    (line,) = [line for line in text.splitlines() if line.startswith(f'grizz_history_errors_total{{kind="{kind}"')]
    return float(line.split()[-1])


async def test_with_a_full_disk_answers_go_on_in_memory_and_are_kept_again_when_there_is_room(
    tmp_path: Path, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(tmp_path / "state" / "grizz.db")
    async with running_grizz(history__store="sqlite", history__path=path) as grizz:
        assert grizz.app.durable is not None
        store = grizz.app.durable.store
        kept = await ask(http, grizz, "[[echo:kept]]")
        pages = await store.writer.write(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
        await store.writer.write(lambda db: db.execute(f"PRAGMA max_page_count = {pages}"))
        lost = await ask(http, grizz, f"[[echo:lost]] {'x' * 100_000}", previous_response_id=kept["id"])
        assert lost["status"] == "completed"
        goes_on = await ask(http, grizz, "[[echo:on]] " + "x" * 100_000, previous_response_id=lost["id"])
        assert goes_on["status"] == "completed"
        assert await errors(http, grizz, "write") >= 2
        said = [record for record in caplog.records if "cannot be written" in record.message]
        assert len(said) == 1 and "full" in said[0].err  # type: ignore[attr-defined]
        await store.writer.write(lambda db: db.execute("PRAGMA max_page_count = 1000000"))
        again = await ask(http, grizz, "[[echo:again]]")
        found = await store.archive.fetch([kept["id"], lost["id"], again["id"]])
        assert set(found) == {kept["id"], again["id"]}


async def test_while_too_much_waits_for_a_slow_disk_only_what_must_be_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await a_store(tmp_path)
    await store.journal.accepted(job("resp_1"), 1)
    go_on = threading.Event()
    stuck = store.writer.write(lambda db: go_on.wait(10))
    await asyncio.sleep(0.05)
    monkeypatch.setattr(writer, "MAX_WAITING_BYTES", 1000)
    store.archive.keep("resp_0", "alice", b"x" * 1000)
    assert store.writer.full
    await store.journal.accepted(job("resp_2"), 1)  # at once: it is not written
    assert "resp_2" not in store.journal
    ended = store.archive.settle("resp_1", "alice", b"{}")
    with pytest.raises(ShelfDown, match="too slowly"):
        await store.shelf.create(Conversation("conv_1", "alice", 1, 0.0), [])
    go_on.set()
    await stuck
    assert ended is not None
    await ended
    assert await store.journal.unfinished() == []  # its job has ended, though its answer is not stored
    assert set(await store.archive.fetch(["resp_0", "resp_1"])) == {"resp_0"}
    assert not store.writer.full
    await store.close()


async def test_an_answer_that_is_left_out_for_a_slow_disk_does_not_wait_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await a_store(tmp_path)
    go_on = threading.Event()
    stuck = store.writer.write(lambda db: go_on.wait(10))
    monkeypatch.setattr(writer, "MAX_WAITING_BYTES", 0)
    record = bytes(bytearray(100_000))
    store.archive.keep("resp_1", "alice", record)
    holders = gc.get_referrers(record)
    go_on.set()
    await stuck
    assert not [held for held in holders if isinstance(held, types.CellType)]
    await store.close()


async def test_what_was_left_is_read_however_slow_the_disk_is(tmp_path: Path) -> None:
    store = await a_store(tmp_path)
    await store.journal.accepted(job("resp_1"), 1)
    go_on = threading.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(store.reader.ask(lambda db: go_on.wait(10), None))
        group.create_task(asyncio.to_thread(lambda: (time.sleep(2.5), go_on.set())))
        await asyncio.sleep(0.05)
        found = await store.journal.unfinished()
    assert [one.job.id for one in found] == ["resp_1"]
    await store.close()


async def test_a_read_that_does_not_end_does_not_keep_the_file_from_being_closed(tmp_path: Path) -> None:
    store = await a_store(tmp_path)
    endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    reads = asyncio.ensure_future(store.reader.ask(lambda db: db.execute(endless).fetchall(), None))
    await asyncio.sleep(0.1)
    store.archive.keep("resp_1", "alice", b"{}")
    async with asyncio.timeout(10):
        await store.close()
        with pytest.raises(sqlite3.OperationalError, match="interrupted"):
            await reads
    again = await a_store(tmp_path)
    assert await again.archive.fetch(["resp_1"]) == {"resp_1": b"{}"}
    await again.close()


async def test_what_waits_is_written_when_it_closes_and_later_calls_harm_nothing(tmp_path: Path) -> None:
    store = await a_store(tmp_path)
    for number in range(50):
        store.archive.keep(f"resp_{number}", "alice", b"{}")
    store.archive.settle("resp_last", "alice", b"{}", in_conversation=True)
    await store.close()
    store.archive.keep("resp_late", "alice", b"{}")
    assert await store.archive.fetch(["resp_1"]) == {}
    again = await a_store(tmp_path)
    names = [*(f"resp_{number}" for number in range(50)), "resp_last", "resp_late"]
    assert set(await again.archive.fetch(names)) == set(names[:-1])
    await again.close()


async def test_two_connections_that_write_wait_for_each_other(tmp_path: Path) -> None:
    store = await a_store(tmp_path)
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    done = store.archive.settle("resp_1", "alice", b"{}")
    assert done is not None
    await asyncio.sleep(0.3)
    assert not done.done()
    other.execute("COMMIT")
    other.close()
    async with asyncio.timeout(10):
        await done
    assert await store.archive.fetch(["resp_1"]) == {"resp_1": b"{}"}
    await store.close()
