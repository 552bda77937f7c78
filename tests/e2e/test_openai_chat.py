"""The newest openai package and the chat completions it makes: streams, tools, structured output, errors, retries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from tests.conformance.flows import TEXTS
from tests.conftest import Grizz
from tests.player import numbers

MODEL = "grizz-demo"
FUNCTION: Any = {
    "name": "get_weather",
    "description": "The weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
WEATHER: Any = {"type": "function", "function": FUNCTION}


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


@pytest.fixture
async def client(grizz: Grizz) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{grizz.url}/v1", api_key="any", max_retries=0) as client:
        yield client


async def test_a_plain_completion_answers_and_tells_its_usage(client: AsyncOpenAI) -> None:
    done = await client.chat.completions.create(model=MODEL, messages=user("[[words:50]]"))
    assert done.id.startswith("chatcmpl-")
    assert (done.choices[0].message.content, done.choices[0].finish_reason) == (numbers(50), "stop")
    assert done.usage is not None
    assert (done.usage.completion_tokens, done.usage.prompt_tokens) == (50, 1)
    assert done.usage.total_tokens == 51


async def test_a_stream_is_one_answer_under_one_id_with_the_usage_last(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=MODEL,
        messages=user("[[reasoning:let me see]] [[words:80]] [[rate:500]]"),
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
    assert "".join(delta.content or "" for delta in deltas) == numbers(80)
    assert "".join(getattr(delta, "reasoning_content", "") for delta in deltas) == "let me see"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens_details is not None
    assert chunks[-1].usage.completion_tokens_details.reasoning_tokens == 3


@pytest.mark.parametrize("name", TEXTS)
async def test_every_chunk_and_completion_of_the_flow_is_valid_for_strict_types(
    grizz: Grizz, http: aiohttp.ClientSession, name: str
) -> None:
    url = f"{grizz.url}/v1/chat/completions"
    body = {"messages": user(TEXTS[name]), "tools": [{"type": "function", "function": {"name": "f"}}]}
    async with http.post(url, json={**body, "stream": True, "stream_options": {"include_usage": True}}) as answer:
        lines = (await answer.text()).split("\n\n")
    async with http.post(url, json=body) as answer:
        whole = await answer.read()
    failed = name in ("failed", "cut")
    assert answer.status == (200 if not failed else 400 if name == "failed" else 502)
    if name == "failed":
        return
    assert lines[-1] == "" and all(line.startswith("data: ") for line in lines[:-1])
    payloads = [line.removeprefix("data: ") for line in lines[:-1]]
    assert (payloads.pop() == "[DONE]") is not failed
    for payload in payloads:
        ChatCompletionChunk.model_validate_json(payload, strict=True)
    if not failed:
        ChatCompletion.model_validate_json(whole, strict=True)


@pytest.mark.parametrize(
    ("text", "reason"), [("[[words:9]] [[length:3]]", "length"), ("[[words:9]] [[filter:3]]", "content_filter")]
)
async def test_an_answer_that_was_cut_short_says_why(client: AsyncOpenAI, text: str, reason: str) -> None:
    done = await client.chat.completions.create(model=MODEL, messages=user(text))
    assert (done.choices[0].finish_reason, done.choices[0].message.content) == (reason, numbers(3))
    stream = await client.chat.completions.create(model=MODEL, messages=user(text), stream=True)
    assert [chunk async for chunk in stream][-1].choices[0].finish_reason == reason


async def test_a_refusal_is_a_refusal(client: AsyncOpenAI) -> None:
    done = await client.chat.completions.create(model=MODEL, messages=user("[[refusal:I would rather not.]]"))
    assert (done.choices[0].message.content, done.choices[0].message.refusal) == (None, "I would rather not.")
    async with client.chat.completions.stream(model=MODEL, messages=user("[[refusal:No, no.]]")) as stream:
        final = await stream.get_final_completion()
    assert (final.choices[0].message.refusal, final.choices[0].finish_reason) == ("No, no.", "stop")


async def test_the_stream_helper_assembles_text_and_parallel_calls(client: AsyncOpenAI) -> None:
    asked = '[[echo:Well, ]] [[tool:get_weather]] [[args:{"city":"Berlin, Germany"}]] [[tool:get_weather]]'
    async with client.chat.completions.stream(model=MODEL, messages=user(asked), tools=[WEATHER]) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_completion()
    assert kinds.count("tool_calls.function.arguments.done") == 2
    message = final.choices[0].message
    assert (message.content, final.choices[0].finish_reason) == ("Well, ", "tool_calls")
    assert message.tool_calls is not None
    assert message.tool_calls[0].function.arguments == '{"city":"Berlin, Germany"}'
    assert len({call.id for call in message.tool_calls}) == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_makes_its_round_trip(client: AsyncOpenAI, stream: bool) -> None:
    messages = user("Weather in Paris?")
    if stream:
        async with client.chat.completions.stream(model=MODEL, messages=messages, tools=[WEATHER]) as helper:
            first: Any = await helper.get_final_completion()
    else:
        first = await client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER])
    (call,) = first.choices[0].message.tool_calls
    assert (first.choices[0].finish_reason, call.function.name) == ("tool_calls", "get_weather")
    # As the package would have it sent back: every key that the message has, the empty ones too.
    messages += [first.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "sunny, 21 degrees"}]
    second = await client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER])
    assert "sunny, 21 degrees" in (second.choices[0].message.content or "")


async def test_functions_the_older_word_make_their_round_trip_too(client: AsyncOpenAI) -> None:
    messages = user("Weather in Paris?")
    first = await client.chat.completions.create(model=MODEL, messages=messages, functions=[FUNCTION])
    call = first.choices[0].message.function_call
    assert call is not None and first.choices[0].message.tool_calls is None
    assert (first.choices[0].finish_reason, call.name) == ("function_call", "get_weather")
    stream = await client.chat.completions.create(model=MODEL, messages=messages, functions=[FUNCTION], stream=True)
    deltas = [chunk.choices[0].delta.function_call async for chunk in stream]
    assert "".join(delta.arguments or "" for delta in deltas if delta) == call.arguments
    messages += [
        {"role": "assistant", "content": None, "function_call": call.model_dump()},
        {"role": "function", "name": "get_weather", "content": "sunny, 21 degrees"},
    ]
    second = await client.chat.completions.create(model=MODEL, messages=messages, functions=[FUNCTION])
    assert "sunny, 21 degrees" in (second.choices[0].message.content or "")


async def test_structured_output_is_parsed(client: AsyncOpenAI) -> None:
    class Person(BaseModel):
        name: str
        age: int

    done = await client.chat.completions.parse(model=MODEL, messages=user("Who is it?"), response_format=Person)
    assert isinstance(done.choices[0].message.parsed, Person)


async def test_a_conversation_is_remembered_by_the_client_alone(client: AsyncOpenAI, grizz: Grizz) -> None:
    messages: list[Any] = [{"role": "system", "content": "Be brief."}]
    for word in ("one", "two"):
        messages += user(f"[[echo:{word}]]")
        done = await client.chat.completions.create(model=MODEL, messages=messages)
        messages.append(done.choices[0].message)
    assert [message["role"] for message in grizz.demo.last_request["messages"]] == [
        *("system", "user", "assistant", "user")
    ]
    assert len(grizz.app.engine.replies) == 0 and len(grizz.app.engine.history) == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("text", "error", "code"),
    [
        ("[[error:context]]", openai.BadRequestError, "context_length_exceeded"),
        ("[[error:400]]", openai.BadRequestError, "invalid_prompt"),
        ("[[error:404]]", openai.NotFoundError, "model_not_found"),
        ("[[error:429]]", openai.RateLimitError, "rate_limit_exceeded"),
        ("[[error:quota]]", openai.RateLimitError, "insufficient_quota"),
        ("[[error:500]]", openai.InternalServerError, "server_error"),
        ("[[error:401]]", openai.InternalServerError, "server_error"),
    ],
)
async def test_an_upstream_that_fails_at_once_raises_the_class_that_it_would_without_us(
    client: AsyncOpenAI, text: str, error: type[openai.APIStatusError], code: str, stream: bool
) -> None:
    with pytest.raises(error) as raised:
        await client.chat.completions.create(model=MODEL, messages=user(text), stream=stream)
    assert raised.value.code == code
    assert raised.value.request_id is not None
    if code == "rate_limit_exceeded":
        assert int(raised.value.response.headers["retry-after"]) > 0


@pytest.mark.parametrize("text", ["[[words:9]] [[rate:50]] [[cut:4]]", "[[words:9]] [[rate:50]] [[midstream-error:4]]"])
async def test_a_stream_that_fails_half_way_raises_after_what_it_said(client: AsyncOpenAI, text: str) -> None:
    said = ""
    with pytest.raises(openai.APIError) as raised:
        async for chunk in await client.chat.completions.create(model=MODEL, messages=user(text), stream=True):
            said += chunk.choices[0].delta.content or ""
    assert said == numbers(4)
    assert raised.value.code == "server_error"
    # Without a stream nothing was said, and so it is an answer like any other that may be asked for again.
    with pytest.raises(openai.InternalServerError):
        await client.chat.completions.create(model=MODEL, messages=user(text))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n": 2}, "n"),
        ({"temperature": 7}, "temperature"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"messages": []}, "messages"),
    ],
)
async def test_what_is_refused_is_named(client: AsyncOpenAI, body: dict[str, Any], param: str) -> None:
    given: Any = {"model": MODEL, "messages": user("x"), **body}
    with pytest.raises(openai.BadRequestError) as raised:
        await client.chat.completions.create(**given)
    assert raised.value.param == param


async def test_the_package_tries_again_when_there_is_no_room(start_grizz) -> None:
    grizz = await start_grizz(limits__concurrent_responses_per_user=1)
    async with AsyncOpenAI(base_url=f"{grizz.url}/v1", api_key="any", max_retries=5) as client:

        async def ask(word: str) -> str | None:
            text = f"[[words:9]] [[rate:30]] {word}"
            done = await client.chat.completions.create(model=MODEL, messages=user(text))
            return done.choices[0].message.content

        assert await asyncio.gather(ask("a"), ask("b")) == [numbers(9)] * 2
    assert grizz.demo.requests == 2


async def test_an_abandoned_stream_ends_at_the_upstream(client: AsyncOpenAI, grizz: Grizz) -> None:
    stream = await client.chat.completions.create(model=MODEL, messages=user("[[words:9]] [[stall:4]]"), stream=True)
    async for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    assert grizz.demo.active == 1
    await stream.close()
    async with asyncio.timeout(5):
        while grizz.demo.active or grizz.app.engine.replies.running:
            await asyncio.sleep(0.01)
    assert grizz.demo.disconnected == 1
