"""Whatever frames a client sends, the connection serves the next create, or was closed for a reason."""

from __future__ import annotations

import aiohttp
import orjson
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz.conftest import budget
from tests.fuzz.server import Event, Target, check_refusal, fuzzed
from tests.fuzz.strategies import frame_bytes
from tests.player import TERMINAL

WITNESS = "witness"
# Gone, going away, against the protocol (RFC 6455) or the rules, too big, come back later (protocol §10).
CLOSES = frozenset({1000, 1001, 1002, 1007, 1008, 1009, 1012, 1013})
Frame = tuple[bytes, bool]


def check(event: Event) -> None:
    """Anything that comes is an event; a refusal has a status and a code that is known."""
    assert isinstance(event["type"], str)
    if event["type"] == "error":
        assert 400 <= event["status"] < 500, event
        check_refusal(event["error"])
    elif event["type"] not in ("response.steer.failed", "grizz:attached"):
        assert event["type"].startswith("response.") and event["sequence_number"] >= 0, event


async def serve_one(ws: aiohttp.ClientWebSocketResponse) -> int | None:
    """A create on a lane of its own, to its end; None when it was answered, else the code of the close."""
    visible = {"type": "grizz:presence", "state": "visible"}
    await ws.send_json(visible)
    await ws.send_json({"type": "response.create", "input": "[[echo:still here]]", "stream_id": WITNESS})
    said = ""
    async for message in ws:
        event = orjson.loads(message.data)
        check(event)
        if event.get("stream_id") != WITNESS:
            continue
        assert event["type"] != "error", event
        if event["type"] == "response.output_text.delta":
            said += event["delta"]
        if event["type"] in TERMINAL:
            assert (event["type"], said) == ("response.completed", "still here"), event
            return None
    return ws.close_code


async def play(target: Target, frames: list[Frame]) -> None:
    """Send each frame, and see after each that the connection still serves."""
    async with target.http.ws_connect(target.grizz.ws_url, protocols=("responses", "grizz"), max_msg_size=0) as ws:
        for data, as_text in frames:
            await send(ws, data, as_text)
            code = await serve_one(ws)
            if code is not None:
                assert code in CLOSES, f"closed with {code} after {data[:200]!r}"
                return
    assert not await target.unhandled(), frames


async def send(ws: aiohttp.ClientWebSocketResponse, data: bytes, as_text: bool) -> None:
    kind = aiohttp.WSMsgType.TEXT if as_text else aiohttp.WSMsgType.BINARY
    await ws.send_frame(data, kind)


hostile: st.SearchStrategy[Frame] = st.tuples(frame_bytes, st.booleans())


def test_after_any_frames_a_connection_serves_or_was_closed_for_a_reason() -> None:
    with fuzzed() as target:

        @budget(40)
        @given(st.lists(hostile, min_size=1, max_size=5))
        @example([(b"\xff", True)])
        @example([(b"", True), (b"", False), (b"[]", True), (b"{}", False)])
        def any_frames(frames: list[Frame]) -> None:
            target.run(play(target, frames))

        any_frames()
