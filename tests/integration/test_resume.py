"""Dropped sockets, second tabs, resumed streams: every event once, from wherever the client was."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from tests.conftest import Grizz
from tests.player import Player, numbers, sequence, text_of


async def test_a_dropped_socket_resumes_with_exactly_the_rest(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    first = await Player.connect(http, grizz.ws_url)
    await first.create("[[words:120]] [[rate:400]]")
    seen = []
    while len(seen) < 10:
        seen.append(await first.next())
    response_id = seen[0]["response"]["id"]
    await first.ws.close()
    second = await Player.connect(http, grizz.ws_url)
    await second.send({"type": "grizz:attach", "response_id": response_id, "starting_after": 9})
    attached = await second.next()
    assert attached["type"] == "grizz:attached"
    assert (attached["response_id"], attached["sequence_number"]) == (response_id, 9)
    assert attached["last_sequence_number"] >= 9
    rest = await second.answer()
    assert sequence(seen + rest) == list(range(rest[-1]["sequence_number"] + 1))
    assert text_of(seen + rest) == numbers(120)


async def test_every_starting_point_of_a_finished_answer_gives_exactly_the_rest(
    grizz: Grizz, http: aiohttp.ClientSession
) -> None:
    player = await Player.connect(http, grizz.ws_url)
    whole = await player.ask("[[words:30]] [[rate:300]]")
    response_id = whole[0]["response"]["id"]
    for after in range(-1, len(whole)):
        url = f"{grizz.url}/v1/responses/{response_id}?stream=true&starting_after={after}"
        async with http.get(url) as stream:
            body = (await stream.read()).decode()
        datas = [line[6:] for line in body.splitlines() if line.startswith("data: ")]
        assert datas[-1] == "[DONE]"
        assert [json.loads(data) for data in datas[:-1]] == whole[after + 1 :]


async def test_attaching_after_the_last_event_says_that_it_is_over_and_frees_the_lane(
    grizz: Grizz, http: aiohttp.ClientSession
) -> None:
    player = await Player.connect(http, grizz.ws_url)
    whole = await player.ask("[[echo:x]]")
    frame = {"type": "grizz:attach", "response_id": whole[0]["response"]["id"], "starting_after": len(whole) - 1}
    await player.send(frame)
    attached = await player.next()
    assert (attached["type"], attached["status"]) == ("grizz:attached", "completed")
    assert text_of(await player.ask("[[echo:free]]")) == "free"


async def test_a_stock_sdk_resumes_by_the_query_of_its_url_and_sees_no_extension_event(
    grizz: Grizz, http: aiohttp.ClientSession
) -> None:
    first = await Player.connect(http, grizz.ws_url)
    await first.create("[[words:60]] [[rate:300]]")
    seen = await first.until("response.output_text.delta")
    await first.ws.close()
    last = seen[-1]["sequence_number"]
    url = f"{grizz.ws_url}?response_id={seen[0]['response']['id']}&starting_after={last}"
    second = await Player.connect(http, url)
    rest = await second.answer()
    assert sequence(seen + rest) == list(range(rest[-1]["sequence_number"] + 1))
    assert text_of(seen + rest) == numbers(60)


async def test_many_tabs_see_the_same_answer_growing_for_one_upstream_call(
    grizz: Grizz, http: aiohttp.ClientSession
) -> None:
    first = await Player.connect(http, grizz.ws_url)
    await first.create("[[words:80]] [[rate:300]]")
    started = await first.until("response.output_text.delta")
    tabs = [await Player.connect(http, grizz.ws_url) for _ in range(5)]
    for tab in tabs:
        await tab.send({"type": "grizz:attach", "response_id": started[0]["response"]["id"]})
    answers = await asyncio.gather(*(tab.answer() for tab in tabs))
    whole = started + await first.answer()
    for answer in answers:
        assert [event for event in answer if not event["type"].startswith("grizz:")] == whole
    assert grizz.demo.requests == 1


async def test_one_connection_follows_several_responses_on_lanes_of_their_own(
    grizz: Grizz, http: aiohttp.ClientSession
) -> None:
    player = await Player.connect(http, grizz.ws_url)
    ids = [(await player.ask(f"[[echo:{n}]]"))[0]["response"]["id"] for n in range(3)]
    for n, response_id in enumerate(ids):
        await player.send({"type": "grizz:attach", "response_id": response_id, "stream_id": f"tab{n}"})
        assert text_of(await player.answer(f"tab{n}")) == str(n)


async def test_attaching_on_a_busy_lane_is_refused_and_what_runs_there_goes_on(
    grizz: Grizz, http: aiohttp.ClientSession
) -> None:
    player = await Player.connect(http, grizz.ws_url)
    done = (await player.ask("[[echo:x]]"))[0]["response"]["id"]
    await player.create("[[words:20]] [[first:0.1]]")
    await player.until("response.created")
    await player.send({"type": "grizz:attach", "response_id": done})
    error = (await player.until("error"))[-1]
    assert (error["status"], error["error"]["code"]) == (409, "grizz:lane_busy")
    assert text_of(await player.answer()) == numbers(20)


async def test_a_detached_response_runs_on_and_can_be_attached_again(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    player = await Player.connect(http, grizz.ws_url)
    await player.create("[[words:40]] [[rate:200]]", stream_id="a")
    started = await player.until("response.output_text.delta", lane="a")
    await player.send({"type": "grizz:detach", "stream_id": "a"})
    await player.send({"type": "grizz:attach", "response_id": started[0]["response"]["id"], "stream_id": "b"})
    assert text_of(await player.answer("b")) == numbers(40)


async def test_an_answer_that_nobody_watches_is_cancelled_after_the_grace(
    start_grizz, http: aiohttp.ClientSession
) -> None:
    grizz = await start_grizz(replies__grace_s=0.2)
    player = await Player.connect(http, grizz.ws_url)
    await player.create("[[words:50]] [[stall:5]]")
    started = await player.until("response.output_text.delta")
    await player.ws.close()
    async with asyncio.timeout(10):
        while not grizz.demo.disconnected:
            await asyncio.sleep(0.02)
    async with http.get(f"{grizz.url}/v1/responses/{started[0]['response']['id']}") as answer:
        body = await answer.json()
    assert body["status"] == "cancelled"
    assert text_of(started) in body["output"][0]["content"][0]["text"]


async def test_a_background_response_runs_to_its_end_without_readers(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(replies__grace_s=0.1)
    asked = {"input": "[[words:60]] [[rate:40]]", "background": True}
    async with http.post(f"{grizz.url}/v1/responses", json=asked) as answer:
        started = await answer.json()
    assert started["status"] in ("queued", "in_progress")
    async with asyncio.timeout(10):
        while True:
            async with http.get(f"{grizz.url}/v1/responses/{started['id']}") as answer:
                body = await answer.json()
            if body["status"] == "completed":
                break
            await asyncio.sleep(0.1)
    assert body["output"][0]["content"][0]["text"] == numbers(60)


async def test_a_log_that_is_no_longer_kept_is_said_to_be_so_and_the_result_is_still_there(
    start_grizz, http: aiohttp.ClientSession
) -> None:
    grizz = await start_grizz(replies__keep_s=0.01)
    player = await Player.connect(http, grizz.ws_url)
    whole = await player.ask("[[echo:kept]]")
    response_id = whole[0]["response"]["id"]
    async with asyncio.timeout(10):
        while grizz.app.engine.reply(response_id, "local"):
            await asyncio.sleep(0.05)
    await player.send({"type": "grizz:attach", "response_id": response_id, "starting_after": 1})
    error = await player.next()
    assert (error["status"], error["error"]["code"]) == (410, "grizz:log_expired")
    async with http.get(f"{grizz.url}/v1/responses/{response_id}") as answer:
        assert (await answer.json()) == whole[-1]["response"]
    async with http.get(f"{grizz.url}/v1/responses/{response_id}?stream=true") as stream:
        body = (await stream.read()).decode()
    replayed = json.loads(body.splitlines()[1].removeprefix("data: "))
    assert replayed == whole[-1]


async def test_a_hidden_tab_gets_fewer_frames_and_the_same_text(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    player = await Player.connect(http, grizz.ws_url)
    await player.send({"type": "grizz:presence", "state": "hidden"})
    events = await player.ask("[[words:100]] [[rate:50]]")
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert text_of(events) == numbers(100)
    assert len(deltas) <= 5
    numbers_seen = sequence(events)
    assert numbers_seen == sorted(set(numbers_seen))


async def test_an_idle_tab_gets_its_answer_when_it_is_complete(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    player = await Player.connect(http, grizz.ws_url)
    await player.send({"type": "grizz:presence", "state": "idle"})
    events = await player.ask("[[words:60]] [[rate:100]]")
    assert text_of(events) == numbers(60)
    assert len([event for event in events if event["type"] == "response.output_text.delta"]) == 1


@pytest.mark.parametrize("path", ["", "?stream=true", "/input_items", "/cancel", "DELETE"])
async def test_a_foreign_id_is_answered_like_an_unknown_one_on_every_path(
    grizz: Grizz, http: aiohttp.ClientSession, path: str
) -> None:
    player = await Player.connect(http, grizz.ws_url)
    mine = (await player.ask("[[echo:secret]]"))[0]["response"]["id"]
    cookie = {"Cookie": "grizz_owner=" + "A" * 43}
    method = {"/cancel": "POST", "DELETE": "DELETE"}.get(path, "GET")
    url = f"{grizz.url}/v1/responses/{{}}{'' if path == 'DELETE' else path}"
    bodies = []
    for response_id in (mine, "resp_nope"):
        async with http.request(method, url.format(response_id), headers=cookie) as answer:
            assert answer.status == 404
            bodies.append((await answer.text()).replace(response_id, "ID"))
    assert bodies[0] == bodies[1]


async def test_a_foreign_id_is_unknown_on_the_websocket_too(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    player = await Player.connect(http, grizz.ws_url)
    mine = (await player.ask("[[echo:secret]]"))[0]["response"]
    other = await Player.connect(http, grizz.ws_url, headers={"Cookie": "grizz_owner=" + "A" * 43})
    await other.send({"type": "grizz:attach", "response_id": mine["id"]})
    assert (await other.next())["error"]["code"] == "response_not_found"
    await other.send({"type": "response.cancel", "response_id": mine["id"]})
    assert (await other.next())["error"]["code"] == "response_not_found"
    events = await other.ask("more", previous_response_id=mine["id"])
    assert events[-1]["error"]["code"] == "previous_response_not_found"


async def test_readers_of_one_response_are_bounded(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(limits__readers_per_response=1)
    player = await Player.connect(http, grizz.ws_url)
    await player.create("[[words:9]] [[stall:2]]")
    started = await player.until("response.output_text.delta")
    await player.send({"type": "grizz:attach", "response_id": started[0]["response"]["id"], "stream_id": "b"})
    error = (await player.until("error", lane="b"))[-1]
    assert (error["status"], error["error"]["code"]) == (429, "rate_limit_exceeded")


async def test_who_comes_back_is_counted_by_what_is_still_there_over_either_transport(
    start_grizz, http: aiohttp.ClientSession
) -> None:
    grizz = await start_grizz(replies__keep_s=3)
    counts = grizz.app.metrics.resumes

    def counted() -> list[float]:
        return [counts.labels(result)._value.get() for result in ("ok", "gap", "expired", "unknown")]

    async def come_back(response_id: str, after: int) -> None:
        player = await Player.connect(http, grizz.ws_url)
        await player.send({"type": "grizz:attach", "response_id": response_id, "starting_after": after})
        await player.next()
        await player.ws.close()
        url = f"{grizz.url}/v1/responses/{response_id}?stream=true&starting_after={after}"
        async with http.get(url) as stream:
            await stream.read()

    player = await Player.connect(http, grizz.ws_url)
    whole = await player.ask("[[echo:x]]")
    response_id, last = whole[0]["response"]["id"], whole[-1]["sequence_number"]
    assert counted() == [0, 0, 0, 0]
    await come_back(response_id, 2)
    assert counted() == [2, 0, 0, 0]
    await come_back("resp_" + "0" * 40, 2)
    assert counted() == [2, 0, 0, 2]
    async with asyncio.timeout(10):
        while grizz.app.engine.reply(response_id, "local") is not None:
            await asyncio.sleep(0.05)
    await come_back(response_id, 2)
    assert counted() == [2, 0, 2, 2]
    await come_back(response_id, last)
    assert counted() == [4, 0, 2, 2]
