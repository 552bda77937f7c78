"""The command `llm` with Grizz as one of its models."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.conformance.flows import PIXEL
from tests.conftest import Grizz
from tests.e2e.scripts import output_of
from tests.player import numbers

pytestmark = pytest.mark.timeout(300)

MODELS = """\
- model_id: grizz
  model_name: grizz-demo
  api_base: {url}/v1
  responses: true
  supports_schema: true
  supports_tools: true
  vision: true
"""
Llm = Callable[..., Awaitable[tuple[str, str]]]


@pytest.fixture
def llm(grizz: Grizz, python_clients: Path, tmp_path: Path) -> Llm:
    """Run the command with a folder of its own that names Grizz; returns what it printed and what it said beside."""
    (tmp_path / "extra-openai-models.yaml").write_text(MODELS.format(url=grizz.url))

    async def run(*arguments: str) -> tuple[str, str]:
        return await output_of(
            python_clients / "llm", *arguments, cwd=tmp_path, environ={"LLM_USER_PATH": str(tmp_path)}
        )

    return run


async def test_it_streams_and_continues_a_conversation_after_a_tool(llm: Llm) -> None:
    answer, said = await llm("-m", "grizz", "-T", "llm_version", "--td", "What is the version of llm?")
    assert "Tool call: llm_version" in said
    assert answer.startswith("The tool llm_version answered: ")
    answer, _ = await llm("--continue", "What did I say?")
    assert "This is turn 2" in answer and "What is the version of llm?" in answer


async def test_it_gets_a_structured_answer_about_an_image(llm: Llm, tmp_path: Path, grizz: Grizz) -> None:
    (tmp_path / "a.gif").write_bytes(base64.b64decode(PIXEL.partition(",")[2]))
    answer, _ = await llm("-m", "grizz", "--schema", "name, age int", "Who is Alice?", "-a", "a.gif")
    assert json.loads(answer) == {"name": "Alice", "age": 1}
    assert grizz.demo.last_request["messages"][0]["content"][1]["image_url"]["url"] == PIXEL


async def test_it_talks_to_an_endpoint_it_was_not_told_of(llm: Llm, grizz: Grizz) -> None:
    endpoint = ("openai", "endpoint", f"{grizz.url}/v1")
    assert (await llm(*endpoint, "--models"))[0].split() == ["grizz-demo"]
    answer, reasoning = await llm(*endpoint, "-m", "grizz-demo", "--responses", "[[reasoning:hm]] [[words:20]]")
    assert answer.strip() == numbers(20).strip()
    assert reasoning.strip() == "hm"
