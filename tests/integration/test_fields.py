"""Every field of a create, over HTTP and WebSocket: what it does to the answer and what of it reaches the model."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from tests.asking import TRANSPORTS, Ask
from tests.conftest import Grizz
from tests.player import text_of

FUNCTION = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}
CLOCK = {"type": "function", "name": "get_time", "parameters": {"type": "object", "properties": {}}}


@pytest.fixture(params=list(TRANSPORTS))
def ask(request: pytest.FixtureRequest, grizz: Grizz, http: aiohttp.ClientSession) -> Ask:
    return TRANSPORTS[request.param](http, grizz)


async def ended(ask: Ask, **body: Any) -> dict[str, Any]:
    events = await ask(body)
    assert events[-1]["type"] != "error", events[-1]
    response: dict[str, Any] = events[-1]["response"]
    return response


async def refused(ask: Ask, **body: Any) -> tuple[int, str, str]:
    (error,) = await ask(body)
    assert error["type"] == "error", error
    return error["status"], error["error"]["code"], error["error"]["param"]


async def test_a_model_has_a_name_and_no_text(ask: Ask) -> None:
    assert await refused(ask, input="x", model="m" * 257) == (400, "invalid_value", "model")
    assert (await ended(ask, input="[[words:1]]", model="m" * 256))["model"] == "m" * 256


# include, logprobs


@pytest.mark.parametrize(
    "asked", [{"include": ["message.output_text.logprobs"], "top_logprobs": 2}, {"top_logprobs": 2}]
)
async def test_logprobs_come_with_the_deltas_and_at_the_end(ask: Ask, asked: dict[str, Any]) -> None:
    events = await ask({"input": "[[words:3]]", **asked})
    told = [entry for e in events if e["type"] == "response.output_text.delta" for entry in e["logprobs"]]
    assert [entry["token"] for entry in told] == ["w0 ", "w1 ", "w2 "]
    assert all(len(entry["top_logprobs"]) == 2 and entry["logprob"] < 0 for entry in told)
    (done,) = [e for e in events if e["type"] == "response.output_text.done"]
    assert done["logprobs"] == told
    assert events[-1]["response"]["output"][0]["content"][0]["logprobs"] == told
    assert events[-1]["response"]["top_logprobs"] == 2


async def test_without_them_no_logprobs_are_asked_for(grizz: Grizz, ask: Ask) -> None:
    events = await ask({"input": "[[words:3]]", "top_logprobs": 0})
    assert "logprobs" not in grizz.demo.last_request
    assert all(e["logprobs"] == [] for e in events if e["type"] == "response.output_text.delta")


async def test_what_may_be_included_is_a_closed_list(ask: Ask) -> None:
    assert await refused(ask, input="x", include=["everything"]) == (400, "invalid_value", "include[0]")
    taken = ["reasoning.encrypted_content", "file_search_call.results", "web_search_call.action.sources"]
    response = await ended(ask, input="[[reasoning:hm]] [[echo:x]]", include=taken)
    assert response["output"][0]["type"] == "reasoning"
    assert "encrypted_content" not in response["output"][0]


# truncation

TURNS = [
    {"role": "system", "content": "the rules"},
    *({"role": role, "content": f"{role} turn{n} " + "blah " * 20} for n in range(6) for role in ("user", "assistant")),
]


async def test_truncation_auto_drops_the_oldest_turns_until_the_model_takes_it(grizz: Grizz, ask: Ask) -> None:
    response = await ended(
        ask, input=[*TURNS, {"role": "user", "content": "[[window:100]] [[echo:ok]]"}], truncation="auto"
    )
    assert (response["status"], response["truncation"]) == ("completed", "auto")
    messages = grizz.demo.last_request["messages"]
    assert messages[0] == {"role": "system", "content": "the rules"}
    assert messages[1]["role"] == "user" and "turn0" not in str(messages)
    assert "turn5" in str(messages) and messages[-1]["content"].startswith("[[window")
    assert 1 < grizz.demo.requests <= 8


@pytest.mark.parametrize("truncation", [None, "disabled"])
async def test_without_it_a_conversation_that_is_too_long_fails(grizz: Grizz, ask: Ask, truncation: str | None) -> None:
    body = {"input": [*TURNS, {"role": "user", "content": "[[window:100]]"}], "truncation": truncation}
    response = await ended(ask, **body)
    assert (response["status"], response["error"]["code"]) == ("failed", "context_length_exceeded")
    assert grizz.demo.requests == 1


async def test_what_cannot_be_truncated_fails_with_the_models_own_words(grizz: Grizz, ask: Ask) -> None:
    response = await ended(ask, input=f"[[window:3]] {'blah ' * 9}", truncation="auto")
    assert response["error"]["code"] == "context_length_exceeded"
    assert grizz.demo.requests == 1


# Tools


@pytest.mark.parametrize(
    ("limits", "names"),
    [
        ({}, ["get_weather", "get_time", "get_weather"]),
        ({"parallel_tool_calls": True}, ["get_weather", "get_time", "get_weather"]),
        ({"parallel_tool_calls": False}, ["get_weather"]),
        ({"max_tool_calls": 2}, ["get_weather", "get_time"]),
        ({"max_tool_calls": 0}, []),
        ({"max_tool_calls": 2, "parallel_tool_calls": False}, ["get_weather"]),
    ],
)
async def test_calls_beyond_what_is_allowed_are_ignored(ask: Ask, limits: dict[str, Any], names: list[str]) -> None:
    text = "[[tool:get_weather]] [[tool:get_time]] [[tool:get_weather]]"
    response = await ended(ask, input=text, tools=[FUNCTION, CLOCK], **limits)
    assert [item["name"] for item in response["output"]] == names
    assert response["status"] == "completed"
    assert response["max_tool_calls"] == limits.get("max_tool_calls")
    assert response["parallel_tool_calls"] == limits.get("parallel_tool_calls", True)


@pytest.mark.parametrize(
    ("choice", "echo", "sent", "names"),
    [
        ("auto", "auto", "auto", ["get_weather", "get_time"]),
        ("none", "none", "none", ["get_weather", "get_time"]),
        ("required", "required", "required", ["get_weather", "get_time"]),
        (
            {"type": "function", "name": "get_time"},
            {"type": "function", "name": "get_time"},
            {"type": "function", "function": {"name": "get_time"}},
            ["get_weather", "get_time"],
        ),
        (
            {"type": "allowed_tools", "tools": [{"type": "function", "name": "get_time"}]},
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "get_time"}]},
            "auto",
            ["get_time"],
        ),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "get_weather"}]},
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "get_weather"}]},
            "required",
            ["get_weather"],
        ),
    ],
)
async def test_every_tool_choice_is_echoed_and_passed_on(
    grizz: Grizz, ask: Ask, choice: Any, echo: Any, sent: Any, names: list[str]
) -> None:
    response = await ended(ask, input="hello", tools=[FUNCTION, CLOCK], tool_choice=choice)
    assert response["tool_choice"] == echo
    assert grizz.demo.last_request["tool_choice"] == sent
    assert [tool["function"]["name"] for tool in grizz.demo.last_request["tools"]] == names


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "sometimes", "tools": [FUNCTION]}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "nope"}, "tools": [FUNCTION]}, "tool_choice"),
        ({"tool_choice": {"type": "function"}, "tools": [FUNCTION]}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools"}, "tools": [FUNCTION]}, "tool_choice.tools"),
        ({"max_tool_calls": -1}, "max_tool_calls"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"truncation": "often"}, "truncation"),
        ({"text": {"verbosity": "endless"}}, "text.verbosity"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"reasoning": {"effort": 5}}, "reasoning.effort"),
        ({"reasoning": {"summary": "long"}}, "reasoning.summary"),
        ({"stream_options": {"include_obfuscation": "yes"}}, "stream_options.include_obfuscation"),
        ({"context_management": [{"type": "forget"}]}, "context_management[0].type"),
        ({"context_management": {}}, "context_management"),
        ({"prompt_cache_retention": "forever"}, "prompt_cache_retention"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"user": 5}, "user"),
        ({"service_tier": 5}, "service_tier"),
        ({"service_tier": "gold"}, "service_tier"),
    ],
)
async def test_what_is_wrong_is_named(grizz: Grizz, ask: Ask, body: dict[str, Any], param: str) -> None:
    status, _, named = await refused(ask, input="x", **body)
    assert (status, named) == (400, param)
    assert grizz.demo.requests == 0


# Text, reasoning, and what is only passed on or kept

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


async def test_a_strict_schema_and_a_verbosity_reach_the_model_and_are_echoed(grizz: Grizz, ask: Ask) -> None:
    text = {"format": {"type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True}, "verbosity": "low"}
    response = await ended(ask, input="Where?", text=text)
    sent = grizz.demo.last_request
    assert sent["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "place", "schema": SCHEMA, "strict": True},
    }
    assert sent["verbosity"] == "low"
    assert response["text"]["format"]["strict"] is True and response["text"]["verbosity"] == "low"
    assert "city" in response["output"][0]["content"][0]["text"]


async def test_what_is_said_about_a_request_is_echoed_and_only_the_user_is_told_on(grizz: Grizz, ask: Ask) -> None:
    said = {"metadata": {"topic": "birds"}, "safety_identifier": "u-1", "prompt_cache_key": "k"}
    body = {**said, "user": "old-name", "prompt_cache_retention": "24h", "service_tier": "flex"}
    response = await ended(ask, input="hello", **body)
    assert {key: response[key] for key in said} == said
    assert response["service_tier"] == "default"  # the tier that was used, not the one that was asked for
    sent = grizz.demo.last_request
    assert sent["user"] == "u-1"
    assert not {"metadata", "prompt_cache_key", "prompt_cache_retention", "service_tier", "store"} & sent.keys()


async def test_effort_is_passed_on_and_reasoning_comes_as_a_summary(grizz: Grizz, ask: Ask) -> None:
    response = await ended(ask, input="[[reasoning:hm]]", reasoning={"effort": "xhigh", "summary": "detailed"})
    assert grizz.demo.last_request["reasoning_effort"] == "xhigh"
    assert response["reasoning"] == {"effort": "xhigh", "summary": "detailed"}
    assert response["output"][0]["summary"] == [{"type": "summary_text", "text": "hm"}]


async def test_obfuscation_pads_the_deltas_when_it_is_asked_for_and_only_then(ask: Ask) -> None:
    body = {"input": "[[echo:a longer answer, said in several pieces]] [[rate:30]]"}
    padded = await ask({**body, "stream_options": {"include_obfuscation": True}})
    plain = await ask(body)
    deltas = [event for event in padded if event["type"].endswith(".delta")]
    assert len(deltas) > 1 and all("obfuscation" in event for event in deltas)
    assert not any("obfuscation" in event for event in plain)
    assert not any("obfuscation" in event for event in padded if not event["type"].endswith(".delta"))
    assert text_of(padded) == text_of(plain)


async def test_the_least_number_of_output_tokens_is_one(ask: Ask) -> None:
    response = await ended(ask, input="[[words:9]]", max_output_tokens=1)
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})


async def test_automatic_compaction_is_taken_and_changes_nothing(grizz: Grizz, ask: Ask) -> None:
    body = {"input": "hello", "context_management": [{"type": "compaction", "compact_threshold": 1}]}
    response = await ended(ask, **body)
    assert [item["type"] for item in response["output"]] == ["message"]
    assert grizz.demo.requests == 1


async def test_fields_that_nobody_knows_are_ignored(ask: Ask) -> None:
    assert (await ended(ask, input="x", client_metadata={"a": [1]}, moderation={"model": "m"}))["status"] == "completed"


async def test_instructions_are_of_their_own_turn_alone(grizz: Grizz, ask: Ask) -> None:
    first = await ended(ask, input="One.", instructions="Rhyme.")
    assert grizz.demo.last_request["messages"][0] == {"role": "system", "content": "Rhyme."}
    await ended(ask, input="Two.", previous_response_id=first["id"])
    assert [message["role"] for message in grizz.demo.last_request["messages"]] == ["user", "assistant", "user"]
