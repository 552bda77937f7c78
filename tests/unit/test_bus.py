"""What the bus and the errands hand to the link: in which order, in how many messages; only that is judged here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grizz.core.job import Delivery, Job
from grizz.errors import LeaseLost
from grizz.protocol.events import Event
from grizz.telemetry.metrics import Metrics, RedisMetrics
from grizz.transport.base import Haste, Part
from grizz.transport.redis.bus import Bus
from grizz.transport.redis.errands import Errand, Errands
from grizz.transport.redis.keys import Keys

KEYS = Keys("grizz")
LIMIT = 256 << 10


class FakeLink:
    """Records what is sent, and answers that one subscriber had it."""

    def __init__(self) -> None:
        self.is_up = True
        self.sent: list[tuple[Any, ...]] = []
        self.reply: Any = 1

    def send(self, *command: Any, then: Callable[[Any], None] | None = None) -> bool:
        if not self.is_up:
            return False
        self.sent.append(command)
        if then is not None:
            then(self.reply)
        return True

    def to(self, node: str) -> list[bytes]:
        """The messages a node was sent."""
        assert all(command[0] == "PUBLISH" for command in self.sent)
        return [command[2] for command in self.sent if command[1] == KEYS.channel(node)]


def redis_metrics() -> RedisMetrics:
    return Metrics(version="1", mode="redis", models=["m"], upstreams=["u"]).redis


def make(interval_s: float = 60.0, node: str = "aaaa") -> tuple[Bus, FakeLink]:
    link = FakeLink()
    bus = Bus(node, KEYS, link, redis_metrics(), interval_s=lambda: interval_s)  # type: ignore[arg-type]
    return bus, link


def received(messages: Sequence[bytes], *kinds: str) -> list[tuple[str, Part, list[bytes]]]:
    """What the handlers of another node are given of them."""
    bus, _ = make(node="bbbb")
    got: list[tuple[str, Part, list[bytes]]] = []
    for kind in kinds:
        bus.on(kind, lambda sender, part, lines: got.append((sender, part, list(lines))))
    for message in messages:
        bus.receive(message)
    return got


class FakeSource:
    def __init__(self, *parts: tuple[Part, list[bytes]]) -> None:
        self.parts = list(parts)
        self.asked = 0

    def collect(self) -> list[tuple[Part, Sequence[bytes]]]:
        self.asked += 1
        parts, self.parts = self.parts, []
        return parts  # type: ignore[return-value]


async def test_what_is_posted_in_one_turn_goes_out_as_one_message_in_its_order():
    bus, link = make()
    bus.post("bbbb", {"k": "a"})
    bus.post("bbbb", {"k": "b", "id": "resp_1"}, [b'{"x":1}', b'{"y":2}'])
    bus.post("bbbb", {"k": "c"}, haste=Haste.TICK)
    assert link.sent == []
    await asyncio.sleep(0.02)
    (message,) = link.to("bbbb")
    head, *lines = message.split(b"\n")
    assert orjson.loads(head) == {
        "v": 1,
        "from": "aaaa",
        "parts": [{"k": "a"}, {"k": "b", "id": "resp_1", "n": 2}, {"k": "c"}],
    }
    assert lines == [b'{"x":1}', b'{"y":2}']


async def test_each_node_is_spoken_to_on_its_own_channel():
    bus, link = make()
    bus.post("bbbb", {"k": "a"})
    bus.post("cccc", {"k": "b"})
    bus.flush()
    assert [command[1] for command in link.sent] == [KEYS.channel("bbbb"), KEYS.channel("cccc")]


async def test_a_source_is_asked_once_and_only_when_its_message_goes_out():
    bus, link = make()
    source = FakeSource(({"k": "a", "n": 1}, [b"1"]), ({"k": "a", "n": 1}, [b"2"]))
    for _ in range(3):
        bus.ready("bbbb", source)
    assert source.asked == 0
    bus.flush()
    bus.flush()
    assert source.asked == 1
    assert [lines for _, _, lines in received(link.to("bbbb"), "a")] == [[b"1"], [b"2"]]


async def test_nothing_is_published_when_a_source_has_nothing():
    bus, link = make()
    bus.ready("bbbb", FakeSource())
    bus.flush()
    assert link.sent == []


lines_of_a_part = st.lists(st.integers(1, 120_000), max_size=4)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), lines_of_a_part), max_size=12))
def test_long_mail_is_cut_between_parts_and_arrives_whole_and_in_order(mail: list[tuple[bool, list[int]]]) -> None:
    async def sent() -> list[bytes]:
        bus, link = make()
        source = FakeSource()
        for number, (collected, sizes) in enumerate(mail):
            lines = [b"x" * size for size in sizes]
            if collected:
                source.parts.append(({"k": "s", "i": number, "n": len(lines)}, lines))
                bus.ready("bbbb", source)
            else:
                bus.post("bbbb", {"k": "p", "i": number}, lines)
        await asyncio.sleep(0)
        bus.flush()
        return link.to("bbbb")

    messages = asyncio.run(sent())
    for kind in "sp":
        expected = [(n, sizes) for n, (collected, sizes) in enumerate(mail) if collected == (kind == "s")]
        got = [(part["i"], [len(line) for line in lines]) for _, part, lines in received(messages, kind)]
        assert got == expected
    for message in messages:
        parts = orjson.loads(message.partition(b"\n")[0])["parts"]
        assert parts
        assert len(message) <= LIMIT + 1000 or len(parts) == 1


async def test_a_mailbox_that_holds_much_does_not_wait_for_the_tick():
    bus, link = make()
    bus.post("bbbb", {"k": "a"}, [b"x" * (LIMIT // 2)], haste=Haste.TICK)
    await asyncio.sleep(0.02)
    assert link.sent == []
    bus.post("bbbb", {"k": "a"}, [b"x" * (LIMIT // 2)], haste=Haste.TICK)
    await asyncio.sleep(0.02)
    assert len(link.sent) == 2


async def test_a_tick_comes_an_interval_after_the_last_message_and_what_is_urgent_takes_the_rest_along():
    bus, link = make(interval_s=60.0)
    bus.post("bbbb", {"k": "a"})
    await asyncio.sleep(0.02)
    bus.post("bbbb", {"k": "later"}, haste=Haste.TICK)
    await asyncio.sleep(0.1)
    assert len(link.sent) == 1
    bus.post("bbbb", {"k": "soon"}, haste=Haste.SOON)
    await asyncio.sleep(0)
    assert len(link.sent) == 1
    await asyncio.sleep(0.1)
    assert len(link.sent) == 2
    assert [part["k"] for _, part, _ in received(link.to("bbbb"), "a", "later", "soon")] == ["a", "later", "soon"]


async def test_after_a_quiet_interval_a_tick_still_waits_a_moment_for_others():
    bus, link = make(interval_s=0.0)
    bus.post("bbbb", {"k": "a"}, haste=Haste.TICK)
    await asyncio.sleep(0.01)
    bus.post("bbbb", {"k": "b"}, haste=Haste.TICK)
    assert link.sent == []
    await asyncio.sleep(0.08)
    assert len(link.sent) == 1


async def test_while_the_link_is_down_nothing_is_taken_and_what_waited_is_forgotten():
    bus, link = make()
    bus.post("bbbb", {"k": "a"})
    link.is_up = False
    bus.clear()
    assert not bus.post("bbbb", {"k": "b"})
    assert not bus.ready("bbbb", FakeSource())
    link.is_up = True
    await asyncio.sleep(0.02)
    bus.flush()
    assert link.sent == []


async def test_watchers_hear_how_many_a_message_reached_and_nothing_of_one_that_failed():
    bus, link = make()
    heard: list[tuple[str, int]] = []
    bus.watch(lambda node, count: heard.append((node, count)))
    for reply in (1, 0, ConnectionError("down")):
        link.reply = reply
        bus.post("bbbb", {"k": "a"})
        bus.flush()
    assert heard == [("bbbb", 1), ("bbbb", 0)]


async def test_a_part_of_an_unknown_kind_is_passed_over_with_its_lines():
    bus, link = make()
    bus.post("bbbb", {"k": "new"}, [b"1", b"2"])
    bus.post("bbbb", {"k": "old"}, [b"3"])
    bus.flush()
    assert received(link.to("bbbb"), "old") == [("aaaa", {"k": "old", "n": 1}, [b"3"])]


def errors(metrics: RedisMetrics) -> float:
    return float(metrics.errors.labels("message")._value.get())


def hearing() -> tuple[Bus, RedisMetrics, list[Part]]:
    metrics, got = redis_metrics(), []
    bus = Bus("bbbb", KEYS, FakeLink(), metrics, interval_s=lambda: 1.0)  # type: ignore[arg-type]

    def handle(sender: str, part: Part, lines: Sequence[bytes]) -> None:
        if "bad" in part:
            raise KeyError("bad")
        got.append(part)

    bus.on("a", handle)
    return bus, metrics, got


def test_a_part_that_is_not_understood_is_counted_and_the_next_one_is_handled():
    bus, metrics, got = hearing()
    bus.receive(orjson.dumps({"v": 1, "from": "aaaa", "parts": [{"k": "a", "bad": 1}, {"k": "a", "i": 2}]}))
    assert (errors(metrics), got) == (1, [{"k": "a", "i": 2}])


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"junk",
        b"[]",
        b"5",
        b"{}",
        b'{"v":2,"from":"aaaa","parts":[{"k":"a"}]}',
        b'{"v":1,"parts":[{"k":"a"}]}',
        b'{"v":1,"from":"aaaa"}',
        b'{"v":1,"from":"aaaa","parts":null}',
        b'{"v":1,"from":"aaaa","parts":[5]}',
        b'{"v":1,"from":"aaaa","parts":[{"k":["a"]}]}',
        b'{"v":1,"from":"aaaa","parts":[{"k":"a","n":"x"}]}',
    ],
)
def test_a_message_that_cannot_be_read_is_counted_and_ends_nothing(payload):
    bus, metrics, got = hearing()
    bus.receive(payload)
    assert (errors(metrics), got) == (1, [])
    bus.receive(b'{"v":1,"from":"aaaa","parts":[{"k":"a"}]}')
    assert got == [{"k": "a"}]


async def test_a_node_hears_of_itself_nothing_but_its_echo():
    bus, link = make()
    got: list[str] = []
    for kind in ("a", "echo"):
        bus.on(kind, lambda sender, part, lines: got.append(part["k"]))
    bus.echo()
    bus.post("aaaa", {"k": "a"})
    bus.flush()
    for message in link.to("aaaa"):
        bus.receive(message)
    assert got == ["echo"]


# Errands


def event(seq: int, kind: str = "response.output_text.delta", text: str = "x") -> Event:
    data = b'{"type":"%s","sequence_number":%d,"item_id":"m","delta":%s}' % (kind.encode(), seq, orjson.dumps(text))
    return Event(seq, kind, data, ("part",) if kind.endswith(".delta") else None)


CREATED, END = "response.in_progress", "response.completed"


class Desk:
    """The errands of a node, a bus under them and the time of its loop."""

    def __init__(self, interval_s: float = 60.0) -> None:
        self.bus, self.link = make(interval_s)
        self.errands = Errands(self.bus, lease_s=10.0, tell_every_s=5.0)
        self.now = asyncio.get_running_loop().time()

    def begin(self, number: int = 1, home: str = "bbbb", first: int = 7) -> Errand:
        job = Job(f"resp_{number}", "me", None, 1, 0.0, next_seq=first)
        errand = Errand(Delivery(job, 1, f"token {number}"), home, b"1-1", self.now)
        self.errands.begin(errand)
        return errand

    def sent(self, *kinds: str, home: str = "bbbb") -> list[tuple[str, Part, list[bytes]]]:
        self.bus.flush()
        found = received(self.link.to(home), *(kinds or ("events",)))
        self.link.sent.clear()
        return found


async def test_each_event_travels_once_under_its_number():
    desk = Desk()
    errand = desk.begin()
    desk.errands.publish(errand, [event(7, CREATED), event(8)])
    desk.errands.publish(errand, [event(9)])
    part = {"k": "events", "id": "resp_1", "t": "token 1", "h": "bbbb", "s": 7, "n": 3}
    assert desk.sent() == [("aaaa", part, [e.data for e in errand.log])]
    assert desk.sent() == []
    desk.errands.publish(errand, [event(10)])
    assert desk.sent() == [("aaaa", part | {"s": 10, "n": 1}, [errand.log[-1].data])]
    assert errand.last_seq == 10


async def test_the_first_words_and_the_end_hurry_and_the_rest_waits_for_the_tick():
    desk = Desk()
    errand = desk.begin()
    waited = []
    desk.bus.post("bbbb", {"k": "hello"})
    await asyncio.sleep(0.02)
    for published in ([event(7, CREATED)], [event(8)], [event(9)], [event(10)], [event(11, END)]):
        desk.link.sent.clear()
        desk.errands.publish(errand, published)
        await asyncio.sleep(0.08)
        waited.append(not desk.link.sent)
    assert waited == [True, False, True, True, False]


@settings(deadline=None)
@given(st.integers(0, 12), st.integers(-5, 30))
def test_a_log_is_sent_again_from_the_number_that_is_asked_for(count: int, after: int) -> None:
    async def check() -> None:
        desk = Desk()
        errand = desk.begin()
        if count:
            desk.errands.publish(errand, [event(7 + n) for n in range(count)])
        desk.sent()
        assert desk.errands.resend("token 1", after)
        lines = [line for _, _, lines in desk.sent() for line in lines]
        assert lines == [e.data for e in errand.log if e.seq > after]

    asyncio.run(check())


async def test_a_long_log_is_sent_again_in_messages_of_bounded_size():
    desk = Desk()
    errand = desk.begin()
    for n in range(100):
        desk.errands.publish(errand, [event(7 + n, text="x" * 10_000)])
    desk.sent()
    desk.errands.resend("token 1", -1)
    desk.bus.flush()
    messages = desk.link.to("bbbb")
    assert max(map(len, messages)) <= LIMIT + 20_000
    got = received(messages, "events")
    assert [line for _, _, lines in got for line in lines] == [e.data for e in errand.log]
    expected = 7
    for _, part, lines in got:
        assert (part["s"], part["n"]) == (expected, len(lines))
        expected += len(lines)


async def test_nothing_is_sent_again_of_what_is_unknown_or_whose_worker_is_silent():
    desk = Desk()
    errand = desk.begin()
    assert not desk.errands.resend("other", 0)
    errand.alive_at = desk.now - 11.0
    assert not desk.errands.resend("token 1", 0)
    errand.alive_at = desk.now
    desk.errands.drop(errand)
    assert not desk.errands.resend("token 1", 0)


async def test_an_ended_errand_is_not_held_any_more_but_its_log_can_still_be_had_for_a_minute_once_its_end_was_heard():
    desk = Desk()
    errand = desk.begin()
    desk.errands.publish(errand, [event(7, END)])
    desk.errands.settle(errand, desk.now)
    with pytest.raises(LeaseLost):
        desk.errands.held(errand.delivery)
    assert len(desk.errands) == 0
    desk.sent()
    assert desk.errands.resend("token 1", 6)
    assert len(desk.sent()) == 1
    desk.errands.beat(desk.now + 61.0)
    assert desk.errands.known("token 1") is errand
    assert desk.errands.heard_by("bbbb", desk.now) == [errand]
    desk.errands.beat(desk.now + 59.0)
    assert desk.errands.known("token 1") is errand
    desk.errands.beat(desk.now + 61.0)
    assert desk.errands.known("token 1") is None


async def test_a_home_hears_of_all_its_errands_in_one_part_and_only_when_it_has_not_for_a_while():
    desk = Desk()
    errands = [desk.begin(1), desk.begin(2), desk.begin(3, home="cccc")]
    desk.errands.beat(desk.now + 4.0)
    assert desk.link.sent == []
    for errand in errands:
        errand.alive_at = desk.now + 5.0
    desk.errands.beat(desk.now + 5.0)
    desk.bus.flush()
    rows = [["resp_1", "token 1", 6], ["resp_2", "token 2", 6]]
    assert received(desk.link.to("bbbb"), "beat") == [("aaaa", {"k": "beat", "h": "bbbb", "jobs": rows}, [])]
    third = {"k": "beat", "h": "cccc", "jobs": [["resp_3", "token 3", 6]]}
    assert received(desk.link.to("cccc"), "beat") == [("aaaa", third, [])]
    desk.link.sent.clear()
    desk.errands.beat(desk.now + 9.0)
    assert desk.sent("beat") == []


async def test_nobody_vouches_for_a_worker_that_is_silent():
    desk = Desk()
    desk.begin()
    desk.errands.beat(desk.now + 11.0)
    desk.errands.beat(desk.now + 11.0, everybody=True)
    assert desk.sent("beat") == []


async def test_when_everybody_is_told_so_is_who_missed_the_end():
    desk = Desk()
    errand = desk.begin()
    desk.errands.publish(errand, [event(7), event(8, END)])
    desk.errands.settle(errand, desk.now)
    desk.sent()
    desk.errands.beat(desk.now + 20.0, everybody=True)
    assert desk.sent("beat") == [("aaaa", {"k": "beat", "h": "bbbb", "jobs": [["resp_1", "token 1", 8]]}, [])]
