"""`grizz.client`: an answer as an iterator for users of the openai package, through all that can happen to it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from grizz.client import Unconfirmed, stream
from tests.accounts import ACCOUNTS
from tests.conftest import Grizz
from tests.e2e.link import link_to
from tests.player import numbers
from tests.restarts import house_in

pytestmark = pytest.mark.timeout(120)


def client_of(url: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="any")


async def test_every_event_comes_once_and_in_order_though_the_connection_breaks(grizz: Grizz) -> None:
    async with link_to(grizz.url) as link, client_of(link.url) as client:
        link.cut_when = b"w50 "
        async with stream(client, input="[[words:100]] [[rate:200]]") as events:
            seen = [event async for event in events]
            final = await events.final()
        assert link.connections > 1
    assert [event.sequence_number for event in seen] == sorted({event.sequence_number for event in seen})
    assert "".join(event.delta for event in seen if event.type == "response.output_text.delta") == numbers(100)
    assert final.output_text == numbers(100) and final.status == "completed"
    assert grizz.demo.requests == 1


async def test_an_answer_goes_on_after_a_kill_and_is_whole(tmp_path: Path) -> None:
    async with house_in(tmp_path) as house:
        await house.start()
        async with link_to(house.node.url) as link, client_of(link.url) as client:
            events = stream(client, input="[[words:60]] [[rate:60]]")
            async for event in events:
                if event.type == "response.output_text.delta" and "w9 " in event.delta + " ":
                    break
            house.node.kill()
            link.target = (await house.start()).url
            assert (await events.final()).output_text == numbers(60)
            await events.aclose()


async def test_a_request_that_was_not_confirmed_is_not_sent_again(grizz: Grizz) -> None:
    async with link_to(grizz.url) as link, client_of(link.url) as client:
        link.cut_when = b"response.created"
        with pytest.raises(Unconfirmed):
            await stream(client, input="[[words:5]]").final()
        assert link.connections == 1


async def test_what_is_refused_raises_what_openai_raises(start_grizz) -> None:
    grizz = await start_grizz(environ=ACCOUNTS)
    async with client_of(grizz.url) as client:
        with pytest.raises(openai.AuthenticationError):
            await stream(client, input="hello").final()


async def test_a_bad_request_names_what_is_wrong(grizz: Grizz) -> None:
    async with client_of(grizz.url) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await stream(client, input="hello", temperature=9).final()
        assert refused.value.param == "temperature"
        with pytest.raises(openai.NotFoundError):
            await stream(client, response_id="resp_00000000nothere").final()
    with pytest.raises(TypeError):
        stream(client)


async def test_who_leaves_early_stops_the_answer_or_lets_it_run(grizz: Grizz) -> None:
    async with client_of(grizz.url) as client:
        for cancels, status in ((True, "cancelled"), (False, "completed")):
            async with stream(client, input="[[words:100]] [[rate:100]]", cancel_on_exit=cancels) as events:
                async for event in events:
                    if event.type == "response.output_text.delta":
                        break
            response_id = events.response_id
            async with asyncio.timeout(30):
                while (found := await client.responses.retrieve(response_id)).status == "in_progress":
                    await asyncio.sleep(0.05)
            assert found.status == status


async def test_a_cancelled_task_stops_the_answer(grizz: Grizz) -> None:
    async with client_of(grizz.url) as client:
        events = stream(client, input="[[words:500]] [[rate:50]]")
        task = asyncio.create_task(events.final())
        async with asyncio.timeout(30):
            while not events.response_id:
                await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await client.responses.retrieve(events.response_id)).status == "cancelled"


async def test_an_existing_response_is_read_from_any_number_on(grizz: Grizz) -> None:
    async with client_of(grizz.url) as client:
        first = [event async for event in stream(client, input="[[words:20]]")]
        assert first[0].type == "response.created"
        again = stream(client, response_id=first[0].response.id, starting_after=3)
        rest = [event async for event in again]
        assert rest[0].sequence_number == 4
        assert rest[-1].type == "response.completed"


async def test_who_only_reads_an_answer_stops_it_for_nobody(grizz: Grizz) -> None:
    async with client_of(grizz.url) as client:
        made = await client.responses.create(model="m", input="[[words:60]] [[rate:60]]", background=True)
        async with stream(client, response_id=made.id) as events:
            async for _ in events:
                break
        async with asyncio.timeout(30):
            while (found := await client.responses.retrieve(made.id)).status in ("queued", "in_progress"):
                await asyncio.sleep(0.05)
        assert found.status == "completed"


async def test_an_answer_of_which_everything_was_seen_ends_at_once(grizz: Grizz) -> None:
    async with client_of(grizz.url) as client:
        seen = [event async for event in stream(client, input="[[words:20]]")]
        assert seen[0].type == "response.created"
        again = stream(client, response_id=seen[0].response.id, starting_after=seen[-1].sequence_number)
        async with asyncio.timeout(20):
            assert [event async for event in again] == []
            assert (await again.final()).output_text == numbers(20)


async def test_a_server_that_is_full_for_a_moment_is_asked_again(start_grizz) -> None:
    grizz = await start_grizz(limits__readers_per_response=1)
    async with client_of(grizz.url) as client:
        first = stream(client, input="[[words:60]] [[rate:60]]")
        async for event in first:
            if event.type == "response.created":
                break
        second = asyncio.create_task(stream(client, response_id=first.response_id).final())
        await asyncio.sleep(0.3)
        assert not second.done()
        assert (await first.final()).output_text == numbers(60)
        async with asyncio.timeout(40):
            assert (await second).output_text == numbers(60)


async def test_it_works_without_asyncio(grizz: Grizz) -> None:
    async with link_to(grizz.url) as link:
        link.cut_when = b"w20 "

        def play() -> tuple[str, str]:
            with OpenAI(base_url=f"{link.url}/v1", api_key="any") as client:
                with stream(client, input="[[words:40]] [[rate:200]]") as events:
                    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
                    return text, events.final().output_text

        assert await asyncio.to_thread(play) == (numbers(40), numbers(40))
        assert link.connections > 1


async def test_it_gives_up_when_nobody_is_there(unused_tcp_port: int) -> None:
    async with client_of(f"http://127.0.0.1:{unused_tcp_port}") as client:
        with pytest.raises(openai.APIConnectionError, match="Given up"):
            await stream(client, input="hello", give_up_s=0.2).final()
