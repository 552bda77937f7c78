"""Nobody waits behind another user's thousand jobs."""

from __future__ import annotations

import asyncio

import aiohttp

from tests.player import Player, text_of


def as_user(letter: str) -> dict[str, str]:
    return {"Cookie": f"grizz_owner={letter * 43}"}


async def test_a_user_with_a_thousand_queued_jobs_delays_the_next_job_of_another_by_one_job_per_slot(
    start_grizz, http: aiohttp.ClientSession
) -> None:
    slots = 2
    grizz = await start_grizz(workers__concurrency=slots, queue__max_jobs=3000)
    url = f"{grizz.url}/v1/responses"

    async def queue(text: str) -> str:
        async with http.post(url, json={"input": text, "background": True}, headers=as_user("A")) as answer:
            assert answer.status == 200, await answer.text()
            return (await answer.json())["id"]  # type: ignore[no-any-return]

    # Both slots are held until all is queued, so that no job is half on its way when the other user comes.
    holding = [await queue(f"[[delay:60]] A holds {slot}") for slot in range(slots)]
    async with asyncio.timeout(20):
        while grizz.demo.active < slots:  # the demo model has no event for it
            await asyncio.sleep(0.01)
    for start in range(0, 1000, 50):
        await asyncio.gather(*(queue(f"[[words:1]] A{number}") for number in range(start, start + 50)))
    assert grizz.app.transport.depth().queued == 1000
    player = await Player.connect(http, grizz.ws_url, headers=as_user("B"))
    await player.create("[[echo:mine]] B")
    await player.until("response.queued")
    for held in holding:
        async with http.post(f"{url}/{held}/cancel", headers=as_user("A")) as answer:
            assert answer.status == 200, await answer.text()
    assert text_of(await player.answer()) == "mine"
    ahead = list(grizz.demo.by_message).index("[[echo:mine]] B") - slots
    assert 0 <= ahead <= slots


async def test_one_user_cannot_fill_the_queue_for_others(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(workers__concurrency=0, queue__max_jobs=10)
    url = f"{grizz.url}/v1/responses"

    async def queue(user: str) -> int:
        async with http.post(url, json={"input": "x", "background": True}, headers=as_user(user)) as answer:
            if answer.status == 429:
                assert "your part of the queue" in (await answer.json())["error"]["message"]
                assert int(answer.headers["Retry-After"]) >= 1
            return answer.status

    assert [await queue("A") for _ in range(6)] == [200] * 5 + [429]
    assert await queue("B") == 200


async def test_answers_carry_what_is_left_of_the_limits(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(limits__requests_per_minute=10, limits__tokens_per_minute=10_000)
    async with http.post(f"{grizz.url}/v1/responses", json={"input": "[[words:3]]"}) as answer:
        headers = answer.headers
        used = (await answer.json())["usage"]["total_tokens"]
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("10", "9")
    assert 0 < float(headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 6
    async with http.post(f"{grizz.url}/v1/responses", json={"input": "[[words:3]]", "stream": True}) as answer:
        assert int(answer.headers["x-ratelimit-remaining-tokens"]) <= 10_000 - used
        assert answer.headers["x-ratelimit-remaining-requests"] == "8"
        await answer.read()
