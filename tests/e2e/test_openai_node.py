"""The official JavaScript package as the client, from npm, in the Node that is installed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.conftest import Grizz
from tests.player import numbers

HERE = Path(__file__).parent / "node"

pytestmark = [
    pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="node and npm are not installed"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="session")
def node_folder() -> Path:
    """The packages, installed once for each version of package.json, outside the tree."""
    files = ["package.json", "package-lock.json"]
    digest = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in files)).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"grizz-e2e-node-{digest}"
    folder.mkdir(exist_ok=True)
    for name in files:
        shutil.copy(HERE / name, folder / name)
    if not (folder / "node_modules" / ".done").exists():
        subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=folder, check=True, capture_output=True
        )
        (folder / "node_modules" / ".done").touch()
    shutil.copy(HERE / "client.mjs", folder / "client.mjs")
    return folder


async def test_create_stream_resume_websocket_and_attach_work_from_node(grizz: Grizz, node_folder: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        "node",
        "client.mjs",
        f"{grizz.url}/v1",
        cwd=node_folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert json.loads(out) == {
        "create": numbers(20),
        "helper": numbers(30),
        "resume": True,
        "turns": ["one", "two"],
        "attached": "grizz:attached",
        "dropped": numbers(60),
    }
