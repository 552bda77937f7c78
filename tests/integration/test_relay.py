"""Grizz in front of a server that speaks the Responses API itself: what clients see of it, well-behaved or not."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import orjson
import pytest

from tests import grammar
from tests.player import numbers, text_of
from tests.raw_upstream import Call, raw_upstream
from tests.several import Several, running

THERE = {"there": {"api": "responses"}}
SEARCH = [f"response.web_search_call.{step}" for step in ("in_progress", "searching", "completed")]


def types_of(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


def sent(grizz: Several, name: str = "there") -> dict[str, Any]:
    """The last body that the upstream got."""
    body: dict[str, Any] = grizz.demos[name].last_request
    return body


async def test_text_comes_through_under_our_numbers_and_our_id() -> None:
    async with running(THERE) as grizz:
        player = await grizz.player()
        events = await player.ask("[[words:40]]", metadata={"mine": "yes"})
        grammar.check(events)
        assert text_of(events) == numbers(40)
        done = events[-1]["response"]
        assert done["status"] == "completed"
        assert done["metadata"] == {"mine": "yes"}
        assert done["model"] == "grizz-demo"
        assert done["store"] is True
        assert done["usage"]["output_tokens"] == 40
        assert (done["service_tier"], done["demo_region"]) == ("flex", "loopback")
        assert not [event for event in events if "obfuscation" in event]
        assert done["id"].startswith("resp_") and done["id"] == events[0]["response"]["id"]
        asked = sent(grizz)
        assert (asked["store"], asked["stream"]) == (False, True)
        assert asked["input"] == [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "[[words:40]]"}]}
        ]


async def test_what_only_such_a_server_understands_reaches_it_untouched() -> None:
    fields: dict[str, Any] = {
        "tools": [{"type": "web_search", "search_context_size": "low"}, {"type": "mcp", "server_label": "x"}],
        "tool_choice": {"type": "web_search"},
        "include": ["reasoning.encrypted_content"],
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"verbosity": "low"},
        "truncation": "auto",
        "max_tool_calls": 3,
        "service_tier": "flex",
        "prompt_cache_key": "k",
        "prompt_cache_retention": "24h",
        "context_management": [{"type": "compaction", "compact_threshold": 5}],
        "stream_options": {"include_obfuscation": False},
    }
    async with running(THERE) as grizz:
        player = await grizz.player()
        ours = {"background": True, "generate": True, "grizz_reasoning": "raw", "client_metadata": {"a": 1}}
        await player.send({"type": "response.create", "input": "[[echo:x]]", **ours, **fields})
        await player.answer()
        body = sent(grizz)
        assert {key: body.get(key) for key in fields} == fields
        assert set(body) == {*fields, "model", "input", "store", "stream"}


async def test_hosted_tools_sources_and_unknown_events_come_through_whole() -> None:
    async with running(THERE) as grizz:
        player = await grizz.player()
        events = await player.ask("[[hosted]] [[words:5]] [[unknown-event:2]]")
        grammar.check(events)
        assert [kind for kind in types_of(events) if "web_search" in kind] == SEARCH
        unknown = next(event for event in events if event["type"] == "demo:weather")
        assert unknown["forecast"] == {"tomorrow": "sun"}
        search, message = events[-1]["response"]["output"]
        assert (search["type"], search["action"]["type"]) == ("web_search_call", "search")
        assert message["content"][0]["annotations"][0]["url"] == "https://example.com/"
        assert "response.output_text.annotation.added" in types_of(events)


async def test_history_with_hosted_items_and_encrypted_reasoning_goes_back_whole() -> None:
    async with running(THERE) as grizz:
        player = await grizz.player()
        first = (await player.ask("[[hosted]] [[encrypted]] [[echo:so]]"))[-1]["response"]
        kinds = [item["type"] for item in first["output"]]
        assert kinds == ["reasoning", "web_search_call", "message"]
        await player.ask("[[echo:and]]", previous_response_id=first["id"])
        history = sent(grizz)["input"]
        assert [item["type"] for item in history] == ["message", *kinds, "message"]
        assert history[1]["encrypted_content"].startswith("gAAA-demo-")
        assert history[2] == first["output"][1]
        assert "previous_response_id" not in sent(grizz)


async def test_reasoning_without_encrypted_content_is_not_sent_back() -> None:
    async with running(THERE) as grizz:
        player = await grizz.player()
        first = (await player.ask("[[reasoning:deep thought]] [[echo:so]]"))[-1]["response"]
        assert first["output"][0]["summary"] == [{"type": "summary_text", "text": "deep thought"}]
        await player.ask("[[echo:and]]", previous_response_id=first["id"])
        assert [item["type"] for item in sent(grizz)["input"]] == ["message", "message", "message"]


@pytest.mark.parametrize("form", ["summary", "text", "open"])
@pytest.mark.parametrize("wanted", ["summary", "raw"])
async def test_reasoning_is_told_in_the_form_the_client_asked_for(form: str, wanted: str) -> None:
    async with running(THERE) as grizz:
        player = await grizz.player()
        events = await player.ask(
            f"[[reasoning:deep thought]] [[reasoning-form:{form}]] [[echo:so]]", grizz_reasoning=wanted
        )
        grammar.check(events)
        raw = wanted == "raw" and form != "summary"
        kind = "response.reasoning_text.delta" if raw else "response.reasoning_summary_text.delta"
        assert "".join(event["delta"] for event in events if event["type"] == kind) == "deep thought"
        assert "response.reasoning.delta" not in types_of(events)
        item = events[-1]["response"]["output"][0]
        assert item["content" if raw else "summary"][0]["text"] == "deep thought"


async def test_a_tool_loop_goes_round() -> None:
    tool = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}
    async with running(THERE) as grizz:
        player = await grizz.player()
        events = await player.ask("What is the weather in Paris?", tools=[tool])
        grammar.check(events)
        (call,) = events[-1]["response"]["output"]
        assert (call["type"], call["name"], call["status"]) == ("function_call", "get_weather", "completed")
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "42 degrees"}
        await player.send(
            {
                "type": "response.create",
                "previous_response_id": events[-1]["response"]["id"],
                "input": [output],
                "tools": [tool],
            }
        )
        answer = await player.answer()
        grammar.check(answer)
        assert "42 degrees" in text_of(answer)
        assert [item["type"] for item in sent(grizz)["input"]] == ["message", "function_call", "function_call_output"]


async def test_parallel_calls_keep_their_ids_and_arguments() -> None:
    async with running(THERE) as grizz:
        player = await grizz.player()
        events = await player.ask('[[tool:a]] [[args:{"x":1}]] [[tool:b]] [[args:{"y":[1,2]}]]')
        grammar.check(events)
        output = events[-1]["response"]["output"]
        assert [(call["name"], call["arguments"]) for call in output] == [("a", '{"x":1}'), ("b", '{"y":[1,2]}')]
        assert len({call["call_id"] for call in output}) == 2


@pytest.mark.parametrize("skip", ["created", "in_progress", "item", "part", "text_done", "part_done", "item_done"])
@pytest.mark.parametrize("asked", ["[[words:9]]", "[[reasoning:well now]] [[words:9]]", "[[tool:a]] [[words:3]]"])
async def test_what_the_upstream_leaves_out_is_made_up_for(skip: str, asked: str) -> None:
    async with running(THERE) as grizz:
        player = await grizz.player()
        events = await player.ask(f"[[skip:{skip}]] {asked}")
        grammar.check(events)
        done = events[-1]["response"]
        whole = (await player.ask(asked))[-1]["response"]
        assert [item["type"] for item in done["output"]] == [item["type"] for item in whole["output"]]
        assert text_of(events) == numbers(9 if "9" in asked else 3)
        assert done["status"] == "completed"
        assert {item.get("status", "completed") for item in done["output"]} == {"completed"}


async def test_a_server_that_says_next_to_nothing_is_understood_by_its_last_event() -> None:
    everything = "".join(
        f"[[skip:{name}]]" for name in ("created", "in_progress", "item", "part", "text_done", "part_done", "item_done")
    )
    async with running(THERE) as grizz:
        player = await grizz.player()
        events = await player.ask(f'{everything} [[tool:a]] [[args:{{"x":1}}]]')
        grammar.check(events)
        (call,) = events[-1]["response"]["output"]
        assert (call["name"], call["arguments"]) == ("a", '{"x":1}')


async def test_items_at_one_place_are_told_apart() -> None:
    async with running(THERE) as grizz:
        player = await grizz.player()
        events = await player.ask("[[collide]] [[hosted]] [[reasoning:hm]] [[words:3]] [[tool:a]]")
        grammar.check(events)
        kinds = [item["type"] for item in events[-1]["response"]["output"]]
        assert kinds == ["web_search_call", "reasoning", "message", "function_call"]


@pytest.mark.parametrize("fault", ["error:500", "error:429", "cut:0", "eof:0", "midstream-error:0", "garbage:0"])
async def test_what_fails_before_the_first_word_is_tried_again_unseen(fault: str) -> None:
    async with running({"there": {"api": "responses"}, "spare": {"api": "responses", "priority": 2}}) as grizz:
        player = await grizz.player()
        await grizz.spend("spare", text := f"[[words:5]] [[{fault}]] [[times:1]] [[retry-after:0]]")
        events = await player.ask(text)
        grammar.check(events)
        assert text_of(events) == numbers(5)


@pytest.mark.parametrize(("first", "second"), [("responses", "chat"), ("chat", "responses")])
@pytest.mark.parametrize("fault", ["error:500", "cut:0", "eof:0", "midstream-error:0", "garbage:0"])
async def test_upstreams_of_both_kinds_stand_in_for_each_other(first: str, second: str, fault: str) -> None:
    upstreams = {"main": {"api": first, "priority": 1}, "backup": {"api": second, "priority": 2}}
    async with running(upstreams) as grizz:
        player = await grizz.player()
        await grizz.spend("backup", text := f"[[words:30]] [[{fault}]] [[times:1]]")
        events = await player.ask(text)
        grammar.check(events)
        assert text_of(events) == numbers(30)
        assert grizz.asked() == {"main": 1, "backup": 1}
        assert ("messages" in sent(grizz, "backup")) == (second == "chat")
        assert ("input" in sent(grizz, "main")) == (first == "responses")


async def test_an_announcement_alone_is_no_word_yet() -> None:
    """The reasoning is announced, and then the connection breaks: nobody has seen anything."""
    upstreams = {"main": {"api": "responses", "priority": 1}, "backup": {"priority": 2}}
    async with running(upstreams) as grizz:
        player = await grizz.player()
        await grizz.spend("backup", text := "[[tool:f]] [[cut:1]] [[times:1]]")
        events = await player.ask(text)
        grammar.check(events)
        assert events[-1]["response"]["status"] == "completed"
        assert grizz.asked() == {"main": 1, "backup": 1}


@pytest.mark.parametrize("fault", ["cut:7", "eof:7", "midstream-error:7", "garbage:7"])
async def test_what_breaks_off_later_fails_with_what_was_said(fault: str) -> None:
    async with running({**THERE, "backup": {"priority": 2}}) as grizz:
        player = await grizz.player()
        events = await player.ask(f"[[words:20]] [[{fault}]]")
        grammar.check(events)
        failed = events[-1]["response"]
        assert (events[-1]["type"], failed["status"]) == ("response.failed", "failed")
        assert failed["error"]["code"] == "server_error"
        assert failed["output"][0]["status"] == "incomplete"
        assert failed["output"][0]["content"][0]["text"] == numbers(7) == text_of(events)
        assert grizz.asked() == {"there": 1, "backup": 0}


@pytest.mark.parametrize(("end", "reason"), [("length:3", "max_output_tokens"), ("filter:3", "content_filter")])
async def test_an_answer_that_ends_early_says_why(end: str, reason: str) -> None:
    async with running(THERE) as grizz:
        player = await grizz.player()
        last = (await player.ask(f"[[words:9]] [[{end}]]"))[-1]
        assert last["type"] == "response.incomplete"
        assert last["response"]["incomplete_details"] == {"reason": reason}


async def test_a_cancel_closes_the_request_there() -> None:
    async with running(THERE) as grizz:
        player = await grizz.player()
        await player.create("[[words:1000]] [[rate:50]]")
        begun = await player.until("response.output_text.delta")
        await player.send({"type": "response.cancel", "response_id": begun[0]["response"]["id"]})
        events = begun + await player.answer()
        grammar.check(events)
        assert events[-1]["response"]["status"] == "cancelled"
        async with asyncio.timeout(5):
            while not grizz.demos["there"].disconnected:
                await asyncio.sleep(0.01)


async def test_a_running_answer_is_shown_as_it_stands_and_resumed() -> None:
    async with running(THERE) as grizz:
        player = await grizz.player()
        await player.create("[[hosted]] [[reasoning:hm hm]] [[reasoning-form:open]] [[words:60]] [[rate:40]]")
        begun = await player.until("response.output_text.delta")
        response_id = begun[0]["response"]["id"]
        await player.ws.close()
        async with grizz.http.get(f"{grizz.url}/v1/responses/{response_id}") as answer:
            shown = await answer.json()
        assert [item["type"] for item in shown["output"]] == ["web_search_call", "reasoning", "message"]
        assert shown["output"][1]["summary"][0]["text"] == "hm hm"
        assert shown["output"][2]["content"][0]["text"].startswith("w0 ")
        again = await grizz.player()
        await again.send(
            {
                "type": "grizz:attach",
                "response_id": response_id,
                "starting_after": begun[-1]["sequence_number"],
            }
        )
        rest = [event for event in await again.answer() if event["type"] != "grizz:attached"]
        grammar.check(begun + rest)
        assert text_of(begun + rest) == numbers(60)


async def test_an_attempt_that_is_lost_half_way_is_followed_by_another_one() -> None:
    async with running(THERE) as grizz:
        player = await grizz.player()
        await player.create("[[hosted]] [[words:200]] [[rate:100]]")
        begun = await player.until("response.output_text.delta")
        home, transport = grizz.app.engine.home, grizz.app.transport
        (run,) = grizz.app.pool._runs.values()
        await transport.nack(run.delivery)
        run.abandon()
        events = begun + await player.answer()
        grammar.check(events)
        kinds = [item["type"] for item in events[-1]["response"]["output"]]
        assert kinds == ["web_search_call", "message", "web_search_call", "message"]
        statuses = [item["status"] for item in events[-1]["response"]["output"]]
        assert statuses == ["completed", "incomplete", "completed", "completed"]
        assert home.knows(events[0]["response"]["id"])


async def test_the_last_event_alone_is_a_whole_answer(http: aiohttp.ClientSession) -> None:
    async with running(THERE) as grizz:
        body = {"input": "[[hosted]] [[echo:all of it]]", "model": "grizz-demo"}
        async with http.post(f"{grizz.url}/v1/responses", json=body) as answer:
            whole = await answer.json()
        assert whole["output"][1]["content"][0]["text"] == "all of it"


async def test_a_conversation_moves_from_one_kind_to_the_other() -> None:
    upstreams = {"main": {"api": "responses", "models": "a"}, "other": {"models": "b"}}
    async with running(upstreams, upstream__model="a") as grizz:
        player = await grizz.player()
        first = (await player.ask("[[hosted]] [[encrypted]] [[echo:from a]]"))[-1]["response"]
        second = (await player.ask("[[echo:from b]]", model="b", previous_response_id=first["id"]))[-1]["response"]
        assert [m["role"] for m in sent(grizz, "other")["messages"]] == ["user", "assistant", "user"]
        await player.ask("[[echo:a again]]", previous_response_id=second["id"])
        kinds = [item["type"] for item in sent(grizz, "main")["input"]]
        assert kinds == ["message", "reasoning", "web_search_call", "message", "message", "message", "message"]


async def test_a_conversation_that_is_too_long_is_known_by_what_the_server_says() -> None:
    """As llama.cpp says it, without a code that others know."""
    text = "request (5031 tokens) exceeds the available context size (2048 tokens), try increasing it"
    body = {"error": {"code": 400, "message": text, "type": "exceed_context_size_error"}}

    async def refuse(call: Call) -> None:
        await call.status("400 Bad Request", orjson.dumps(body))

    async with raw_upstream(refuse) as (_, url), running({"there": {"api": "responses", "base_url": url}}) as grizz:
        player = await grizz.player()
        failed = (await player.ask("long"))[-1]["response"]
        assert failed["error"] == {"code": "context_length_exceeded", "message": text}
