"""Messages for chat templates that are strict about who speaks when."""

from __future__ import annotations

from typing import Any

import pytest

from grizz.protocol.roles import fold
from grizz.upstream.manners import Manners

IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}


def said(*messages: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in messages]


@pytest.mark.parametrize(
    ("given", "first", "none"),
    [
        ([("user", "a")], [("user", "a")], [("user", "a")]),
        ([("system", "s"), ("user", "a")], [("system", "s"), ("user", "a")], [("user", "s\n\na")]),
        ([("user", "a"), ("developer", "d")], [("user", "a\n\nd")], [("user", "a\n\nd")]),
        (
            [("assistant", "a"), ("system", "s"), ("assistant", "b")],
            [("assistant", "a"), ("user", "s"), ("assistant", "b")],
            [("assistant", "a"), ("user", "s"), ("assistant", "b")],
        ),
        (
            [("user", "a"), ("user", [IMAGE])],
            [("user", [{"type": "text", "text": "a"}, IMAGE])],
            [("user", [{"type": "text", "text": "a"}, IMAGE])],
        ),
    ],
)
def test_words_of_the_system_become_the_users_where_the_template_has_no_place_for_them(
    given: list[Any], first: list[Any], none: list[Any]
) -> None:
    messages = said(*given)
    assert fold(messages, system_first=True) == said(*first)
    assert fold(messages, system_first=False) == said(*none)
    assert messages == said(*given)


def test_calls_and_their_outputs_stay_as_they_are() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]}
    outputs = [{"role": "tool", "tool_call_id": one, "content": one} for one in "cd"]
    assert fold([call, *outputs], system_first=True) == [call, *outputs]


def test_a_server_that_takes_no_system_at_all_is_learned_in_two_steps() -> None:
    body = {"messages": said(("system", "s"), ("user", "a"), ("system", "t"))}
    manners = Manners()
    assert manners.fit(body) is body
    assert manners.learn(body, 500, "Conversation roles must alternate user/assistant/user/...")
    assert manners.fit(body)["messages"] == said(("system", "s"), ("user", "a\n\nt"))
    assert manners.learn(body, 400, "System role not supported")
    assert manners.fit(body)["messages"] == said(("user", "s\n\na\n\nt"))
    assert not manners.learn(body, 400, "System role not supported; roles must alternate")


def test_a_server_of_the_other_api_has_no_messages_to_fold() -> None:
    body = {"input": []}
    assert not Manners().learn(body, 400, "System role not supported")


def test_nothing_is_learned_from_what_is_no_refusal() -> None:
    body = {"messages": said(("user", "a")), "stream_options": {}, "max_tokens": 9}
    assert not Manners().learn(body, 503, "unsupported stream_options, max_tokens")
    assert not Manners().learn(body, 400, "max_tokens is too large")
    assert not Manners().learn(body, 400, "unknown field: temperature")


def test_a_client_that_is_quoted_teaches_nothing() -> None:
    body = {"messages": said(("system", "s"), ("user", "x")), "user": "System role not supported"}
    manners = Manners()
    assert not manners.learn(body, 400, "Invalid user 'System role not supported'")
    assert manners.fit(body) is body
    body = {"messages": said(("user", "unknown field: stream_options")), "stream_options": {"include_usage": True}}
    assert not manners.learn(body, 400, "Invalid message 'unknown field: stream_options'")
    assert manners.fit(body) is body
