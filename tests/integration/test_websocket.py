"""Conversations over one WebSocket, on the real server with the demo model behind it."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from tests.conftest import Grizz
from tests.player import Player, numbers, sequence, text_of


@pytest.fixture
async def player(grizz: Grizz, http: aiohttp.ClientSession) -> Player:
    return await Player.connect(http, grizz.ws_url)


async def test_an_answer_arrives_complete_in_order_and_once(player: Player) -> None:
    events = await player.ask("[[words:200]]")
    assert text_of(events) == numbers(200)
    assert sequence(events) == list(range(len(events)))
    assert events[0]["type"] == "response.created"
    assert events[-1]["type"] == "response.completed"
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == numbers(200)


async def test_the_model_may_be_left_out(player: Player) -> None:
    events = await player.ask("hello")
    assert events[-1]["response"]["model"] == "grizz-demo"


async def test_events_of_a_named_lane_carry_its_name_and_those_of_the_default_lane_none(player: Player) -> None:
    named = await player.ask("hello", stream_id="tab.1-a_b")
    assert {event["stream_id"] for event in named} == {"tab.1-a_b"}
    plain = await player.ask("hello")
    assert all("stream_id" not in event for event in plain)


async def test_creates_on_one_lane_run_one_after_the_other(player: Player) -> None:
    for n in (1, 2, 3):
        await player.create(f"[[echo:answer {n}]]")
    answers = [text_of(await player.answer()) for _ in range(3)]
    assert answers == ["answer 1", "answer 2", "answer 3"]


async def test_lanes_run_at_the_same_time(player: Player) -> None:
    await player.create("[[words:20]] [[stall:5]]", stream_id="slow")
    await player.until("response.output_text.delta", lane="slow")
    fast = await player.ask("[[words:20]]", stream_id="fast")
    assert text_of(fast) == numbers(20)


async def test_more_than_sixteen_responses_wait_and_all_get_their_answer(player: Player) -> None:
    for n in range(32):
        await player.create(f"[[echo:{n}]] [[first:0.05]]", stream_id=f"lane{n}")
    answers: dict[str, str] = {}
    while len(answers) < 32:
        event = await player.next()
        if event["type"] == "response.completed":
            answers[event["stream_id"]] = event["response"]["output"][0]["content"][0]["text"]
    assert answers == {f"lane{n}": str(n) for n in range(32)}


async def test_the_thirty_third_named_lane_is_refused_and_the_connection_lives_on(player: Player) -> None:
    for n in range(32):
        await player.create("[[echo:x]]", stream_id=f"lane{n}")
    await player.create("[[echo:x]]", stream_id="one-too-many")
    error = (await player.until("error", lane="one-too-many"))[-1]
    assert (error["status"], error["error"]["code"]) == (400, "websocket_stream_limit_reached")
    assert text_of(await player.ask("[[echo:still here]]")) == "still here"


@pytest.mark.parametrize("name", ["", "a b", "ü", "x" * 257, 7])
async def test_a_bad_lane_name_is_refused_without_being_echoed(player: Player, name: object) -> None:
    await player.create("hello", stream_id=name)
    error = await player.next()
    assert (error["type"], error["status"], error["error"]["code"]) == ("error", 400, "invalid_stream_id")
    assert "stream_id" not in error


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("{", "invalid_json"),
        ("[1]", "invalid_json"),
        ('"text"', "invalid_json"),
        ("\x00", "invalid_json"),
        ("{}", "unknown_event_type"),
        ('{"type":"response.explode"}', "unknown_event_type"),
        ('{"type":["response.create"]}', "unknown_event_type"),
        ('{"type":"response.create"}', "missing_required_parameter"),
        ('{"type":"response.create","input":7}', "invalid_type"),
        ('{"type":"response.create","input":[{"role":"robot","content":""}]}', "invalid_value"),
        ('{"type":"response.create","input":"x","tools":[{"type":"function"}]}', "missing_required_parameter"),
        ('{"type":"response.create","input":"x","temperature":9}', "invalid_value"),
        ('{"type":"response.create","input":"x","previous_response_id":"resp_nope"}', "previous_response_not_found"),
        (
            '{"type":"response.create","input":[{"type":"function_call_output","call_id":"c","output":"x"}]}',
            "no_tool_call_found",
        ),
        ('{"type":"grizz:presence","state":"asleep"}', "invalid_value"),
        ('{"type":"grizz:attach"}', "missing_required_parameter"),
        ('{"type":"grizz:attach","response_id":"resp_nope","starting_after":"x"}', "invalid_value"),
    ],
)
async def test_a_bad_frame_gets_a_clear_error_and_the_connection_lives_on(
    player: Player, frame: str, code: str
) -> None:
    await player.ws.send_str(frame)
    error = await player.next()
    assert error["type"] == "error"
    assert error["status"] == 400
    assert error["error"]["code"] == code
    assert error["error"]["message"]
    assert text_of(await player.ask("[[echo:still here]]")) == "still here"


async def test_a_binary_frame_is_taken_like_text(player: Player) -> None:
    await player.ws.send_bytes(b'{"type":"response.create","input":"[[echo:bytes]]"}')
    assert text_of(await player.answer()) == "bytes"


async def test_a_frame_beyond_the_bound_closes_with_1009(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(server__max_message_bytes=100_000)
    player = await Player.connect(http, grizz.ws_url)
    await player.create("x" * 200_000)
    assert await player.closed() == 1009


async def test_queued_creates_beyond_the_bound_are_refused(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(limits__queued_creates_per_connection=2)
    player = await Player.connect(http, grizz.ws_url)
    await player.create("[[echo:0]] [[delay:0.2]]")
    for n in (1, 2, 3):
        await player.create(f"[[echo:{n}]]")
    error = (await player.until("error"))[-1]
    assert (error["status"], error["error"]["code"]) == (429, "websocket_queue_full")
    answers = [text_of(await player.answer()) for _ in range(3)]
    assert answers[1:] == ["1", "2"]


async def test_questions_about_lanes_that_do_not_exist_open_none(player: Player) -> None:
    for n in range(40):
        await player.send({"type": "response.cancel", "stream_id": f"c{n}"})
        await player.send({"type": "grizz:detach", "stream_id": f"d{n}"})
        await player.send({"type": "grizz:attach", "response_id": "resp_nope", "stream_id": f"a{n}"})
    for _ in range(80):
        assert (await player.next())["error"]["code"] == "response_not_found"
    assert text_of(await player.ask("[[echo:room]]", stream_id="new")) == "room"


async def test_response_processed_is_taken_in_silence(player: Player) -> None:
    await player.send({"type": "response.processed", "response_id": "resp_x"})
    events = await player.ask("[[echo:next]]")
    assert events[0]["type"] == "response.created"


async def test_a_warm_up_answers_empty_and_can_be_continued(player: Player, grizz: Grizz) -> None:
    warm = await player.ask("My name is Ada.", generate=False, store=False)
    done = warm[-1]
    assert [event["type"] for event in warm] == ["response.created", "response.in_progress", "response.completed"]
    assert done["response"]["output"] == []
    assert done["response"]["usage"]["total_tokens"] == 0
    assert grizz.demo.requests == 0
    await player.ask("[[echo:hi]]", previous_response_id=done["response"]["id"], store=False)
    sent = [message["content"] for message in grizz.demo.last_request["messages"]]
    assert sent == ["My name is Ada.", "[[echo:hi]]"]


async def test_a_continuation_shows_the_model_the_whole_conversation(player: Player, grizz: Grizz) -> None:
    first = await player.ask("[[echo:one]]", instructions="Be kind.")
    await player.ask("[[echo:two]]", previous_response_id=first[-1]["response"]["id"])
    messages = grizz.demo.last_request["messages"]
    assert [(message["role"], message["content"]) for message in messages] == [
        ("user", "[[echo:one]]"),
        ("assistant", "one"),
        ("user", "[[echo:two]]"),
    ]


async def test_unstored_responses_are_continued_on_their_own_connection_only(
    player: Player, grizz: Grizz, http: aiohttp.ClientSession
) -> None:
    first = await player.ask("[[echo:one]]", store=False)
    parent = first[-1]["response"]["id"]
    other = await Player.connect(http, grizz.ws_url)
    error = (await other.ask("more", previous_response_id=parent))[-1]
    assert error["error"]["code"] == "previous_response_not_found"
    assert (await player.ask("more", previous_response_id=parent, store=False))[-1]["type"] == "response.completed"
    async with http.get(f"{grizz.url}/v1/responses/{parent}") as answer:
        assert answer.status == 404


async def test_a_failed_continuation_evicts_its_unstored_parent(player: Player) -> None:
    parent = (await player.ask("[[echo:one]]", store=False))[-1]["response"]["id"]
    bad = [{"type": "function_call_output", "call_id": "call_nope", "output": "x"}]
    await player.send({"type": "response.create", "previous_response_id": parent, "input": bad, "store": False})
    assert (await player.answer())[-1]["error"]["code"] == "no_tool_call_found"
    error = (await player.ask("again", previous_response_id=parent, store=False))[-1]
    assert error["error"]["code"] == "previous_response_not_found"


async def test_a_cancel_ends_the_answer_and_closes_the_upstream_request(player: Player, grizz: Grizz) -> None:
    await player.create("[[words:50]] [[stall:10]]")
    started = await player.until("response.output_text.delta")
    await player.send({"type": "response.cancel", "response_id": started[0]["response"]["id"]})
    ended = (await player.answer())[-1]
    assert (ended["type"], ended["response"]["status"]) == ("response.incomplete", "cancelled")
    assert ended["response"]["incomplete_details"] is None
    assert ended["response"]["output"][0]["status"] == "incomplete"
    async with asyncio.timeout(5):
        while not grizz.demo.disconnected:
            await asyncio.sleep(0.01)
    assert grizz.demo.active == 0


async def test_a_cancel_without_an_id_means_the_response_of_its_lane(player: Player) -> None:
    await player.create("[[words:50]] [[stall:1]]", stream_id="a")
    await player.until("response.output_text.delta", lane="a")
    await player.send({"type": "response.cancel", "stream_id": "a"})
    assert (await player.answer("a"))[-1]["response"]["status"] == "cancelled"


async def test_a_cancel_of_an_unknown_id_is_an_error_and_of_a_finished_one_nothing(player: Player) -> None:
    done = (await player.ask("[[echo:x]]"))[-1]["response"]["id"]
    await player.send({"type": "response.cancel", "response_id": done})
    await player.send({"type": "response.cancel", "response_id": "resp_nope"})
    error = await player.next()
    assert (error["status"], error["error"]["code"]) == (404, "response_not_found")


async def test_a_queued_response_can_be_cancelled_and_never_reaches_the_upstream(
    start_grizz, http: aiohttp.ClientSession
) -> None:
    grizz = await start_grizz(workers__concurrency=0)
    player = await Player.connect(http, grizz.ws_url)
    await player.create("hello")
    queued = await player.until("response.queued")
    assert queued[0]["response"]["status"] == "queued"
    await player.send({"type": "response.cancel", "response_id": queued[0]["response"]["id"]})
    ended = (await player.answer())[-1]
    assert ended["response"]["status"] == "cancelled"
    assert grizz.demo.requests == 0
