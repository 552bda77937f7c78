"""The official JavaScript package as the client, from npm, in the Node that is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Grizz
from tests.e2e.scripts import result_of
from tests.player import numbers


@pytest.mark.timeout(300)
async def test_everything_that_the_package_can_do_works_from_node(grizz: Grizz, node_clients: Path) -> None:
    assert await result_of("node", "openai.mjs", f"{grizz.url}/v1", cwd=node_clients) == {
        "create": numbers(20),
        "helper": numbers(30),
        "resume": True,
        "background": numbers(25),
        "helperResume": numbers(25),
        "parsed": {"name": "Alice", "age": 1},
        "cancelled": "cancelled",
        "deleted": [404, "response_not_found"],
        "attachments": "an image (image/gif, 37 bytes) and a file (a.pdf)",
        "items": ["input_text"] * 4 + ["input_text,input_image,input_file"],
        "models": ["grizz-demo"],
        "turns": ["one", "two"],
        "attached": "grizz:attached",
        "dropped": numbers(60),
    }
