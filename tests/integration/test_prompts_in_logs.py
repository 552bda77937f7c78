"""No word of a prompt or an answer, and no key, stands in a log line, in either format, at the most talkative level."""

from __future__ import annotations

import asyncio
import itertools
import re
from typing import Any

import aiohttp
import orjson
import pytest

from tests.accounts import ACCOUNTS, ALICE, bearer
from tests.conftest import Process
from tests.player import Player
from tests.raw_upstream import HEADERS, ROLE, Call, raw_upstream, word

PROMPT, ANSWER, MODELS, KEY = "Pr0mptCanary", "Answ3rCanary", "M0delsCanary", "upstreamk3yCanary"
# The ways of this upstream, one after the other for each request that comes.
WAYS = ("answer", "400", "500", "answer", "503", "answer", "401", "answer", "garbage", "cut", "404", "context", "html")


class Quoting:
    """A model server that quotes the prompt in all that it says, whatever goes wrong."""

    def __init__(self) -> None:
        self._ways = itertools.cycle(WAYS)
        self.done: list[str] = []

    async def behave(self, call: Call) -> None:
        if call.head.startswith("GET "):
            await call.status("500 No", _error(MODELS))
            return
        said = re.findall(rb"Pr0mptCanary\w*", call.body)
        quoted = f"no answer to {said} with {call.head}"
        self.done.append(way := next(self._ways))
        match way:
            case "answer":
                await call.answer(f"{ANSWER} {quoted}")
            case "garbage":
                await call.raw(HEADERS)
                await call.part(ROLE + b"data: {" + quoted.encode() + b"\n\n")
                call.hang_up()
            case "cut":
                await call.raw(HEADERS)
                await call.part(ROLE + word(ANSWER))
                call.hang_up()
            case "context":
                await call.status("400 Bad", _error(quoted, "context_length_exceeded"))
            case "html":
                await call.status("502 Bad", f"<html>{quoted}</html>".encode())
            case status:
                await call.status(f"{status} No", _error(quoted), "Retry-After: 0")


def _error(text: str, code: str = "odd") -> bytes:
    return orjson.dumps({"error": {"message": text, "type": text, "code": code}})


def request(**more: object) -> dict[str, Any]:
    """A create with the prompt in each part of it."""
    tool = {"type": "function", "name": PROMPT, "description": PROMPT, "parameters": {"type": "object", PROMPT: {}}}
    said = [{"role": "user", "content": [{"type": "input_text", "text": f"{PROMPT}-input"}]}]
    given = {"input": said, "instructions": f"{PROMPT}-instructions", "tools": [tool], "metadata": {PROMPT: PROMPT}}
    return {**given, "user": PROMPT, "prompt_cache_key": PROMPT, "safety_identifier": PROMPT, **more}


# Each is refused for what it says, or not understood.
WRONG: list[dict[str, Any]] = [
    {"input": {PROMPT: 1}},
    {"metadata": {"a": [PROMPT]}},
    {"tools": [{"type": PROMPT}]},
    {"temperature": PROMPT},
    {"previous_response_id": PROMPT},
    {"conversation": PROMPT},
    {"text": {"format": {"type": PROMPT}}},
    {"include": [PROMPT]},
]


async def everything(process: Process, http: aiohttp.ClientSession, quoting: Quoting) -> None:
    """All that a client can say, well and badly, over each API."""
    url, headers = f"{process.url}/v1", {**bearer(ALICE), "Cookie": f"other={PROMPT}", "x-odd": PROMPT}
    player = await Player.connect(http, url.replace("http", "ws", 1) + "/responses", headers=headers)
    while len(quoting.done) < 2 * len(WAYS):
        await player.send({"type": "response.create", **request()})
        await player.answer()
    for wrong in WRONG:
        await player.send({"type": "response.create", **request(**wrong)})
        await player.answer()
    for frame in ({"type": PROMPT}, {"type": "response.steer", "previous_response_id": "resp_1", "input": PROMPT}):
        await player.send(frame)
        await player.next()
    await player.ws.send_str(f"{PROMPT} is no JSON")
    await player.next()
    await player.ws.close()
    chat = {"messages": [{"role": "user", "content": PROMPT}], "metadata": {"a": PROMPT}}
    bodies = [("/responses", request(**wrong)) for wrong in ({}, {"stream": True}, *WRONG)]
    bodies += [("/responses/compact", {"model": "m", **request()}), ("/chat/completions", chat)]
    bodies += [("/chat/completions", {"messages": PROMPT}), ("/conversations", {"metadata": {"title": PROMPT}})]
    for path, body in bodies:
        async with http.post(
            url + path, json=body, headers={**headers, "Idempotency-Key": f"{PROMPT}{path}"}
        ) as answer:
            await answer.read()
    async with http.post(f"{url}/responses", data=f"{PROMPT}{{", headers=headers) as answer:
        assert answer.status == 400


@pytest.mark.parametrize("form", ["json", "text"])
async def test_no_prompt_no_answer_and_no_key_is_ever_logged(
    start_process, http: aiohttp.ClientSession, form: str
) -> None:
    quoting = Quoting()
    async with raw_upstream(quoting.behave, every=True) as (_, upstream_url):
        environ = {**ACCOUNTS, "GRIZZ_UPSTREAM_BASE_URL": upstream_url, "GRIZZ_UPSTREAM_API_KEY": KEY}
        environ |= {"GRIZZ_UPSTREAM_MODEL": "m", "GRIZZ_UPSTREAM_BREAKER_FAILURES": "1000"}
        environ |= {"GRIZZ_UPSTREAM_MAX_RETRIES": "1", "GRIZZ_HISTORY_STORE": "memory"}
        process = start_process("--log-level", "debug", "--log-format", form, environ=environ)
        async with http.get(f"{process.url}/v1/models", headers=bearer(ALICE)) as answer:
            await answer.read()
        await everything(process, http, quoting)
        assert await asyncio.to_thread(process.end) == 0
    log = "".join(process.log)
    for canary in (PROMPT, ANSWER, MODELS, KEY, ALICE):
        assert canary.lower() not in log.lower(), [line for line in process.log if canary.lower() in line.lower()]
    for event in ("response accepted", "request refused", "upstream failed", "upstream is not ready"):
        assert event in log
    assert "the models of an upstream are unknown" in log
