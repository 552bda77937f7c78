"""Chains of `previous_response_id`: as long as a request may be, whatever is in memory; what breaks one is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from grizz.core.api_keys import hash_of
from grizz.engine import chains
from tests.accounts import ALICE, BOB, bearer
from tests.conftest import Grizz, running_grizz
from tests.player import Player
from tests.redis_servers import RedisServer

SMALL = {"history__max_bytes": 16 << 10}
ACCOUNTS = {"GRIZZ_KEYS_ALICE_HASHES": hash_of(ALICE), "GRIZZ_KEYS_BOB_HASHES": hash_of(BOB)}
TOLD = "a" * 1000


class Asker:
    """Asks one turn after the other."""

    def __init__(self, http: aiohttp.ClientSession, grizz: Grizz, headers: Mapping[str, str] | None = None) -> None:
        self.http = http
        self.url = f"{grizz.url}/v1/responses"
        self.headers = headers

    async def post(self, text: Any, previous: str | None = None, **fields: Any) -> tuple[int, dict[str, Any]]:
        body = {"input": text, "previous_response_id": previous, **fields}
        async with self.http.post(self.url, json=body, headers=self.headers) as answer:
            return answer.status, await answer.json()

    async def turn(self, text: str, previous: str | None = None, **fields: Any) -> str:
        status, body = await self.post(text, previous, **fields)
        assert status == 200, body
        return str(body["id"])

    async def refusal(self, previous: str) -> dict[str, Any]:
        status, body = await self.post("and?", previous)
        assert status == 400, body
        error: dict[str, Any] = body["error"]
        return error

    async def chain(self, turns: int, text: str = "") -> list[str]:
        ids: list[str] = []
        for number in range(turns):
            ids.append(await self.turn(f"turn {number} {text}", ids[-1] if ids else None))
        return ids

    async def delete(self, response_id: str) -> None:
        async with self.http.delete(f"{self.url}/{response_id}", headers=self.headers) as answer:
            assert answer.status == 200


def store_of(kind: str, tmp_path: Path, redis_server: RedisServer) -> dict[str, object]:
    if kind == "redis":
        return {"redis__url": redis_server.url}
    return {"history__store": "sqlite", "history__path": str(tmp_path / "grizz.db")}


def said_to(grizz: Grizz) -> list[str]:
    """What the model was shown of the user."""
    return [one["content"] for one in grizz.demo.last_request["messages"] if one["role"] == "user"]


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_a_chain_longer_than_memory_goes_on_whole(
    kind: str, tmp_path: Path, redis_server: RedisServer, http: aiohttp.ClientSession
) -> None:
    async with running_grizz(**SMALL, **store_of(kind, tmp_path, redis_server)) as grizz:
        asker = Asker(http, grizz)
        ids = await asker.chain(12, TOLD)
        assert said_to(grizz) == [f"turn {number} {TOLD}" for number in range(12)]
        assert grizz.app.engine.history.bytes <= SMALL["history__max_bytes"]
        # A fork of it far back, too.
        await asker.turn("fork", ids[6])
        assert said_to(grizz) == [*(f"turn {number} {TOLD}" for number in range(7)), "fork"]
        assert grizz.app.engine.history.bytes <= SMALL["history__max_bytes"]


async def test_an_unstored_turn_goes_on_after_a_stored_chain_longer_than_memory(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    settings = {"history__store": "sqlite", "history__path": str(tmp_path / "grizz.db")}
    async with running_grizz(**SMALL, **settings) as grizz:
        ids = await Asker(http, grizz).chain(12, TOLD)
        player = await Player.connect(http, grizz.ws_url)
        previous = ids[-1]
        for number in range(3):
            ended = (await player.ask(f"unstored {number}", previous_response_id=previous, store=False))[-1]
            assert ended["type"] == "response.completed", ended
            previous = ended["response"]["id"]
        assert len(said_to(grizz)) == 15
        await player.ws.close()


async def test_a_chain_that_holds_more_than_a_request_may_is_refused_with_numbers(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    settings = {"history__store": "sqlite", "history__path": str(tmp_path / "grizz.db")}
    for memory in ({}, SMALL):
        async with running_grizz(**memory, **settings, server__max_message_bytes=20_000) as grizz:
            asker = Asker(http, grizz)
            ids = [await asker.turn("[[words:1]]" + "b" * 9000)]
            ids.append(await asker.turn("[[words:1]]" + "b" * 9000, ids[-1]))
            ids.append(await asker.turn("[[words:1]]" + "b" * 5000, ids[-1]))
            async with http.get(f"{asker.url}/{ids[-1]}") as answer:
                found = await answer.json()  # read it may be, whatever its chain holds
            reference = {"type": "item_reference", "id": found["output"][0]["id"]}
            assert (await asker.post([reference, {"role": "user", "content": "and?"}]))[0] == 200
            error = await asker.refusal(ids[-1])
            assert (error["code"], error["param"]) == ("context_length_exceeded", "previous_response_id")
            assert ids[-1] in error["message"] and "3 responses" in error["message"]
            assert "20000 bytes" in error["message"] and "10000 responses" in error["message"]
            assert (await asker.post("still", ids[-2]))[0] == 200


@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis"])
async def test_a_deleted_ancestor_is_named_beside_the_id_that_was_sent(
    kind: str, tmp_path: Path, redis_server: RedisServer, http: aiohttp.ClientSession
) -> None:
    store = {} if kind == "memory" else store_of(kind, tmp_path, redis_server)
    async with running_grizz(environ=ACCOUNTS, **store) as grizz:
        alice, bob = Asker(http, grizz, bearer(ALICE)), Asker(http, grizz, bearer(BOB))
        first, second, third, fourth = await alice.chain(4)
        await alice.delete(second)
        for _ in range(2):
            error = await alice.refusal(fourth)
            assert (error["code"], error["param"]) == ("previous_response_not_found", "previous_response_id")
            assert fourth in error["message"] and f"it continues '{second}', which is not kept" in error["message"]
            assert first not in error["message"] and third not in error["message"]
        assert (await alice.refusal(second))["message"] == f"Previous response with id '{second}' not found."
        await alice.turn("from before it", first)
        # Whose it is not learns nothing of it, nor of what it continued.
        for foreign in (fourth, second, first):
            assert (await bob.refusal(foreign))["message"] == f"Previous response with id '{foreign}' not found."


async def test_what_memory_alone_has_lost_is_named(http: aiohttp.ClientSession) -> None:
    async with running_grizz(**SMALL) as grizz:
        asker = Asker(http, grizz)
        *_, last = ids = await asker.chain(3, TOLD)
        status, body = 200, {}
        while status == 200:
            status, body = await asker.post(TOLD, last)
            last = body.get("id", last)
            ids.append(last)
        message = body["error"]["message"]
        assert last in message and "which is not kept any more" in message
        assert any(f"it continues '{older}'" in message for older in ids[:-2])


async def test_a_failed_response_is_not_called_unknown(http: aiohttp.ClientSession, grizz: Grizz) -> None:
    asker = Asker(http, grizz)
    failed = await asker.turn("[[error:400]]")
    error = await asker.refusal(failed)
    assert error["code"] == "previous_response_not_found"
    assert failed in error["message"] and "it has failed" in error["message"]


async def test_the_conversation_that_a_chain_goes_on_from_is_named_when_it_is_gone(
    http: aiohttp.ClientSession, grizz: Grizz
) -> None:
    asker = Asker(http, grizz)
    async with http.post(f"{grizz.url}/v1/conversations", json={}) as answer:
        conversation = (await answer.json())["id"]
    inside = await asker.turn("in it", conversation=conversation)
    after = await asker.turn("after it", inside)
    async with http.delete(f"{grizz.url}/v1/conversations/{conversation}") as answer:
        assert answer.status == 200
    error = await asker.refusal(after)
    assert after in error["message"] and f"conversation '{conversation}', which is not kept" in error["message"]


async def test_a_chain_of_too_many_responses_is_refused(
    http: aiohttp.ClientSession, grizz: Grizz, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chains, "MAX_TURNS", 3)
    ids = await Asker(http, grizz).chain(4)
    error = await Asker(http, grizz).refusal(ids[-1])
    assert error["code"] == "context_length_exceeded" and "at least 4 responses" in error["message"]


@pytest.mark.parametrize("left", [0, 1], ids=["read", "mended"])
@pytest.mark.parametrize("whose", ["its own", "an ancestor's", "the user's"])
@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_what_is_deleted_while_it_is_read_does_not_come_back_into_memory(
    kind: str,
    whose: str,
    left: int,
    tmp_path: Path,
    redis_server: RedisServer,
    http: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running_grizz(**store_of(kind, tmp_path, redis_server)) as grizz:
        asker, engine = Asker(http, grizz), grizz.app.engine
        ids = await asker.chain(3)
        turns = [engine.history._turns[one] for one in ids]
        for turn in turns[: len(turns) - left]:
            engine.history._drop(turn)
        archive = engine.lookup._archive
        assert archive is not None
        fetch = archive.fetch

        async def fetch_and_delete(response_ids: Sequence[str]) -> dict[str, bytes]:
            found = await fetch(response_ids)
            if ids[0] in response_ids or whose != "an ancestor's":  # the answer is on its way
                monkeypatch.setattr(archive, "fetch", fetch)
                if whose == "the user's":
                    engine.lookup.forget_owner(turns[0].owner)
                else:
                    await asker.delete(ids[-1] if whose == "its own" else ids[0])
            return found

        monkeypatch.setattr(archive, "fetch", fetch_and_delete)
        status, body = await asker.post("and?", ids[-1])
        if whose == "an ancestor's":
            assert status == 200, body  # it was whole when it was asked for
            assert said_to(grizz) == ["turn 0 ", "turn 1 ", "turn 2 ", "and?"]
            gone = ids[:1]
        else:
            assert (status, body["error"]["code"]) == (400, "previous_response_not_found")
            gone = ids[-1:] if whose == "its own" else ids
        assert not [one for one in gone if engine.history.peek(one, turns[0].owner) is not None]


async def test_a_turn_that_is_deleted_while_it_is_fetched_is_not_found(
    tmp_path: Path, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_grizz(history__store="sqlite", history__path=str(tmp_path / "grizz.db")) as grizz:
        asker, engine = Asker(http, grizz), grizz.app.engine
        one = await asker.turn("hi")
        engine.replies.remove(engine.replies.get(one))
        engine.history._drop(engine.history._turns[one])
        archive = engine.lookup._archive
        assert archive is not None
        fetch = archive.fetch

        async def fetch_and_delete(response_ids: Sequence[str]) -> dict[str, bytes]:
            found = await fetch(response_ids)
            monkeypatch.setattr(archive, "fetch", fetch)
            await asker.delete(one)
            return found

        monkeypatch.setattr(archive, "fetch", fetch_and_delete)
        async with http.get(f"{asker.url}/{one}") as answer:
            assert answer.status == 404
        assert not len(engine.history)
