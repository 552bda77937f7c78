"""Compacting a conversation: what comes out, what it is worth as an input, and that nobody else can use it."""

from __future__ import annotations

from typing import Any

import aiohttp
import openresponses_types as open_types
import pytest
from openai import AsyncOpenAI

from grizz.engine.compaction import Compactions
from grizz.errors import ClaimsDown
from tests.accounts import ACCOUNTS, ALICE, BOB, bearer
from tests.conftest import Grizz, running_grizz
from tests.player import Player
from tests.several import running

SECRET = {"GRIZZ_HISTORY_COMPACTION_SECRET": "one-secret-for-all-of-our-processes"}
SAID: list[dict[str, Any]] = [
    {"role": "system", "content": "Talk like a pirate."},
    {"role": "user", "content": "The code word is heron. [[echo:the code word is heron]]"},
    {"role": "assistant", "content": "Aye, heron."},
]


async def compact(http: aiohttp.ClientSession, url: str, key: str = "", **body: Any) -> tuple[int, dict[str, Any]]:
    async with http.post(
        f"{url}/v1/responses/compact", json={"model": "grizz-demo", **body}, headers=bearer(key) if key else None
    ) as answer:
        return answer.status, await answer.json()


async def create(http: aiohttp.ClientSession, url: str, key: str = "", **body: Any) -> tuple[int, dict[str, Any]]:
    async with http.post(f"{url}/v1/responses", json=body, headers=bearer(key) if key else None) as answer:
        return answer.status, await answer.json()


def token_of(window: dict[str, Any]) -> str:
    return str(window["output"][-1]["encrypted_content"])


async def test_a_compacted_window_is_the_users_messages_and_one_sealed_item(
    grizz: Grizz, http: aiohttp.ClientSession
) -> None:
    status, window = await compact(http, grizz.url, input=SAID)
    assert status == 200
    assert window["object"] == "response.compaction"
    assert [item["type"] for item in window["output"]] == ["message", "compaction"]
    assert window["output"][0]["role"] == "user"
    assert window["usage"]["output_tokens"] > 0
    assert "heron" not in token_of(window) and "pirate" not in token_of(window)
    open_types.CompactResource.model_validate(window)


