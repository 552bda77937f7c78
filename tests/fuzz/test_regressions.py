"""Input that once did harm, one test each."""

from __future__ import annotations

import orjson
import pytest

from grizz.engine.history import read_turns
from tests.fuzz.server import fuzzed
from tests.fuzz.strategies import MARKS
from tests.fuzz.test_http import ask, kept, send_raw
from tests.fuzz.test_websocket import play

HEAD = b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"


def status(request: bytes) -> bytes:
    with fuzzed() as target:
        return target.run(send_raw(target, request)).split()[1]


def closes(frame: str) -> None:
    with fuzzed() as target:
        target.run(play(target, [(frame.encode(), True)]))


def test_a_steer_with_a_deep_input_is_refused() -> None:
    closes(f'{{"type":"response.steer","input":{MARKS["@254 arrays@"]}}}')


def test_a_frame_whose_type_is_deep_is_refused() -> None:
    closes(f'{{"type":{MARKS["@1000 arrays@"]}}}')


@pytest.mark.parametrize("name", [b"Origin", b"Host"])
def test_a_header_that_is_not_ascii_is_refused(name: bytes) -> None:
    head = HEAD.replace(b"Host: 127.0.0.1\r\n", b"") if name == b"Host" else HEAD
    assert status(b"POST /v1/responses" + head + name + b": \xff\r\nContent-Length: 2\r\n\r\n{}") == b"403"


def test_a_body_that_is_not_compressed_as_it_says_is_refused() -> None:
    assert status(b"POST /v1/responses" + HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}") == b"400"


def test_a_limit_of_many_digits_is_refused() -> None:
    with fuzzed() as target:
        path = f"/v1/responses/{target.run(kept(target))}/input_items?limit={'9' * 5000}"
        assert target.run(send_raw(target, b"GET " + path.encode() + HEAD + b"\r\n")).split()[1] == b"400"


def test_a_path_with_the_end_of_a_line_is_refused_as_others_are() -> None:
    with fuzzed() as target:
        assert target.run(ask(target, "GET", "/v1/responses/%0A/cancel", "", b"", {})) in (404, 405)


def test_a_stored_turn_whose_response_is_no_object_is_left_out() -> None:
    stored = {"v": 1, "id": "r", "owner": "o", "lineage": [], "last_seq": 1, "input": [], "response": [1]}
    assert read_turns([orjson.dumps(stored)]) == {}
