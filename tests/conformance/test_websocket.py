"""Autobahn's cases in the suite: all but chapter 9 (messages of megabytes), which `make autobahn` adds."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest

from tests.conformance.autobahn import ALLOWED, Verdict, check, complaints, run_cases, serving

needs_kosoku = pytest.mark.skipif(
    importlib.util.find_spec("kosoku") is None, reason="the cases come as a package for Linux only"
)
GOOD = Verdict(case="1.1.1", behavior="OK", closing="OK", wants_echo=True, why="")
BAD = replace(GOOD, behavior="FAILED", why="bytes differ")
DECLINED = replace(GOOD, case="12.1.1", behavior="UNIMPLEMENTED")


@needs_kosoku
@pytest.mark.timeout(300)
def test_grizz_passes_every_case_but_the_one_that_aiohttp_itself_fails() -> None:
    verdicts, wrong = check(exclude=["9.*"])
    assert not wrong, "\n".join(wrong)
    assert {verdict.case for verdict in verdicts if verdict.behavior == "FAILED"} == set(ALLOWED)
    echoed = [verdict for verdict in verdicts if verdict.wants_echo and verdict.passed]
    silent = [verdict for verdict in verdicts if not verdict.wants_echo and verdict.passed]
    declined = [verdict for verdict in verdicts if verdict.behavior == "UNIMPLEMENTED"]
    # The second and the third were asked of both servers.
    assert (len(echoed), len(silent), len(declined)) == (107, 2 * 139, 2 * 216)


def test_a_case_that_fails_is_complained_about_unless_it_is_known_to() -> None:
    assert complaints([GOOD, replace(GOOD, behavior="NON-STRICT"), DECLINED]) == []
    assert complaints([replace(BAD, case=case) for case in ALLOWED]) == []
    assert complaints([GOOD, BAD]) == ["1.1.1 FAILED, close OK: bytes differ"]
    assert complaints([replace(GOOD, closing="WRONG CODE")]) == ["1.1.1 OK, close WRONG CODE: "]


def test_a_known_failure_that_is_gone_is_complained_about_so_that_the_list_stays_true() -> None:
    assert [line.partition(":")[0] for line in complaints([replace(GOOD, case="7.9.5")])] == ["7.9.5 passes now"]


def test_a_server_that_accepts_compression_is_complained_about() -> None:
    assert complaints([replace(DECLINED, behavior="OK")]) == ["12.1.1 compression was not declined: OK, close OK: "]


@needs_kosoku
def test_a_server_that_does_not_echo_fails_cases_that_want_it() -> None:
    with serving("grizz.py") as url:
        wrong = complaints(run_cases(url, include=["1.1.2", "1.2.2", "2.2"]))
    assert [line.split()[0] for line in wrong] == ["1.1.2", "1.2.2"]
