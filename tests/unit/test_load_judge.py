"""How `load` judges an answer, and what it sums up."""

from __future__ import annotations

from typing import Any

import pytest

from grizz.load.judge import DELTA, RESTART_STEP, Heard
from grizz.load.tally import Tally, shown

Event = dict[str, Any]


def delta(number: int, text: str, index: int = 0) -> Event:
    return {"type": DELTA, "sequence_number": number, "output_index": index, "content_index": 0, "delta": text}


def created(number: int = 0) -> Event:
    return {"type": "response.created", "sequence_number": number, "response": {"id": "resp_1"}}


def end(number: int, *texts: str, status: str = "completed", code: str = "") -> Event:
    output = [{"type": "message", "content": [{"type": "output_text", "text": text}]} for text in texts]
    response = {"id": "resp_1", "status": status, "output": output, "usage": {"output_tokens": 7}}
    return {
        "type": f"response.{status}",
        "sequence_number": number,
        "response": response | {"error": {"code": code} if code else None},
    }


def heard(*events: Event) -> Heard:
    found = Heard()
    for at, event in enumerate(events):
        assert found.take(event, float(at)) == (event is events[-1])
    return found


def test_an_answer_that_came_whole_has_no_fault() -> None:
    found = heard(created(), delta(1, "one "), delta(2, "two"), end(3, "one two"))
    assert (found.fault, found.outcome, found.tokens, found.deltas) == ("", "completed", 7, 2)
    assert (found.first_at, found.gaps) == (1.0, [1.0])


@pytest.mark.parametrize(
    ("fault", "events"),
    [
        ("lost", [created(), delta(1, "one "), end(3, "one two")]),
        ("lost", [created(), delta(2, "two"), end(3, "one two")]),
        ("lost", [delta(1, "one"), end(3, "one")]),
        ("lost", [created(), delta(1, "one "), delta(2, "tow"), end(3, "one two")]),
        ("doubled", [created(), delta(1, "one"), delta(1, "one"), end(2, "one")]),
        ("doubled", [created(), delta(1, "one"), created(), end(2, "one")]),
    ],
)
def test_what_is_missing_other_or_twice_is_found(fault: str, events: list[Event]) -> None:
    assert heard(*events).fault == fault


def test_deltas_that_came_as_one_are_no_loss() -> None:
    assert heard(created(), delta(4, "one two three four"), end(5, "one two three four")).fault == ""


def test_an_answer_that_began_anew_counts_from_there() -> None:
    again = created(RESTART_STEP)
    found = heard(created(), delta(1, "half"), again, delta(RESTART_STEP + 1, "whole"), end(RESTART_STEP + 2, "whole"))
    assert (found.fault, found.anew) == ("", 1)


def test_an_interrupted_item_and_the_one_after_it_are_compared_each_for_itself() -> None:
    assert heard(created(), delta(1, "ha", 0), delta(2, "whole", 1), end(3, "ha", "whole")).fault == ""
    assert heard(created(), delta(1, "ha", 0), delta(2, "whole", 1), end(3, "whole", "ha")).fault == "lost"


def test_an_answer_that_the_model_failed_is_no_fault_of_the_way() -> None:
    found = heard(created(), end(1, status="failed", code="server_error"))
    assert (found.fault, found.outcome) == ("", "failed: server_error")


def test_the_summary_says_what_was_not_whole_and_names_an_example() -> None:
    tally = Tally()
    tally.end(heard(created(), delta(1, "one"), end(2, "one")), 0.0, 2.0)
    tally.end(heard(created(), end(1, "one")), 0.0, 2.0)
    facts = tally.facts(4.0, 0.95)
    assert (facts["answers"], facts["lost"], facts["tokens"], facts["tokens_per_s"]) == (2, 1, 14, 3.5)
    text = shown(facts)
    assert "lost 1, doubled 0, hung 0: NOT every answer came whole" in text
    assert "lost, for one: resp_1" in text
    assert "asking took 95% of a core" in text


def test_a_run_without_an_answer_does_not_say_that_all_is_well() -> None:
    assert "no answer ended" in shown(Tally().facts(1.0, 0.1))


def test_of_an_answer_asked_for_again_the_end_may_come_alone_and_is_all_of_it() -> None:
    found = Heard()
    assert not found.take(created(), 0.0)
    assert not found.take(delta(1, "one "), 1.0)
    found.resumed = True
    assert found.take(end(60, "one two"), 2.0)
    assert found.fault == ""


def test_joined_deltas_of_reasoning_are_no_loss_and_an_answer_may_be_first_seen_when_it_began_anew() -> None:
    reasoning = {"type": "response.reasoning_text.delta", "sequence_number": RESTART_STEP + 9, "delta": "hm"}
    assert heard(created(RESTART_STEP), reasoning, end(RESTART_STEP + 10)).fault == ""


def test_what_is_refused_for_good_is_told_and_is_no_answer() -> None:
    tally = Tally()
    tally.denied["invalid_value"] += 2
    text = shown(tally.facts(1.0, 0.1))
    assert "refused for good: invalid_value 2" in text
    assert "no answer ended" in text


def test_a_run_in_which_the_model_failed_everything_does_not_sound_well() -> None:
    tally = Tally()
    tally.end(heard(created(), end(1, status="failed", code="server_error")), 0.0, 1.0)
    assert "EVERY answer failed at the model" in shown(tally.facts(1.0, 0.1))
