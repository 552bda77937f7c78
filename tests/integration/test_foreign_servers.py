"""Model servers with manners of their own, on real sockets: what they refuse, how they answer, what they list."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from tests import grammar, relayed
from tests.player import Player, text_of
from tests.raw_upstream import END, ROLE, Call, raw_upstream, word
from tests.several import Several, running

Behave = Callable[[Call], Awaitable[None]]
BOTH = pytest.mark.parametrize("api", ["chat", "responses"])


class Bodies(list[dict[str, Any]]):
    """What a server was asked; it refuses what `refuses` names and answers the rest."""

    def __init__(self, refuses: Callable[[dict[str, Any]], str] = lambda _: "") -> None:
        super().__init__()
        self._refuses = refuses

    async def __call__(self, call: Call) -> None:
        self.append(orjson.loads(call.body))
        if refusal := self._refuses(self[-1]):
            await call.status("400 Bad Request", orjson.dumps({"error": {"message": refusal}}))
        else:
            await call.answer("hello")


@asynccontextmanager
async def in_front_of(behave: Behave, *, every: bool = False, **terms: object) -> AsyncIterator[Several]:
    async with (
        raw_upstream(behave, every=every) as (_, url),
        running({"main": {"base_url": url, **terms}}, upstream__max_retries=0) as grizz,
    ):
        yield grizz


async def ask(grizz: Several, **fields: Any) -> dict[str, Any]:
    """The response to one question, after a look at its events."""
    player: Player = await grizz.player()
    events = await player.ask("hi", **fields)
    grammar.check(events)
    response: dict[str, Any] = events[-1]["response"]
    assert response["status"] == "failed" or text_of(events) == "hello"
    return response


async def test_a_server_that_does_not_know_stream_options_is_asked_without_from_then_on() -> None:
    asked = Bodies(lambda body: "Unrecognized field: stream_options" if "stream_options" in body else "")
    async with in_front_of(asked) as grizz:
        for _ in range(2):
            assert (await ask(grizz))["status"] == "completed"
    assert ["stream_options" in body for body in asked] == [True, False, False]


async def test_what_one_model_refuses_another_of_the_same_server_is_still_asked() -> None:
    refusal = "Unrecognized field: stream_options"
    asked = Bodies(lambda body: refusal if "stream_options" in body and body["model"] == "old" else "")
    async with in_front_of(asked) as grizz:
        for model in ("old", "new", "old"):
            assert (await ask(grizz, model=model))["status"] == "completed"
    told = [(body["model"], "stream_options" in body) for body in asked]
    assert told == [("old", True), ("old", False), ("new", True), ("old", False)]


@pytest.mark.parametrize(
    ("knows", "refusal"),
    [
        ("max_completion_tokens", "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
        ("max_tokens", "property 'max_completion_tokens' is unsupported"),
    ],
)
async def test_the_bound_on_tokens_gets_the_name_that_the_server_knows(knows: str, refusal: str) -> None:
    (other,) = {"max_tokens", "max_completion_tokens"} - {knows}
    asked = Bodies(lambda body: refusal if other in body else "")
    async with in_front_of(asked, max_tokens_field=other) as grizz:
        for _ in range(2):
            assert (await ask(grizz, max_output_tokens=9))["status"] == "completed"
    assert [body.get(knows) for body in asked] == [None, 9, 9]


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({"max_output_tokens": 9}, "max_tokens must be at least 16"),
        ({"temperature": 1}, "temperature is not supported"),
    ],
)
async def test_what_the_client_chose_is_refused_in_the_servers_words_and_asked_once(
    fields: dict[str, Any], refusal: str
) -> None:
    asked = Bodies(lambda _: refusal)
    async with in_front_of(asked) as grizz:
        response = await ask(grizz, **fields)
    assert response["error"] == {"code": "invalid_prompt", "message": refusal}
    assert len(asked) == 1


async def test_a_server_that_refuses_all_it_is_asked_is_not_asked_for_ever() -> None:
    text = "unknown fields: stream_options, max_tokens, max_completion_tokens"
    asked = Bodies(lambda _: text)
    async with in_front_of(asked) as grizz:
        response = await ask(grizz, max_output_tokens=9)
    assert response["error"]["message"] == text
    assert len(asked) == 3


@pytest.mark.parametrize("status", ["400 Bad Request", "500 Internal Server Error"])
async def test_a_template_that_wants_the_system_first_gets_later_words_of_it_as_the_users(status: str) -> None:
    asked: list[list[tuple[str, Any]]] = []

    async def behave(call: Call) -> None:
        asked.append([(message["role"], message["content"]) for message in orjson.loads(call.body)["messages"]])
        if "system" in [role for role, _ in asked[-1][1:]]:
            await call.status(status, b'{"error": {"message": "System message must be at the beginning."}}')
        else:
            await call.answer("hello")

    said = [("system", "a"), ("user", "b"), ("system", "c"), ("user", "d"), ("assistant", "e"), ("user", "f")]
    async with in_front_of(behave) as grizz:
        for _ in range(2):
            player = await grizz.player()
            given = [{"role": role, "content": text} for role, text in said]
            await player.send({"type": "response.create", "input": given})
            assert text_of(await player.answer()) == "hello"
    folded = [("system", "a"), ("user", "b\n\nc\n\nd"), ("assistant", "e"), ("user", "f")]
    assert asked == [said, folded, folded]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": "model is required"}', "model is required"),
        (b'{"object": "error", "message": "too hot", "code": 400}', "too hot"),
        (b'{"detail": "no such thing"}', "no such thing"),
        (
            b'{"detail": [{"loc": ["body"], "msg": "field required"}, {"msg": "and so on"}]}',
            "field required; and so on",
        ),
        (b"just words", "just words"),
        (b"<html>a page</html>", "upstream 'main' answered 422"),
        (b"x" * 5000, "upstream 'main' answered 422"),
        (b'{"error": {"message": "' + b"x" * 5000 + b'"}}', "x" * 1000),
        (b"", "upstream 'main' answered 422"),
        (b'{"error": null}', "upstream 'main' answered 422"),
    ],
)
async def test_why_a_request_was_refused_is_told_however_the_server_puts_it(body: bytes, message: str) -> None:
    async def behave(call: Call) -> None:
        await call.status("422 Unprocessable Entity", body)

    async with in_front_of(behave) as grizz:
        assert (await ask(grizz))["error"] == {"code": "invalid_prompt", "message": message}


@pytest.mark.parametrize(
    "said",
    [
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.",
        "the request exceeds the available context size, try increasing it",
        "The decoder prompt (length 9) is longer than the maximum model length of 8.",
        "The input (9 tokens) is longer than the model's context length (8 tokens).",
        "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000",
        "Your input exceeds the context window of this model.",
    ],
)
async def test_a_conversation_that_is_too_long_is_known_by_the_words_of_many_servers(said: str) -> None:
    async with in_front_of(Bodies(lambda _: said)) as grizz:
        assert (await ask(grizz))["error"] == {"code": "context_length_exceeded", "message": said}


WHOLE = {
    "chat": {
        "object": "chat.completion",
        "choices": [{"message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
    },
    "responses": relayed.answer(relayed.message(0, "hello"))[-1]["response"],
}


@BOTH
async def test_the_answer_of_a_server_that_does_not_stream_is_an_answer(api: str) -> None:
    async def behave(call: Call) -> None:
        await call.status("200 OK", orjson.dumps(WHOLE[api]))

    async with in_front_of(behave, api=api) as grizz:
        response = await ask(grizz)
        assert (response["status"], response["usage"]["total_tokens"]) == ("completed", 8)
        assert await grizz.metric("grizz_upstream_requests_total", upstream="main", result="2xx") == 1


async def test_such_an_answer_is_bounded_as_others_are() -> None:
    async def behave(call: Call) -> None:
        message = {"message": {"content": "x" * 50_000}, "finish_reason": "stop"}
        await call.status("200 OK", orjson.dumps({"choices": [message]}))

    async with (
        raw_upstream(behave) as (_, url),
        running({"main": {"base_url": url}}, replies__max_reply_bytes=20_000) as grizz,
    ):
        events = await (await grizz.player()).ask("hi")
    assert events[-1]["response"]["status"] == "failed"
    assert "20000 bytes" in events[-1]["response"]["error"]["message"]


@BOTH
async def test_an_error_that_comes_as_a_success_says_why(api: str) -> None:
    async def behave(call: Call) -> None:
        await call.status("200 OK", b'{"error": {"message": "no such model", "code": 404}}')

    async with in_front_of(behave, api=api) as grizz:
        error = (await ask(grizz))["error"]
    assert error == {"code": "model_not_found", "message": "upstream 'main' failed: no such model"}


@pytest.mark.parametrize("end", [END, END.removesuffix(b"data: [DONE]\n\n")], ids=["[DONE]", "without"])
async def test_a_server_of_old_http_ends_its_stream_by_closing(end: bytes) -> None:
    async def behave(call: Call) -> None:
        await call.raw(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + ROLE + word("hel"))
        await call.raw(word("lo") + end)
        call.hang_up()

    async with in_front_of(behave) as grizz:
        assert (await ask(grizz))["status"] == "completed"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        ("200 OK", b'[{"id": "mini", "object": "model"}]'),
        ("200 OK", b'{"data": [{"id": "mini", "created": null}], "models": [{"name": "mini"}]}'),
        ("200 OK", b'{"data": [{"id": "mini", "created": 1700000000.5, "owned_by": null}]}'),
    ],
)
async def test_a_list_of_models_is_read_however_it_is_wrapped(status: str, body: bytes) -> None:
    async def behave(call: Call) -> None:
        await call.status(status, body)

    async with in_front_of(behave, every=True) as grizz, grizz.http.get(f"{grizz.url}/v1/models") as answer:
        listed = (await answer.json())["data"]
    (mini,) = [model for model in listed if model["id"] == "mini"]
    assert (mini["object"], type(mini["created"])) == ("model", int)


async def test_a_server_without_a_list_of_models_answers_all_the_same() -> None:
    async with in_front_of(Bodies()) as grizz:
        assert (await ask(grizz, model="anything"))["model"] == "anything"
        async with grizz.http.get(f"{grizz.url}/v1/models") as answer:
            assert [model["id"] for model in (await answer.json())["data"]] == ["grizz-demo"]
