"""Whatever a conversation looks like, what is left of it after a truncation is legal, and ever less."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from grizz.protocol.items import check_calls_match, message
from grizz.protocol.truncate import shorter

words = st.text("ab ", min_size=1, max_size=40)
said = st.tuples(st.sampled_from(["user", "assistant"]), words)
rounds = st.lists(st.integers(1, 3), max_size=3)
turns = st.lists(st.tuples(st.lists(said, max_size=3), rounds, st.booleans()), max_size=6)


def built(system: int, given_turns: list[Any]) -> list[dict[str, Any]]:
    """Turns with rounds of parallel calls in them, each with all its outputs, some behind a thought."""
    items = [message("system", f"rule {n}") for n in range(system)]
    number = 0
    for messages, calls, thinks in given_turns:
        items += [message(role, text) for role, text in messages]
        for count in calls:
            if thinks:
                items.append({"type": "reasoning", "id": f"rs_{number}", "summary": []})
            ids = [f"call_{number + n}" for n in range(count)]
            number += count
            items += [{"type": "function_call", "call_id": one, "name": "f", "arguments": "{}"} for one in ids]
            items += [{"type": "function_call_output", "call_id": one, "output": "x"} for one in ids]
    return items


@given(st.integers(0, 2), turns)
def test_what_is_left_is_legal_and_less_each_time(system: int, given_turns: list[Any]) -> None:
    whole = built(system, given_turns)
    now, times = whole, 0
    while (then := shorter(now)) is not None:
        times += 1
        assert len(then) < len(now)
        left = set(map(id, then))
        assert [id(item) for item in now if id(item) in left] == [id(item) for item in then]  # nothing new, in order
        check_calls_match(then)
        answered = {item["call_id"] for item in then if item["type"] == "function_call_output"}
        assert answered == {item["call_id"] for item in then if item["type"] == "function_call"}
        assert then[: len(whole[:system])] == whole[:system]
        assert then[-1] == whole[-1]
        users = [item for item in whole if item.get("role") == "user"]
        assert not users or id(users[-1]) in left
        now = then
    assert times <= len(whole)