async def test_the_model_writes_the_summary_from_a_transcript(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    await compact(http, grizz.url, input=SAID, instructions="Be brief.")
    system, asked = grizz.demo.last_request["messages"]
    assert system["role"] == "system" and "Be brief." in system["content"]
    assert asked["role"] == "user"
    for line in ("System: Talk like a pirate.", "User: The code word is heron.", "Assistant: Aye, heron."):
        assert line in asked["content"]


@pytest.mark.parametrize("transport", ["http", "websocket"])
async def test_a_compacted_window_is_taken_back_as_it_is_and_reaches_the_model_as_words(
    grizz: Grizz, http: aiohttp.ClientSession, transport: str
) -> None:
    _, window = await compact(http, grizz.url, input=SAID)
    body = {"input": [*window["output"], {"role": "user", "content": "[[echo:go on]]"}]}
    if transport == "http":
        status, answer = await create(http, grizz.url, **body)
        assert status == 200
    else:
        player = await Player.connect(http, grizz.ws_url)
        await player.send({"type": "response.create", **body})
        answer = (await player.answer())[-1]["response"]
    assert answer["status"] == "completed"
    messages = grizz.demo.last_request["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[0]["content"] == "Talk like a pirate."
    assert "the code word is heron" in messages[2]["content"]


# The client's types know assistants' messages only where the API, by its own words, returns users'.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
async def test_the_official_client_compacts_and_sends_the_window_back(grizz: Grizz) -> None:
    async with AsyncOpenAI(base_url=f"{grizz.url}/v1", api_key="none") as client:
        window = await client.responses.compact(model="grizz-demo", input=SAID)  # type: ignore[arg-type]
        assert window.output[-1].type == "compaction"
        items: Any = [*window.output, {"role": "user", "content": "[[echo:go on]]"}]
        answer = await client.responses.create(input=items)
        assert answer.output_text == "go on"
    assert "the code word is heron" in str(grizz.demo.last_request["messages"])


async def test_the_chain_goes_on_behind_a_compacted_window_and_clients_see_the_sealed_item_only(
    grizz: Grizz, http: aiohttp.ClientSession
) -> None:
    _, window = await compact(http, grizz.url, input=SAID)
    _, first = await create(http, grizz.url, input=[*window["output"], {"role": "user", "content": "One."}])
    _, second = await create(http, grizz.url, input="Two.", previous_response_id=first["id"])
    assert second["status"] == "completed"
    assert "the code word is heron" in str(grizz.demo.last_request["messages"])
    async with http.get(f"{grizz.url}/v1/responses/{first['id']}/input_items") as answer:
        listed = await answer.text()
    assert token_of(window) in listed
    assert "Summary of" not in listed and "pirate" not in listed


async def test_a_stored_chain_is_compacted_by_its_id(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    _, first = await create(http, grizz.url, input="The code word is heron.")
    status, window = await compact(http, grizz.url, previous_response_id=first["id"])
    assert status == 200
    assert window["output"][0]["content"][0]["text"] == "The code word is heron."


async def test_a_window_can_be_compacted_again(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    _, window = await compact(http, grizz.url, input=SAID)
    status, again = await compact(http, grizz.url, input=window["output"])
    assert status == 200
    assert "the code word is heron" in grizz.demo.last_request["messages"][1]["content"]
    _, answer = await create(http, grizz.url, input=[*again["output"], {"role": "user", "content": "So?"}])
    assert answer["status"] == "completed"
    assert grizz.demo.last_request["messages"][0]["content"] == "Talk like a pirate."


async def test_a_call_that_waits_for_its_output_survives(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    call = {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": "{}"}
    _, window = await compact(http, grizz.url, input=[*SAID, call])
    output = {"type": "function_call_output", "call_id": "call_1", "output": "sunny"}
    status, answer = await create(http, grizz.url, input=[*window["output"], output])
    assert (status, answer["status"]) == (200, "completed")
    assert [message["role"] for message in grizz.demo.last_request["messages"]] == [
        "system",
        "user",
        "assistant",
        "tool",
    ]


async def test_another_users_item_is_refused_like_an_invented_one(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(environ=ACCOUNTS)
    _, window = await compact(http, grizz.url, ALICE, input=SAID)
    token = token_of(window)
    told = []
    for stolen in (token, token[:-6] + "AAAAA=", "grizz1.x", "grizz1.é", "gAAAAAbc", ""):
        item = {"type": "compaction", "encrypted_content": stolen}
        told.append(await create(http, grizz.url, BOB, input=[item, {"role": "user", "content": "So?"}]))
    assert all(one == told[0] for one in told)
    assert told[0][0] == 400
    assert told[0][1]["error"]["code"] == "invalid_encrypted_content"
    assert told[0][1]["error"]["param"] == "input[0].encrypted_content"
    status, _ = await create(http, grizz.url, ALICE, input=[{"type": "compaction", "encrypted_content": token}])
    assert status == 200


async def test_servers_with_one_secret_open_each_others_items_and_others_do_not(http: aiohttp.ClientSession) -> None:
    async with running_grizz(SECRET) as grizz:
        _, window = await compact(http, grizz.url, input=SAID)
    async with running_grizz(SECRET) as grizz:
        assert (await create(http, grizz.url, input=window["output"]))[0] == 200
    async with running_grizz() as grizz:
        assert (await create(http, grizz.url, input=window["output"]))[0] == 400


@pytest.mark.parametrize(
    ("directive", "status", "code"),
    [
        ("[[error:400]]", 400, "invalid_prompt"),
        ("[[error:context]]", 400, "context_length_exceeded"),
        ("[[error:quota]]", 429, "insufficient_quota"),
        ("[[words:3]] [[cut:1]]", 500, "server_error"),
        ("[[words:3]] [[length:1]]", 500, "server_error"),
        ("[[empty]]", 500, "server_error"),
    ],
)
async def test_a_model_that_fails_is_an_error_and_no_summary(
    grizz: Grizz, http: aiohttp.ClientSession, directive: str, status: int, code: str
) -> None:
    told = await compact(http, grizz.url, input=directive)
    assert (told[0], told[1]["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"model": None, "input": "x"}, "model", "missing_required_parameter"),
        ({}, "input", "missing_required_parameter"),
        ({"input": []}, "input", "missing_required_parameter"),
        ({"input": 5}, "input", "invalid_type"),
        ({"previous_response_id": "resp_x"}, "previous_response_id", "previous_response_not_found"),
    ],
)
async def test_a_bad_request_is_refused(
    grizz: Grizz, http: aiohttp.ClientSession, body: dict[str, Any], param: str, code: str
) -> None:
    status, told = await compact(http, grizz.url, **body)
    assert (status, told["error"]["param"], told["error"]["code"]) == (400, param, code)
    assert grizz.demo.requests == 0


async def test_the_limits_of_a_user_hold_for_compacting(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(limits__requests_per_minute=1)
    assert (await compact(http, grizz.url, input=SAID))[0] == 200
    status, told = await compact(http, grizz.url, input=SAID)
    assert (status, told["error"]["code"]) == (429, "rate_limit_exceeded")


async def test_a_conversation_is_compacted_and_the_window_begins_another(
    grizz: Grizz, http: aiohttp.ClientSession
) -> None:
    async with http.post(f"{grizz.url}/v1/conversations", json={"items": SAID}) as answer:
        conversation = (await answer.json())["id"]
    status, window = await compact(http, grizz.url, conversation=conversation)
    assert status == 200
    assert [item["type"] for item in window["output"]] == ["message", "compaction"]
    async with http.post(f"{grizz.url}/v1/conversations", json={"items": window["output"]}) as answer:
        assert answer.status == 200
        other = (await answer.json())["id"]
    for text in ("One.", "Two."):
        _, answered = await create(http, grizz.url, input=text, conversation=other)
        assert answered["status"] == "completed"
    messages = str(grizz.demo.last_request["messages"])
    assert "Talk like a pirate." in messages and "the code word is heron" in messages and "One." in messages
    async with http.get(f"{grizz.url}/v1/conversations/{other}/items?order=asc") as answer:
        listed = (await answer.json())["data"]
    assert listed[1]["encrypted_content"] == token_of(window)
    assert "pirate" not in str(listed[:2])


async def test_a_conversation_that_is_not_there_is_not_compacted(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    status, told = await compact(http, grizz.url, conversation="conv_" + "0" * 32)
    assert (status, told["error"]["code"]) == (404, "conversation_not_found")
    body = {"conversation": "conv_" + "0" * 32, "previous_response_id": "resp_x", "input": "x"}
    assert (await compact(http, grizz.url, **body))[0] == 400


class _Down:
    """Claims that cannot be reached."""

    async def claim(self, name: str, value: str, keep_s: float) -> str | None:
        raise ClaimsDown("nobody there")

    def release(self, name: str, value: str) -> None: ...


async def test_without_the_secret_no_model_is_paid_for_a_summary(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    grizz.app.engine.compactions = Compactions("", _Down())
    status, told = await compact(http, grizz.url, input=SAID)
    assert (status, told["error"]["code"]) == (503, "server_is_overloaded")
    assert grizz.demo.requests == 0


FOREIGN = {"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAAAABsomething"}


async def test_a_server_of_the_same_api_writes_summaries_and_gets_words_back() -> None:
    async with running({"there": {"api": "responses"}}) as grizz:
        status, window = await compact(grizz.http, grizz.url, input=SAID)
        assert status == 200
        status, answer = await create(grizz.http, grizz.url, input=[*window["output"], SAID[1]])
        assert (status, answer["status"]) == (200, "completed")
        said = grizz.demos["there"].last_request["input"]
        assert [item["role"] for item in said] == ["system", "user", "assistant", "user"]
        assert "the code word is heron" in said[2]["content"][0]["text"]


async def test_such_a_servers_own_items_go_back_to_it_and_to_no_other() -> None:
    async with running({"there": {"api": "responses"}}) as grizz:
        await create(grizz.http, grizz.url, input=[FOREIGN, SAID[1]])
        assert grizz.demos["there"].last_request["input"][0] == FOREIGN
        token = "grizz1." + FOREIGN["encrypted_content"]
        status, _ = await create(grizz.http, grizz.url, input=[{**FOREIGN, "encrypted_content": token}, SAID[1]])
        assert status == 400
    async with running({"there": {"api": "responses", "models": "big"}, "here": {"models": "small"}}) as grizz:
        _, answer = await create(grizz.http, grizz.url, model="small", input=[FOREIGN, SAID[1]])
        assert answer["error"]["code"] == "invalid_prompt"
        assert grizz.asked() == {"there": 0, "here": 0}
