"""The file of the history as an operator meets it: where it is, who may have it, what is done when it is of no use."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from grizz.config import load
from grizz.config.place import kept_in, path_of
from grizz.errors import ConfigError, HistoryUnusable
from grizz.transport.sqlite import schema
from tests.conftest import Process, running_grizz
from tests.contract.cast import a_store

IN_FILE = {"history__store": "sqlite"}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({}, "sqlite"),
        ({"history.store": "memory"}, "memory"),
        ({"history.store": "sqlite"}, "sqlite"),
        ({"redis.url": "redis://127.0.0.1"}, "redis"),
        ({"redis.url": "redis://127.0.0.1", "history.store": "redis"}, "redis"),
    ],
)
def test_the_settings_say_where_it_is_kept(settings: dict[str, object], place: str) -> None:
    assert kept_in(load(settings, {}, None).settings) == place


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"history.store": "redis"}, "needs redis.url"),
        ({"redis.url": "redis://127.0.0.1", "history.store": "sqlite"}, "use auto or redis"),
        ({"redis.url": "redis://127.0.0.1", "history.store": "memory"}, "use auto or redis"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(settings, {}, None)


def test_the_file_is_where_the_system_keeps_such_things() -> None:
    settings = load({}, {}, None).settings
    assert path_of(settings, {"STATE_DIRECTORY": "/var/lib/grizz:/other"}) == Path("/var/lib/grizz/grizz.db")
    assert path_of(settings, {"XDG_STATE_HOME": "/state"}) == Path("/state/grizz/grizz.db")
    assert path_of(settings, {"XDG_STATE_HOME": "state"}) == Path.home() / ".local/state/grizz/grizz.db"
    given = load({"history.path": "/there/it.db"}, {}, None).settings
    assert path_of(given, {"STATE_DIRECTORY": "/var/lib/grizz"}) == Path("/there/it.db")


async def test_nobody_else_on_the_machine_can_read_it(tmp_path: Path) -> None:
    store = await a_store(tmp_path)
    done = store.archive.settle("resp_1", "alice", b"{}")
    assert done is not None
    await done
    assert mode(tmp_path / "state") == 0o700
    for part in (tmp_path / "state").iterdir():
        assert mode(part) == 0o600, part
    await store.close()


async def test_a_second_process_runs_in_memory_and_says_so_or_refuses_if_it_was_told_to_use_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(tmp_path / "state" / "grizz.db")
    first = await a_store(tmp_path)
    async with running_grizz(history__path=path, history__store="auto") as second:
        assert second.app.durable is None
    assert any("in memory alone" in record.message for record in caplog.records)
    with pytest.raises(ConfigError, match="in use by another Grizz"):
        async with running_grizz(history__path=path, **IN_FILE):
            pass
    await first.close()
    async with running_grizz(history__path=path, **IN_FILE) as third:  # the lock went with its holder
        assert third.app.durable is not None


@pytest.mark.parametrize("content", [b"this is no database, however long it may be " * 50, b"SQLite format 3\0" * 300])
async def test_a_damaged_file_is_moved_aside_and_a_new_one_begun(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "state" / "grizz.db"
    path.parent.mkdir()
    path.write_bytes(content)
    store = await a_store(tmp_path)
    done = store.archive.settle("resp_1", "alice", b"{}")
    assert done is not None
    await done
    await store.close()
    aside = [part for part in path.parent.iterdir() if "damaged" in part.name]
    assert [part.read_bytes() for part in aside] == [content]
    assert any("damaged" in record.message for record in caplog.records)


async def test_a_page_that_is_damaged_is_found_at_the_start(tmp_path: Path) -> None:
    store = await a_store(tmp_path)
    for number in range(50):
        done = store.archive.settle(f"resp_{number}", "alice", b"x" * 3000)
        assert done is not None
        await done
    await store.close()
    path = tmp_path / "state" / "grizz.db"
    data = bytearray(path.read_bytes())
    for page in range(4, len(data) // 4096, 2):
        data[page * 4096 : page * 4096 + 64] = os.urandom(64)
    path.write_bytes(bytes(data))
    store = await a_store(tmp_path)
    assert await store.archive.fetch(["resp_1"]) == {}
    await store.close()
    assert any("damaged" in part.name for part in path.parent.iterdir())


async def test_a_newer_file_and_another_programs_are_left_as_they_are(tmp_path: Path) -> None:
    store = await a_store(tmp_path)
    await store.close()
    path = tmp_path / "state" / "grizz.db"
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(HistoryUnusable, match="newer Grizz"):
        await a_store(tmp_path)
    assert path.read_bytes() == before
    path.unlink()
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE precious (thing TEXT)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(HistoryUnusable, match="another program"):
        await a_store(tmp_path)
    assert path.read_bytes() == before


async def test_an_older_file_becomes_a_newer_one_with_all_that_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "grizz.db"
    path.parent.mkdir()
    db = sqlite3.connect(path, isolation_level=None)
    for statement in (schema.MIGRATIONS[0], [schema._MIGRATED]):
        for one in statement:
            db.execute(one)
    db.execute("INSERT INTO turns (id, owner, data, created_at, used_at) VALUES ('resp_1', 'a', x'7b7d', 9e9, 9e9)")
    db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    db.execute("PRAGMA user_version = 1")
    db.close()
    store = await a_store(tmp_path)
    assert await store.archive.fetch(["resp_1"]) == {"resp_1": b"{}"}
    assert await store.shelf.get("conv_1") is None
    await store.close()
    db = sqlite3.connect(path)
    newer = [(version,) for version in range(2, len(schema.MIGRATIONS) + 1)]
    assert db.execute("SELECT version FROM migrations").fetchall() == newer
    db.close()


async def test_a_directory_that_cannot_be_made_is_a_clear_refusal_or_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    path = str(tmp_path / "file" / "state" / "grizz.db")
    with pytest.raises(
        ConfigError, match=r"history\.store = sqlite: .*/grizz\.db cannot be used: (File exists|Not a directory)"
    ):
        async with running_grizz(history__path=path, **IN_FILE):
            pass
    async with running_grizz(history__path=path, history__store="auto") as grizz:
        assert grizz.app.durable is None


@pytest.mark.parametrize("name", ["XDG_STATE_HOME", "STATE_DIRECTORY"])
def test_without_a_setting_a_process_keeps_its_history_where_the_system_says(
    tmp_path: Path, start_process: Callable[..., Process], name: str
) -> None:
    environ = {"HOME": str(tmp_path / "home"), "GRIZZ_HISTORY_STORE": "auto", name: str(tmp_path / "state")}
    process = start_process("--demo", environ=environ)
    assert process.end() == 0
    folder = tmp_path / "state" / "grizz" if name == "XDG_STATE_HOME" else tmp_path / "state"
    assert (folder / "grizz.db").is_file()
    assert not (folder / "grizz.db-wal").exists()  # all of it is in the file
    assert not (tmp_path / "home").exists()
