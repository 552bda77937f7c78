"""The official JavaScript package and its chat completions: create, stream, helpers, the tool loop, errors, leaving."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.conftest import Grizz
from tests.e2e.scripts import result_of
from tests.player import numbers


@pytest.mark.timeout(300)
async def test_completions_streams_tools_and_errors_work_from_node(grizz: Grizz, node_clients: Path) -> None:
    assert await result_of("node", "chat.mjs", f"{grizz.url}/v1", cwd=node_clients) == {
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
