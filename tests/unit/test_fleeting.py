"""How long an answer runs on without a reader depends on whether anybody can come back to it."""

from __future__ import annotations

from grizz.engine.replies import Replies
from grizz.engine.reply import Reply
from grizz.protocol import completions, requests
from grizz.protocol.events import response_object
from grizz.protocol.requests import Request


def reply_to(request: Request, response_id: str) -> Reply:
    response = response_object(response_id, 1, request, "in_progress")
    return Reply(response, "me", request, parent=None, scope=None, given=(), size=1, now=0.0)


async def test_a_completion_is_given_up_after_seconds_and_a_response_after_its_grace() -> None:
    replies = Replies(keep_s=600, grace_s=60, max_bytes=10**9)
    messages = [{"role": "user", "content": "x"}]
    replies.add(reply_to(completions.parse({"messages": messages}, "m").request, "completion"))
    replies.add(reply_to(completions.parse({"messages": messages, "store": True}, "m").request, "stored"))
    replies.add(reply_to(requests.parse({"input": "x"}, "m"), "response"))
    found = {seconds: [reply.id for reply in replies.abandoned(seconds)] for seconds in (1, 10, 61)}
    assert found == {1: [], 10: ["completion"], 61: ["completion", "stored", "response"]}
