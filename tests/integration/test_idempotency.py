"""The same request sent twice is answered once: `Idempotency-Key`, on one process and on several."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from grizz.engine.once import Once
from grizz.errors import RequestError
from tests.accounts import ACCOUNTS, ALICE, BOB, bearer
from tests.conftest import Grizz
from tests.contract.cast import a_store
from tests.nodes import nodes_on
from tests.player import Player
from tests.redis_servers import RedisServer

Told = tuple[int, dict[str, Any], bool]


async def post(http: aiohttp.ClientSession, url: str, key: str, user: str = "", **body: Any) -> Told:
    headers = {"Idempotency-Key": key, **(bearer(user) if user else {})}
    async with http.post(f"{url}/v1/responses", json=body, headers=headers) as answer:
        return answer.status, await answer.json(), answer.headers.get("Idempotent-Replayed") == "true"


async def stream(http: aiohttp.ClientSession, url: str, key: str, **body: Any) -> str:
    headers = {"Idempotency-Key": key}
    async with http.post(f"{url}/v1/responses", json={**body, "stream": True}, headers=headers) as answer:
        assert answer.status == 200
        return await answer.text()


async def test_the_same_key_and_body_give_the_same_response(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    first = await post(http, grizz.url, "k1", input="hello", metadata={"a": "1", "b": "2"})
    again = await post(http, grizz.url, "k1", metadata={"b": "2", "a": "1"}, input="hello")
    assert first[0] == again[0] == 200
    assert again[1] == first[1]
    assert (first[2], again[2]) == (False, True)
    assert grizz.demo.requests == 1
    other = await post(http, grizz.url, "k2", input="hello", metadata={"a": "1", "b": "2"})
    assert other[1]["id"] != first[1]["id"]


async def test_a_stream_is_replayed_from_its_start(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    first = await stream(http, grizz.url, "k", input="[[words:30]]")
    assert await stream(http, grizz.url, "k", input="[[words:30]]") == first
    assert first.startswith("event: response.created")
    assert grizz.demo.requests == 1


async def test_a_running_one_is_joined(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    body = {"input": "[[words:40]] [[rate:100]]"}
    texts = [asyncio.create_task(stream(http, grizz.url, "k", **body))]
    async with asyncio.timeout(5):
        while not grizz.demo.active:
            await asyncio.sleep(0.01)
    texts.append(asyncio.create_task(stream(http, grizz.url, "k", **body)))
    first, second = await asyncio.gather(*texts)
    assert first == second
    assert grizz.demo.requests == 1


async def test_many_at_once_make_one_job(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    told = await asyncio.gather(*(post(http, grizz.url, "k", input="[[words:5]]") for _ in range(12)))
    assert {status for status, _, _ in told} == {200}
    assert len({body["id"] for _, body, _ in told}) == 1
    assert sum(replayed for _, _, replayed in told) == 11
    assert grizz.demo.requests == 1


async def test_the_same_key_with_another_body_is_refused(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    await post(http, grizz.url, "k", input="hello")
    status, body, _ = await post(http, grizz.url, "k", input="goodbye")
    assert (status, body["error"]["code"]) == (422, "idempotency_key_reused")
    assert grizz.demo.requests == 1


async def test_a_key_is_its_owners(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(environ=ACCOUNTS)
    hers = await post(http, grizz.url, "k", ALICE, input="[[echo:secret]]")
    his = await post(http, grizz.url, "k", BOB, input="[[echo:other]]")
    assert (hers[0], his[0]) == (200, 200)
    assert hers[1]["id"] != his[1]["id"]
    assert his[1]["output"][0]["content"][0]["text"] == "other"


async def test_a_refused_request_leaves_its_key_free(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    assert (await post(http, grizz.url, "k", input="x", previous_response_id="resp_none"))[0] == 400
    assert (await post(http, grizz.url, "k", input="x"))[0] == 200


async def test_a_deleted_response_is_not_made_again(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    _, made, _ = await post(http, grizz.url, "k", input="hello")
    async with http.delete(f"{grizz.url}/v1/responses/{made['id']}") as answer:
        assert answer.status == 200
    async with http.post(
        f"{grizz.url}/v1/responses", json={"input": "hello"}, headers={"Idempotency-Key": "k"}
    ) as answer:
        assert answer.status == 409
        assert answer.headers["x-should-retry"] == "false"
        assert (await answer.json())["error"]["code"] == "idempotency_response_gone"
    assert grizz.demo.requests == 1


async def test_once_the_log_is_gone_the_result_is_still_the_same(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(replies__keep_s=0)
    _, made, _ = await post(http, grizz.url, "k", input="hello")
    async with asyncio.timeout(5):
        while grizz.app.engine.replies.get(made["id"]) is not None:
            await asyncio.sleep(0.05)
    assert (await post(http, grizz.url, "k", input="hello"))[1] == made


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "é"])
async def test_what_is_no_key_is_refused(grizz: Grizz, http: aiohttp.ClientSession, key: str) -> None:
    status, body, _ = await post(http, grizz.url, key, input="hello")
    assert (status, body["error"]["param"]) == (400, "Idempotency-Key")


async def test_the_keys_of_one_owner_are_bounded(grizz: Grizz) -> None:
    once = grizz.app.engine.once
    for number in range(1_100):
        assert await once.take("greedy", f"k{number}", {}, "resp_x") is None
        once.keep("greedy", f"k{number}")
    assert await once.take("modest", "k", {}, "resp_y") is None
    assert repr(once) == "<Once: 1001 keys>"
    assert await once.take("greedy", "k1099", {}, "resp_z") is not None


@pytest.mark.timeout(120)
async def test_a_key_is_known_to_every_node(
    own_redis: RedisServer, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes:
        one, two = await nodes.start(), await nodes.start()
        first = await post(http, one.url, "k", input="[[words:5]]")
        assert await post(http, two.url, "k", input="[[words:5]]") == (200, first[1], True)
        assert (await post(http, two.url, "k", input="other"))[0] == 422
        urls = [one.url, two.url] * 4
        told = await asyncio.gather(*(post(http, url, "many", input="[[words:40]] [[rate:80]]") for url in urls))
        assert len({body["id"] for _, body, _ in told}) == 1
        assert await stream(http, one.url, "s", input="[[words:9]]") == await stream(
            http, two.url, "s", input="[[words:9]]"
        )
        assert nodes.demo.requests == 3
        refused = await post(http, one.url, "free", input="x", previous_response_id="resp_none")
        assert refused[0] == 400
        async with asyncio.timeout(5):  # the key is given back behind the refusal's back
            while (await post(http, two.url, "free", input="x"))[0] != 200:
                await asyncio.sleep(0.05)
        own_redis.kill()
        assert (await post(http, one.url, "alone", input="x"))[0] == 200
        assert (await post(http, one.url, "alone", input="x"))[2] is True


async def test_a_socket_reads_what_a_key_has_made(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    _, made, _ = await post(http, grizz.url, "k", input="hello")
    player = await Player.connect(http, grizz.ws_url)
    ended = (await player.ask("more", previous_response_id=made["id"]))[-1]
    assert ended["response"]["previous_response_id"] == made["id"]


async def test_who_waits_for_a_key_that_another_process_has_for_another_body_is_refused_too(tmp_path: Path) -> None:
    store = await a_store(tmp_path)
    assert await Once(store.claims, 60).take("me", "k", {"input": "one"}, "resp_1") is None
    here = Once(store.claims, 60)
    asked = [here.take("me", "k", {"input": "another"}, f"resp_{number}") for number in (2, 3)]
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert [isinstance(one, RequestError) and one.status for one in found] == [422, 422]
    await store.close()


async def test_a_key_that_another_process_gives_back_is_free_here_though_it_was_refused_here_before(
    tmp_path: Path,
) -> None:
    store = await a_store(tmp_path)
    there, here = Once(store.claims, 60), Once(store.claims, 60)
    assert await there.take("me", "k", {"input": "one"}, "resp_1") is None
    with pytest.raises(RequestError, match="another body"):
        await here.take("me", "k", {"input": "another"}, "resp_2")
    there.give_back("me", "k")
    async with asyncio.timeout(10):  # it is given back behind the caller's back
        while True:
            try:
                assert await here.take("me", "k", {"input": "another"}, "resp_3") is None
                break
            except RequestError:
                await asyncio.sleep(0.02)
    await store.close()
