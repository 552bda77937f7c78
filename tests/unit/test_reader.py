"""What says nothing in a chunk begins nothing: no item, no call, no first word."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
import pytest

from grizz.protocol import requests
from grizz.protocol.compose import Composer
from grizz.protocol.events import response_object
from grizz.protocol.reader import Reader

EMPTY: list[dict[str, Any]] = [
    {"reasoning": ""},
    {"reasoning_content": ""},
    {"reasoning_content": None, "reasoning": ""},
    {"refusal": ""},
    {"tool_calls": [{}]},
    {"tool_calls": [{"index": 0, "function": {"name": "", "arguments": ""}}]},
    {"function_call": {"name": "", "arguments": ""}},
    {"reasoning": "", "reasoning_content": "", "refusal": "", "tool_calls": [], "function_call": None},
]


class Answer:
    """A reader on a composer."""

    def __init__(self) -> None:
        ids = itertools.count()

        def new_id(prefix: str) -> str:
            return f"{prefix}_{next(ids)}"

        request = requests.parse({"input": "x"}, "m")
        self.composer = Composer(response_object("resp_1", 1, request, "in_progress"), new_id=new_id)
        self.composer.lifecycle("created", "in_progress")
        self.composer.lifecycle("in_progress", "in_progress")
        self.reader = Reader(self.composer, new_id=new_id)

    def feed(self, delta: dict[str, Any], finish: str | None = None) -> None:
        self.reader.feed(orjson.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}))

    def output(self) -> list[dict[str, Any]]:
        self.feed({}, "stop")
        self.composer.finish(completed_at=2, **self.reader.end())
        output: list[dict[str, Any]] = orjson.loads(self.composer.take()[-1].data)["response"]["output"]
        return output


@pytest.mark.parametrize("empty", EMPTY)
def test_empty_fields_beside_the_text_leave_it_in_one_piece(empty: dict[str, Any]) -> None:
    answer = Answer()
    for word in ("one ", "two ", "three"):
        answer.feed({"content": word, **empty})
    (message,) = answer.output()
    assert [part["text"] for part in message["content"]] == ["one two three"]


@pytest.mark.parametrize("empty", EMPTY)
def test_empty_fields_are_no_first_word(empty: dict[str, Any]) -> None:
    answer = Answer()
    answer.feed({"role": "assistant", "content": "", **empty})
    assert (answer.reader.tokens, answer.composer.produced) == (0, False)


def test_an_empty_fragment_amid_a_call_changes_nothing() -> None:
    answer = Answer()
    answer.feed({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}]})
    for arguments in ('{"a":', "", "1}"):
        answer.feed({"tool_calls": [{"index": 0, "function": {"arguments": arguments}}]})
    (call,) = answer.output()
    assert (call["call_id"], call["name"], call["arguments"]) == ("c", "f", '{"a":1}')
