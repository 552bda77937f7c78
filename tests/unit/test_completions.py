"""Chat Completions bodies: what becomes of each field, what reaches a chat upstream, what is refused and how."""

from __future__ import annotations

from typing import Any

import pytest

from grizz.errors import Code, RequestError
from grizz.protocol import chat, completions, requests

HI: list[Any] = [{"role": "user", "content": "hi"}]
FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}
TOOLS = [{"type": "function", "function": FUNCTION}, {"type": "function", "function": {"name": "g"}}]
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
SCHEMA = {"name": "n", "schema": {"type": "object"}, "strict": True, "description": "d"}


def sent(body: dict[str, Any], **terms: Any) -> dict[str, Any]:
    """What a chat upstream is sent for it, without what every request has."""
    request = completions.parse({"messages": HI, **body}, "m").request
    found = chat.body(request, request.input, **terms)
    for key in ("stream", "stream_options"):
        del found[key]
    return found


@pytest.mark.parametrize(
    "given",
    [
        {"model": "gpt-x"},
        {"temperature": 0.5, "top_p": 0.1, "presence_penalty": -1, "frequency_penalty": 2},
        {"stop": "END"},
        {"stop": ["a", "b"], "seed": 7, "logit_bias": {"50256": -100}},
        {"prediction": {"type": "content", "content": "x"}, "verbosity": "low", "service_tier": "flex"},
        {"prompt_cache_key": "k", "prompt_cache_retention": "24h", "prompt_cache_options": {"mode": "explicit"}},
        {"user": "u", "safety_identifier": "s"},
        {"top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1, "chat_template_kwargs": {"enable_thinking": False}},
        {"response_format": {"type": "text"}},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_object", "schema": {"type": "object"}}},
        {"response_format": {"type": "json_schema", "json_schema": SCHEMA}},
        {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False},
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "g"}}},
        {"logprobs": True, "top_logprobs": 3},
        {"user": "u", "reasoning_effort": "minimal", "max_tokens": 9},
    ],
)
def test_a_field_reaches_a_chat_upstream_as_it_was_sent(given: dict[str, Any]) -> None:
    assert sent(given) == {"model": "m", "messages": HI, **given}


MESSAGES: dict[str, list[Any]] = {
    "all roles": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi", "name": "ann"},
        {"role": "assistant", "content": "hello", "name": "bot"},
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": "and?"},
    ],
    "images and files": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "what is it?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
                {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
                {"type": "file", "file": {"file_data": "AAAA", "filename": "a.pdf"}},
                {"type": "file", "file": {"file_id": "file_1"}},
            ],
        }
    ],
    "calls and what came of them": [
        {"role": "user", "content": "weather?"},
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [CALL, {**CALL, "id": "call_2"}],
            "reasoning_content": "they want the weather",
        },
        {"role": "tool", "tool_call_id": "call_2", "content": "rain"},
        {"role": "tool", "tool_call_id": "call_1", "content": "sun"},
        {"role": "assistant", "content": None, "tool_calls": [{**CALL, "id": "call_3"}], "reasoning_content": "hm"},
        {"role": "tool", "tool_call_id": "call_3", "content": ""},
        {"role": "assistant", "content": "Sun and rain.", "reasoning_content": "so"},
    ],
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_reach_a_chat_upstream_as_they_were_sent(name: str) -> None:
    assert sent({"messages": MESSAGES[name]}, developer_role=True)["messages"] == MESSAGES[name]


