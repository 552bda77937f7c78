"""LangChain's ChatOpenAI over the Responses API: invoke, stream, tools, structured output, previous_response_id."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Grizz
from tests.e2e.scripts import result_of
from tests.player import numbers

SCRIPT = Path(__file__).parent / "python" / "langchain_client.py"


@pytest.mark.timeout(300)
async def test_everything_works_from_langchain(grizz: Grizz, python_clients: Path) -> None:
    result = await result_of(python_clients / "python", SCRIPT, f"{grizz.url}/v1", cwd=python_clients)
    first, second = result.pop("turns")
    assert first.startswith("resp_")
    assert "This is turn 2" in second and "I am Alice." in second
    assert result.pop("tools").startswith("The tool get_weather answered: It rains frogs in Paris")
    assert result == {
        "invoke": numbers(20),
        "stream": {"text": numbers(30), "chunks": True, "blocks": ["reasoning", "text"], "tokens": 31},
        "structured": {"name": "Alice", "age": 1},
        "by function": {"name": "Alice", "age": 1},
        "at once": ["0", "1", "2"],
    }
