"""What one process writes for another is what the other reads."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grizz.engine.history import Turn, read_turns
from grizz.engine.worker import Work
from grizz.protocol import requests
from grizz.protocol.events import response_object

texts = st.text(max_size=8)
messages = st.builds(
    lambda role, text: {"type": "message", "role": role, "content": text},
    st.sampled_from(["user", "assistant", "system"]),
    texts,
)
options = st.fixed_dictionaries(
    {},
    optional={
        "instructions": texts,
        "temperature": st.floats(0, 2),
        "max_output_tokens": st.integers(1, 10_000_000),
        "store": st.booleans(),
        "metadata": st.dictionaries(st.text(max_size=4), texts, max_size=2),
        "tools": st.just([{"type": "function", "name": "f", "parameters": {"type": "object"}}]),
        "grizz_reasoning": st.just("raw"),
    },
)


def over_the_wire(work: Work) -> Work:
    return Work.from_wire(orjson.loads(orjson.dumps(work.to_wire())))


@settings(deadline=None)
@given(st.lists(messages, min_size=1, max_size=3), options, st.lists(messages, max_size=3), st.booleans())
def test_work_comes_back_as_it_was_sent(
    given_input: list[dict[str, Any]], fields: dict[str, Any], before: list[dict[str, Any]], usual: bool
) -> None:
    request = requests.parse({"input": given_input, **fields}, "m")
    # Usually this turn's input ends the context; references that were resolved make it differ.
    context = [*before, *request.input] if usual else before
    work = Work(request, context, response_object("resp_1", 1, request))
    found = over_the_wire(work)
    assert found == work
    assert found.may_keep == work.may_keep == fields.get("store", True)


def test_this_turns_input_is_sent_once_and_not_twice() -> None:
    request = requests.parse({"input": "x" * 1000}, "m")
    assert len(orjson.dumps(Work(request, [*request.input], {}).to_wire())) < 1500


def test_work_without_any_input_comes_back_without_any() -> None:
    request = requests.parse({"instructions": "Say something."}, "m")
    earlier = [{"type": "message", "role": "user", "content": "hi"}]
    found = over_the_wire(Work(request, earlier, response_object("resp_1", 1, request)))
    assert found.request.input == ()
    assert found.context == earlier


def test_output_that_an_attempt_left_in_the_response_does_not_travel_with_the_work() -> None:
    request = requests.parse({"input": "x"}, "m")
    response = {**response_object("resp_1", 1, request), "output": [{"id": "msg_1"}]}
    assert over_the_wire(Work(request, request.input, response)).response["output"] == []


@pytest.mark.parametrize("name", ["model", "fields", "input", "context", "response"])
def test_work_that_lacks_something_is_refused(name: str) -> None:
    request = requests.parse({"input": "x"}, "m")
    body = Work(request, request.input, response_object("resp_1", 1, request)).to_wire()
    del body[name]
    with pytest.raises((KeyError, TypeError)):
        Work.from_wire(body)


def turn(number: int, parent: Turn | None = None, **response: Any) -> Turn:
    said = [{"type": "message", "role": "user", "content": f"question {number}"}]
    body = {"id": f"resp_{number}", "status": "completed", "output": [{"id": f"msg_{number}", "type": "message"}]}
    return Turn(f"resp_{number}", "me", parent, said, body | response, 10 + number, None)


def test_a_turn_comes_back_alone_with_the_ids_of_its_ancestors_the_oldest_first() -> None:
    first = turn(1)
    second = turn(2, first)
    third = turn(3, second)
    found = read_turns([written.to_wire() for written in (third, first, second)])
    assert {key: lineage for key, (_, lineage) in found.items()} == {
        "resp_1": [],
        "resp_2": ["resp_1"],
        "resp_3": ["resp_1", "resp_2"],
    }
    for written in (first, second, third):
        read, _ = found[written.id]
        assert (read.id, read.owner, read.input, read.response) == (
            written.id,
            written.owner,
            written.input,
            written.response,
        )
        assert (read.last_seq, read.size, read.parent, read.scope) == (written.last_seq, written.size, None, None)


def test_a_conversation_that_is_put_together_again_has_the_same_context() -> None:
    written = turn(3, turn(2, turn(1)))
    found = read_turns([ancestor.to_wire() for ancestor in written.lineage()])
    read, lineage = found["resp_3"]
    parent = None
    for ancestor in lineage:
        found[ancestor][0].parent = parent
        parent = found[ancestor][0]
    read.parent = parent
    assert read.context() == written.context()
    assert read.continuable


@settings(deadline=None)
@given(st.lists(messages, max_size=3), st.sampled_from(["completed", "failed", "cancelled"]), st.integers(0, 10**9))
def test_any_turn_comes_back(said: list[dict[str, Any]], status: str, last_seq: int) -> None:
    written = Turn("resp_1", "me", None, said, {"status": status, "output": said}, last_seq, None)
    ((read, lineage),) = read_turns([written.to_wire()]).values()
    assert (read.input, read.response, read.last_seq, lineage) == (said, written.response, last_seq, [])
    assert read.continuable == (status != "failed")


GOOD = orjson.loads(turn(1).to_wire())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"5",
        b"[]",
        b"{}",
        b"\xff",
        orjson.dumps(GOOD | {"v": 2}),
        orjson.dumps(GOOD | {"lineage": 5}),
    ]
    + [orjson.dumps({key: value for key, value in GOOD.items() if key != name}) for name in GOOD],
)
def test_a_turn_that_cannot_be_read_is_left_out_and_the_others_are_read(data: bytes) -> None:
    assert list(read_turns([turn(1).to_wire(), data, turn(2).to_wire()])) == ["resp_1", "resp_2"]