@pytest.mark.parametrize(
    ("given", "reaches"),
    [
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], "ab"),
        ([{"role": "developer", "content": "be kind"}, HI[0]], "be kind"),
        ([{"role": "system", "content": "a"}, {"role": "developer", "content": "b"}, HI[0]], "a\n\nb"),
        ([{"role": "assistant", "content": None, "refusal": "no"}], "no"),
        ([{"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}], "no"),
        ([{"role": "assistant", "content": None}], ""),
        ([{"role": "system", "content": [{"type": "text", "text": "a"}]}], "a"),
    ],
)
def test_what_is_documented_to_reach_it_in_other_words_does(given: list[Any], reaches: str) -> None:
    assert sent({"messages": given})["messages"][0]["content"] == reaches


def test_a_developer_is_the_system_where_the_upstream_knows_none() -> None:
    given = [{"role": "developer", "content": "be kind"}, *HI]
    assert sent({"messages": given})["messages"][0]["role"] == "system"
    assert sent({"messages": given}, developer_role=True)["messages"][0]["role"] == "developer"


def test_the_bound_of_tokens_goes_by_the_upstreams_own_name() -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        assert sent({name: 9}, max_tokens_field="max_completion_tokens")["max_completion_tokens"] == 9
    assert sent({"max_tokens": 9, "max_completion_tokens": 7})["max_tokens"] == 7


def test_functions_become_tools_and_their_calls_get_ids() -> None:
    found = sent(
        {
            "functions": [FUNCTION],
            "function_call": {"name": "f"},
            "messages": [
                *HI,
                {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
                {"role": "function", "name": "f", "content": "42"},
            ],
        }
    )
    assert found["tools"] == [{"type": "function", "function": FUNCTION}]
    assert found["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    call, result = found["messages"][1:]
    assert call["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
    assert result == {"role": "tool", "tool_call_id": call["tool_calls"][0]["id"], "content": "42"}


def test_only_the_allowed_tools_are_offered() -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "g"}}]}
    found = sent({"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "allowed_tools": allowed}})
    assert found["tools"] == TOOLS[1:]
    assert found["tool_choice"] == "required"


@pytest.mark.parametrize(
    "given",
    [
        {"n": 1, "modalities": ["text"], "audio": None, "logprobs": False, "stream_options": None},
        {"metadata": {"a": "b"}, "store": True, "anything_else": [1]},
        {"parallel_tool_calls": True, "tool_choice": "auto"},
        {"stream": True, "stream_options": {"include_usage": False, "include_obfuscation": True}},
    ],
)
def test_these_are_accepted_and_no_business_of_an_upstream(given: dict[str, Any]) -> None:
    assert sent(given) == {"model": "m", "messages": HI}


def test_nothing_is_stored_unless_asked_for() -> None:
    assert completions.parse({"messages": HI}, "m").request.store is False
    assert completions.parse({"messages": HI, "store": True}, "m").request.store is True


def test_only_a_completion_that_is_not_stored_is_fleeting() -> None:
    assert completions.parse({"messages": HI}, "m").request.fleeting
    assert not completions.parse({"messages": HI, "store": True}, "m").request.fleeting
    assert not requests.parse({"input": "x", "store": False, "grizz_chat": {}}, "m").fleeting


def test_a_conversation_named_there_is_not_touched() -> None:
    body = {"messages": HI, "previous_response_id": "resp_1", "conversation": "conv_1", "background": True}
    request = completions.parse(body, "m").request
    assert request.previous_response_id is None
    assert not request.fields.keys() & {"previous_response_id", "conversation", "background"}


def test_what_a_responses_upstream_needs_stands_in_its_own_words() -> None:
    request = completions.parse(
        {
            "messages": HI,
            "max_tokens": 5,
            "reasoning_effort": "low",
            "verbosity": "low",
            "response_format": {"type": "json_schema", "json_schema": SCHEMA},
            "tools": TOOLS[:1],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "logprobs": True,
        },
        "m",
    ).request
    expected = {
        "max_output_tokens": 5,
        "reasoning": {"effort": "low"},
        "text": {"format": {"type": "json_schema", **SCHEMA}, "verbosity": "low"},
        "tools": [{"type": "function", **FUNCTION}],
        "tool_choice": {"type": "function", "name": "f"},
        "include": ["message.output_text.logprobs"],
    }
    assert {key: request.fields[key] for key in expected} == expected


ANSWER = {"role": "tool", "tool_call_id": "call_1", "content": "x"}
AUDIO = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ([], Code.INVALID_TYPE, None),
        ({}, Code.MISSING_PARAMETER, "messages"),
        ({"messages": "hi"}, Code.INVALID_TYPE, "messages"),
        ({"messages": []}, Code.INVALID_VALUE, "messages"),
        ({"messages": [5]}, Code.INVALID_TYPE, "messages[0]"),
        ({"messages": [{"role": []}]}, Code.INVALID_VALUE, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, Code.INVALID_TYPE, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [AUDIO]}]},
            Code.UNSUPPORTED_PARAMETER,
            "messages[0].content[0].type",
        ),
        ({"messages": [{"role": "user", "content": "x", "name": 5}]}, Code.INVALID_TYPE, "messages[0].name"),
        (
            {"messages": [{"role": "system", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]},
            Code.UNSUPPORTED_PARAMETER,
            "messages[0].content[0].type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            Code.INVALID_TYPE,
            "messages[0].content[0].image_url.url",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {"filename": "a"}}]}]},
            Code.MISSING_PARAMETER,
            "messages[0].content[0].file",
        ),
        ({"messages": [ANSWER]}, Code.NO_TOOL_CALL, "messages[0].tool_call_id"),
        ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, Code.NO_TOOL_CALL, "messages[0].name"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{**CALL, "type": "custom"}]}]},
            Code.UNSUPPORTED_PARAMETER,
            "messages[0].tool_calls[0]",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": {}}}]}]},
            Code.INVALID_TYPE,
            "messages[0].tool_calls[0].function",
        ),
        ({"n": 2}, Code.UNSUPPORTED_PARAMETER, "n"),
        ({"modalities": ["audio"]}, Code.UNSUPPORTED_PARAMETER, "modalities"),
        ({"audio": {"voice": "x", "format": "wav"}}, Code.UNSUPPORTED_PARAMETER, "audio"),
        ({"web_search_options": {}}, Code.UNSUPPORTED_PARAMETER, "web_search_options"),
        ({"moderation": {"model": "m"}}, Code.UNSUPPORTED_PARAMETER, "moderation"),
        ({"stop": [1]}, Code.INVALID_TYPE, "stop"),
        ({"seed": "x"}, Code.INVALID_TYPE, "seed"),
        ({"logit_bias": []}, Code.INVALID_TYPE, "logit_bias"),
        ({"logprobs": 1}, Code.INVALID_TYPE, "logprobs"),
        ({"top_logprobs": 2}, Code.INVALID_VALUE, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, Code.INVALID_VALUE, "top_logprobs"),
        ({"max_tokens": 0}, Code.INVALID_VALUE, "max_tokens"),
        ({"max_completion_tokens": "x"}, Code.INVALID_TYPE, "max_completion_tokens"),
        ({"reasoning_effort": 5}, Code.INVALID_TYPE, "reasoning_effort"),
        ({"stream": "yes"}, Code.INVALID_TYPE, "stream"),
        ({"stream_options": []}, Code.INVALID_TYPE, "stream_options"),
        ({"response_format": {"type": "grammar"}}, Code.INVALID_VALUE, "response_format.type"),
        ({"response_format": "json"}, Code.INVALID_TYPE, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
            Code.MISSING_PARAMETER,
            "response_format.json_schema.schema",
        ),
        ({"tools": {}}, Code.INVALID_TYPE, "tools"),
        ({"tools": [{"type": "function", "name": "f"}]}, Code.MISSING_PARAMETER, "tools[0].function.name"),
        ({"tools": [], "functions": []}, Code.MUTUALLY_EXCLUSIVE, "functions"),
        ({"functions": [{}]}, Code.MISSING_PARAMETER, "functions[0].name"),
        ({"tool_choice": {"type": "function"}}, Code.MISSING_PARAMETER, "tool_choice.function.name"),
        ({"tool_choice": "any"}, Code.INVALID_VALUE, "tool_choice"),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "none", "tools": []}}},
            Code.INVALID_VALUE,
            "tool_choice.allowed_tools.mode",
        ),
        ({"function_call": 5}, Code.INVALID_VALUE, "function_call"),
    ],
)
def test_what_is_wrong_is_refused_by_its_name(body: Any, code: Code, param: str | None) -> None:
    if isinstance(body, dict) and body and "messages" not in body:
        body = {"messages": HI, **body}
    with pytest.raises(RequestError) as refused:
        completions.parse(body, "m")
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, code, param)


def test_no_model_is_refused_by_its_name() -> None:
    with pytest.raises(RequestError, match="'model' is missing"):
        completions.parse({"messages": HI}, "")
