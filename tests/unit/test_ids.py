from __future__ import annotations

import os
import subprocess
import sys

import pytest

from grizz.engine import ids


def test_ids_differ_however_many_are_made() -> None:
    made = [ids.new_id("msg") for _ in range(10_000)] + [ids.noise(12) for _ in range(1000)]
    assert len(set(made)) == len(made)


def test_ids_have_the_length_that_says_how_random_they_are() -> None:
    assert len(ids.new_id("msg")) == len("msg_") + 12
    assert [len(ids.noise(length)) for length in range(20)] == list(range(20))
    assert len(ids.new_response_id("0123abcd", 0)) == len("resp_") + 8 + 4 + 28


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no system that forks")
def test_a_fork_makes_other_ids_than_who_it_was_forked_from() -> None:
    code = (
        "import os; from grizz.engine.ids import new_id; new_id('a')\n"
        "read, write = os.pipe()\n"
        "if os.fork() == 0: os.write(write, new_id('a').encode()); os._exit(0)\n"
        "os.wait(); print(os.read(read, 100).decode(), new_id('a'))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30).stdout
    of_child, of_parent = out.split()
    assert of_child != of_parent
