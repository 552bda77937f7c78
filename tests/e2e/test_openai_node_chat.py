"""The official JavaScript package and its chat completions: create, stream, helpers, the tool loop, errors, leaving."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

from tests.conftest import Grizz
from tests.e2e.test_openai_node import HERE, node_folder, pytestmark  # noqa: F401
from tests.player import numbers


async def test_completions_streams_tools_and_errors_work_from_node(grizz: Grizz, node_folder: Path) -> None:  # noqa: F811
    shutil.copy(HERE / "chat.mjs", node_folder / "chat.mjs")
    process = await asyncio.create_subprocess_exec(
        "node",
        "chat.mjs",
        f"{grizz.url}/v1",
        cwd=node_folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert json.loads(out) == {
        "create": [numbers(20), "stop", 20],
        "stream": numbers(30),
        "ids": 1,
        "usage": 30,
        "helper": numbers(25),
        "tools": True,
        "refused": ["BadRequestError", "unsupported_parameter", "n"],
        "failed": ["BadRequestError", "context_length_exceeded", "messages"],
        "halfway": ["APIError", "server_error", None],
        "said": numbers(4),
    }
    async with asyncio.timeout(5):
        while grizz.demo.active:
            await asyncio.sleep(0.01)
    assert len(grizz.app.engine.replies) == 0
