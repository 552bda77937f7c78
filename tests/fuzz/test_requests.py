"""Whatever bytes a client sends: a request that can be answered, or a refusal that names what is wrong."""

from __future__ import annotations

import json
from typing import Any

import orjson
from hypothesis import example, given

from grizz.engine.ids import new_id
from grizz.engine.worker import Work
from grizz.errors import Code, RequestError
from grizz.protocol import chat, requests
from grizz.protocol.compose import Composer
from grizz.protocol.events import response_object
from grizz.protocol.items import check_calls_match, with_ids
from tests import grammar
from tests.fuzz.conftest import budget
from tests.fuzz.strategies import MARKS, bodies, frame_bytes, spelled


def is_refusal(error: RequestError) -> bool:
    body = error.body()
    assert isinstance(error.code, Code)
    assert 400 <= error.status < 500
    assert isinstance(body["message"], str) and body["message"]
    assert body["param"] is None or isinstance(body["param"], str)
    orjson.dumps(body)
    return True


def loaded(data: bytes) -> Any:
    """As HTTP and WebSocket read it; None when they refuse it as no JSON."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def take(body: Any) -> None:
    """All that becomes of a request: it is checked, shown, kept, handed to other nodes and to a model server."""
    request = requests.parse(body, "m")
    items = with_ids(request.input, new_id)
    for item in items:
        assert isinstance(item["id"], str) and isinstance(item["type"], str)
    response = response_object("resp_1", 1, request, "in_progress")
    orjson.dumps(items)
    composer = Composer(response, new_id=new_id)
    composer.lifecycle("created", "in_progress")
    composer.lifecycle("in_progress", "in_progress")
    composer.finish("completed", completed_at=2)
    grammar.check([orjson.loads(event.data) for event in composer.take()])
    check_calls_match(items)
    asked = chat.body(request, [item for item in items if item["type"] != "item_reference"])
    assert all(isinstance(message["role"], str) for message in asked["messages"])
    json.dumps(asked)  # by which the openai package writes it
    work = Work(request, items, response)
    again = Work.from_wire(orjson.loads(orjson.dumps({"v": 1, "output": [], "work": work.to_wire()}))["work"])
    assert again.request.fields == request.fields


@budget(200)
@given(spelled(bodies))
@example(b'{"input":[{"role":"user","content":[{"type":[]}]}]}')
@example(b'{"input":"x","tool_choice":{"type":"allowed_tools","tools":5},"tools":[{"type":"function","name":"f"}]}')
@example(b'{"input":[{"role":"system","content":[{"type":"input_image","image_url":"u","text":5}]}]}')
@example(b'{"input":"x","tools":[{"type":"t","deep":%s}]}' % MARKS["@253 arrays@"].encode())
def test_a_body_is_refused_by_name_or_can_be_answered_kept_and_sent_on(data: bytes) -> None:
    body = loaded(data)
    try:
        take(body)
    except RequestError as error:
        assert is_refusal(error)


@budget(100)
@given(frame_bytes)
def test_the_names_within_a_frame_are_taken_or_refused(data: bytes) -> None:
    frame = loaded(data)
    if not isinstance(frame, dict):
        return
    for read in (
        requests.stream_id,
        requests.response_id,
        lambda found: requests.starting_after(found.get("starting_after")),
    ):
        try:
            assert isinstance(read(frame), str | int | None)
        except RequestError as error:
            assert is_refusal(error)
