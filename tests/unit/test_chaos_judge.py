"""The judge of the fault suite: what it must find, and what it must not."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.chaos.judge import Event, Expected, Seen, judge, words

TEXT = words("a7", 6)
PIECES = ["a7.0 a7.1", " a7.2", " a7.3 a7.4", " a7.5"]


def message(text: str, name: str = "msg_1", status: str = "completed") -> dict[str, Any]:
    return {"id": name, "type": "message", "status": status, "content": [{"type": "output_text", "text": text}]}


def answer(pieces: list[str], *items: dict[str, Any], end: str = "completed", **response: Any) -> list[Event]:
    """The events of an answer with these deltas, in order."""
    whole = items or (message("".join(pieces)),)
    head = {"id": "resp_1"}
    opened = {"type": "response.content_part.added", "item_id": whole[-1]["id"]}
    events: list[Event] = [{"type": "response.created", "response": head}, opened]
    for piece in pieces:
        events.append({"type": "response.output_text.delta", "item_id": whole[-1]["id"], "delta": piece})
    events.append({"type": f"response.{end}", "response": {**head, "output": list(whole), "error": None, **response}})
    return number(events)


def number(events: list[Event], start: int = 0) -> list[Event]:
    return [{**event, "sequence_number": start + n} for n, event in enumerate(events)]


def seen(events: list[Event], expected: Expected | None = None, step_s: float = 0.1, **more: Any) -> Seen:
    times = [n * step_s for n in range(1, len(events) + 1)]
    over_at = times[-1] if times else 0.0
    return Seen("a7", expected or Expected(TEXT), 5.0, 0.0, over_at, events, times, **more)


def kinds(of: Seen) -> list[str]:
    return sorted(finding.kind for finding in judge(of))


def test_an_answer_as_it_should_be_has_no_findings() -> None:
    assert judge(seen(answer(PIECES))) == []


@pytest.mark.parametrize("at", range(1, 6))
def test_an_event_that_was_dropped_is_lost(at: int) -> None:
    events = answer(PIECES)
    assert kinds(seen(events[:at] + events[at + 1 :])) == ["lost"]


def test_a_first_event_that_was_dropped_is_lost() -> None:
    assert kinds(seen(answer(PIECES)[1:])) == ["lost"]


@pytest.mark.parametrize("at", range(0, 7))
def test_an_event_that_came_twice_is_doubled(at: int) -> None:
    events = answer(PIECES)
    assert "doubled" in kinds(seen(events[: at + 1] + events[at:]))


def test_a_second_end_is_doubled() -> None:
    events = answer(PIECES)
    again = {**events[-1], "sequence_number": len(events)}
    assert "doubled" in kinds(seen([*events, again]))


def test_an_answer_without_an_end_hung() -> None:
    assert kinds(seen(answer(PIECES)[:-1])) == ["hung"]


def test_an_answer_of_which_nothing_came_hung() -> None:
    assert kinds(seen([])) == ["hung"]


@pytest.mark.parametrize("at", range(0, 7))
def test_a_silence_beyond_patience_is_a_hang_although_the_end_came(at: int) -> None:
    late = seen(answer(PIECES))
    late.times = [moment + (6 if n >= at else 0) for n, moment in enumerate(late.times)]
    late.over_at = late.times[-1]
    assert kinds(late) == ["hung"]


def test_a_word_lost_before_the_events_were_numbered_is_lost() -> None:
    assert kinds(seen(answer([*PIECES[:1], *PIECES[2:]]))) == ["lost"]


def test_a_word_said_twice_under_numbers_of_its_own_is_doubled() -> None:
    assert kinds(seen(answer([*PIECES[:2], *PIECES[1:]]))) == ["doubled"]


def test_a_word_of_another_answer_is_wrong() -> None:
    assert "wrong" in kinds(seen(answer([*PIECES[:1], " a8.2", *PIECES[2:]])))


def test_words_in_another_order_are_wrong() -> None:
    assert kinds(seen(answer([PIECES[0], PIECES[2], PIECES[1], PIECES[3]]))) == ["wrong"]


def test_a_stream_that_said_less_than_its_end_is_lost() -> None:
    assert kinds(seen(answer(PIECES[:-1], message(TEXT)))) == ["lost"]


def test_another_end_than_the_expected_one_is_wrong() -> None:
    failed = answer(PIECES, end="failed", error={"message": "the server failed"})
    assert kinds(seen(failed)) == ["wrong"]
    assert judge(seen(failed, Expected(TEXT, "response.failed", "server failed"))) == []
    assert kinds(seen(failed, Expected(TEXT, "response.failed", "in time"))) == ["wrong"]


def test_a_failure_that_should_keep_what_was_said_and_lost_some_is_lost() -> None:
    kept = Expected(words("a7", 5), "response.failed")
    assert judge(seen(answer(PIECES[:3], end="failed"), kept)) == []
    assert kinds(seen(answer(PIECES[:2], end="failed"), kept)) == ["lost"]


def test_an_answer_that_is_unknown_is_lost_even_if_it_is_found_later() -> None:
    assert kinds(seen(answer(PIECES), denied=1)) == ["lost"]


def test_a_refusal_is_wrong() -> None:
    assert kinds(seen([], refused=["rate_limit_exceeded"])) == ["wrong"]


def test_an_answer_may_begin_anew_at_the_next_multiple_of_a_million() -> None:
    begun = number(answer(PIECES)[:3])
    anew = number(answer(PIECES), 1_000_000)
    assert judge(seen(begun + anew)) == []


@pytest.mark.parametrize("start", [999_999, 1_000_001])
def test_it_may_not_begin_anew_at_another_number(start: int) -> None:
    assert "lost" in kinds(seen(number(answer(PIECES)[:3]) + number(answer(PIECES), start)))


def test_only_created_may_jump() -> None:
    events = answer(PIECES)
    jumped = events[:3] + number(events[3:], 1_000_000)
    assert kinds(seen(jumped)) == ["lost"]


def test_an_interrupted_item_may_stop_anywhere_but_must_be_a_beginning() -> None:
    cut, whole = message("a7.0 a7.1", "msg_0", "incomplete"), message(TEXT)
    events = answer(PIECES, cut, whole)
    opened = {"type": "response.content_part.added", "item_id": "msg_0"}
    first = {"type": "response.output_text.delta", "item_id": "msg_0", "delta": "a7.0 a7.1"}
    assert judge(seen(number([events[0], opened, first, *events[1:]]))) == []
    strange = {**cut, "content": [{"type": "output_text", "text": "a9.0"}]}
    events = answer(PIECES, strange, whole)
    first = {**first, "delta": "a9.0"}
    assert "wrong" in kinds(seen(number([events[0], opened, first, *events[1:]])))


def test_text_of_an_item_that_the_end_does_not_know_is_wrong() -> None:
    events = answer(PIECES)
    opened = {"type": "response.content_part.added", "item_id": "msg_9"}
    ghost = {"type": "response.output_text.delta", "item_id": "msg_9", "delta": "a7.0"}
    assert kinds(seen(number([*events[:-1], opened, ghost, events[-1]]))) == ["wrong"]


def test_deltas_may_be_joined_for_a_client_that_is_behind() -> None:
    events = answer(PIECES)
    joined = {**events[4], "delta": "".join(PIECES[1:3])}
    assert judge(seen([*events[:3], joined, *events[5:]])) == []


def test_joined_deltas_that_lack_a_word_are_lost() -> None:
    events = answer(PIECES)
    assert kinds(seen([*events[:3], *events[4:]])) == ["lost"]


def test_a_silence_may_be_longer_on_a_machine_that_was_slower() -> None:
    late = seen(answer(PIECES), step_s=6)
    assert [finding.kind for finding in judge(late)] == ["hung"]
    assert judge(late, slowness=1.3) == []


def test_events_of_two_responses_are_wrong() -> None:
    events = answer(PIECES)
    events[-1] = {**events[-1], "response": {**events[-1]["response"], "id": "resp_2"}}
    assert kinds(seen(events)) == ["wrong"]


def test_what_comes_after_the_end_is_wrong() -> None:
    events = answer(PIECES)
    after = {"type": "response.in_progress", "sequence_number": len(events)}
    assert "wrong" in kinds(seen([*events, after]))
