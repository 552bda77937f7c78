"""Vercel's AI SDK from npm: generation, streams, tool loops, structured output, by its two providers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Grizz
from tests.e2e.scripts import result_of
from tests.player import numbers

LOOP = [2, "The tool get_weather answered: It rains frogs in Paris"]
EVERYTHING = {
    "generate": numbers(20),
    "usage": 20,
    "finish": "length",
    "stream": numbers(30),
    "reasoning": "hm",
    "deltas": True,
    "loop": LOOP,
    "streamedLoop": LOOP,
    "object": {"name": "Alice", "age": 1},
    "output": {"name": "Alice", "age": 1},
    "image": "an image (image/png",
    "turns": "2",
}


@pytest.mark.timeout(300)
async def test_everything_works_with_both_providers(grizz: Grizz, node_clients: Path) -> None:
    result = await result_of("node", "vercel.mjs", f"{grizz.url}/v1", cwd=node_clients)
    assert result.pop("openai") == EVERYTHING
    assert result.pop("open-responses") == EVERYTHING
    assert result == {
        "chain": "I am Alice.",
        "refused": [400, False, "Previous response with id 'resp_none' not found."],
    }
