from __future__ import annotations

import gc
import itertools

import pytest

from grizz.engine.reply import EVENT_OVERHEAD_BYTES, Cursor, Reply
from grizz.protocol import requests
from grizz.protocol.compose import Composer
from grizz.protocol.events import Event, response_object

REQUEST = requests.parse({"input": "x"}, "m")


def reply() -> Reply:
    response = response_object("resp_1", 1, REQUEST)
    return Reply(response, "me", REQUEST, parent=None, scope=None, given=(), size=100, now=0.0)


def composer(first: int = 0) -> Composer:
    ids = itertools.count()
    made = Composer(response_object("resp_1", 1, REQUEST), new_id=lambda p: f"{p}_{next(ids)}", next_seq=first)
    made.lifecycle("created", "in_progress")
    made.lifecycle("in_progress", "in_progress")
    return made


def begun(first: int = 0, text: str = "half of it") -> list[Event]:
    made = composer(first)
    made.text(text)
    return made.take()


def whole(first: int = 0, text: str = "all of it") -> list[Event]:
    made = composer(first)
    made.text(text)
    made.finish("completed", completed_at=2)
    return made.take()


def numbers(events: list[Event]) -> list[int]:
    return [event.seq for event in events]


async def test_every_reader_goes_on_with_the_first_event_of_the_new_attempt():
    log, again, made, woken = begun(), begun(1_000_000), reply(), []
    made.extend(log, 1.0)
    cursors = [Cursor(made, after, lambda after=after: woken.append(after)) for after in (-1, 2, log[-1].seq)]
    woken.clear()
    made.restart(again, 2, 2.0)
    assert woken == [-1, 2, log[-1].seq]
    for cursor in cursors:
        assert cursor.behind
        assert numbers(cursor.read()) == numbers(again)
        assert not cursor.behind


async def test_a_reader_that_comes_back_with_a_number_of_the_attempt_before_gets_all_of_the_new_one():
    made, again = reply(), begun(1_000_000)
    made.extend(begun(), 1.0)
    made.restart(again, 2, 2.0)
    assert numbers(made.after(3, 100)) == numbers(again)
    assert numbers(made.after(again[1].seq, 100)) == numbers(again[2:])
    assert made.last_seq == again[-1].seq


async def test_a_restart_counts_the_bytes_of_the_new_log_alone():
    made, again = reply(), begun(1_000_000, "x" * 50)
    made.extend(begun(text="y" * 5000), 1.0)
    made.restart(again, 2, 2.0)
    assert made.bytes == 100 + sum(len(event.data) + EVENT_OVERHEAD_BYTES for event in again)
    assert made.attempt == 2


async def test_after_a_restart_nothing_of_the_attempt_before_is_in_the_snapshot():
    made = reply()
    made.extend(begun(text="before"), 1.0)
    made.restart(begun(1_000_000, "anew"), 2, 2.0)
    (item,) = made.snapshot(str)["output"]
    assert item["content"][0]["text"] == "anew"


async def test_a_restarted_reply_goes_on_and_ends_as_any_other():
    made, again = reply(), whole(1_000_000)
    made.extend(begun(), 1.0)
    made.restart(again[:3], 2, 2.0)
    made.extend(begun()[-1:], 3.0)  # a straggler of the attempt before
    assert made.last_seq == again[2].seq
    made.extend(again[3:], 3.0)
    assert (made.status, made.ended_at, made.last_seq) == ("completed", 3.0, again[-1].seq)
    assert numbers(made.after(-1, 100)) == numbers(again)


async def test_a_reply_without_events_can_begin_under_any_number():
    made, again = reply(), begun(2_000_000)
    made.restart(again, 3, 1.0)
    assert (made.attempt, made.last_seq) == (3, again[-1].seq)
    assert numbers(made.after(-1, 100)) == numbers(again)


async def test_a_revoked_reply_wakes_its_readers_and_keeps_what_it_has():
    made, woken = reply(), []
    made.extend(begun(), 1.0)
    for name in "ab":
        Cursor(made, made.last_seq, lambda name=name: woken.append(name))
    assert not made.revoked
    assert woken == []
    made.revoke()
    assert made.revoked
    assert woken == ["a", "b"]
    assert not made.ended


@pytest.mark.parametrize("step", [1, 7, 64, 1000])
@pytest.mark.parametrize("ended", [False, True])
async def test_what_is_read_is_the_same_whether_it_is_still_at_hand_or_was_put_away(step: int, ended: bool) -> None:
    made, source, log = reply(), composer(), []
    for number in range(200):
        source.text(f"w{number} ")
        source.flush()
        log += source.take()
        made.extend(log[made.last_seq + 1 :], 1.0)
    if ended:
        source.finish("completed", completed_at=2)
        log += source.take()
        made.extend(log[made.last_seq + 1 :], 2.0)
    for after in (-1, 0, 99, made.last_seq - 64, made.last_seq - 1, made.last_seq, made.last_seq + 1):
        read, position = [], after
        while events := made.after(position, step):
            assert len(events) <= step
            read += events
            position = events[-1].seq
        assert [(e.seq, e.type, e.data) for e in read] == [(e.seq, e.type, e.data) for e in log[after + 1 :]]


async def test_a_long_reply_gives_the_garbage_collector_next_to_nothing_to_look_at() -> None:
    made, source = reply(), composer()
    gc.collect()
    before = len(gc.get_objects())
    for number in range(5_000):
        source.text(f"w{number} ")
        source.flush()
        made.extend(source.take(), 1.0)
    del source
    gc.collect()
    assert made.last_seq > 5_000
    assert len(gc.get_objects()) - before < 200
