"""The Codex CLI, unmodified, over WebSocket and over HTTP. `make codex` runs it: the package has 400 MB."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.conftest import Grizz
from tests.e2e.conftest import npm_packages
from tests.player import numbers

pytestmark = [
    pytest.mark.skipif(not os.environ.get("E2E_CODEX"), reason="set E2E_CODEX=1, as `make codex` does"),
    pytest.mark.timeout(300),
]

CONFIG = """\
model = "grizz-demo"
model_provider = "grizz"
[model_providers.grizz]
name = "grizz"
base_url = "{url}/v1"
env_key = "GRIZZ_KEY"
wire_api = "responses"
supports_websockets = {websockets}
"""
Event = dict[str, Any]
Codex = Callable[..., Awaitable[list[Event]]]


@pytest.fixture(scope="session")
def command() -> Path:
    return npm_packages("codex") / "node_modules" / ".bin" / "codex"


@pytest.fixture(params=["true", "false"], ids=["websocket", "http"])
def codex(request: pytest.FixtureRequest, grizz: Grizz, command: Path, tmp_path: Path) -> Codex:
    """Run `codex exec` in an empty folder; returns the items and errors of its turn, its own notices left out."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    (home / "config.toml").write_text(CONFIG.format(url=grizz.url, websockets=request.param))
    options = ("--skip-git-repo-check", "--json", "--dangerously-bypass-approvals-and-sandbox")

    async def run(prompt: str, *verb: str) -> list[Event]:
        process = await asyncio.create_subprocess_exec(
            command,
            "exec",
            *verb,
            *options,
            prompt,
            cwd=work,
            env={**os.environ, "CODEX_HOME": str(home), "GRIZZ_KEY": "any"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await process.communicate()
        events = [json.loads(line) for line in out.splitlines()]
        assert events, err.decode()
        done = [event["item"] for event in events if event["type"] == "item.completed"]
        failed = [event["error"] for event in events if event["type"] == "turn.failed"]
        assert (process.returncode == 0) is not failed, err.decode()
        return [item for item in done if item["type"] != "error"] + failed

    return run


async def websockets(grizz: Grizz, http: aiohttp.ClientSession) -> bool:
    """Has anybody opened a WebSocket?"""
    async with http.get(f"{grizz.url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return any(float(line.split()[-1]) > 0 for line in lines if line.startswith("grizz_connections_total"))


async def test_it_answers_by_the_transport_it_was_told_of(
    codex: Codex, grizz: Grizz, http: aiohttp.ClientSession, request: pytest.FixtureRequest
) -> None:
    items = await codex("[[reasoning:hm]] [[words:12]]")
    assert [item["text"] for item in items] == ["hm", numbers(12)]
    assert grizz.demo.requests == 1, "the warm-up asks no model"
    assert await websockets(grizz, http) is ("websocket" in request.node.callspec.id)


async def test_it_runs_a_command_and_continues_its_session(codex: Codex, grizz: Grizz) -> None:
    ran, answer = await codex('[[tool:exec_command]] [[args:{"cmd":"echo frogs"}]]')
    assert (ran["type"], ran["exit_code"]) == ("command_execution", 0)
    assert ran["aggregated_output"].endswith("frogs\n")
    assert answer["text"].startswith("The tool exec_command answered:")
    (again,) = await codex("And now?", "resume", "--last")
    assert "And now?" in again["text"]
    assert [message["role"] for message in grizz.demo.last_request["messages"]].count("assistant") == 2


async def test_it_tries_again_after_an_answer_that_broke_off(codex: Codex, grizz: Grizz) -> None:
    items = await codex("[[words:9]] [[cut:3]] [[times:1]]")
    assert items[-1]["text"] == numbers(9)
    assert grizz.demo.requests == 2


@pytest.mark.parametrize(
    ("what", "words"), [("error:context", "context window"), ("error:quota", "Quota exceeded"), ("length:3", "length")]
)
async def test_it_understands_why_a_response_failed(codex: Codex, grizz: Grizz, what: str, words: str) -> None:
    words = {"length": "max_output_tokens"}.get(words, words)
    items = await codex(f"[[words:9]] [[{what}]]")
    assert words in items[-1]["message"]
    assert grizz.demo.requests == 1, "it is not asked again what cannot be mended so"
