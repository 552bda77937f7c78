"""One WebSocket: frames in, events out (protocol §2 to §4, §10, §12, §13).

The receive loop only reads, checks and starts things; one writer task alone sends. The writer sleeps until a cursor of
one of its lanes is behind, then reads and sends, as fast as the socket takes it. Nothing is buffered for the client:
what it has not read yet is a cursor that is behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import WSCloseCode, WSMsgType, web

from grizz.config import Settings
from grizz.engine.engine import Engine
from grizz.engine.history import Scope, Turn
from grizz.engine.reply import Cursor, Reply
from grizz.errors import Code, RequestError
from grizz.protocol import requests
from grizz.protocol.events import merge, on_lane
from grizz.tasks import TaskOwner
from grizz.telemetry.metrics import Metrics
from grizz.web.lanes import Frame, Lane, Lanes
from grizz.web.limits import Limits
from grizz.web.watchdog import Guard

log = logging.getLogger(__name__)

# Answers to bad frames that wait for the socket; above it the connection is not read until some went out.
_MAX_NOTICES = 64
# A send that took longer means the socket is full: from then on deltas are merged until it keeps up again.
_SLOW_S = 0.05
_HIDDEN_EVERY_S = 1.0
_PRESENCES = ("visible", "hidden", "idle")


class _Revoked(Exception):
    """Another node speaks for one of the responses delivered here: the client shall come back and find it there."""


class Connection:
    """One client's socket, from the upgrade to the close.

    Attributes:
        owner: whose connection it is.
        leaving: the server is sending it away.
    """

    def __init__(
        self,
        ws: web.WebSocketResponse,
        *,
        owner: str,
        extended: bool,
        engine: Engine,
        limits: Limits,
        settings: Settings,
        guard: Guard,
        metrics: Metrics,
        tasks: TaskOwner,
        default_model: Callable[[], Awaitable[str]],
    ) -> None:
        self.owner = owner
        self.leaving = False
        self._ws = ws
        self._extended = extended
        self._engine = engine
        self._limits = limits
        self._guard = guard
        self._metrics = metrics
        self._tasks = tasks
        self._default_model = default_model
        self._lanes = Lanes(settings.limits, 2 * settings.server.max_message_bytes)
        self._notices: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()  # set when notices went out
        self._quiet = asyncio.Event()  # set when there is nothing to send
        self._presence = "visible"
        self._slow = False
        self._lost = False
        self._last_round_at = 0.0
        self._scope = Scope()

    def __repr__(self) -> str:
        return f"<Connection of {self.owner}: {len(self._notices)} notices, {self._presence}>"

    async def run(self) -> None:
        """Serve the client until it goes or is sent away."""
        self._tasks.spawn(self._write(), name="writer")
        try:
            async for message in self._ws:
                if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    self._receive(message.data)
                while len(self._notices) >= _MAX_NOTICES and not self._lost:
                    self._room.clear()
                    await self._room.wait()
        finally:
            for lane in self._lanes:
                if lane.cursor is not None:
                    lane.cursor.close()
            await self._tasks.close(within_s=1.0)
            self._engine.history.close(self._scope)

    async def leave(self, code: int, within_s: float) -> None:
        """Send what is there to send, at most `within_s` seconds, then close."""
        self.leaving = True
        self._quiet.clear()
        self._wake.set()
        if not self._lost:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await self._quiet.wait()
        await self._guard.close(self._ws.close(code=code))

    def attach(self, response_id: str, after: Any, lane_name: str | None = None) -> None:
        """Deliver a response from a number on; the reason for a refusal goes to the client."""
        try:
            position = requests.starting_after(after)
        except RequestError as error:
            self._refuse(error, lane_name)
        else:
            self._tasks.spawn(self._find_and_attach(response_id, position, lane_name), name=f"attach {response_id}")

    async def _find_and_attach(self, response_id: str, after: int, lane_name: str | None) -> None:
        """Deliver a response that may be anywhere; an unknown id opens no lane."""
        try:
            found = await self._engine.find(response_id, self.owner)
            self._attach(self._lanes.get(lane_name), found, response_id, after)
        except RequestError as error:
            if error.code is Code.RESPONSE_NOT_FOUND:
                self._metrics.resumes.labels("unknown").inc()
            self._refuse(error, lane_name)

    # What comes in

    def _receive(self, data: str | bytes) -> None:
        lane_name: str | None = None
        try:
            frame = _decode(data)
            lane_name = requests.stream_id(frame)
            frame_type = frame.get("type")
            if isinstance(frame_type, str) and frame_type.startswith("grizz:"):
                self._extended = True
            handler = self._handlers.get(frame_type) if isinstance(frame_type, str) else None
            if handler is None:
                known = ", ".join(self._handlers)
                text = f"Unknown event type {str(frame_type)[:100]!r}; known are {known}."
                raise RequestError(400, Code.UNKNOWN_EVENT_TYPE, text, param="type")
            handler(self, frame, lane_name, len(data))
        except RequestError as error:
            self._refuse(error, lane_name)

    def _on_create(self, frame: Frame, lane_name: str | None, size: int) -> None:
        self._lanes.enqueue(self._lanes.get(lane_name), frame, size)
        self._start_creates()

    def _on_cancel(self, frame: Frame, lane_name: str | None, size: int) -> None:
        response_id = requests.response_id(frame)
        if response_id is None:
            lane = self._lanes.find(lane_name)
            if lane is None or lane.cursor is None:
                text = "Nothing runs on this lane; name the response with 'response_id'."
                raise RequestError(404, Code.RESPONSE_NOT_FOUND, text, param="response_id")
            response_id = lane.cursor.reply.id
        self._tasks.spawn(self._cancel(response_id, lane_name), name=f"cancel {response_id}")

    async def _cancel(self, response_id: str, lane_name: str | None) -> None:
        try:
            await self._engine.cancel(response_id, self.owner)
        except RequestError as error:
            self._refuse(error, lane_name)

    def _on_attach(self, frame: Frame, lane_name: str | None, size: int) -> None:
        response_id = requests.response_id(frame)
        if response_id is None:
            text = "'grizz:attach' needs a 'response_id'."
            raise RequestError(400, Code.MISSING_PARAMETER, text, param="response_id")
        after = requests.starting_after(frame.get("starting_after"))
        reply = self._engine.reply(response_id, self.owner)
        if reply is not None:
            self._attach(self._lanes.get(lane_name), reply, response_id, after)
        else:
            self._tasks.spawn(self._find_and_attach(response_id, after, lane_name), name=f"attach {response_id}")

    def _on_detach(self, frame: Frame, lane_name: str | None, size: int) -> None:
        response_id = requests.response_id(frame)
        lane = self._lanes.find(lane_name) if response_id is None else self._lanes.delivering(response_id)
        if lane is not None and lane.cursor is not None:
            self._done(lane)

    def _on_presence(self, frame: Frame, lane_name: str | None, size: int) -> None:
        state = frame.get("state")
        if state not in _PRESENCES:
            raise RequestError(
                400, Code.INVALID_VALUE, f"'state' must be one of {', '.join(_PRESENCES)}.", param="state"
            )
        self._presence = state
        self._wake.set()

    def _on_steer(self, frame: Frame, lane_name: str | None, size: int) -> None:
        refused = {
            "type": "response.steer.failed",
            "sequence_number": 0,
            "error": {
                "type": "invalid_request_error",
                "code": Code.STEERING_NOT_SUPPORTED,
                "message": "A running response takes no further input here; cancel it, or create another after it.",
            },
            "steer": {"previous_response_id": frame.get("previous_response_id"), "input": frame.get("input")},
        }
        self._notify(refused, lane_name)

    def _on_processed(self, frame: Frame, lane_name: str | None, size: int) -> None:
        """Some clients acknowledge what they have used. An answer would be taken for that of their next turn."""

    _handlers: dict[str, Callable[[Connection, Frame, str | None, int], None]] = {
        "response.create": _on_create,
        "response.cancel": _on_cancel,
        "response.steer": _on_steer,
        "response.processed": _on_processed,
        "grizz:attach": _on_attach,
        "grizz:detach": _on_detach,
        "grizz:presence": _on_presence,
    }

    def _start_creates(self) -> None:
        for lane, frame, size in self._lanes.startable():
            self._tasks.spawn(self._create(lane, frame, size), name=f"create on {lane.name or 'the default lane'}")

    async def _create(self, lane: Lane, frame: Frame, size: int) -> None:
        try:
            request = requests.parse(frame, await self._default_model())
            self._limits.request(self.owner)
            reply = await self._engine.submit(request, self.owner, scope=self._scope, size=size)
        except RequestError as error:
            self._create_failed(lane, frame, error)
        except Exception:
            log.exception("a create failed", extra={"owner": self.owner})
            self._metrics.unhandled_errors.labels("handler").inc()
            self._create_failed(lane, frame, RequestError(500, Code.SERVER_ERROR, "The server failed."))
        else:
            lane.cursor = Cursor(reply, -1, self._wake.set)

    def _create_failed(self, lane: Lane, frame: Frame, error: RequestError) -> None:
        lane.creating = False
        previous = frame.get("previous_response_id")
        if isinstance(previous, str) and previous in self._scope.turns:
            self._engine.history.forget(previous)  # a failed continuation takes its parent with it (protocol §11.3)
        self._refuse(error, lane.name)
        self._start_creates()

    def _attach(self, lane: Lane, found: Reply | Turn, response_id: str, after: int) -> None:
        if lane.busy:
            where = "This lane" if lane.name else "The default lane"
            text = f"{where} is delivering another response; name a free one with 'stream_id'."
            raise RequestError(409, Code.LANE_BUSY, text, param="stream_id")
        if isinstance(found, Turn):
            self._attach_to_turn(lane, found, after)
            return
        reply = found
        self._engine.check_readers(reply)
        self._metrics.resumes.labels("ok").inc()
        self._metrics.replayed.observe(max(0, reply.last_seq - after))
        self._attached(lane, response_id, after, reply.last_seq, reply.status, reply.attempt)
        lane.cursor = Cursor(reply, after, self._wake.set)
        self._wake.set()  # a cursor with nothing left to read must free its lane

    def _attach_to_turn(self, lane: Lane, turn: Turn, after: int) -> None:
        """The log is gone: nothing to replay, but a caller that has everything is told so."""
        if after < turn.last_seq:
            self._metrics.resumes.labels("expired").inc()
            text = f"The events of '{turn.id}' are no longer kept; GET /v1/responses/{turn.id} has the result."
            raise RequestError(410, Code.LOG_EXPIRED, text, param="response_id")
        self._metrics.resumes.labels("ok").inc()
        self._attached(lane, turn.id, after, turn.last_seq, turn.response["status"], 1)

    # What goes out

    def _attached(self, lane: Lane, response_id: str, after: int, last_seq: int, status: str, attempt: int) -> None:
        if not self._extended:
            return  # a stock SDK knows no such event
        # The caller's own cursor, not the log's end: clients keep the last number they saw (protocol §12.2).
        notice = {
            "type": "grizz:attached",
            "sequence_number": after,
            "last_sequence_number": last_seq,
            "response_id": response_id,
            "status": status,
            "attempt": attempt,
        }
        self._notify(notice, lane.name)

    def _refuse(self, error: RequestError, lane_name: str | None) -> None:
        envelope: dict[str, Any] = {"type": "error", "status": error.status, "error": error.body()}
        if error.retry_after_s is not None:
            envelope["headers"] = {"retry-after": f"{error.retry_after_s:.3g}"}
        self._notify(envelope, lane_name)

    def _notify(self, notice: dict[str, Any], lane_name: str | None) -> None:
        self._notices.append(on_lane(orjson.dumps(notice), lane_name))
        self._wake.set()

    async def _write(self) -> None:
        """Send what there is, for as long as the socket lives."""
        try:
            while True:
                await self._due()
                while await self._round():
                    pass
                self._slow = False
        except _Revoked:
            self.leaving = True
            await self._guard.close(self._ws.close(code=WSCloseCode.SERVICE_RESTART))
        except ConnectionError as error:
            log.debug("connection lost while sending", extra={"err": repr(error)})
            self._guard.abort()
        except Exception:
            log.exception("a writer failed", extra={"owner": self.owner})
            self._metrics.unhandled_errors.labels("handler").inc()
            self._guard.abort()  # without a writer the client would wait for ever; so it comes back and resumes
        finally:
            self._lost = True
            self._room.set()
            self._quiet.set()

    async def _due(self) -> None:
        """Sleep until something is to be sent."""
        while True:
            self._wake.clear()
            pause_s = self._pause_s()
            if pause_s <= 0:
                self._last_round_at = asyncio.get_running_loop().time()
                return
            if pause_s == math.inf:
                self._quiet.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if pause_s == math.inf else pause_s):
                    await self._wake.wait()

    def _pause_s(self) -> float:
        """Seconds until the next round: a hidden tab is served once a second, an idle one when an answer has ended."""
        cursors = [lane.cursor for lane in self._lanes if lane.cursor is not None]
        if self._notices or any(cursor.reply.ended or cursor.reply.revoked for cursor in cursors):
            return 0.0
        if self._presence == "idle" or not any(cursor.behind for cursor in cursors):
            return math.inf
        if self._presence == "visible":
            return 0.0
        return self._last_round_at + _HIDDEN_EVERY_S - asyncio.get_running_loop().time()

    async def _round(self) -> bool:
        """One pass over all lanes; True when there is more."""
        while self._notices:
            await self._send(self._notices.popleft())
            self._room.set()
        more = False
        for lane in self._lanes:
            cursor = lane.cursor
            if cursor is None:
                continue
            events = cursor.read()
            if len(events) > 1 and (self._slow or self._presence != "visible"):
                events = merge(events)
            for event in events:
                if not self._engine.pulse.is_sure:
                    await self._engine.pulse.sure()
                if cursor.reply.revoked:
                    raise _Revoked
                await self._send(on_lane(event.data, lane.name))
            if cursor.reply.revoked:
                raise _Revoked
            if cursor.finished and lane.cursor is cursor:
                self._done(lane)
            more = more or cursor.behind
        return more or bool(self._notices)

    async def _send(self, data: bytes) -> None:
        with self._guard:
            await self._ws.send_frame(data, WSMsgType.TEXT)
        if self._guard.last_s > _SLOW_S:
            self._slow = True

    def _done(self, lane: Lane) -> None:
        """The lane's response is delivered, or no longer wanted: the next create may start."""
        if lane.cursor is not None:
            lane.cursor.close()
            lane.cursor = None
        lane.creating = False
        self._start_creates()


def _decode(data: str | bytes) -> Frame:
    try:
        frame = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise RequestError(400, Code.INVALID_JSON, f"The frame is not JSON: {error}.") from error
    if not isinstance(frame, dict):
        raise RequestError(400, Code.INVALID_JSON, "The frame must be a JSON object.")
    return frame
