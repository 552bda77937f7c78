"""Whatever bytes come as a chat completion: one that can be answered, or a refusal that names what is wrong."""

from __future__ import annotations

import json
from typing import Any

import orjson
from hypothesis import example, given

from grizz.engine.ids import new_id
from grizz.engine.worker import Work
from grizz.errors import RequestError
from grizz.protocol import chat, choices, completions
from grizz.protocol.choices import Choice
from grizz.protocol.compose import Composer
from grizz.protocol.events import response_object
from grizz.protocol.items import check_calls_match, with_ids
from tests.fuzz.conftest import budget
from tests.fuzz.server import fuzzed
from tests.fuzz.strategies import MARKS, mutated, spelled
from tests.fuzz.test_http import ask
from tests.fuzz.test_requests import is_refusal, loaded

_HI: Any = {"role": "user", "content": "hi"}
_CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
_FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}
_TOOLS = [{"type": "function", "function": _FUNCTION}]
_ALLOWED = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]}
BODIES: tuple[Any, ...] = (
    {"messages": [_HI]},
    {"model": "m", "messages": [_HI], "stream": True, "stream_options": {"include_usage": True}, "store": True},
    {
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "developer", "content": [{"type": "text", "text": "be kind"}]},
            {
                "role": "user",
                "name": "ann",
                "content": [
                    {"type": "text", "text": "what is this?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
                    {"type": "file", "file": {"file_data": "AAAA", "filename": "a.pdf"}},
                ],
            },
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}], "reasoning_content": "hm"},
            {"role": "assistant", "content": None, "tool_calls": [_CALL], "refusal": None, "audio": None},
            {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "42"}]},
            {"role": "assistant", "content": "", "function_call": {"name": "g", "arguments": "{}"}},
            {"role": "function", "name": "g", "content": "43"},
        ],
        "tools": _TOOLS,
        "tool_choice": {"type": "allowed_tools", "allowed_tools": _ALLOWED},
        "parallel_tool_calls": True,
    },
    {"messages": [_HI], "tools": _TOOLS, "tool_choice": {"type": "function", "function": {"name": "f"}}},
    {"messages": [_HI], "functions": [_FUNCTION], "function_call": {"name": "f"}},
    {
        "messages": [_HI],
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
        "stop": ["a"],
        "seed": 5,
        "logit_bias": {"5": 1},
        "prediction": {"type": "content", "content": "x"},
        "chat_template_kwargs": {"enable_thinking": False},
    },
    {"messages": [_HI], "temperature": 1, "top_p": 0.5, "max_tokens": 5, "max_completion_tokens": 6, "n": 1},
    {"messages": [_HI], "logprobs": True, "top_logprobs": 2, "reasoning_effort": "low", "verbosity": "low"},
    {"messages": [_HI], "metadata": {"a": "b"}, "user": "u", "modalities": ["text"], "top_k": 5, "min_p": 0.1},
)
FIELDS = tuple(sorted({"audio", "role", "content", "type", "id", "name", "function"}.union(*BODIES)))
bodies = mutated(*BODIES, names=FIELDS)


def take(body: Any) -> None:
    """All that becomes of it: it is kept, handed to other nodes and to a model server, and what came is told."""
    asked = completions.parse(body, "m")
    request = asked.request
    items = with_ids(request.input, new_id)
    check_calls_match(items)
    sent = chat.body(request, items)
    assert all(isinstance(message["role"], str) for message in sent["messages"])
    assert (sent["stream"], sent["stream_options"]) == (True, {"include_usage": True})
    json.dumps(sent)  # by which the openai package writes it
    response = response_object("resp_1", 1, request, "in_progress")
    work = Work(request, items, response)
    again = Work.from_wire(orjson.loads(orjson.dumps({"v": 1, "output": [], "work": work.to_wire()}))["work"])
    assert again.request.fields == request.fields
    composer = Composer(response, new_id=new_id)
    composer.lifecycle("created", "in_progress")
    composer.text("x")
    composer.call(0, "call_1", "f")
    composer.finish("completed", completed_at=2)
    events = composer.take()
    choice = Choice(response, asked)
    assert choice.read(events).endswith(b"data: [DONE]\n\n")
    orjson.dumps(choices.completion(orjson.loads(events[-1].data)["response"], asked))


@budget(200)
@given(spelled(bodies))
@example(b'{"messages":[{"role":[],"content":"x"}]}')
@example(b'{"messages":[{"role":"user","content":[{"type":{}}]}]}')
@example(b'{"messages":[{"role":"user","content":"x"}],"logit_bias":{"a":%s}}' % MARKS["@253 arrays@"].encode())
@example(b'{"messages":[{"role":"user","content":"x"}],"n":true}')
def test_a_body_is_refused_by_name_or_can_be_answered_kept_and_sent_on(data: bytes) -> None:
    body = loaded(data)
    try:
        take(body)
    except RequestError as error:
        assert is_refusal(error)


def test_any_body_is_answered_or_refused_over_http() -> None:
    with fuzzed() as target:

        @budget(50)
        @given(spelled(bodies))
        def any_body(body: bytes) -> None:
            status = target.run(ask(target, "POST", "/v1/chat/completions", "", body, {}))
            assert status in (200, 400)

        any_body()
