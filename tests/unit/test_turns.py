"""The end of a turn in its conversation, and what is known of it where only its job is left."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from grizz.engine.reply import Reply
from grizz.engine.turns import Turns, given_in
from grizz.errors import ConversationLocked
from grizz.protocol import requests
from grizz.protocol.events import response_object
from grizz.tasks import TaskOwner
from grizz.transport.shelf import Conversation
from grizz.transport.shelf_memory import MemoryShelf

CONVERSATION = "conv_" + "0" * 32


def item(name: str, kind: str = "message") -> dict[str, Any]:
    more = {"role": "user", "content": []} if kind == "message" else {}
    return {"id": name, "type": kind, **more}


def reply_of(name: str) -> Reply:
    request = requests.parse({"input": "x", "conversation": CONVERSATION}, "m")
    response = response_object(name, 1, request, "completed")
    return Reply(response, "o", request, parent=None, scope=None, given=(), size=1, now=0.0)


def test_what_a_turn_was_given_is_told_from_its_context_whatever_became_of_compaction_items() -> None:
    sealed = {**item("cmp_1", "compaction"), "encrypted_content": "x"}
    own = [sealed, item("msg_old", "item_reference"), item("msg_gone", "item_reference"), item("msg_new")]
    context = [item("msg_s"), item("msg_old"), item("msg_a"), item("msg_b"), item("fc_c"), item("msg_new")]
    assert given_in(own, context) == [sealed, context[1], own[3]]


async def turns_on(shelf: MemoryShelf, tasks: TaskOwner) -> Turns:
    await shelf.create(Conversation(CONVERSATION, "o", 1, {}), [])
    return Turns(shelf, tasks, lease_s=3, is_home=lambda _: True)


async def test_a_turn_that_cannot_be_kept_frees_its_conversation_all_the_same() -> None:
    tasks = TaskOwner("test")
    shelf = MemoryShelf(keep_s=60, max_bytes=1 << 20)
    turns = await turns_on(shelf, tasks)
    await turns.begin(CONVERSATION, "resp_1", 0)
    reply, ended = reply_of("resp_1"), asyncio.Event()
    reply.given = ({"type": "message", "role": "user", "content": []},)  # it has no id, so no shelf can take it
    turns.settle(reply, reply.response, ended.set)
    await asyncio.wait_for(ended.wait(), 5)
    assert await turns.begin(CONVERSATION, "resp_2", 5) == []
    assert repr(turns).startswith("<Turns: 1 held")
    assert await tasks.close(within_s=1) == []


async def test_an_adopted_turn_has_its_conversation_before_anybody_else_can_begin_one() -> None:
    """Where locks live in the process, a restart has freed them all."""
    tasks = TaskOwner("test")
    shelf = MemoryShelf(keep_s=60, max_bytes=1 << 20)
    turns = await turns_on(shelf, tasks)
    turns.adopt(reply_of("resp_1"))
    await asyncio.sleep(0)
    with pytest.raises(ConversationLocked):
        await shelf.begin(CONVERSATION, "resp_2", 5.0)
    assert await tasks.close(within_s=1) == []
