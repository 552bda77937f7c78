"""Nobody reads another's words: with an id that is somebody else's, every path says what it says of an unknown one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from grizz.config import KeySettings
from grizz.core.api_keys import hash_of, new_key
from tests.accounts import ALICE, BOB, bearer
from tests.conftest import Grizz
from tests.player import Player, text_of

ALICES_PHONE = "grizz-" + "phone_0123456789_ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ACCOUNTS = {
    "GRIZZ_KEYS_ALICE_HASHES": hash_of(ALICE),
    "GRIZZ_KEYS_PHONE_HASHES": hash_of(ALICES_PHONE),
    "GRIZZ_KEYS_PHONE_USER": "alice",
    "GRIZZ_KEYS_BOB_HASHES": hash_of(BOB),
}
UNKNOWN = "resp_0000000000000000000000000000000000000000"
UNKNOWN_ITEM = "msg_00000000000000000000000000000000"

Answer = tuple[int, str]
Path = Callable[[aiohttp.ClientSession, Grizz, str, str], Awaitable[Answer]]


@pytest.fixture
async def house(start_grizz) -> Grizz:
    return await start_grizz(environ=ACCOUNTS)


def over_http(method: str, path: str, body: dict[str, Any] | None = None) -> Path:
    """Ask for an id over HTTP: its status, and its body with the id taken out."""

    async def ask(http: aiohttp.ClientSession, grizz: Grizz, key: str, id_: str) -> Answer:
        filled = json.loads(json.dumps(body).replace("ID", id_)) if body else None
        url = grizz.url + path.replace("ID", id_)
        async with http.request(method, url, json=filled, headers=bearer(key)) as answer:
            return answer.status, (await answer.text()).replace(id_, "ID")

    return ask


def _without(event: dict[str, Any], id_: str) -> str:
    """A frame as it reads with the id taken out, and that of its connection, which every refusal on it has."""
    headers = {name: told for name, told in event.get("headers", {}).items() if name != "x-request-id"}
    return json.dumps({**event, "headers": headers}).replace(id_, "ID")


def over_websocket(frame: dict[str, Any]) -> Path:
    """Ask for an id over a WebSocket: the first event about it."""

    async def ask(http: aiohttp.ClientSession, grizz: Grizz, key: str, id_: str) -> Answer:
        player = await Player.connect(http, grizz.ws_url, headers=bearer(key), protocols=("responses", "grizz"))
        await player.send(json.loads(json.dumps(frame).replace("ID", id_)))
        event = await player.next()
        await player.ws.close()
        return event.get("status", 0), _without(event, id_)

    return ask


async def resume_by_url(http: aiohttp.ClientSession, grizz: Grizz, key: str, id_: str) -> Answer:
    url = f"{grizz.ws_url}?response_id={id_}&starting_after=-1"
    player = await Player.connect(http, url, headers=bearer(key), protocols=("responses", "grizz"))
    event = await player.next()
    await player.ws.close()
    return event.get("status", 0), _without(event, id_)


async def detach(http: aiohttp.ClientSession, grizz: Grizz, key: str, id_: str) -> Answer:
    """A detach is answered by nothing at all; a bad frame behind it shows that it was read."""
    player = await Player.connect(http, grizz.ws_url, headers=bearer(key), protocols=("responses", "grizz"))
    await player.send({"type": "grizz:detach", "response_id": id_})
    await player.send({"type": "end"})
    event = await player.next()
    await player.ws.close()
    return event["status"], _without(event, id_)


async def steer(http: aiohttp.ClientSession, grizz: Grizz, key: str, id_: str) -> Answer:
    """A steer is refused without a status; as one of the others it counts as not found."""
    player = await Player.connect(http, grizz.ws_url, headers=bearer(key))
    await player.send({"type": "response.steer", "previous_response_id": id_, "input": "left"})
    event = await player.next()
    await player.ws.close()
    found = event["error"]["code"] != "response_not_found"
    return 200 if found else 404, _without(event, id_)


CREATE = {"input": "go on", "previous_response_id": "ID"}
RESPONSE_PATHS = {
    "retrieve": over_http("GET", "/v1/responses/ID"),
    "stream": over_http("GET", "/v1/responses/ID?stream=true&starting_after=2"),
    "cancel": over_http("POST", "/v1/responses/ID/cancel"),
    "delete": over_http("DELETE", "/v1/responses/ID"),
    "input_items": over_http("GET", "/v1/responses/ID/input_items"),
    "previous_response_id": over_http("POST", "/v1/responses", CREATE),
    "previous_response_id, streamed": over_http("POST", "/v1/responses", {**CREATE, "stream": True}),
    "previous_response_id, background": over_http("POST", "/v1/responses", {**CREATE, "background": True}),
    "previous_response_id over WebSocket": over_websocket({"type": "response.create", **CREATE}),
    "compact": over_http("POST", "/v1/responses/compact", {"model": "grizz-demo", "previous_response_id": "ID"}),
    "response.steer": steer,
    "response.cancel": over_websocket({"type": "response.cancel", "response_id": "ID"}),
    "grizz:attach": over_websocket({"type": "grizz:attach", "response_id": "ID", "starting_after": 0}),
    "grizz:attach on a lane": over_websocket({"type": "grizz:attach", "response_id": "ID", "stream_id": "a"}),
    "resume by URL": resume_by_url,
    "grizz:detach": detach,
}
REFERENCE = {"input": [{"type": "item_reference", "id": "ID"}, {"role": "user", "content": "and?"}]}
ITEM_PATHS = {
    "item_reference": over_http("POST", "/v1/responses", REFERENCE),
    "item_reference over WebSocket": over_websocket({"type": "response.create", **REFERENCE}),
}


async def finished(
    http: aiohttp.ClientSession, grizz: Grizz, key: str, text: str = "[[echo:secret]]"
) -> dict[str, Any]:
    async with http.post(f"{grizz.url}/v1/responses", json={"input": text}, headers=bearer(key)) as answer:
        assert answer.status == 200
        body: dict[str, Any] = await answer.json()
        return body


async def running(http: aiohttp.ClientSession, grizz: Grizz, key: str) -> tuple[Player, str]:
    player = await Player.connect(http, grizz.ws_url, headers=bearer(key))
    await player.create("[[words:9]] [[stall:4]]")
    seen = await player.until("response.output_text.delta")
    return player, seen[0]["response"]["id"]


async def test_what_bob_is_told_of_a_finished_answer_of_alices_is_what_he_is_told_of_none(
    house: Grizz, http: aiohttp.ClientSession
) -> None:
    made = await finished(http, house, ALICE)
    item = made["output"][0]["id"]
    for paths, id_, unknown in ((RESPONSE_PATHS, made["id"], UNKNOWN), (ITEM_PATHS, item, UNKNOWN_ITEM)):
        for name, path in paths.items():
            told = await path(http, house, BOB, id_)
            assert told == await path(http, house, BOB, unknown), name
            assert told[0] in (400, 404), name
            assert "secret" not in told[1], name
    assert await over_http("GET", "/v1/responses/ID")(http, house, ALICE, made["id"]) == (
        200,
        json.dumps(made, separators=(",", ":")).replace(made["id"], "ID"),
    )


async def test_what_bob_is_told_of_a_running_answer_of_alices_is_what_he_is_told_of_none_and_it_runs_on(
    house: Grizz, http: aiohttp.ClientSession
) -> None:
    player, response_id = await running(http, house, ALICE)
    for name, path in RESPONSE_PATHS.items():
        told = await path(http, house, BOB, response_id)
        assert told == await path(http, house, BOB, UNKNOWN), name
        assert told[0] in (400, 404), name
    status, body = await over_http("GET", "/v1/responses/ID")(http, house, ALICE, response_id)
    assert (status, json.loads(body)["status"]) == (200, "in_progress")
    await player.send({"type": "response.cancel", "response_id": response_id})
    assert (await player.answer())[-1]["response"]["status"] == "cancelled"


async def test_a_mixed_up_reference_gives_bob_nothing_of_alices_chain(
    house: Grizz, http: aiohttp.ClientSession
) -> None:
    """His own parent opens his chain only, not what stands in hers."""
    hers, his = await finished(http, house, ALICE), await finished(http, house, BOB)
    body = {**REFERENCE, "previous_response_id": his["id"]}
    ask = over_http("POST", "/v1/responses", body)
    told = await ask(http, house, BOB, hers["output"][0]["id"])
    assert told == await ask(http, house, BOB, UNKNOWN_ITEM)
    assert told[0] == 400


SILENT = ("grizz:detach", "response.cancel")  # these say nothing when all is well


@pytest.mark.parametrize("name", [name for name in RESPONSE_PATHS if name not in SILENT])
async def test_a_second_key_of_the_same_user_is_the_same_user(
    house: Grizz, http: aiohttp.ClientSession, name: str
) -> None:
    made = await finished(http, house, ALICE)
    status, body = await RESPONSE_PATHS[name](http, house, ALICES_PHONE, made["id"])
    # What succeeds over a WebSocket is an event without a status, or with that of a response.
    assert status not in (400, 401, 404), body


async def test_a_second_key_cancels_and_deletes_what_the_first_began(house: Grizz, http: aiohttp.ClientSession) -> None:
    player, response_id = await running(http, house, ALICE)
    assert (await RESPONSE_PATHS["cancel"](http, house, ALICES_PHONE, response_id))[0] == 200
    assert (await player.answer())[-1]["response"]["status"] == "cancelled"
    assert (await RESPONSE_PATHS["delete"](http, house, ALICES_PHONE, response_id))[0] == 200
    assert (await RESPONSE_PATHS["retrieve"](http, house, ALICE, response_id))[0] == 404


async def test_after_a_rotation_the_new_key_reads_and_continues_what_the_old_one_began(
    house: Grizz, http: aiohttp.ClientSession
) -> None:
    made, key = await finished(http, house, ALICE), new_key()
    settings = house.app._settings
    keys = {**settings.keys, "alice": KeySettings(hashes=(hash_of(key),))}
    house.app.reload(dataclasses.replace(settings, keys=keys))
    assert (await RESPONSE_PATHS["retrieve"](http, house, key, made["id"]))[0] == 200
    assert (await RESPONSE_PATHS["previous_response_id"](http, house, key, made["id"]))[0] == 200
    assert (await RESPONSE_PATHS["retrieve"](http, house, ALICE, made["id"]))[0] == 401


async def test_two_users_on_the_same_lanes_get_their_own_answers(house: Grizz, http: aiohttp.ClientSession) -> None:
    players = [await Player.connect(http, house.ws_url, headers=bearer(key)) for key in (ALICE, BOB)]
    for player, name in zip(players, ("alice", "bob"), strict=True):
        await player.create(f"[[echo:only for {name}]]", stream_id="s1")
    for player, name in zip(players, ("alice", "bob"), strict=True):
        assert text_of(await player.answer("s1")) == f"only for {name}"
