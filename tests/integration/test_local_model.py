"""`--local`: a model server as a process of its own, which Grizz starts, keeps and ends; and a real one."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from grizz.app import App
from grizz.config import load
from grizz.errors import ConfigError
from grizz.tasks import TaskOwner
from grizz.upstream.local import LocalServer, supervisor
from tests.conftest import ROOT
from tests.player import Player, text_of

STAND_IN = (sys.executable, str(ROOT / "tests" / "local_stand_in.py"))


class Local:
    """Grizz before a stand-in."""

    def __init__(self, app: App, player: Player, starts: Path) -> None:
        self.app = app
        self.player = player
        self._starts = starts

    @property
    def pids(self) -> list[int]:
        """Of every process that was started, the first one first."""
        return [int(line.split()[0]) for line in self._starts.read_text().splitlines()]

    async def until_started(self, times: int) -> None:
        async with asyncio.timeout(20):
            while not self._starts.exists() or len(self.pids) < times:
                await asyncio.sleep(0.02)


Start = Callable[..., Awaitable[Local]]


@pytest.fixture
async def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    """Start Grizz with `--local`, and the stand-in for the program that holds the model."""
    model = tmp_path / "tiny.gguf"
    model.touch()
    apps: list[App] = []
    http = aiohttp.ClientSession()
    monkeypatch.setattr(LocalServer.__init__, "__kwdefaults__", {**LocalServer.__init__.__kwdefaults__, **_PROGRAM})

    async def begin(**environ: str) -> Local:
        for name, value in {"STARTS": str(tmp_path / "starts"), **environ}.items():
            monkeypatch.setenv(name, value)
        flags = {"server.port": 0, "local.enabled": True, "local.model_file": str(model)}
        apps.append(App(load(flags, {}, None).settings))
        port = await apps[-1].start()
        player = await Player.connect(http, f"ws://127.0.0.1:{port}/v1/responses")
        return Local(apps[-1], player, tmp_path / "starts")

    yield begin
    await http.close()
    for app in apps:
        await end(app)


_PROGRAM = {"program": STAND_IN}


async def end(app: App) -> None:
    """Stop it, once."""
    if app.server.ready:
        await app.drain()
        await app.stop()


def lives(pid: int) -> bool:
    """Does the process run?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_whoever_asks_while_the_model_loads_is_answered_when_it_has(start: Start) -> None:
    local = await start(LOADING_S="2.5")
    assert text_of(await local.player.ask("hello")) == str(local.pids[0])
    assert local.app.model_name == "tiny"


async def test_a_model_server_that_is_killed_is_started_again_and_no_answer_fails(start: Start) -> None:
    local = await start()
    assert text_of(await local.player.ask("hello")) == str(local.pids[0])
    os.kill(local.pids[0], signal.SIGKILL)
    assert text_of(await local.player.ask("hello")) == str(local.pids[1])
    assert len(local.pids) == 2


async def test_a_request_on_which_the_model_server_dies_is_asked_again_of_the_next_one(start: Start) -> None:
    local = await start(CRASHES="1")
    await local.until_started(1)
    os.environ.pop("CRASHES")  # of the second start
    assert text_of(await local.player.ask("crash")) == str(local.pids[1])


async def test_a_stop_ends_the_model_server_as_well(start: Start) -> None:
    local = await start()
    await local.player.ask("hello")
    assert lives(local.pids[0])
    await end(local.app)
    assert not lives(local.pids[0])


async def test_a_model_server_that_cannot_start_is_tried_ever_more_rarely_and_its_last_words_are_logged(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    local = await start(FAILS="1")
    await local.until_started(3)
    ends = [record for record in caplog.records if record.getMessage().startswith("the local model server ended")]
    assert [record.pause_s for record in ends[:2]] == [0.5, 1.0]
    assert (ends[0].status, ends[0].said) == (1, "no such instruction set")


async def test_the_model_server_ends_even_if_grizz_is_killed(tmp_path: Path) -> None:
    """The process whose child it is dies without a chance to do anything."""
    program = (
        "import asyncio, sys\n"
        "from grizz.tasks import TaskOwner\n"
        "from grizz.upstream.local import LocalServer\n"
        "async def main():\n"
        "    LocalServer(TaskOwner('t'), model_file=sys.argv[1], program=sys.argv[2:]).start()\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    (tmp_path / "tiny.gguf").touch()
    starts = tmp_path / "starts"
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, str(tmp_path / "tiny.gguf"), *STAND_IN),
        cwd=ROOT,
        env={**os.environ, "STARTS": str(starts)},
    )
    async with asyncio.timeout(30):
        while not starts.exists() or not starts.read_text().endswith("\n"):
            await asyncio.sleep(0.02)
        pid = int(starts.read_text().split()[0])
        assert lives(pid)
        parent.kill()
        await parent.wait()
        while lives(pid):
            await asyncio.sleep(0.02)


async def test_nobody_without_its_key_can_use_the_local_model(start: Start) -> None:
    local = await start()
    await local.player.ask("hello")
    assert local.app.behind.local is not None
    url = local.app.behind.local.url
    async with aiohttp.ClientSession() as http:
        for headers in ({}, {"Authorization": "Bearer guess"}):
            async with http.post(f"{url}/chat/completions", json={}, headers=headers) as response:
                assert response.status == 401


def test_what_is_missing_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(supervisor.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package xllamacpp: `make run-local`"):
        LocalServer(TaskOwner("test"))
    with pytest.raises(ConfigError, match=r"needs a model: `make run-local`.*--model-file FILE\.gguf"):
        LocalServer(TaskOwner("test"), program=STAND_IN)
    with pytest.raises(ConfigError, match="there is no file /nope"):
        LocalServer(TaskOwner("test"), program=STAND_IN, model_file="/nope")


@pytest.mark.local_model
@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="make test-local installs a real model")
async def test_a_real_model_says_words_in_several_turns(start_process, http: aiohttp.ClientSession) -> None:
    process = start_process("--local")
    player = await Player.connect(http, f"{process.url.replace('http', 'ws', 1)}/v1/responses")
    events = await player.ask("What is the capital of France?", max_output_tokens=40)
    assert len(text_of(events)) > 3  # what it says is its own affair
    usage = events[-1]["response"]["usage"]
    assert 0 < usage["output_tokens"] <= 40
    again = await player.ask("Say it again.", max_output_tokens=20, previous_response_id=events[-1]["response"]["id"])
    assert text_of(again)
    assert again[-1]["response"]["usage"]["input_tokens"] > usage["input_tokens"] + usage["output_tokens"]
    assert process.end() == 0
