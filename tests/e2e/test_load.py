"""`python grizz.py load`, as an operator types it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from grizz.core import api_keys
from tests.conftest import ROOT, Grizz, Process, running_grizz
from tests.redis_servers import free_port

LOAD = [sys.executable, str(ROOT / "grizz.py"), "load"]
Start = Callable[..., Process]


def load(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LOAD, *arguments], capture_output=True, text=True, timeout=50, env={**os.environ, **environ}, check=False
    )


def test_every_answer_is_judged_and_nothing_is_left_behind(start_process: Start) -> None:
    url = start_process("--demo").url
    ran = load(url, "--clients", "4", "--answers", "12", "--over", "both", "--prompt", "[[words:5]]", "--json")
    assert ran.returncode == 0, ran.stderr
    facts = json.loads(ran.stdout)
    assert facts["ended"] == {"completed": 12}
    assert (facts["lost"], facts["doubled"], facts["hung"], facts["tokens"]) == (0, 0, 0, 60)
    assert 4 <= facts["connections"] <= 10  # two WebSockets, and a request for each of the others' answers
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        page = answer.read().decode()
    assert 'grizz_jobs_finished_total{model="grizz-demo",outcome="ok"} 12.0' in page
    assert 'grizz_kept_bytes{what="history"} 0.0' in page


def test_a_server_that_is_killed_and_comes_back_costs_no_answer(start_process: Start, tmp_path: Path) -> None:
    environ = {"GRIZZ_HISTORY_STORE": "sqlite", "GRIZZ_HISTORY_PATH": str(tmp_path / "grizz.db")}
    arguments = ("--demo", "--port", str(free_port()))
    server = start_process(*arguments, environ=environ)
    asking = [*LOAD, server.url, "--clients", "6", "--answers", "18", "--over", "both", "--prompt"]
    with subprocess.Popen([*asking, "[[words:60]] [[rate:60]]", "--json"], stdout=subprocess.PIPE, text=True) as popen:
        while running(server.url) < 6:
            time.sleep(0.05)
        time.sleep(0.3)
        server.popen.kill()
        server.popen.wait()
        start_process(*arguments, environ=environ)
        out, _ = popen.communicate(timeout=50)
    facts = json.loads(out)
    assert popen.returncode == 0, facts
    assert facts["ended"] == {"completed": 18}
    assert facts["begun_anew"] > 0
    assert facts["resumes"] > 0


def running(url: str) -> float:
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        line = next(line for line in answer if line.startswith(b"grizz_jobs_running "))
    return float(line.split()[1])


def test_at_ctrl_c_it_stops_what_runs_and_says_what_it_saw(start_process: Start) -> None:
    url = start_process("--demo").url
    asking = [*LOAD, url, "--clients", "3", "--prompt", "[[words:999]] [[rate:5]]"]
    with subprocess.Popen(asking, stdout=subprocess.PIPE, text=True) as popen:
        while running(url) < 3:
            time.sleep(0.05)
        popen.send_signal(signal.SIGINT)
        out, _ = popen.communicate(timeout=20)
    assert popen.returncode == 130
    assert "stopped at the end of the run: 3" in out
    assert running(url) == 0


async def test_who_is_refused_comes_back_later_and_a_failed_answer_ends_nothing() -> None:
    async with running_grizz(workers__concurrency=1, queue__max_jobs=1, upstream__max_retries=0) as grizz:
        ran = await in_thread(grizz, "--clients", "4", "--answers", "5", "--prompt", "[[words:4]]")
        facts = json.loads(ran.stdout)
        assert (ran.returncode, facts["ended"]) == (0, {"completed": 5})
        assert set(facts["refused"]) == {"rate_limit_exceeded"}
        ran = await in_thread(grizz, "--clients", "1", "--answers", "2", "--prompt", "[[error:500]]")
        assert (ran.returncode, json.loads(ran.stdout)["ended"]) == (1, {"failed: server_error": 2})


async def in_thread(grizz: Grizz, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(load, grizz.url, "--json", *arguments, **environ)


async def test_a_key_comes_from_the_environment() -> None:
    key = api_keys.new_key()
    async with running_grizz({"GRIZZ_KEYS_MAIN_HASHES": api_keys.hash_of(key)}) as grizz:
        without = await in_thread(grizz)
        assert (without.returncode, without.stdout) == (2, "")
        assert "it wants a key: set GRIZZ_LOAD_KEY" in without.stderr
        wrong = await in_thread(grizz, GRIZZ_LOAD_KEY="gz_wrong")
        assert "its key is not taken" in wrong.stderr
        right = await in_thread(grizz, "--answers", "2", "--prompt", "[[words:3]]", GRIZZ_LOAD_KEY=key)
        assert right.returncode == 0, right.stderr


async def test_a_model_that_may_cost_money_is_asked_only_when_told_to(grizz: Grizz) -> None:
    refused = await in_thread(grizz, "--model", "gpt-5", "--answers", "1")
    assert refused.returncode == 2
    assert "gpt-5 answers there, which may cost money; say --spend" in refused.stderr
    told = await in_thread(grizz, "--model", "gpt-5", "--answers", "1", "--prompt", "[[words:2]]", "--spend")
    assert told.returncode == 0, told.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["https://grizz.example.com"], "is not on this machine; say --spend"),
        (["--clients", "5000"], "--clients 5000 is more than 1,000; say --unbounded"),
        (["--answers", "0"], "--answers must be more than 0"),
        (["--seconds", "inf"], "--seconds inf is more than 600"),
        (["ftp://127.0.0.1"], "is no address; one is http://127.0.0.1:8000"),
        (["http://127.0.0.1:9"], "does not answer"),
    ],
)
def test_what_cannot_be_is_said_in_words(arguments: list[str], says: str) -> None:
    ran = load(*arguments)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert says in ran.stderr
    assert "Traceback" not in ran.stderr


async def test_what_is_no_grizz_is_said_to_be_none(grizz: Grizz) -> None:
    ran = await asyncio.to_thread(load, f"{grizz.url}/elsewhere")
    assert ran.returncode == 2
    assert "and not with a list of models: is that a Grizz?" in ran.stderr


def test_an_answer_that_says_nothing_more_is_hung_and_not_stopped(start_process: Start) -> None:
    url = start_process("--demo").url
    asking = [
        "--clients",
        "2",
        "--answers",
        "2",
        "--seconds",
        "1",
        "--silence",
        "2",
        "--prompt",
        "[[words:9]] [[stall:2]]",
    ]
    ran = load(url, *asking, "--over", "both", "--json")
    facts = json.loads(ran.stdout)
    assert (ran.returncode, facts["hung"], facts["stopped"]) == (1, 2, 0)


def test_every_server_is_looked_at_before_the_first_question(start_process: Start) -> None:
    first = start_process("--demo").url
    environ = {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "OPENAI_MODEL": "dear"}
    second = start_process(environ=environ).url
    ran = load(first, second)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "say --spend" in ran.stderr or "not with a list of models" in ran.stderr
