"""The openai-agents package with a tool loop, over HTTP and over WebSocket."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from agents import Agent, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from agents.models.openai_responses import OpenAIResponsesWSModel
from openai import AsyncOpenAI

from tests.conftest import Grizz

set_tracing_disabled(True)


@function_tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"It rains frogs in {city}"


@pytest.fixture(params=[OpenAIResponsesModel, OpenAIResponsesWSModel], ids=["http", "websocket"])
async def agent(request: pytest.FixtureRequest, grizz: Grizz) -> AsyncIterator[Agent]:
    async with AsyncOpenAI(base_url=f"{grizz.url}/v1", api_key="any") as client:
        model = request.param(model="grizz-demo", openai_client=client)
        yield Agent(name="Forecaster", instructions="Tell the weather.", model=model, tools=[get_weather])
        if hasattr(model, "close"):
            await model.close()


async def test_a_tool_loop_runs_to_its_answer(agent: Agent) -> None:
    result = await Runner.run(agent, "What is the weather in Paris?")
    assert "It rains frogs in" in result.final_output


async def test_a_streamed_tool_loop_runs_to_its_answer(agent: Agent) -> None:
    result = Runner.run_streamed(agent, "What is the weather in Paris?")
    kinds = [event.type async for event in result.stream_events()]
    assert "raw_response_event" in kinds
    assert "It rains frogs in" in result.final_output
