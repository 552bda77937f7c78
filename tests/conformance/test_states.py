"""What a response goes through beside its generation, and what is asked of it later, before both schemas."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from tests import grammar
from tests.conformance import judges
from tests.conformance.flows import PDF, PIXEL, WEATHER, say, words
from tests.conformance.ways import WAYS, Object, background, fetch, read_sse, replay, sse, websocket, whole
from tests.conftest import Grizz
from tests.player import Player, numbers, text_of

LONG = {"input": "[[words:25]] [[rate:500]]"}


async def said_by(http: aiohttp.ClientSession, grizz: Grizz, way: str, body: Object) -> Object:
    """The Response that a request ends in, by one of the ways."""
    _, response = await WAYS[way](http, grizz, body)
    judges.response(response)
    return response


async def refused(http: aiohttp.ClientSession, grizz: Grizz, way: str, body: Object) -> tuple[int, Object]:
    """Status and error of a request that is refused; over WebSocket for `WebSocket`, over HTTP for all else."""
    if way.startswith("WebSocket"):
        player = await Player.connect(http, grizz.ws_url)
        await player.send({"type": "response.create", **body})
        frame = (await player.answer())[-1]
        assert frame["type"] == "error", frame
        judges.websocket_notice(frame)
        return frame["status"], frame["error"]
    fields = {"SSE": {"stream": True}, "background": {"background": True}}.get(way, {})
    async with http.post(f"{grizz.url}/v1/responses", json={**body, **fields}) as answer:
        error = (await answer.json())["error"]
        judges.error(error)
        return answer.status, error


# States


async def test_a_queued_response_says_so_until_a_worker_takes_it(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz: Grizz = await start_grizz(workers__concurrency=1)
    player = await Player.connect(http, grizz.ws_url)
    await player.create("[[words:9]] [[stall:2]]", stream_id="first")
    running = await player.until("response.output_text.delta", lane="first")
    async with http.post(f"{grizz.url}/v1/responses", json={**LONG, "stream": True}) as second:
        await player.create("[[echo:third]]", stream_id="third")
        third = await player.until("response.queued", lane="third")
        judges.response(await fetch(http, grizz, third[0]["response"]["id"]))
        await player.send({"type": "response.cancel", "stream_id": "first"})
        running += await player.answer("first")
        events = await read_sse(second)
        third += await player.answer("third")
    assert running[-1]["response"]["status"] == "cancelled"
    for queued in (events, third):
        assert [event["type"] for event in queued[:3]] == [
            "response.created",
            "response.queued",
            "response.in_progress",
        ]
        assert [event["response"]["status"] for event in queued[:3]] == ["queued", "queued", "in_progress"]
    for stream in (running, third):
        for event in stream:
            judges.websocket_event(event)
    for stream in (running, events, third):
        grammar.check([{key: value for key, value in event.items() if key != "stream_id"} for event in stream])


@pytest.mark.parametrize("state", ["queued", "running"])
async def test_a_cancelled_response_is_valid_to_everybody_who_looks(
    start_grizz, http: aiohttp.ClientSession, state: str
) -> None:
    grizz: Grizz = await start_grizz(workers__concurrency=1)
    text = "[[words:9]] [[stall:3]]"
    if state == "queued":
        await http.post(f"{grizz.url}/v1/responses", json={"input": text, "background": True})
    player = await Player.connect(http, grizz.ws_url)
    await player.create(text)
    seen = await player.until("response.queued" if state == "queued" else "response.output_text.delta")
    response_id = seen[0]["response"]["id"]
    async with http.post(f"{grizz.url}/v1/responses/{response_id}/cancel") as answer:
        body = await answer.json()
    seen += await player.answer()
    assert (seen[-1]["type"], seen[-1]["response"]["status"]) == ("response.incomplete", "cancelled")
    assert seen[-1]["response"]["incomplete_details"] is None
    assert body == seen[-1]["response"] == await fetch(http, grizz, response_id)
    assert await replay(http, grizz, response_id) == seen
    grammar.check(seen)
    for event in seen:
        judges.websocket_event(event)


@pytest.mark.parametrize("way", WAYS)
async def test_a_warm_up_only_remembers_and_can_be_continued(
    grizz: Grizz, http: aiohttp.ClientSession, way: str
) -> None:
    body = {"input": [say("user", "I am Alice.")], "instructions": "Be kind.", "generate": False}
    events, response = await WAYS[way](http, grizz, body)
    judges.response(response)
    assert (response["status"], response["output"], response["usage"]["total_tokens"]) == ("completed", [], 0)
    if events:
        assert [event["type"] for event in events] == [
            "response.created",
            "response.in_progress",
            "response.completed",
        ]
    assert grizz.demo.requests == 0
    await said_by(http, grizz, way, {"input": "[[echo:x]]", "previous_response_id": response["id"]})
    assert [message["content"] for message in grizz.demo.last_request["messages"]] == ["I am Alice.", "[[echo:x]]"]


# Later


async def test_a_stream_goes_on_from_every_number_by_every_way(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    events, response = await background(http, grizz, LONG)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    grammar.check(events)
    player = await Player.connect(http, grizz.ws_url)
    for after in range(-1, len(events)):
        assert await replay(http, grizz, response["id"], after) == events[after + 1 :]
        await player.send({"type": "grizz:attach", "response_id": response["id"], "starting_after": after})
        attached = await player.next()
        assert (attached["type"], attached["sequence_number"], attached["last_sequence_number"]) == (
            "grizz:attached",
            after,
            len(events) - 1,
        )
        if after < len(events) - 1:
            assert await player.answer() == events[after + 1 :]


async def test_a_running_response_is_valid_at_every_look(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    body = {"input": "[[reasoning:one two three]] [[words:12]] [[rate:100]]", "background": True}
    async with http.post(f"{grizz.url}/v1/responses", json=body) as answer:
        response = await answer.json()
    statuses, lengths = set(), set()
    while response["status"] in ("queued", "in_progress"):
        judges.response(response)
        statuses.add(response["status"])
        lengths.add(len(str(response["output"])))
        response = await fetch(http, grizz, response["id"])
    judges.response(response)
    assert response["status"] == "completed"
    assert statuses == {"in_progress"} and len(lengths) > 3, "it was seen growing"


@pytest.mark.parametrize("first", WAYS)
async def test_a_chain_goes_on_by_whatever_way_the_next_turn_comes(
    grizz: Grizz, http: aiohttp.ClientSession, first: str
) -> None:
    parent = await said_by(http, grizz, first, {"input": "[[echo:one]]", "instructions": "Only now."})
    for n, way in enumerate(WAYS, 2):
        body = {"input": f"[[echo:{n}]]", "previous_response_id": parent["id"]}
        child = await said_by(http, grizz, way, body)
        assert child["previous_response_id"] == parent["id"]
        assert child["instructions"] is None, "instructions are not inherited"
        assert len(grizz.demo.last_request["messages"]) == 2 * n - 1
        parent = child


@pytest.mark.parametrize("way", ["JSON", "SSE", "WebSocket", "WebSocket, a named lane"])
async def test_what_is_not_stored_is_found_by_nobody_else(grizz: Grizz, http: aiohttp.ClientSession, way: str) -> None:
    response = await said_by(http, grizz, way, {"input": "[[echo:x]]", "store": False})
    assert response["store"] is False
    for path in ("", "?stream=true", "/input_items"):
        async with http.get(f"{grizz.url}/v1/responses/{response['id']}{path}") as answer:
            assert answer.status == 404
            judges.error((await answer.json())["error"])
    for other in WAYS:
        status, error = await refused(http, grizz, other, {"input": "x", "previous_response_id": response["id"]})
        assert (status, error["code"], error["param"]) == (400, "previous_response_not_found", "previous_response_id")


async def test_an_unstored_chain_goes_on_on_its_own_connection(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    player = await Player.connect(http, grizz.ws_url)
    parent = None
    for n in range(3):
        events = await player.ask(f"[[echo:{n}]]", store=False, previous_response_id=parent)
        for event in events:
            judges.websocket_event(event)
        parent = events[-1]["response"]["id"]
        assert len(grizz.demo.last_request["messages"]) == 2 * n + 1


async def test_lanes_carry_valid_streams_side_by_side(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    player = await Player.connect(http, grizz.ws_url)
    for n in range(5):
        await player.create(f"[[words:{20 + n}]] [[rate:200]]", stream_id=f"tab-{n}")
    ended = 0
    while ended < 5:
        ended += (await player.next())["type"] == "response.completed"
    for n in range(5):
        events = [dict(event) for event in player.events if event["stream_id"] == f"tab-{n}"]
        for event in events:
            judges.websocket_event(event)
        grammar.check(events)
        assert text_of(events) == numbers(20 + n)
    switches = sum(
        one["stream_id"] != two["stream_id"] for one, two in zip(player.events, player.events[1:], strict=False)
    )
    assert switches > 10, "they were not side by side"


async def test_steering_is_refused_in_the_words_of_the_protocol(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    player = await Player.connect(http, grizz.ws_url)
    await player.create("[[words:9]] [[rate:100]]")
    seen = await player.until("response.output_text.delta")
    response_id = seen[0]["response"]["id"]
    for given in ("Faster!", [say("user", "Faster!")]):
        await player.send({"type": "response.steer", "previous_response_id": response_id, "input": given})
        failed = (await player.until("response.steer.failed"))[-1]
        judges.websocket_notice(failed)
        assert failed["error"]["code"] == "steering_not_supported"
        assert failed["steer"] == {"previous_response_id": response_id, "input": given}
    assert (await player.answer())[-1]["response"]["status"] == "completed"


# What is kept


async def test_every_kind_of_input_item_is_listed_validly(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    given: list[Any] = [
        say("system", "Be kind."),
        say("developer", "Be short."),
        say("user", "Hi."),
        say("user", words("?"), {"type": "input_image", "image_url": PIXEL}),
        say("user", {"type": "input_file", "filename": "a.pdf", "file_data": PDF}),
        say("assistant", "Let me see.", phase="commentary"),
        {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
        {"type": "function_call", "call_id": "call_2", "name": "get_weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_2", "output": [words("rain")]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        say("assistant", {"type": "output_text", "text": "It is sunny."}, phase="final_answer"),
        {"role": "user", "content": "[[echo:ok]]"},
    ]
    _, response = await whole(http, grizz, {"input": given, "tools": [WEATHER]})
    listed: list[Object] = []
    url = f"{grizz.url}/v1/responses/{response['id']}/input_items"
    query = {"order": "asc", "limit": "3"}
    while True:
        async with http.get(url, params=query) as answer:
            page = await answer.json()
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        listed += page["data"]
        if not page["has_more"]:
            break
        query["after"] = page["last_id"]
    assert [item["type"] for item in listed] == [item.get("type", "message") for item in given]
    assert len({item["id"] for item in listed}) == len(given)
    for item in listed:
        judges.item(item)
    assert [item["phase"] for item in listed if "phase" in item] == ["commentary", "final_answer"]
    async with http.get(url) as answer:
        assert (await answer.json())["data"] == listed[::-1], "the newest first, unless asked otherwise"


async def test_output_items_are_valid_input_as_they_came(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    body: Object = {"input": "[[reasoning:hm]] [[echo:Let me see.]] [[tool:get_weather]]", "tools": [WEATHER]}
    _, response = await sse(http, grizz, body)
    call = response["output"][-1]
    history: list[Any] = [say("user", "Weather?"), *response["output"]]
    history += [{"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}]
    for way in WAYS:
        again = await said_by(http, grizz, way, {"input": history, "tools": [WEATHER]})
        assert "sunny" in again["output"][0]["content"][0]["text"]


@pytest.mark.parametrize("way", WAYS)
async def test_a_call_is_answered_by_continuing_its_response(
    grizz: Grizz, http: aiohttp.ClientSession, way: str
) -> None:
    asked = {"input": "How is the weather in San Francisco?", "tools": [WEATHER]}
    first = await said_by(http, grizz, way, asked)
    call = first["output"][0]
    assert (call["type"], call["name"]) == ("function_call", "get_weather")
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "18 degrees"}
    second = await said_by(http, grizz, way, {"input": [output], "previous_response_id": first["id"]})
    assert "18 degrees" in second["output"][0]["content"][0]["text"]


async def test_a_deleted_response_is_gone_by_every_way(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    _, response = await websocket(http, grizz, LONG)
    async with http.delete(f"{grizz.url}/v1/responses/{response['id']}") as answer:
        assert await answer.json() == {"id": response["id"], "object": "response", "deleted": True}
    for path in ("", "?stream=true", "/input_items"):
        async with http.get(f"{grizz.url}/v1/responses/{response['id']}{path}") as answer:
            judges.error((await answer.json())["error"])
            assert answer.status == 404
    for way in WAYS:
        status, error = await refused(http, grizz, way, {"input": "x", "previous_response_id": response["id"]})
        assert (status, error["code"]) == (400, "previous_response_not_found")


async def test_models_are_listed_and_found_by_name(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    async with http.get(f"{grizz.url}/v1/models") as answer:
        page = await answer.json()
    assert page["object"] == "list" and page["data"]
    for model in page["data"]:
        judges.model(model)
        async with http.get(f"{grizz.url}/v1/models/{model['id']}") as answer:
            assert await answer.json() == model
