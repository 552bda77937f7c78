"""Conversations over HTTP, as openai-python asks for them, and turns in them over HTTP and WebSocket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.conversations import Conversation, ConversationDeletedResource, ConversationItemList
from openai.types.responses import Response

from tests.conftest import Grizz
from tests.player import Player, numbers, text_of

USER: Any = {"type": "message", "role": "user", "content": "My name is Alice"}
ASSISTANT: Any = {"type": "message", "role": "assistant", "content": "Hello Alice!"}


@pytest.fixture
async def client(grizz: Grizz) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{grizz.url}/v1", api_key="any", max_retries=0) as client:
        yield client


async def texts(client: AsyncOpenAI, conversation_id: str) -> list[str]:
    """What is said in it, oldest first."""
    found = []
    async for item in client.conversations.items.list(conversation_id, order="asc", limit=7):
        if item.type == "message":
            found.append("".join(part.text for part in item.content))
        else:
            found.append(item.type)
    return found


def asked(grizz: Grizz) -> list[tuple[str, str]]:
    """What the model was shown last."""
    return [(message["role"], message["content"]) for message in grizz.demo.last_request["messages"]]


async def ask(client: AsyncOpenAI, conversation_id: str, text: str, **fields: Any) -> Any:
    return await client.responses.create(model="grizz-demo", input=text, conversation=conversation_id, **fields)


async def test_a_conversation_is_made_read_changed_and_deleted(client: AsyncOpenAI) -> None:
    made = await client.conversations.create(metadata={"topic": "demo"}, items=[USER, ASSISTANT])
    assert made.id.startswith("conv_") and len(made.id) > 5 + 32
    assert await client.conversations.retrieve(made.id) == made
    changed = await client.conversations.update(made.id, metadata={"topic": "other"})
    assert changed == Conversation(**{**made.to_dict(), "metadata": {"topic": "other"}})
    deleted = await client.conversations.delete(made.id)
    assert deleted == ConversationDeletedResource(id=made.id, object="conversation.deleted", deleted=True)
    for question in (
        client.conversations.retrieve(made.id),
        client.conversations.update(made.id, metadata={}),
        client.conversations.delete(made.id),
        client.conversations.items.create(made.id, items=[USER]),
        client.conversations.items.retrieve("msg_1", conversation_id=made.id),
        client.conversations.items.delete("msg_1", conversation_id=made.id),
        ask(client, made.id, "hello"),
    ):
        with pytest.raises(openai.NotFoundError) as told:
            await question
        assert told.value.code == "conversation_not_found"
    with pytest.raises(openai.NotFoundError):
        await client.conversations.items.list(made.id)


async def test_items_are_added_read_paged_and_deleted(client: AsyncOpenAI) -> None:
    made = await client.conversations.create()
    added = await client.conversations.items.create(
        made.id, items=[USER, ASSISTANT], include=["file_search_call.results"]
    )
    assert (added.first_id, added.last_id, added.has_more) == (added.data[0].id, added.data[1].id, False)
    assert await client.conversations.items.retrieve(added.last_id, conversation_id=made.id) == added.data[1]
    await client.conversations.items.create(made.id, items=[USER] * 20)
    newest = await client.conversations.items.list(made.id)
    assert (len(newest.data), newest.has_more) == (20, True)
    assert await texts(client, made.id) == ["My name is Alice", "Hello Alice!", *["My name is Alice"] * 20]
    left = await client.conversations.items.delete(added.first_id, conversation_id=made.id)
    assert left == made
    assert (await texts(client, made.id))[:2] == ["Hello Alice!", "My name is Alice"]
    with pytest.raises(openai.NotFoundError) as told:
        await client.conversations.items.retrieve(added.first_id, conversation_id=made.id)
    assert told.value.code == "item_not_found"
    with pytest.raises(openai.BadRequestError):
        await client.conversations.items.list(made.id, after=added.first_id)


async def test_every_answer_is_valid_for_the_sdks_own_types(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    items = [
        USER,
        ASSISTANT,
        {"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AA=="}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"type": "reasoning", "id": "rs_1", "encrypted_content": "x"},
    ]
    url = f"{grizz.url}/v1/conversations"
    async with http.post(url, json={"items": items, "metadata": None}) as answer:
        made = Conversation.model_validate_json(await answer.text(), strict=True)
    async with http.post(f"{url}/{made.id}/items", json={"items": items}) as answer:
        added = ConversationItemList.model_validate_json(await answer.text(), strict=True)
    assert [item.type for item in added.data] == ["message"] * 3 + [item["type"] for item in items[3:]]
    async with http.get(f"{url}/{made.id}/items?limit=100&order=asc&include=a&include=b") as answer:
        listed = ConversationItemList.model_validate_json(await answer.text(), strict=True)
    assert len({item.id for item in listed.data}) == 12  # an id that is taken is given anew
    async with http.post(url) as answer:
        assert answer.status == 200  # without any body
        empty = await answer.json()
    async with http.get(f"{url}/{empty['id']}/items") as answer:
        ConversationItemList.model_validate_json(await answer.text(), strict=True)
    async with http.post(f"{grizz.url}/v1/responses", json={"input": "hi", "conversation": {"id": made.id}}) as answer:
        response = Response.model_validate_json(await answer.text(), strict=True)
    assert response.conversation is not None and response.conversation.id == made.id


async def test_what_cannot_be_a_conversation_is_refused_with_the_reason(
    grizz: Grizz, http: aiohttp.ClientSession
) -> None:
    async with http.post(f"{grizz.url}/v1/conversations") as answer:
        known = (await answer.json())["id"]
    one = f"/v1/conversations/{known}"
    cases = [
        ("POST", "/v1/conversations", [], 400, None),
        ("POST", "/v1/conversations", {"items": "x"}, 400, "items"),
        ("POST", "/v1/conversations", {"items": [USER] * 21}, 400, "items"),
        ("POST", "/v1/conversations", {"items": [{"type": "message", "role": "x"}]}, 400, "items[0].role"),
        ("POST", "/v1/conversations", {"metadata": {"a": 1}}, 400, "metadata"),
        ("POST", one, {}, 400, "metadata"),
        ("POST", one, None, 400, None),
        ("POST", f"{one}/items", {}, 400, "items"),
        ("POST", f"{one}/items", {"items": [{"type": "item_reference", "id": "msg_1"}]}, 400, "items[0].type"),
        ("GET", f"{one}/items?limit=101", None, 400, "limit"),
        ("GET", f"{one}/items?order=up", None, 400, "order"),
        ("GET", f"{one}/items?after=msg_1", None, 400, "after"),
        ("GET", "/v1/conversations?after=conv_1", None, 400, "after"),
        ("GET", f"/v1/conversations?query={'x' * 201}", None, 400, "query"),
        ("GET", "/v1/conversations/resp_1", None, 400, "conversation_id"),
        ("GET", "/v1/conversations/conv_%F0%9F%98%80", None, 404, None),
        ("GET", "/v1/conversations/conv_1/items", None, 404, None),
        ("PUT", one, {}, 405, None),
        ("POST", "/v1/responses", {"input": "x", "conversation": "other"}, 400, "conversation"),
        ("POST", "/v1/responses", {"input": "x", "conversation": {"name": "x"}}, 400, "conversation"),
        ("POST", "/v1/responses", {"input": "x", "conversation": "conv_1"}, 404, None),
        (
            "POST",
            "/v1/responses",
            {"input": "x", "conversation": known, "previous_response_id": "resp_1"},
            400,
            "previous_response_id",
        ),
    ]
    for method, path, body, status, param in cases:
        data = b"" if body is None else json.dumps(body)
        async with http.request(method, grizz.url + path, data=data) as answer:
            told = await answer.json()
            assert (answer.status, told["error"]["param"]) == (status, param), (method, path, body, told)


async def test_the_sync_client_works_too(grizz: Grizz) -> None:
    def play() -> None:
        with OpenAI(base_url=f"{grizz.url}/v1", api_key="any", max_retries=0) as client:
            made = client.conversations.create(items=[USER])
            client.responses.create(model="grizz-demo", input="[[words:3]]", conversation=made.id)
            kept = [item.type for item in client.conversations.items.list(made.id, order="asc", limit=1)]
            assert kept == ["message"] * 3
            assert client.conversations.items.delete(
                client.conversations.items.list(made.id).data[0].id, conversation_id=made.id
            ) == client.conversations.retrieve(made.id)
            assert client.conversations.delete(made.id).deleted

    await asyncio.to_thread(play)


async def test_turns_see_what_was_said_before_and_are_kept_for_the_next(grizz: Grizz, client: AsyncOpenAI) -> None:
    made = await client.conversations.create(items=[USER, ASSISTANT])
    first = await ask(client, made.id, "What is my name? [[echo:Alice]]")
    assert first.conversation.id == made.id
    assert asked(grizz) == [
        ("user", "My name is Alice"),
        ("assistant", "Hello Alice!"),
        ("user", "What is my name? [[echo:Alice]]"),
    ]
    stream = await ask(client, made.id, "[[words:3]]", stream=True)
    events = [event async for event in stream]
    named = [event.response.conversation.id for event in events if hasattr(event, "response")]
    assert named == [made.id] * 3
    assert len(asked(grizz)) == 5
    said = ["My name is Alice", "Hello Alice!", "What is my name? [[echo:Alice]]", "Alice", "[[words:3]]", numbers(3)]
    assert await texts(client, made.id) == said
    kept = [item async for item in client.conversations.items.list(made.id, order="asc")]
    inputs = [item.id async for item in client.responses.input_items.list(first.id)]
    assert [item.id for item in kept[2:4]] == [*inputs, first.output[0].id]


async def test_a_turn_over_a_websocket_and_one_that_is_not_stored_are_kept_alike(
    grizz: Grizz, client: AsyncOpenAI, http: aiohttp.ClientSession
) -> None:
    made = await client.conversations.create()
    player = await Player.connect(http, grizz.ws_url)
    for text in ("[[echo:one]]", "[[echo:two]]"):
        events = await player.ask(text, conversation={"id": made.id}, store=False)
        assert {e["response"]["conversation"]["id"] for e in events if "response" in e} == {made.id}
    warmed = await player.ask("remember this", conversation=made.id, generate=False)
    assert warmed[-1]["type"] == "response.completed"
    assert await texts(client, made.id) == ["[[echo:one]]", "one", "[[echo:two]]", "two", "remember this"]


async def test_a_tool_loop_runs_in_a_conversation(client: AsyncOpenAI) -> None:
    made = await client.conversations.create()
    tool: Any = {"type": "function", "name": "f", "strict": False, "parameters": {"type": "object", "properties": {}}}
    first = await ask(client, made.id, "[[tool:f]] [[args:{}]]", tools=[tool])
    output: Any = {"type": "function_call_output", "call_id": first.output[0].call_id, "output": "sunny"}
    second = await ask(client, made.id, [output], tools=[tool])
    assert "sunny" in second.output_text
    kept = [item.type async for item in client.conversations.items.list(made.id, order="asc")]
    assert kept == ["message", "function_call", "function_call_output", "message"]
    with pytest.raises(openai.BadRequestError) as told:
        await ask(client, made.id, [{**output, "call_id": "call_none"}])
    assert told.value.code == "no_tool_call_found"
    assert (await ask(client, made.id, "[[echo:free]]")).output_text == "free"  # what was refused holds no lock


async def test_references_stand_for_items_of_the_conversation_and_are_not_kept_twice(
    grizz: Grizz, client: AsyncOpenAI
) -> None:
    made = await client.conversations.create(items=[USER])
    (item,) = [item async for item in client.conversations.items.list(made.id)]
    reference: Any = {"type": "item_reference", "id": item.id}
    await ask(client, made.id, [reference, {"role": "user", "content": "[[echo:yes]]"}])
    assert [text for _, text in asked(grizz)] == ["My name is Alice", "My name is Alice", "[[echo:yes]]"]
    assert await texts(client, made.id) == ["My name is Alice", "[[echo:yes]]", "yes"]
    with pytest.raises(openai.BadRequestError) as told:
        await ask(client, made.id, [{"type": "item_reference", "id": "msg_none"}])
    assert told.value.code == "item_not_found"
    # What was said elsewhere is not this conversation's.
    with pytest.raises(openai.BadRequestError):
        await client.responses.create(model="grizz-demo", input=[reference])


async def test_items_that_come_with_ids_keep_them_unless_they_are_taken(client: AsyncOpenAI) -> None:
    mine: Any = {**USER, "id": "msg_mine"}
    none: Any = [{**USER, "id": name} for name in ("no id: \n", ".", "..")]
    made = await client.conversations.create(items=[mine, mine, *none])
    await client.conversations.items.create(made.id, items=[mine])
    first = await ask(client, made.id, [mine, {**mine, "id": "msg_other"}])
    ids = [item.id async for item in client.conversations.items.list(made.id, order="asc")]
    assert len(set(ids)) == len(ids) == 9
    for name in ids:
        assert (await client.conversations.items.retrieve(name, conversation_id=made.id)).id == name
    assert [name for name in ids if name in ("msg_mine", "msg_other")] == ["msg_mine", "msg_other"]
    assert ids[-1] == first.output[0].id


@pytest.mark.parametrize(
    ("text", "status", "kept"),
    [
        ("[[words:20]] [[length:3]]", "incomplete", ["hi", "[[words:20]] [[length:3]]", numbers(3)]),
        ("[[error:400]]", "failed", ["hi"]),
        ("[[words:9]] [[cut:3]]", "failed", ["hi"]),
    ],
)
async def test_a_turn_that_failed_leaves_nothing_and_one_that_stopped_early_what_it_said(
    client: AsyncOpenAI, text: str, status: str, kept: list[str]
) -> None:
    made = await client.conversations.create(items=[{**USER, "content": "hi"}])
    response = await ask(client, made.id, text)
    assert response.status == status
    assert await texts(client, made.id) == kept
    assert (await ask(client, made.id, "[[echo:on]]")).output_text == "on"


async def test_a_cancelled_turn_leaves_what_it_said_and_nothing_when_it_said_nothing(
    client: AsyncOpenAI, grizz: Grizz, http: aiohttp.ClientSession
) -> None:
    made = await client.conversations.create()
    player = await Player.connect(http, grizz.ws_url)
    await player.create("[[delay:5]] [[words:3]]", conversation=made.id)
    await player.until("response.in_progress")
    await player.send({"type": "response.cancel"})
    assert (await player.answer())[-1]["response"]["status"] == "cancelled"
    assert await texts(client, made.id) == []
    await player.create("[[words:9]] [[stall:3]]", conversation=made.id)
    await player.until("response.output_text.delta")
    await player.send({"type": "response.cancel"})
    said = text_of((await player.answer()) and player.events)
    assert await texts(client, made.id) == ["[[words:9]] [[stall:3]]", said]


async def test_a_call_that_broke_off_is_not_kept(client: AsyncOpenAI) -> None:
    made = await client.conversations.create()
    tool: Any = {"type": "function", "name": "f", "strict": False, "parameters": {"type": "object", "properties": {}}}
    broken = await ask(client, made.id, '[[tool:f]] [[args:{"a":1}]] [[length:1]]', tools=[tool])
    assert (broken.status, broken.output[0].status) == ("incomplete", "incomplete")
    assert len(await texts(client, made.id)) == 1


async def test_two_turns_at_once_over_http_are_refused_with_409_and_the_sdk_tries_again(
    grizz: Grizz, client: AsyncOpenAI
) -> None:
    made = await client.conversations.create()
    first = asyncio.create_task(ask(client, made.id, "[[words:30]] [[rate:60]]"))
    await asyncio.sleep(0.2)
    with pytest.raises(openai.ConflictError) as told:
        await ask(client, made.id, "[[echo:second]]")
    assert told.value.code == "conversation_locked"
    assert told.value.response.headers["x-should-retry"] == "true"
    patient = client.with_options(max_retries=5)
    assert (await ask(patient, made.id, "[[echo:second]]")).output_text == "second"
    assert (await first).output_text == numbers(30)
    said = await texts(client, made.id)
    assert said == ["[[words:30]] [[rate:60]]", numbers(30), "[[echo:second]]", "second"]


async def test_turns_over_a_websocket_wait_in_order_whatever_their_lanes(
    grizz: Grizz, client: AsyncOpenAI, http: aiohttp.ClientSession
) -> None:
    made = await client.conversations.create()
    player = await Player.connect(http, grizz.ws_url)
    other = await Player.connect(http, grizz.ws_url)
    await player.create("[[words:20]] [[rate:60]]", conversation=made.id, stream_id="a")
    await player.until("response.created", lane="a")
    for lane in "bcd":
        await player.create(f"[[echo:{lane}]]", conversation=made.id, stream_id=lane)
    await asyncio.sleep(0.05)
    await other.create("[[echo:other]]", conversation=made.id)
    with pytest.raises(openai.ConflictError):
        await ask(client, made.id, "no turn")
    assert text_of(await other.answer()) == "other"
    for lane in "abcd":
        await player.answer(lane)
    said = await texts(client, made.id)
    assert said[1::2] == [numbers(20), "b", "c", "d", "other"]


async def test_who_goes_away_while_waiting_for_a_turn_holds_nothing_up(
    grizz: Grizz, client: AsyncOpenAI, http: aiohttp.ClientSession
) -> None:
    made = await client.conversations.create()
    first, gone, last = [await Player.connect(http, grizz.ws_url) for _ in range(3)]
    await first.create("[[words:20]] [[rate:60]]", conversation=made.id)
    await first.until("response.created")
    await gone.create("[[echo:gone]]", conversation=made.id)
    await asyncio.sleep(0.05)
    await last.create("[[echo:last]]", conversation=made.id)
    await asyncio.sleep(0.05)
    await gone.ws.close()
    assert text_of(await last.answer()) == "last"
    assert (await texts(client, made.id))[1::2] == [numbers(20), "last"]


async def test_a_response_of_a_conversation_can_be_continued_by_its_id_with_all_that_came_before(
    grizz: Grizz, client: AsyncOpenAI
) -> None:
    made = await client.conversations.create(items=[USER, ASSISTANT])
    first = await ask(client, made.id, "[[echo:one]]")
    await ask(client, made.id, "[[echo:two]]")
    fork = await client.responses.create(model="grizz-demo", input="[[echo:f]]", previous_response_id=first.id)
    assert [text for _, text in asked(grizz)] == [
        "My name is Alice",
        "Hello Alice!",
        "[[echo:one]]",
        "one",
        "[[echo:f]]",
    ]
    await client.responses.create(model="grizz-demo", input="[[echo:g]]", previous_response_id=fork.id)
    assert [text for _, text in asked(grizz)][-3:] == ["[[echo:f]]", "f", "[[echo:g]]"]
    assert len(await texts(client, made.id)) == 6  # the conversation itself went on without them
    await client.conversations.delete(made.id)
    with pytest.raises(openai.BadRequestError) as told:
        await client.responses.create(model="grizz-demo", input="x", previous_response_id=fork.id)
    assert told.value.code == "previous_response_not_found"


async def test_a_turn_whose_conversation_is_deleted_goes_on_and_is_kept_nowhere(
    grizz: Grizz, client: AsyncOpenAI, http: aiohttp.ClientSession
) -> None:
    made = await client.conversations.create()
    player = await Player.connect(http, grizz.ws_url)
    await player.create("[[words:20]] [[rate:60]]", conversation=made.id)
    await player.until("response.output_text.delta")
    await client.conversations.delete(made.id)
    assert (await player.answer())[-1]["type"] == "response.completed"
    with pytest.raises(openai.NotFoundError):
        await client.conversations.retrieve(made.id)


async def test_the_listing_has_titles_pages_and_finds(
    grizz: Grizz, client: AsyncOpenAI, http: aiohttp.ClientSession
) -> None:
    async def listing(query: str = "") -> Any:
        async with http.get(f"{grizz.url}/v1/conversations{query}") as answer:
            assert answer.status == 200
            return await answer.json()

    assert await listing() == {"object": "list", "data": [], "first_id": "", "last_id": "", "has_more": False}
    talk = await client.conversations.create()
    named = await client.conversations.create(items=[USER], metadata={"title": "Über  Züge", "folder": "a b"})
    await ask(client, talk.id, "Tell me\n  about trains [[echo:yes]]")
    whole = await listing()
    assert [(one["title"], one["items"]) for one in whole["data"]] == [
        ("Tell me about trains [[echo:yes]]", 2),
        ("Über  Züge", 1),
    ]
    for one in whole["data"]:
        Conversation.model_validate_json(json.dumps(one), strict=True)
        assert one["updated_at"] >= one["created_at"]
    assert [one["id"] for one in (await listing("?query=TRAINS"))["data"]] == [talk.id]
    assert [one["id"] for one in (await listing("?query=%C3%BCBER&metadata[folder]=a+b"))["data"]] == [named.id]
    assert (await listing("?metadata[folder]=b"))["data"] == []
    page = await listing("?limit=1")
    assert (page["first_id"], page["last_id"], page["has_more"]) == (talk.id, talk.id, True)
    page = await listing(f"?limit=1&after={talk.id}")
    assert (page["first_id"], page["has_more"]) == (named.id, False)
    assert [one["id"] for one in (await listing("?order=asc"))["data"]] == [named.id, talk.id]


async def test_the_listing_names_the_response_that_runs_in_a_conversation(
    grizz: Grizz, client: AsyncOpenAI, http: aiohttp.ClientSession
) -> None:
    async def running() -> Any:
        async with http.get(f"{grizz.url}/v1/conversations") as answer:
            return [one["running"] for one in (await answer.json())["data"]]

    talk = await client.conversations.create()
    stream = await client.responses.create(
        input="[[words:20]] [[rate:100]]", conversation=talk.id, stream=True, model="grizz-demo"
    )
    first = await anext(aiter(stream))
    assert first.type == "response.created"
    assert await running() == [first.response.id]
    async with http.get(f"{grizz.url}/v1/conversations/{talk.id}?include=running") as answer:
        assert (await answer.json())["running"] == first.response.id
    async for _ in stream:
        pass
    assert await running() == [None]


async def test_a_conversation_that_has_grown_too_long_takes_no_more(
    grizz: Grizz, client: AsyncOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grizz.engine.conversations.MAX_ITEMS", 3)
    made = await client.conversations.create(items=[USER, ASSISTANT])
    assert (await ask(client, made.id, "[[echo:last]]")).output_text == "last"
    for question in (ask(client, made.id, "more"), client.conversations.items.create(made.id, items=[USER])):
        with pytest.raises(openai.BadRequestError) as told:
            await question
        assert told.value.code == "context_length_exceeded"
    assert len(await texts(client, made.id)) == 4


async def test_a_shutdown_ends_a_turn_in_a_conversation_and_frees_it(
    start_grizz: Any, http: aiohttp.ClientSession
) -> None:
    grizz: Grizz = await start_grizz()
    async with http.post(f"{grizz.url}/v1/conversations") as answer:
        made = (await answer.json())["id"]
    player = await Player.connect(http, grizz.ws_url)
    await player.create("[[words:9]] [[stall:3]]", conversation=made)
    await player.until("response.output_text.delta")
    await grizz.app.engine.drain(0.1)
    assert (await player.answer())[-1]["response"]["status"] == "failed"
    shelf = grizz.app.engine.conversations._shelf
    assert await shelf.begin(made, "resp_next", 1.0) == []
