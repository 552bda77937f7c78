"""Whatever a response says, its chunks add up to what the same response says in one piece."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from grizz.protocol import choices, completions
from grizz.protocol.choices import Choice
from grizz.protocol.compose import Composer
from grizz.protocol.events import Event, response_object
from grizz.protocol.requests import Request

texts = st.text(min_size=1, max_size=6)
ENTRY = {"token": "a", "logprob": -0.5, "bytes": [], "top_logprobs": [{"token": "b", "logprob": -1.5, "bytes": [98]}]}
steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["text", "refusal", "reasoning"]), texts),
        st.tuples(st.just("call"), st.lists(texts, max_size=3)),
        st.tuples(st.just("flush"), st.none()),
    ),
    max_size=8,
)
endings = st.sampled_from(
    [
        {"status": "completed"},
        *({"status": "incomplete", "incomplete": why} for why in ("max_output_tokens", "content_filter")),
    ]
)
USAGE = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}


def played(said: list[Any], ending: dict[str, Any], *, raw_reasoning: bool) -> list[Event]:
    names = map(str, itertools.count())
    response = response_object("resp_1", 1_790_000_000, Request("m", (), {}), "in_progress")
    composer = Composer(response, new_id=lambda prefix: f"{prefix}_{next(names)}", raw_reasoning=raw_reasoning)
    composer.lifecycle("created", "in_progress")
    composer.lifecycle("in_progress", "in_progress")
    for index, (kind, what) in enumerate(said):
        if kind == "call":
            composer.call(index, f"call_{index}", "f")
            for fragment in what:
                composer.arguments(index, fragment)
        elif kind == "flush":
            composer.flush()
        elif kind == "text":
            composer.text(what, [ENTRY])
        else:
            getattr(composer, kind)(what)
    composer.finish(usage=USAGE, completed_at=1_790_000_001, **ending)
    return composer.take()


def added_up(payloads: list[bytes]) -> dict[str, Any]:
    """The message that the deltas make, and the reason for its end."""
    whole: dict[str, Any] = {"message": {}, "calls": {}, "logprobs": []}
    for payload in payloads:
        for choice in orjson.loads(payload)["choices"]:
            whole["finish_reason"] = choice["finish_reason"]
            whole["logprobs"] += (choice["logprobs"] or {}).get("content", [])
            for key, value in choice["delta"].items():
                if key == "tool_calls":
                    for call in value:
                        found = whole["calls"].setdefault(call["index"], {"arguments": ""})
                        found |= {"id": call["id"], "name": call["function"]["name"]} if "id" in call else {}
                        found["arguments"] += call["function"]["arguments"]
                elif key == "role":
                    whole["message"][key] = value
                elif value is not None:
                    whole["message"][key] = whole["message"].get(key, "") + value
    return whole


@settings(deadline=None)
@given(steps, endings, st.booleans(), st.booleans(), st.booleans(), st.integers(1, 5))
def test_chunks_add_up_to_the_completion(
    said: list[Any], ending: dict[str, Any], raw: bool, logprobs: bool, include_usage: bool, step: int
) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "logprobs": logprobs, "stream": True}
    asked = completions.parse({**body, "stream_options": {"include_usage": include_usage}}, "m")
    events = played(said, ending, raw_reasoning=raw)
    response = orjson.loads(events[-1].data)["response"]
    choice = Choice(response, asked)
    data = b"".join(choice.read(events[start : start + step]) for start in range(0, len(events), step))
    assert choice.failure is None
    payloads = [frame.removeprefix(b"data: ") for frame in data.split(b"\n\n")]
    assert payloads[-2:] == [b"[DONE]", b""]
    for payload in payloads[:-2]:
        ChatCompletionChunk.model_validate_json(payload, strict=True)
    assert [orjson.loads(payload).get("usage", 0) for payload in payloads[:-2]] == (
        [None] * (len(payloads) - 3) + [choices.usage(USAGE)] if include_usage else [0] * (len(payloads) - 2)
    )

    completion = choices.completion(response, asked)
    ChatCompletion.model_validate_json(orjson.dumps(completion), strict=True)
    (one,) = completion["choices"]
    found = added_up(payloads[:-2])
    message = {key: value for key, value in one["message"].items() if key != "tool_calls" and value}
    assert {key: value for key, value in found["message"].items() if value} == message
    assert found["finish_reason"] == one["finish_reason"]
    assert [{"name": "f", **call} for call in found["calls"].values()] == [
        {**call["function"], "id": call["id"]} for call in one["message"].get("tool_calls", ())
    ]
    assert found["logprobs"] == ((one["logprobs"] or {}).get("content") or [])


@settings(deadline=None)
@given(steps, steps)
def test_an_answer_that_begins_anew_is_whole_in_one_piece_and_fails_in_a_stream(
    before: list[Any], after: list[Any]
) -> None:
    """The worker was lost: what it left open was closed as incomplete, and another one began from the beginning."""
    asked = completions.parse({"messages": [{"role": "user", "content": "x"}]}, "m")
    lost = played([*before, ("text", "half")], {"status": "incomplete"}, raw_reasoning=False)[:-1]
    output = [orjson.loads(event.data)["item"] for event in lost if event.type == "response.output_item.done"]
    response = response_object("resp_1", 1, Request("m", (), {}), "in_progress")
    composer = Composer(response, new_id=lambda prefix: prefix, next_seq=lost[-1].seq + 1, output=output)
    composer.text("whole")
    composer.finish("completed", completed_at=2)
    events = [*lost, *composer.take()]
    ended = orjson.loads(events[-1].data)["response"]
    whole = choices.completion(ended, asked, len(output))["choices"][0]["message"]
    assert whole["content"] == "whole" and "tool_calls" not in whole
    choice = Choice(ended, asked)
    choice.losses = (lost[-1].seq + 1,)
    data = choice.read(events)
    assert choice.failure is not None and choice.failure.status == 502
    assert b"whole" not in data and b"[DONE]" not in data
    assert choice.read(events) == b""
