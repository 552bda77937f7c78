"""The demo server as the openai package sees it."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from grizz.upstream.demo import DemoServer

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["city", "unit"],
        },
    },
}


@pytest.fixture
async def demo() -> AsyncIterator[DemoServer]:
    server = DemoServer(tokens_per_second=0)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def client(demo: DemoServer) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=demo.url, api_key="none", max_retries=0) as api:
        yield api


def body(text: Any, **extra: Any) -> dict[str, Any]:
    return {"model": "any", "messages": [{"role": "user", "content": text}], **extra}


async def ask(client: AsyncOpenAI, text: Any, **extra: Any) -> Any:
    return await client.chat.completions.create(**body(text, **extra))


async def stream(client: AsyncOpenAI, text: Any, **extra: Any) -> list[Any]:
    async with await client.chat.completions.create(**body(text, stream=True, **extra)) as chunks:
        return [chunk async for chunk in chunks]


def content(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def finish(chunks: list[Any]) -> str | None:
    return next((c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason), None)


def calls(chunks: list[Any]) -> list[Any]:
    return [call for chunk in chunks if chunk.choices for call in chunk.choices[0].delta.tool_calls or ()]


async def test_it_lists_its_one_model(client: AsyncOpenAI) -> None:
    models = (await client.models.list()).data
    assert [(model.id, model.owned_by) for model in models] == [("grizz-demo", "grizz")]


async def test_a_plain_answer_says_what_it_is_echoes_and_explains_how_to_get_a_real_model(client: AsyncOpenAI) -> None:
    chunks = await stream(client, "Hello there")
    text = content(chunks)
    assert "demo model" in text
    assert "You said: Hello there" in text
    assert "This is turn 1" in text
    assert "OPENAI_API_KEY" in text
    assert "OPENAI_BASE_URL" in text
    assert len(chunks) > 30
    assert finish(chunks) == "stop"


async def test_usage_comes_only_when_asked_for(client: AsyncOpenAI) -> None:
    assert all(chunk.usage is None and chunk.choices for chunk in await stream(client, "hi"))
    asked = {"stream_options": {"include_usage": True}}
    assert all(chunk.usage is None for chunk in await stream(client, "hi [[no-usage]]", **asked))
    assert (await ask(client, "hi [[no-usage]]")).usage is None


async def test_without_stream_the_answer_is_the_same_in_one_body(client: AsyncOpenAI) -> None:
    whole = await ask(client, "hi")
    assert whole.object == "chat.completion"
    assert whole.choices[0].message.content == content(await stream(client, "hi"))
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage.completion_tokens > 30


async def test_later_turns_know_the_earlier_ones(client: AsyncOpenAI) -> None:
    history = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "My name is Ada [[rate:0]]"},
        {"role": "assistant", "content": "Fine"},
        {"role": "user", "content": "Who am I, and what is your system prompt?"},
    ]
    text = content(await stream(client, "", messages=history))
    assert "turn 2" in text
    assert "you wrote: My name is Ada\n" in text
    assert "do not follow: Be brief." in text


async def test_the_system_prompt_is_mentioned_only_on_request(client: AsyncOpenAI) -> None:
    history = [{"role": "system", "content": "Secret"}, {"role": "user", "content": "hi"}]
    assert "Secret" not in content(await stream(client, "", messages=history))
    assert "There is no system prompt." in content(await stream(client, "your instructions?"))


async def test_it_says_what_it_received_besides_text_and_that_it_cannot_see_it(client: AsyncOpenAI) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}
    alone = content(await stream(client, [{"type": "text", "text": "look"}, image]))
    assert "I received an image (image/png, 5 bytes), but I cannot see it." in alone
    assert "You said: look" in alone
    link = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    file = {"type": "file", "file": {"filename": "a.pdf", "file_data": ""}}
    audio = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
    many = content(await stream(client, [link, file, audio]))
    assert "an image at https://example.com/a.png, a file (a.pdf) and a part of type input_audio" in many
    assert "You said nothing in words." in many


async def test_a_tool_that_is_spoken_of_is_called_with_filled_arguments_in_fragments(client: AsyncOpenAI) -> None:
    chunks = await stream(client, "What is the weather in Paris?", tools=[WEATHER])
    found = calls(chunks)
    assert (found[0].function.name, found[0].type, found[0].index) == ("get_weather", "function", 0)
    assert found[0].id.startswith("call_")
    assert len(found) > 3
    assert json.loads("".join(c.function.arguments for c in found)) == {"city": "Paris", "unit": "celsius"}
    assert finish(chunks) == "tool_calls"
    assert content(chunks) == ""


async def test_tool_choice_forces_or_forbids_a_call(client: AsyncOpenAI) -> None:
    named = {"type": "function", "function": {"name": "get_weather"}}
    for choice in ("required", named):
        whole = await ask(client, "hello", tools=[WEATHER], tool_choice=choice)
        assert whole.choices[0].message.tool_calls[0].function.name == "get_weather"
        assert whole.choices[0].message.content is None
        assert whole.choices[0].finish_reason == "tool_calls"
    assert calls(await stream(client, "weather?", tools=[WEATHER], tool_choice="none")) == []


async def test_after_a_tool_result_the_answer_quotes_it(client: AsyncOpenAI) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    history = [
        {"role": "user", "content": "weather in Paris? [[tool:get_weather]]"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "12 degrees"},
    ]
    chunks = await stream(client, "", messages=history, tools=[WEATHER], tool_choice="required")
    assert "The tool get_weather answered: 12 degrees" in content(chunks)
    assert finish(chunks) == "stop"
    history[0] = {"role": "user", "content": "weather in Paris?"}
    history += [{"role": "assistant", "content": "ok"}, {"role": "system", "content": "go on"}]
    assert calls(await stream(client, "", messages=history, tools=[WEATHER])) == []


async def test_a_json_answer_fits_its_schema(client: AsyncOpenAI) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "c", "schema": schema}}
    assert json.loads(content(await stream(client, "I love Rome", response_format=wanted))) == {"city": "Rome"}
    free = content(await stream(client, "I love Rome", response_format={"type": "json_object"}))
    assert json.loads(free)["you_said"] == "I love Rome"


@pytest.mark.parametrize("parameter", ["max_tokens", "max_completion_tokens"])
async def test_max_tokens_end_an_answer_with_length_only_if_something_was_left(
    client: AsyncOpenAI, parameter: str
) -> None:
    chunks = await stream(client, "[[words:10]]", **{parameter: 3})
    assert (content(chunks), finish(chunks)) == ("w0 w1 w2 ", "length")
    assert finish(await stream(client, "[[words:3]]", **{parameter: 3})) == "stop"
    assert (await ask(client, "[[words:10]]", **{parameter: 3})).usage.completion_tokens == 3


async def test_echo_answers_exactly(client: AsyncOpenAI) -> None:
    assert content(await stream(client, "[[echo:  Just\n this ]] not this")) == "  Just\n this "
    assert (
        content(await stream(client, "[[echo]]  ünï\n\n# 漢字漢字漢字漢字漢字漢字漢字 \t"))
        == "  ünï\n\n# 漢字漢字漢字漢字漢字漢字漢字 \t"
    )


@pytest.mark.parametrize("name", ["words", "tokens"])
async def test_words_are_numbered_and_one_token_each(client: AsyncOpenAI, name: str) -> None:
    chunks = await stream(client, f"[[{name}:500]]", stream_options={"include_usage": True})
    assert content(chunks) == "".join(f"w{number} " for number in range(500))
    assert chunks[-1].usage.completion_tokens == 500
    assert len(chunks) == 503


async def test_empty_says_nothing(client: AsyncOpenAI) -> None:
    chunks = await stream(client, "hi [[empty]]")
    assert (content(chunks), finish(chunks), len(chunks)) == ("", "stop", 2)


async def test_a_rate_paces_the_answer_without_drift(client: AsyncOpenAI) -> None:
    start = time.monotonic()
    await stream(client, "[[words:501]] [[rate:1000]]")
    assert 0.49 < time.monotonic() - start < 5  # one late wake-up a word would be more on any machine
    start = time.monotonic()
    await ask(client, "[[words:20]] [[rate:100]]")
    assert 0.19 < time.monotonic() - start < 5


async def test_reasoning_comes_first_under_either_key(client: AsyncOpenAI) -> None:
    chunks = await stream(client, "[[reasoning:I think hard]][[echo:Yes]]", stream_options={"include_usage": True})
    deltas = [chunk.choices[0].delta.model_dump(exclude_unset=True) for chunk in chunks[1:-2]]
    assert [*map(list, deltas)] == [["reasoning_content"]] * 3 + [["content"]]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "I think hard"
    assert chunks[-1].usage.completion_tokens_details.reasoning_tokens == 3
    message = (await ask(client, "[[reasoning:Hm]][[reasoning-field:reasoning]][[echo:Yes]]")).choices[0].message
    assert (message.reasoning, message.content) == ("Hm", "Yes")


async def test_a_refusal_is_streamed_as_one_alone_or_after_content(client: AsyncOpenAI) -> None:
    chunks = await stream(client, "[[refusal:I will not]]")
    assert "".join(c.choices[0].delta.refusal or "" for c in chunks) == "I will not"
    assert content(chunks) == ""
    assert (await ask(client, "[[refusal:No]][[echo:Well]]")).choices[0].message.content == "Well"


async def test_tools_by_script_are_called_in_parallel_with_their_arguments_verbatim(client: AsyncOpenAI) -> None:
    text = 'go to Rome [[tool:a]][[args:{"x":  [[1]]}]] [[tool:get_weather]] [[tool:c]]'
    found = calls(await stream(client, text, tools=[WEATHER]))
    joined = ["".join(c.function.arguments for c in found if c.index == index) for index in range(3)]
    assert joined == ['{"x":  [[1]]}', '{"city":"Rome","unit":"celsius"}', "{}"]
    assert [c.function.name for c in found if c.id] == ["a", "get_weather", "c"]
    assert len({c.id for c in found if c.id}) == 3


async def test_a_whole_tool_call_comes_in_one_chunk(client: AsyncOpenAI) -> None:
    (only,) = calls(await stream(client, '[[tool:a]][[args:{"long": "argument text"}]][[whole-tool]]'))
    assert (only.function.name, only.function.arguments) == ("a", '{"long": "argument text"}')


async def test_a_late_name_comes_after_the_id_and_the_first_fragment(client: AsyncOpenAI) -> None:
    text = '[[tool:a]][[args:{"long": "argument text"}]][[late-name]]'
    found = calls(await stream(client, text))
    assert [bool(c.function.name) for c in found[:3]] == [False, False, True]
    assert found[0].id
    assert "".join(c.function.arguments for c in found) == '{"long": "argument text"}'
    assert (await ask(client, text)).choices[0].message.tool_calls[0].function.name == "a"


async def test_no_role_leaves_the_role_chunk_out(client: AsyncOpenAI) -> None:
    chunks = await stream(client, "[[no-role]][[words:1]]")
    assert len(chunks) == 2
    assert all(chunk.choices[0].delta.role is None for chunk in chunks)


async def test_filter_and_length_end_the_answer_where_they_say(client: AsyncOpenAI) -> None:
    for text, reason in (("[[filter:2]]", "content_filter"), ("[[length:2]]", "length")):
        chunks = await stream(client, f"[[words:5]]{text}")
        assert (content(chunks), finish(chunks)) == ("w0 w1 ", reason)
    assert finish(await stream(client, "[[words:2]][[filter:9]]")) == "content_filter"


async def test_an_unknown_directive_reaches_the_client_as_a_400_that_names_it(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"\[\[wrods\]\].*words"):
        await ask(client, "[[wrods:5]]")
