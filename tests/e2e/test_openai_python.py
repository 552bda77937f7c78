"""The newest openai package as the client, unchanged, over HTTP and WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests import grammar
from tests.conformance.flows import PDF, PIXEL
from tests.conftest import Grizz
from tests.player import TERMINAL, numbers

WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city",
    "strict": False,
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


@pytest.fixture
async def client(grizz: Grizz) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{grizz.url}/v1", api_key="any", max_retries=0) as client:
        yield client


async def answer(connection: Any) -> list[Any]:
    events = []
    async with asyncio.timeout(20):
        async for event in connection:
            events.append(event)
            if event.type in (*TERMINAL, "error"):
                return events
    raise AssertionError("the connection ended before the answer")


def text_of(events: list[Any]) -> str:
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


async def test_a_plain_create_answers(client: AsyncOpenAI) -> None:
    response = await client.responses.create(model="grizz-demo", input="[[words:50]]")
    assert response.output_text == numbers(50)
    assert response.usage is not None
    assert response.usage.output_tokens == 50


async def test_a_stream_is_complete_in_order_and_legal(client: AsyncOpenAI) -> None:
    stream = await client.responses.create(model="grizz-demo", input="[[words:80]] [[rate:500]]", stream=True)
    events = [event async for event in stream]
    assert text_of(events) == numbers(80)
    grammar.check([event.to_dict() for event in events])


async def test_the_stream_helper_assembles_the_final_response(client: AsyncOpenAI) -> None:
    async with client.responses.stream(model="grizz-demo", input="[[reasoning:hm]] [[words:40]]") as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_response()
    assert final.output_text == numbers(40)
    assert [item.type for item in final.output] == ["reasoning", "message"]


async def test_resume_from_every_number_gives_exactly_the_rest(client: AsyncOpenAI) -> None:
    stream = await client.responses.create(model="grizz-demo", input="[[words:25]] [[rate:300]]", stream=True)
    whole = [event.to_dict() async for event in stream]
    response_id = whole[0]["response"]["id"]
    for after in range(len(whole)):
        resumed = await client.responses.retrieve(response_id, stream=True, starting_after=after)
        assert [event.to_dict() async for event in resumed] == whole[after + 1 :]


async def test_retrieve_cancel_delete_and_input_items_work(client: AsyncOpenAI) -> None:
    started = await client.responses.create(model="grizz-demo", input="[[words:9]] [[stall:3]]", background=True)
    cancelled = await client.responses.cancel(started.id)
    assert cancelled.status == "cancelled"
    assert (await client.responses.retrieve(started.id)).status == "cancelled"
    items = [item async for item in client.responses.input_items.list(started.id, limit=1)]
    assert [item.type for item in items] == ["message"]
    await client.responses.delete(started.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(started.id)


async def test_a_background_response_is_polled_to_its_end(client: AsyncOpenAI) -> None:
    response = await client.responses.create(model="grizz-demo", input="[[words:12]] [[rate:60]]", background=True)
    statuses = [response.status]
    async with asyncio.timeout(20):
        while response.status in ("queued", "in_progress"):
            response = await client.responses.retrieve(response.id)
            statuses.append(response.status)
    assert "in_progress" in statuses
    assert (response.status, response.output_text, response.background) == ("completed", numbers(12), True)


async def test_a_background_stream_that_was_left_goes_on_where_it_was(client: AsyncOpenAI) -> None:
    seen: list[Any] = []
    stream = await client.responses.create(
        model="grizz-demo", input="[[words:40]] [[rate:100]]", background=True, stream=True
    )
    async with stream:
        async for event in stream:
            seen.append(event)
            if len(seen) == 9:
                break
    rest = await client.responses.retrieve(seen[0].response.id, stream=True, starting_after=seen[-1].sequence_number)
    seen += [event async for event in rest]
    grammar.check([event.to_dict() for event in seen])
    assert text_of(seen) == numbers(40)


async def test_the_stream_helper_takes_up_a_response_by_its_id(client: AsyncOpenAI) -> None:
    begun = await client.responses.create(model="grizz-demo", input="[[words:30]] [[rate:200]]", background=True)
    async with client.responses.stream(response_id=begun.id, starting_after=6) as stream:
        numbered = [event.sequence_number async for event in stream]
        final = await stream.get_final_response()
    assert min(numbered) == 7
    assert final.output_text == numbers(30)


async def test_a_running_response_is_cancelled_and_its_stream_ends(client: AsyncOpenAI) -> None:
    stream = await client.responses.create(model="grizz-demo", input="[[words:9]] [[stall:3]]", stream=True)
    events: list[Any] = []
    async for event in stream:
        events.append(event)
        if event.type == "response.output_text.delta":
            await client.responses.cancel(events[0].response.id)
    assert (events[-1].type, events[-1].response.status) == ("response.incomplete", "cancelled")


async def test_structured_output_is_parsed_whole_and_streamed(client: AsyncOpenAI) -> None:
    parsed = await client.responses.parse(model="grizz-demo", input="Who is Alice?", text_format=Person)
    assert parsed.output_parsed == Person(name="Alice", age=1)
    async with client.responses.stream(model="grizz-demo", input="Who is Alice?", text_format=Person) as stream:
        async for _ in stream:
            pass
        assert (await stream.get_final_response()).output_parsed == Person(name="Alice", age=1)


async def test_a_parsed_tool_gets_its_arguments_as_an_object(client: AsyncOpenAI) -> None:
    tool: Any = openai.pydantic_function_tool(Person, name="introduce", description="Introduce somebody")
    flat: Any = {"type": "function", **tool["function"]}
    response = await client.responses.parse(model="grizz-demo", input="Please introduce Alice.", tools=[flat])
    call = response.output[0]
    assert call.type == "function_call"
    assert call.parsed_arguments == {"name": "Alice", "age": 1} or call.parsed_arguments == Person(name="Alice", age=1)


async def test_images_and_files_reach_the_model_as_they_are_and_are_not_fetched(
    client: AsyncOpenAI, grizz: Grizz
) -> None:
    elsewhere = "https://files.example.invalid/picture.png"
    content: Any = [
        {"type": "input_text", "text": "What are these?"},
        {"type": "input_image", "image_url": PIXEL, "detail": "low"},
        {"type": "input_image", "image_url": elsewhere},
        {"type": "input_file", "filename": "a.pdf", "file_data": PDF},
    ]
    response = await client.responses.create(model="grizz-demo", input=[{"role": "user", "content": content}])
    assert f"an image (image/gif, 37 bytes), an image at {elsewhere} and a file (a.pdf)" in response.output_text
    assert grizz.demo.last_request["messages"][0]["content"] == [
        {"type": "text", "text": "What are these?"},
        {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
        {"type": "image_url", "image_url": {"url": elsewhere}},
        {"type": "file", "file": {"file_data": PDF, "filename": "a.pdf"}},
    ]
    listed = [item async for item in client.responses.input_items.list(response.id)]
    assert [part.type for part in listed[0].content] == [part["type"] for part in content]


async def test_input_items_are_paged_in_both_directions(client: AsyncOpenAI) -> None:
    messages: Any = [{"role": "user", "content": f"message {n}"} for n in range(7)]
    response = await client.responses.create(model="grizz-demo", input=messages)
    listing = client.responses.input_items
    forth = [item async for item in listing.list(response.id, limit=2, order="asc")]
    assert [item.content[0].text for item in forth] == [f"message {n}" for n in range(7)]
    back = [item async for item in listing.list(response.id, limit=3)]
    assert back == forth[::-1]
    assert [item async for item in listing.list(response.id, after=forth[4].id, order="asc")] == forth[5:]


async def test_the_package_waits_and_tries_again_when_it_is_throttled(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz: Grizz = await start_grizz(limits__concurrent_responses_per_user=1)
    async with AsyncOpenAI(base_url=f"{grizz.url}/v1", api_key="any", max_retries=3) as patient:
        running = await patient.responses.create(model="grizz-demo", input="[[words:20]] [[rate:25]]", background=True)
        assert running.status != "completed"
        assert (await patient.responses.create(model="grizz-demo", input="[[echo:x]]")).output_text == "x"
        assert (await patient.responses.retrieve(running.id)).status == "completed"


async def test_models_are_listed(client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["grizz-demo"]


async def test_a_function_call_makes_its_round_trip(client: AsyncOpenAI) -> None:
    first = await client.responses.create(model="grizz-demo", input="Weather in Paris?", tools=[WEATHER])
    call = first.output[0]
    assert call.type == "function_call"
    second = await client.responses.create(
        model="grizz-demo",
        previous_response_id=first.id,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "sunny, 21 degrees"}],
        tools=[WEATHER],
    )
    assert "sunny, 21 degrees" in second.output_text


async def test_errors_raise_the_right_class_with_code_and_param(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as missing:
        await client.responses.create(model="m", input="x", previous_response_id="resp_nope")
    assert (missing.value.code, missing.value.param) == ("previous_response_not_found", "previous_response_id")
    with pytest.raises(openai.BadRequestError) as range_error:
        await client.responses.create(model="m", input="x", temperature=7)
    assert range_error.value.param == "temperature"


async def test_several_turns_run_over_one_websocket(client: AsyncOpenAI, grizz: Grizz) -> None:
    async with client.responses.connect() as connection:
        await connection.response.create(model="grizz-demo", input="[[echo:one]]", store=False)
        first = await answer(connection)
        assert text_of(first) == "one"
        parent = first[-1].response.id
        await connection.response.create(
            model="grizz-demo", input="[[echo:two]]", previous_response_id=parent, store=False
        )
        assert text_of(await answer(connection)) == "two"
        assert len(grizz.demo.last_request["messages"]) == 3
    async with client.responses.connect() as other:
        await other.response.create(model="grizz-demo", input="x", previous_response_id=parent)
        assert (await answer(other))[-1].error.code == "previous_response_not_found"


async def test_lanes_interleave_and_each_text_is_whole(client: AsyncOpenAI) -> None:
    async with client.responses.connect() as connection:
        for n in range(4):
            frame: Any = {"type": "response.create", "input": f"[[words:{40 + n}]] [[rate:200]]", "stream_id": f"l{n}"}
            await connection.send(frame)
        texts: dict[str, str] = {}
        ended = 0
        while ended < 4:
            event: Any = await connection.recv()
            if event.type == "response.output_text.delta":
                texts[event.stream_id] = texts.get(event.stream_id, "") + event.delta
            ended += event.type == "response.completed"
    assert texts == {f"l{n}": numbers(40 + n) for n in range(4)}


async def test_a_websocket_resumes_by_its_url_after_a_drop(client: AsyncOpenAI) -> None:
    seen: list[Any] = []
    async with client.responses.connect() as connection:
        await connection.response.create(model="grizz-demo", input="[[words:60]] [[rate:100]]")
        while len(seen) < 8:
            seen.append(await connection.recv())
    query = {"response_id": seen[0].response.id, "starting_after": str(seen[-1].sequence_number)}
    async with client.responses.connect(extra_query=query) as connection:
        seen += await answer(connection)
    grammar.check([event.to_dict() for event in seen])
    assert text_of(seen) == numbers(60)


async def test_a_websocket_cancel_ends_the_answer(client: AsyncOpenAI) -> None:
    async with client.responses.connect() as connection:
        await connection.response.create(model="grizz-demo", input="[[words:9]] [[stall:2]]")
        created: Any = await connection.recv()
        cancel: Any = {"type": "response.cancel", "response_id": created.response.id}
        await connection.send(cancel)
        assert (await answer(connection))[-1].response.status == "cancelled"
