"""Grizz in another version: an earlier one out of the repository's history, and a later one that is made up."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.nodes import ROOT, Node, Nodes

# Of 2026-11-25, the first with the chat page of today.
EARLIER = "c314c3e"

# What a later version may do without a new number: say more, and speak of what this one does not know.
_SAYS_MORE = {
    "grizz/transport/redis/record.py": {
        '            "v": FORMAT,\n': '            "v": FORMAT,\n            "tomorrow": {"hint": [1, 2, 3]},\n',
        '"work": codec.pack(job.payload),': '"work": {**codec.pack(job.payload), "tomorrow": True},',
    },
    "grizz/transport/redis/bus.py": {
        '"from": self.node, "parts": [part for part, _ in parts]}': (
            '"from": self.node, "of": "tomorrow", "parts": ['
            '*({**part, "tomorrow": 1} for part, _ in parts), {"k": "tomorrow", "id": "?"}]}'
        ),
    },
    "grizz/__init__.py": {'__version__ = "': '__version__ = "9.'},
}
# And one whose jobs and messages are others altogether.
_SPEAKS_OTHERWISE = {
    "grizz/transport/redis/keys.py": {"\nFORMAT = 1\n": "\nFORMAT = 2\n"},
    "grizz/__init__.py": {'__version__ = "': '__version__ = "9.'},
}


def earlier(directory: Path) -> Path:
    """One that was; skips the test where the history is not there."""
    archive = subprocess.run(
        ["git", "archive", EARLIER, "grizz", "grizz.py"], cwd=ROOT, capture_output=True, check=False
    )
    if archive.returncode:
        pytest.skip(f"no commit {EARLIER} in this clone")
    directory.mkdir()
    subprocess.run(["tar", "-x"], input=archive.stdout, cwd=directory, check=True)
    return directory


def says_more(directory: Path) -> Path:
    """One whose jobs and messages have fields and kinds that this one does not know."""
    return _changed(directory, _SAYS_MORE)


def speaks_otherwise(directory: Path) -> Path:
    """One whose formats have another number."""
    return _changed(directory, _SPEAKS_OTHERWISE)


def _changed(directory: Path, changes: dict[str, dict[str, str]]) -> Path:
    directory.mkdir()
    shutil.copytree(ROOT / "grizz", directory / "grizz", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "grizz.py", directory)
    for name, replaced in changes.items():
        text = (directory / name).read_text()
        for before, after in replaced.items():
            assert text.count(before) == 1, f"{name}: {before!r} does not stand there once"
            text = text.replace(before, after)
        (directory / name).write_text(text)
    return directory


async def start(nodes: Nodes, tree: Path, **settings: object) -> Node:
    """Start a node of that version among the others, and wait until it listens."""
    environ, log = nodes.environ(**settings), tree / f"node-{len(nodes.all)}.log"
    with log.open("wb") as out:
        arguments = [sys.executable, str(tree / "grizz.py"), "--port", "0", "--log-format", "text"]
        popen = subprocess.Popen(  # noqa: ASYNC220  # it does not wait
            arguments, stderr=out, stdout=out, env=environ, cwd=tree
        )
    node = Node(popen, log)
    nodes.all.append(node)
    await node.ready()
    return node
