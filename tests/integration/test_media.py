"""Pictures and files: passed on as they are, never fetched, and shown to the model also when a tool returns them."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.asking import TRANSPORTS, Ask
from tests.conftest import Grizz

PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
FILE = "data:application/pdf;base64,JVBERi0xLjQK"
CALL = {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"}
OTHER = {"type": "function_call", "call_id": "call_2", "name": "look", "arguments": "{}"}


@pytest.fixture(params=list(TRANSPORTS))
def ask(request: pytest.FixtureRequest, grizz: Grizz, http: aiohttp.ClientSession) -> Ask:
    return TRANSPORTS[request.param](http, grizz)


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "input_text", "text": "See."}, *parts]}


def output(call_id: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": list(parts)}


async def test_pictures_and_files_are_passed_on_and_nothing_is_fetched(grizz: Grizz, ask: Ask) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response()

    app = web.Application()
    app.router.add_get("/{name}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    parts = (
        {"type": "input_image", "image_url": PIXEL, "detail": "low"},
        {"type": "input_image", "image_url": f"{url}/a.png"},
        {"type": "input_file", "file_data": FILE, "filename": "a.pdf"},
        {"type": "input_file", "file_url": f"{url}/a.pdf"},
        {"type": "input_file", "file_id": "file-1"},
    )
    try:
        events = await ask({"input": [user(*parts)]})
    finally:
        await runner.cleanup()
    assert events[-1]["response"]["status"] == "completed"
    assert asked == []
    assert grizz.demo.last_request["messages"][0]["content"] == [
        {"type": "text", "text": "See."},
        {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
        {"type": "image_url", "image_url": {"url": f"{url}/a.png"}},
        {"type": "file", "file": {"file_data": FILE, "filename": "a.pdf"}},
        {"type": "file", "file": {"file_url": f"{url}/a.pdf"}},
        {"type": "file", "file": {"file_id": "file-1"}},
    ]


async def test_what_tools_return_in_pictures_is_shown_behind_all_answers_of_the_round(grizz: Grizz, ask: Ask) -> None:
    image = {"type": "input_image", "image_url": PIXEL}
    file = {"type": "input_file", "file_data": FILE, "filename": "a.pdf"}
    items = [
        user(),
        CALL,
        OTHER,
        output("call_1", {"type": "input_text", "text": "Here: "}, image),
        output("call_2", file),
        {"role": "user", "content": "And?"},
    ]
    events = await ask({"input": items})
    assert events[-1]["response"]["status"] == "completed"
    messages = grizz.demo.last_request["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool", "user", "user", "user"]
    assert messages[2]["content"] == "Here: [image, shown below]"
    assert messages[3]["content"] == "[file, shown below]"
    assert messages[4]["content"][0]["text"] == "From the output of tool call call_1:"
    assert messages[4]["content"][1] == {"type": "image_url", "image_url": {"url": PIXEL}}
    assert messages[5]["content"][1] == {"type": "file", "file": {"file_data": FILE, "filename": "a.pdf"}}


async def test_a_picture_that_ends_the_input_is_shown_too(grizz: Grizz, ask: Ask) -> None:
    items = [user(), CALL, output("call_1", {"type": "input_image", "image_url": PIXEL})]
    await ask({"input": items})
    assert [message["role"] for message in grizz.demo.last_request["messages"]] == ["user", "assistant", "tool", "user"]


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "input_image", "image_url": "file:///etc/passwd"}, "image_url"),
        ({"type": "input_image", "image_url": "/etc/passwd"}, "image_url"),
        ({"type": "input_image", "file_id": "file-1"}, "image_url"),
        ({"type": "input_file", "file_url": "ftp://host/a"}, "file_url"),
        ({"type": "input_file", "filename": "a.pdf"}, "file_data"),
    ],
)
async def test_what_cannot_be_passed_on_is_refused(ask: Ask, part: dict[str, Any], param: str) -> None:
    for item, where in ((user(part), "input[0].content[1]"), (output("call_1", part), "input[0].output[0]")):
        (error,) = await ask({"input": [item]})
        assert (error["type"], error["status"]) == ("error", 400)
        assert error["error"]["param"] == f"{where}.{param}"


async def test_the_phase_of_a_message_is_kept(grizz: Grizz, ask: Ask, http: aiohttp.ClientSession) -> None:
    said = [{"role": "assistant", "content": "Let me see.", "phase": "commentary"}, {"role": "user", "content": "So?"}]
    response = (await ask({"input": said}))[-1]["response"]
    async with http.get(f"{grizz.url}/v1/responses/{response['id']}/input_items?order=asc") as answer:
        assert (await answer.json())["data"][0]["phase"] == "commentary"
    assert "phase" not in grizz.demo.last_request["messages"][0]
