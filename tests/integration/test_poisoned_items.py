"""Items that would make every later turn fail: refused where that can be known, and named where it shows later."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from grizz.core.api_keys import hash_of
from tests.accounts import ALICE, BOB, bearer
from tests.conftest import Grizz, running_grizz
from tests.several import Several, running

SECRET = {"GRIZZ_HISTORY_COMPACTION_SECRET": "one-secret-for-all-of-our-processes"}
ACCOUNTS = {"GRIZZ_KEYS_ALICE_HASHES": hash_of(ALICE), "GRIZZ_KEYS_BOB_HASHES": hash_of(BOB)}
MESSAGE: dict[str, Any] = {"role": "user", "content": "hello"}
CALL: dict[str, Any] = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
OUTPUT: dict[str, Any] = {"type": "function_call_output", "call_id": "c1", "output": "1"}


class Client:
    """Posts as one user."""

    def __init__(self, http: aiohttp.ClientSession, grizz: Grizz | Several, key: str = "") -> None:
        self.http = http
        self.url = f"{grizz.url}/v1"
        self.headers = bearer(key) if key else None

    async def post(self, path: str, **body: Any) -> dict[str, Any]:
        async with self.http.post(f"{self.url}/{path}", json=body, headers=self.headers) as answer:
            told: dict[str, Any] = await answer.json()
            return told

    async def error(self, path: str, **body: Any) -> tuple[str, str]:
        error = (await self.post(path, **body))["error"]
        return error["code"], error["param"]

    async def conversation(self, *items: dict[str, Any]) -> str:
        return str((await self.post("conversations", items=list(items)))["id"])

    async def add(self, conversation: str, *items: dict[str, Any]) -> list[str]:
        added = await self.post(f"conversations/{conversation}/items", items=list(items))
        return [item["id"] for item in added["data"]]

    async def turn(self, conversation: str, **body: Any) -> dict[str, Any]:
        return await self.post("responses", conversation=conversation, input="and?", **body)

    async def token(self) -> dict[str, Any]:
        window = await self.post("responses/compact", model="grizz-demo", input="remember heron")
        sealed: dict[str, Any] = window["output"][-1]
        return sealed


async def test_a_compaction_item_that_cannot_be_opened_is_refused_wherever_it_is_sent(
    http: aiohttp.ClientSession,
) -> None:
    async with running_grizz(environ={**SECRET, **ACCOUNTS}) as grizz:
        alice, bob = Client(http, grizz, ALICE), Client(http, grizz, BOB)
        of_alice = await alice.token()
        token = str(of_alice["encrypted_content"])
        mine = await bob.conversation(MESSAGE)
        for bad in ("invented", "grizz1.invented", token, token[:-4]):
            items = [MESSAGE, {"type": "compaction", "encrypted_content": bad}]
            refused = ("invalid_encrypted_content", "items[1].encrypted_content")
            assert await bob.error("conversations", items=items) == refused
            assert await bob.error(f"conversations/{mine}/items", items=items) == refused
            refused = ("invalid_encrypted_content", "input[1].encrypted_content")
            assert await bob.error("responses", input=items, conversation=mine) == refused
        assert (await bob.turn(mine))["status"] == "completed"
        assert (await alice.turn(await alice.conversation(of_alice)))["status"] == "completed"
        assert "heron" in str(grizz.demo.last_request["messages"])


async def test_one_that_cannot_be_opened_any_more_is_named_with_its_conversation(
    http: aiohttp.ClientSession, tmp_path: Any
) -> None:
    kept = {"history__store": "sqlite", "history__path": str(tmp_path / "grizz.db")}
    async with running_grizz(environ=SECRET, **kept) as grizz:
        client = Client(http, grizz)
        conversation = await client.conversation(MESSAGE)
        (item,) = await client.add(conversation, await client.token())
        chain = await client.post("responses", input=[await client.token(), MESSAGE])
    other = {"GRIZZ_HISTORY_COMPACTION_SECRET": "another-secret-of-more-than-32-characters"}
    async with running_grizz(environ=other, **kept) as grizz:
        client = Client(http, grizz)
        error = (await client.turn(conversation))["error"]
        assert (error["code"], error["param"]) == ("invalid_encrypted_content", "conversation")
        assert f"item '{item}' of conversation '{conversation}'" in error["message"]
        error = (await client.post("responses", input="and?", previous_response_id=chain["id"]))["error"]
        assert (error["code"], error["param"]) == ("invalid_encrypted_content", "previous_response_id")
        assert f"of the chain of '{chain['id']}'" in error["message"]
        async with http.delete(f"{client.url}/conversations/{conversation}/items/{item}") as answer:
            assert answer.status == 200
        assert (await client.turn(conversation))["status"] == "completed"


async def test_an_output_without_its_call_is_refused_where_all_is_known_and_named_where_it_shows(
    http: aiohttp.ClientSession, grizz: Grizz
) -> None:
    client = Client(http, grizz)
    assert await client.error("conversations", items=[MESSAGE, OUTPUT]) == ("no_tool_call_found", "items")
    assert await client.error("conversations", items=[OUTPUT, CALL]) == ("no_tool_call_found", "items")
    good = await client.conversation(MESSAGE, CALL)
    await client.add(good, OUTPUT)  # its call was there before
    assert (await client.turn(good))["status"] == "completed"
    bad = await client.conversation(MESSAGE)
    (item,) = await client.add(bad, OUTPUT)
    error = (await client.turn(bad))["error"]
    assert (error["code"], error["param"]) == ("no_tool_call_found", "conversation")
    assert error["message"].startswith("No tool call found for function call output with call_id c1.")
    assert f"item '{item}' of conversation '{bad}'" in error["message"]
    async with http.delete(f"{client.url}/conversations/{bad}/items/{item}") as answer:
        assert answer.status == 200
    assert (await client.turn(bad))["status"] == "completed"


async def test_a_call_that_only_a_compaction_item_holds_may_be_answered(
    http: aiohttp.ClientSession, grizz: Grizz
) -> None:
    client = Client(http, grizz)
    window = await client.post("responses/compact", model="grizz-demo", input=[MESSAGE, CALL])
    conversation = await client.conversation(*window["output"], OUTPUT)
    assert (await client.turn(conversation))["status"] == "completed"


@pytest.mark.parametrize("sealed", ["theirs", "gAAAA"])
async def test_what_only_a_model_server_can_open_is_left_to_it_and_named_where_another_one_cannot(sealed: str) -> None:
    upstreams = {"theirs": {"api": "responses", "models": "a"}, "chat": {"models": "b"}}
    async with running(upstreams) as grizz:
        client = Client(grizz.http, grizz)
        item = {"type": "compaction", "encrypted_content": sealed}
        conversation = await client.conversation(item, MESSAGE)
        (named,) = await client.add(conversation, item)
        assert (await client.turn(conversation, model="a"))["status"] == "completed"
        assert grizz.demos["theirs"].last_request["input"][0]["encrypted_content"] == sealed
        failed = await client.turn(conversation, model="b")
        assert failed["error"]["code"] == "invalid_prompt"
        async with grizz.http.get(f"{client.url}/conversations/{conversation}/items?order=asc") as answer:
            first = (await answer.json())["data"][0]["id"]
        assert first != named and f"compaction item '{first}'" in failed["error"]["message"]
        like_ours = {**item, "encrypted_content": "grizz1." + sealed}
        refused = ("invalid_encrypted_content", "items[0].encrypted_content")
        assert await client.error("conversations", items=[like_ours]) == refused
