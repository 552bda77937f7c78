"""The openai-agents package with a tool loop, over HTTP and over WebSocket."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest
from agents import Agent, OpenAIResponsesModel, Runner, SQLiteSession, function_tool, set_tracing_disabled
from agents.models.openai_responses import OpenAIResponsesWSModel
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests.conftest import Grizz
from tests.player import numbers

set_tracing_disabled(True)


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


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


async def test_a_session_hands_the_whole_conversation_back(agent: Agent, grizz: Grizz) -> None:
    session = SQLiteSession("one")
    await Runner.run(agent, "What is the weather in Paris?", session=session)
    result = await Runner.run(agent, "What did I say?", session=session)
    assert "This is turn 2" in result.final_output and "What is the weather in Paris?" in result.final_output
    roles = [message["role"] for message in grizz.demo.last_request["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "assistant", "user"]
    session.close()


async def test_turns_are_chained_by_previous_response_id_without_being_told(agent: Agent, grizz: Grizz) -> None:
    first = await Runner.run(agent, "What is the weather in Paris?", auto_previous_response_id=True)
    again = await Runner.run(agent, "What did I say?", previous_response_id=first.last_response_id)
    assert "This is turn 2" in again.final_output
    roles = [message["role"] for message in grizz.demo.last_request["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "assistant", "user"]


async def test_the_final_output_has_the_type_that_was_asked_for(agent: Agent) -> None:
    result = await Runner.run(agent.clone(output_type=Person, tools=[]), "Who is Alice?")
    assert result.final_output == Person(name="Alice", age=1)


async def test_a_hand_off_goes_on_with_the_other_agent(agent: Agent) -> None:
    other = agent.clone(name="Counter", instructions="Count.", tools=[])
    first = agent.clone(handoffs=[other])
    result = await Runner.run(first, "[[tool:transfer_to_counter]] [[args:{}]]")
    assert result.last_agent is other
    assert "transfer_to_counter" in result.final_output


async def test_parallel_calls_are_all_answered(agent: Agent) -> None:
    calls = "".join(f'[[tool:get_weather]] [[args:{{"city":"{city}"}}]] ' for city in ("Rome", "Oslo"))
    result = await Runner.run(agent, calls)
    assert "It rains frogs in Rome" in result.final_output and "It rains frogs in Oslo" in result.final_output


async def test_a_stream_shows_every_word(agent: Agent) -> None:
    result = Runner.run_streamed(agent, "[[words:30]] [[rate:300]]")
    deltas = [
        event.data.delta
        async for event in result.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    assert "".join(deltas) == result.final_output == numbers(30)
    assert len(deltas) > 2


async def test_one_websocket_serves_all_turns_of_a_model(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    async with AsyncOpenAI(base_url=f"{grizz.url}/v1", api_key="any") as client:
        model = OpenAIResponsesWSModel(model="grizz-demo", openai_client=client)
        agent = Agent(name="Forecaster", model=model, tools=[get_weather])
        for _ in range(3):
            await Runner.run(agent, "What is the weather in Paris?")
        async with http.get(f"{grizz.url}/metrics") as answer:
            assert 'grizz_connections_total{result="accepted"} 1.0' in await answer.text()
        await model.close()
    assert grizz.demo.requests == 6
