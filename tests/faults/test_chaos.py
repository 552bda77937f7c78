"""The fault suite itself: a few of its faults, and that it notices builds that are broken on purpose."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.nodes import ROOT

QUICK = ("upstream-cut", "worker-killed")


def chaos(*arguments: str, within_s: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.chaos", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=within_s, check=False)


def faults(run: subprocess.CompletedProcess[str], file: Path) -> dict[str, Any]:
    assert run.returncode == 0, run.stdout + run.stderr
    found: dict[str, Any] = json.loads(file.read_text())["faults"]
    return found


@pytest.mark.timeout(120)
def test_a_fault_of_the_model_and_a_kill_harm_no_answer(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    run = chaos(*(f"--only={name}" for name in QUICK), f"--json={file}", within_s=110)
    found = faults(run, file)
    assert set(found) == set(QUICK)
    assert all(row["streaming"] >= 50 and not row["found"] for row in found.values())
    assert run.stdout.count("\n| ") == 1 + len(QUICK)


@pytest.mark.timeout(120)
def test_builds_that_are_broken_on_purpose_are_noticed(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    found = faults(chaos("--selftest", f"--json={file}", within_s=110), file)
    for name, kind in {"drop": "lost", "double": "doubled", "hang": "hung"}.items():
        row = found[f"broken-{name}"]
        assert {key: row[key] for key in ("lost", "doubled", "hung", "wrong") if row[key]} == {kind: 1}


@pytest.mark.timeout(120)
def test_a_broken_build_ends_the_suite_with_a_status_that_is_not_zero(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    run = chaos("--only=upstream-cut", "--build=drop", f"--json={file}", within_s=110)
    assert run.returncode == 1, run.stdout + run.stderr
    row = json.loads(file.read_text())["faults"]["upstream-cut"]
    assert (row["lost"], row["doubled"], row["hung"], row["wrong"]) == (1, 0, 0, 0)


def test_a_fault_that_there_is_not_is_refused() -> None:
    run = chaos("--only=earthquake", within_s=30)
    assert (run.returncode, "no fault is called earthquake" in run.stderr) == (2, True)
