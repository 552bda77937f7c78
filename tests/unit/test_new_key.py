"""`python grizz.py new-key` and what it prints."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from grizz.cli import main
from grizz.config import load
from grizz.core.api_keys import hash_of, new_key


def test_what_it_prints_lets_the_key_in_by_file_and_by_environment(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["new-key", "alice-phone"]) == 0
    text = capsys.readouterr().out
    key = text.splitlines()[0]
    assert re.fullmatch(r"grizz-[A-Za-z0-9_-]{43}", key)
    assert text.count(key) == 1
    block = re.search(r"( *\[keys\..*\n *hashes = .*)\n", text)
    assert block is not None
    assert tomllib.loads(block[1]) == {"keys": {"alice-phone": {"hashes": [hash_of(key)]}}}
    (tmp_path / "config.toml").write_text(block[1])
    by_file = load({}, {}, tmp_path / "config.toml").settings.keys["alice-phone"]
    name, _, value = next(line.strip() for line in text.splitlines() if "GRIZZ_KEYS" in line).partition("=")
    by_environment = load({}, {name: value}, None).settings.keys["alice-phone"]
    assert by_file == by_environment
    assert by_file.hashes == (hash_of(key),)


def test_no_two_keys_are_the_same() -> None:
    assert len({new_key() for _ in range(1000)}) == 1000


@pytest.mark.parametrize("name", ["Alice", "1st", "a_b", "", "a" * 33, "--x"])
def test_a_name_that_no_table_can_have_is_refused(capsys: pytest.CaptureFixture[str], name: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["new-key", name])
    assert caught.value.code == 2
    assert "grizz-" not in capsys.readouterr().out
