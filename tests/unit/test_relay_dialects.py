"""How particular servers speak the Responses API, each with its own omissions, and how their failures are read."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
import pytest

from grizz.errors import UpstreamError
from grizz.protocol import requests
from grizz.protocol.compose import Composer
from grizz.protocol.events import response_object
from grizz.protocol.relay import Relay
from tests import grammar, relayed

Event = dict[str, Any]


def composer(**options: Any) -> Composer:
    ids = itertools.count()
    response = response_object("resp_ours", 1, requests.parse({"input": "x"}, "m"), "in_progress")
    made = Composer(response, new_id=lambda prefix: f"{prefix}_new{next(ids)}", **options)
    made.lifecycle("created", "in_progress")
    made.lifecycle("in_progress", "in_progress")
    return made


def heard(*events: Event, sealed: bool = False, **options: Any) -> list[Event]:
    """What comes of a whole answer."""
    made = composer(**options)
    ids = itertools.count()
    relay = Relay(made, new_id=lambda prefix: f"{prefix}_own{next(ids)}", sealed=sealed)
    for event in events:
        relay.feed(orjson.dumps(event))
    made.finish(completed_at=2, **relay.end())
    told = [orjson.loads(event.data) for event in made.take()]
    grammar.check(told)
    return told


def output(told: list[Event]) -> list[Event]:
    items: list[Event] = told[-1]["response"]["output"]
    return items


def without(events: list[Event], *names: str) -> list[Event]:
    return [{key: value for key, value in event.items() if key not in names} for event in events]


def test_a_server_that_tells_no_places_is_followed_by_ids() -> None:
    """As llama.cpp does."""
    told = heard(
        *without(
            relayed.answer(
                relayed.reasoning(0, "hm", form="text"), relayed.message(1, "a", "b"), relayed.call(2, "{}")
            ),
            "output_index",
            "content_index",
            "sequence_number",
        )
    )
    assert [item["type"] for item in output(told)] == ["reasoning", "message", "function_call"]
    assert output(told)[1]["content"][0]["text"] == "ab"
    assert output(told)[2]["arguments"] == "{}"


def test_a_server_that_tells_neither_places_nor_ids_of_deltas_is_followed_by_what_is_open() -> None:
    events = relayed.answer(relayed.message(0, "a", "b"), relayed.message(1, "c"))
    told = heard(*without(events, "output_index", "content_index", "item_id"))
    assert [item["content"][0]["text"] for item in output(told)] == ["ab", "c"]


def test_a_server_whose_ids_change_is_followed_by_places() -> None:
    """As some gateways do, which seal ids anew in each event; and vLLM at the end."""
    fresh = itertools.count()
    events = relayed.answer(relayed.message(0, "a", "b"), relayed.call(1, "{}"))
    for event in events:
        if "item_id" in event:
            event["item_id"] = f"sealed_{next(fresh)}"
        if "item" in event:
            event["item"] = {**event["item"], "id": f"sealed_{next(fresh)}"}
    last = events[-1]["response"]
    last["output"] = [{**item, "id": f"other_{item['id']}"} for item in last["output"]]
    told = heard(*events)
    assert [item["type"] for item in output(told)] == ["message", "function_call"]
    assert output(told)[0]["content"][0]["text"] == "ab"


def test_what_only_the_end_tells_is_told_though_all_ids_are_others() -> None:
    events = relayed.answer(relayed.message(0, "a"))
    thought = {"id": "rs_x", "type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}
    last = events[-1]["response"]
    last["output"] = [thought, {**last["output"][0], "id": "other"}]
    assert [item["type"] for item in output(heard(*events))] == ["message", "reasoning"]


def test_parts_of_reasoning_may_have_a_name_of_their_own() -> None:
    """As in vLLM."""
    events = relayed.answer(relayed.reasoning(0, "h", "m", form="text"))
    for event in events:
        event["type"] = event["type"].replace("content_part", "reasoning_part")
    told = heard(*events, raw_reasoning=True)
    assert output(told)[0]["content"] == [{"type": "reasoning_text", "text": "hm"}]
    assert not [event for event in told if "reasoning_part" in event["type"]]


def test_a_whole_item_without_any_event_before_it_is_told_from_the_start() -> None:
    told = heard(*relayed.answer([relayed.message(0, "a", "b")[-1]], told=False))
    text = "response.output_text"
    assert [event["type"] for event in told if event["type"].startswith(text)] == [f"{text}.delta", f"{text}.done"]


def test_an_answer_may_stand_in_the_last_event_alone() -> None:
    whole = relayed.answer(relayed.reasoning(0, "hm"), relayed.message(1, "a"), relayed.call(2, "{}"))
    assert [item["type"] for item in output(heard(whole[-1]))] == ["reasoning", "message", "function_call"]


def test_further_fields_and_log_probabilities_of_deltas_are_kept() -> None:
    events = relayed.answer(relayed.message(0, "a", "b", "c"))
    deltas = [event for event in events if event["type"].endswith("text.delta")]
    deltas[1] |= {"vendor": {"x": 1}, "obfuscation": "zzz"}
    deltas[2]["logprobs"] = [{"token": "c", "logprob": -1.0, "bytes": [99], "top_logprobs": []}]
    told = [event for event in heard(*events) if event["type"].endswith("text.delta")]
    assert [event["delta"] for event in told] == ["a", "b", "c"]
    assert told[1]["vendor"] == {"x": 1}
    assert "obfuscation" not in told[1]
    assert told[2]["logprobs"][0]["token"] == "c"


def test_parts_of_unknown_kinds_come_through() -> None:
    place = {"item_id": "msg_0", "output_index": 0, "content_index": 0}
    sound = {"type": "output_audio", "data": "AAAA"}
    events = relayed.message(0)
    whole = {**events[-1]["item"], "content": [sound]}
    told = heard(
        *relayed.answer(
            [
                events[0],
                {"type": "response.content_part.added", **place, "part": {"type": "output_audio", "data": ""}},
                {"type": "response.content_part.done", **place, "part": sound},
                relayed.done(0, whole),
            ]
        )
    )
    assert output(told)[0]["content"] == [sound]


def ids(*events: Event, **options: Any) -> list[str]:
    return [item["id"] for item in output(heard(*events, **options))]


def test_ids_of_items_are_ours_and_begin_as_theirs() -> None:
    told = heard(*relayed.answer(relayed.message(0, "a", item_id="same"), relayed.message(1, "b", item_id="same")))
    assert [item["content"][0]["text"] for item in output(told)] == ["a", "b"]
    assert [item["id"] for item in output(told)] == ["msg_own0", "msg_own1"]
    named = {event["item_id"] for event in told if "item_id" in event}
    assert named == {"msg_own0", "msg_own1"}
    assert ids(*relayed.answer(relayed.hosted(0), relayed.call(1, "{}"))) == ["ws_own0", "fc_own1"]


def test_what_may_be_sealed_under_its_id_keeps_it_unless_it_is_used_twice() -> None:
    thought = relayed.answer(relayed.reasoning(0, "hm"))
    assert ids(*thought) == ["rs_0"]  # it has `encrypted_content` from the first
    for event in thought:
        if event["type"] == "response.output_item.added":
            event["item"] = {key: value for key, value in event["item"].items() if key != "encrypted_content"}
    assert ids(*thought) == ["rs_own0"]
    assert ids(*thought, sealed=True) == ["rs_0"]
    again = relayed.answer(relayed.reasoning(0, "hm"), relayed.reasoning(0, "hm"))
    assert ids(*again) == ["rs_0", "rs_own0"]
    compacted = {"id": "cmp_theirs", "type": "compaction", "encrypted_content": "gAAA"}
    assert ids(*relayed.answer([relayed.done(0, compacted)])) == ["cmp_theirs"]


def test_of_a_response_in_an_unknown_event_whose_it_is_is_ours_to_say() -> None:
    told = heard(*relayed.answer(relayed.hosted(0)))
    news = next(event for event in told if event["type"] == "vendor:news")
    assert (news["response"]["id"], news["response_id"], news["response"]["model"]) == ("resp_ours", "resp_ours", "m")


def test_events_about_our_own_connection_are_not_passed_on() -> None:
    other = [{"type": kind} for kind in ("keepalive", "grizz:attached", 'a"b', "response.queued")]
    told = heard(*relayed.answer(other, relayed.message(0, "a")))
    assert {event["type"].partition(".")[0] for event in told} == {"response"}
    assert "response.queued" not in [event["type"] for event in told]


@pytest.mark.parametrize(
    ("said", "code", "result", "retryable"),
    [
        ({"type": "error", "code": "rate_limit_exceeded", "message": "slow"}, "rate_limit_exceeded", "429", True),
        ({"type": "error", "error": {"code": "insufficient_quota"}}, "insufficient_quota", "429", False),
        ({"type": "error", "error": {"type": "server_error", "code": None}}, "server_error", "5xx", True),
        ({"error": {"code": 503, "message": "busy"}}, "server_error", "5xx", True),
        ({"error": {"code": 400, "message": "bad"}}, "invalid_prompt", "400", False),
        ({"error": "oh"}, "server_error", "5xx", True),
        (
            {"type": "response.failed", "response": {"error": {"code": "context_length_exceeded", "message": "long"}}},
            "context_length_exceeded",
            "400",
            False,
        ),
        ({"type": "response.failed", "response": {"error": {"code": "bio_policy"}}}, "invalid_prompt", "400", False),
        (
            {"type": "response.failed", "response": {"error": {"code": "image_too_large"}}},
            "invalid_prompt",
            "400",
            False,
        ),
        ({"type": "response.failed"}, "server_error", "5xx", True),
        ({"type": "response.incomplete", "response": {"status": "cancelled"}}, "server_error", "5xx", True),
        ({"type": 5}, "server_error", "truncated", False),
        ({"no": "type"}, "server_error", "truncated", False),
    ],
)
def test_a_failure_is_what_its_code_says(said: Event, code: str, result: str, retryable: bool) -> None:
    made = composer()
    relay = Relay(made, new_id=lambda prefix: prefix)
    for event in relayed.answer(relayed.message(0, "a"))[:4]:
        relay.feed(orjson.dumps(event))
    with pytest.raises(UpstreamError) as failed:
        relay.feed(orjson.dumps(said))
    assert (str(failed.value.code), failed.value.result, failed.value.retryable) == (code, result, retryable)
    assert not made.produced


def test_an_end_that_does_not_come_is_a_failure() -> None:
    relay = Relay(composer(), new_id=lambda prefix: prefix)
    relay.feed(b"[DONE]")
    with pytest.raises(UpstreamError, match="ended its stream early"):
        relay.end()


def test_announcements_without_end_do_not_wait_for_ever() -> None:
    made = composer()
    made.take()
    relay = Relay(made, new_id=lambda prefix: prefix)
    for at in range(100):
        relay.feed(orjson.dumps(relayed.message(at)[0]))
    assert len(made.output) == 100


def test_the_settings_in_force_there_are_shown_where_they_are_of_the_right_kind() -> None:
    events = relayed.answer(relayed.message(0, "a"))
    events[-1]["response"] |= {"temperature": 0.3, "top_p": None, "truncation": 5, "billing": {"payer": "x"}}
    events[-1]["response"] |= {"metadata": {"their": "s"}, "conversation": {"id": "c"}, "previous_response_id": "p"}
    shown = heard(*events)[-1]["response"]
    assert (shown["temperature"], shown["top_p"], shown["truncation"]) == (0.3, 1.0, "disabled")
    assert shown["billing"] == {"payer": "x"}
    assert (shown["metadata"], shown["previous_response_id"]) == ({}, None)
    assert "conversation" not in shown


def test_an_answer_that_was_cut_is_incomplete_though_its_last_event_is_called_completed() -> None:
    """As in vLLM."""
    events = relayed.answer(relayed.message(0, "a"))
    events[-1]["response"] |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    ended = heard(*events)[-1]["response"]
    assert (ended["status"], ended["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})


def test_an_answer_that_failed_has_failed_though_its_last_event_is_called_completed() -> None:
    events = relayed.answer(relayed.message(0, "a"))
    events[-1]["response"] |= {"status": "failed", "error": {"code": "rate_limit_exceeded", "message": "slow down"}}
    with pytest.raises(UpstreamError, match="slow down") as caught:
        heard(*events)
    assert caught.value.code.value == "rate_limit_exceeded"


def test_deltas_of_parts_and_an_end_called_done_are_understood() -> None:
    """As OpenRouter describes its own."""
    events = relayed.answer(relayed.message(0, "a", "b"), told=False)
    kept = [event for event in events if event["type"] not in ("response.output_text.done", "response.in_progress")]
    names = {"response.output_text.delta": "response.content_part.delta", "response.completed": "response.done"}
    told = heard(*({**event, "type": names.get(event["type"], event["type"])} for event in kept))
    assert told[-1]["type"] == "response.completed"
    assert output(told)[0]["content"][0]["text"] == "ab"
    assert told[-1]["response"]["usage"]["total_tokens"] == 8


@pytest.mark.parametrize("status", ["completed", "incomplete"])
def test_a_response_alone_is_the_answer_of_a_server_that_does_not_stream(status: str) -> None:
    response = relayed.answer(relayed.message(0, "a", "b"), relayed.call(1, "{}"))[-1]["response"]
    told = heard({**response, "status": status, "incomplete_details": {"reason": "content_filter"}})
    assert told[-1]["type"] == f"response.{status}"
    assert [item["type"] for item in output(told)] == ["message", "function_call"]


def test_a_response_alone_that_failed_says_why() -> None:
    response = {**relayed.R, "status": "failed", "error": {"code": "model_not_found", "message": "no such model"}}
    with pytest.raises(UpstreamError, match="no such model") as caught:
        heard(response)
    assert caught.value.code.value == "model_not_found"


def test_a_response_alone_that_still_runs_is_no_answer() -> None:
    with pytest.raises(UpstreamError, match="without a type"):
        heard(relayed.R)


def test_half_a_letter_does_not_end_an_answer() -> None:
    made = composer()
    relay = Relay(made, new_id=lambda prefix: prefix)
    for event in relayed.answer(relayed.message(0, "X")):
        relay.feed(orjson.dumps(event).replace(b'"X"', rb'"\ud83d"'))
    made.finish(completed_at=2, **relay.end())
    assert orjson.loads(made.take()[-1].data)["response"]["output"][0]["content"][0]["text"] == "\ufffd"


MESSAGE = {"id": "m", "type": "message", "role": "assistant", "status": "completed"}
THOUGHT = {"id": "r", "type": "reasoning", "summary": []}
CALL = {"id": "f", "type": "function_call", "call_id": "c", "name": "f"}


@pytest.mark.parametrize(
    ("item", "home", "said"),
    [
        ({**MESSAGE, "content": "hi"}, "content", ("output_text", "hi")),
        ({**MESSAGE, "content": [{"type": "text", "text": "hi"}]}, "content", ("output_text", "hi")),
        ({**THOUGHT, "summary": "hm"}, "summary", ("summary_text", "hm")),
        ({**THOUGHT, "content": "hm"}, "summary", ("summary_text", "hm")),
        ({**THOUGHT, "content": [{"type": "text", "text": "hm"}]}, "summary", ("summary_text", "hm")),
    ],
)
@pytest.mark.parametrize("told", [False, True], ids=["as an item", "in the end"])
def test_texts_of_items_become_parts_of_the_usual_kinds(
    item: Event, home: str, said: tuple[str, str], told: bool
) -> None:
    done = relayed.done(0, item)
    last = relayed.answer([done])[-1] if told else relayed.answer([done], told=False)[-1]
    (found,) = output(heard(last) if told else heard(done, last))
    assert [(part["type"], part["text"]) for part in found[home]] == [said]


def test_an_announced_part_that_is_called_text_is_one() -> None:
    place = {"item_id": "m", "output_index": 0, "content_index": 0}
    told = heard(
        relayed.added(0, {**MESSAGE, "content": []}),
        {"type": "response.content_part.added", **place, "part": {"type": "text", "text": ""}},
        {"type": "response.output_text.delta", **place, "delta": None},
        {"type": "response.output_text.delta", **place, "delta": "hi"},
        {"type": "response.content_part.done", **place, "part": {"type": "text", "text": "hi"}},
        relayed.answer()[-1],
    )
    (part,) = output(told)[0]["content"]
    assert (part["type"], part["text"], part["annotations"]) == ("output_text", "hi", [])


@pytest.mark.parametrize("announced", [False, True])
def test_arguments_that_are_no_text_become_one(announced: bool) -> None:
    begun = [relayed.added(0, {**CALL, "arguments": ""})] if announced else []
    told = heard(*begun, relayed.done(0, {**CALL, "arguments": {"a": 1}}), relayed.answer()[-1])
    assert output(told)[0]["arguments"] == '{"a":1}'


def test_a_call_that_only_its_arguments_announce_is_known_by_its_name() -> None:
    place = {"item_id": "f", "output_index": 0}
    told = heard(
        {"type": "response.function_call_arguments.delta", **place, "delta": "{"},
        {"type": "response.function_call_arguments.done", **place, "name": "f", "arguments": "{}"},
        relayed.answer()[-1],
    )
    (call,) = output(told)
    assert (call["name"], call["arguments"], call["status"]) == ("f", "{}", "completed")
    assert call["call_id"]


@pytest.mark.parametrize(
    "usage",
    [
        {"input_tokens": 3.0, "output_tokens": 4.0},
        {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
    ],
)
def test_usage_in_other_words_and_numbers_is_counted(usage: Event) -> None:
    last = relayed.answer(relayed.message(0, "a"))[-1]
    last["response"]["usage"] = usage
    told = heard(last)[-1]["response"]["usage"]
    assert [told[key] for key in ("input_tokens", "output_tokens", "total_tokens")] == [3, 4, 7]
