"""One WebSocket: what comes in, and what it starts (protocol §2 to §4, §10, §12, §13). What goes out: `writer.py`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import orjson
from aiohttp import WebSocketError, WSCloseCode, WSMsgType

from grizz.config import Settings
from grizz.engine.call import Call
from grizz.engine.engine import Engine
from grizz.engine.history import Scope, Turn
from grizz.engine.reply import Cursor, Reply
from grizz.errors import Code, RequestError
from grizz.protocol import requests
from grizz.protocol.events import on_lane
from grizz.tasks import TaskOwner
from grizz.telemetry.metrics import Metrics
from grizz.web import notices, steer
from grizz.web.auth import Door, Identity
from grizz.web.errors import envelope, log_refusal
from grizz.web.lanes import Frame, Lane, Lanes, withdrawn
from grizz.web.limits import Limits, submit
from grizz.web.resumes import resumed
from grizz.web.socket import Socket
from grizz.web.watchdog import Guard
from grizz.web.writer import Writer

log = logging.getLogger(__name__)

# What one connection may have under way: its creates, attaches, cancels, and its writer.
_MAX_TASKS = 128


class Connection:
    """One client's socket, from the upgrade to the close.

    Attributes:
        call: its handshake, in the log and in traces.
        identity: whose connection it is.
        opened_at: when it was opened, in seconds of the loop's clock.
        leaving: the close code with which the server sends it away; 0 while it does not.
        retired: it is too old to take more requests.
        refused: the close code for which aiohttp ended it (a frame too big, or no WebSocket at all); 0 for none.
        closes_at: when it will be closed for being idle, as the client was told; 0.0 while it is not.
    """

    __slots__ = (
        "_default_model",
        "_door",
        "_engine",
        "_extended",
        "_guard",
        "_lanes",
        "_limits",
        "_metrics",
        "_received_at",
        "_scope",
        "_tasks",
        "_writer",
        "_ws",
        "call",
        "closes_at",
        "identity",
        "leaving",
        "opened_at",
        "refused",
        "retired",
    )

    def __init__(
        self,
        ws: Socket,
        *,
        call: Call,
        identity: Identity,
        extended: bool,
        door: Door,
        engine: Engine,
        limits: Limits,
        settings: Settings,
        guard: Guard,
        metrics: Metrics,
        tasks: TaskOwner,
        default_model: Callable[[str], Awaitable[str]],
    ) -> None:
        self.call = call
        self.identity = identity
        self.leaving = 0
        self.retired = False
        self.refused = 0
        self.closes_at = 0.0
        self._ws = ws
        self._extended = extended
        self._door = door
        self._engine = engine
        self._limits = limits
        self._guard = guard
        self._metrics = metrics
        self._tasks = tasks
        self._default_model = default_model
        self._lanes = Lanes(settings.limits, 2 * settings.server.max_message_bytes)
        self._writer = Writer(
            ws,
            lanes=self._lanes,
            guard=guard,
            pulse=engine.pulse,
            metrics=metrics,
            tasks=tasks,
            done=self._done,
            revoked=self._revoked,
        )
        self._scope = Scope()
        self.opened_at = self._received_at = asyncio.get_running_loop().time()

    def __repr__(self) -> str:
        return f"<Connection of {self.identity.owner}: {self._writer!r}>"

    async def run(self) -> None:
        """Serve the client until it goes or is sent away."""
        now = asyncio.get_running_loop().time
        try:
            async for message in self._ws:
                if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    self._received_at = now()
                    self.closes_at = 0.0
                    self._receive(message.data)
                elif message.type is WSMsgType.ERROR:
                    self._broken(message.data)
                await self._writer.room()
        finally:
            self._writer.stop()
            self._lanes.close()
            await self._tasks.close(within_s=1.0)
            self._engine.history.close(self._scope)

    def ended(self) -> tuple[int, str]:
        """Cut what may be left of it, and say with which code it closed, and by whom; after `run`."""
        self._guard.release()
        self._guard.abort()  # a sender may still be blocked in drain, until the kernel gives up after minutes
        code = self.refused or self.leaving or self._ws.close_code or WSCloseCode.ABNORMAL_CLOSURE
        by_us = self.refused or self.leaving
        return code, "server" if by_us else "network" if code == WSCloseCode.ABNORMAL_CLOSURE else "client"

    async def leave(self, code: int, within_s: float) -> None:
        """Send what is there to send, at most `within_s` seconds, then close."""
        self.leaving = code
        await self._writer.quiet(within_s)
        await self._guard.close(self._ws.close(code=code))

    def _broken(self, error: BaseException | None) -> None:
        if isinstance(error, WebSocketError):
            self.refused = error.code
            self._metrics.drops.labels("protocol").inc()
        elif isinstance(error, TimeoutError):
            self._metrics.drops.labels("heartbeat").inc()

    # What the server's own clock asks

    @property
    def waiting_bytes(self) -> int:
        """What waits for the client to take it."""
        return self._writer.waiting_bytes

    @property
    def busy(self) -> bool:
        """Does the client wait for anything?"""
        return any(lane.busy or lane.waiting for lane in self._lanes)

    @property
    def last_frame_at(self) -> float:
        """When the last frame went either way, pings aside; in seconds of the loop's clock."""
        return max(self._received_at, self._guard.ended_at)

    def warn_idle(self, now: float, closes_in_s: float) -> None:
        """It will be closed; a client that knows our events is told, once, and any frame of its own prevents it."""
        self.closes_at = now + max(0.0, closes_in_s)
        if self._extended:
            self.notify(notices.idle(closes_in_s))

    @property
    def wants_positions(self) -> bool:
        """Does it know our events, and wait for a worker?"""
        return self._extended and self._lanes.queued

    def tell_positions(self, positions: Mapping[str, int]) -> None:
        """Tell the client how many jobs come before each of its own, when that has changed."""
        for lane, cursor, position in self._lanes.moved(positions):
            self.notify(notices.queue(cursor.reply.id, cursor.position, position), lane.name)

    def notify(self, notice: notices.Notice, lane_name: str | None = None) -> None:
        """Send a frame of the connection's own."""
        self._writer.notify(on_lane(orjson.dumps(notice), lane_name))

    def attach(self, response_id: str, after: Any, lane_name: str | None = None) -> None:
        """Deliver a response from a number on; the reason for a refusal goes to the client."""
        try:
            position = requests.starting_after(after)
            reply = self._engine.reply(response_id, self.identity.owner)
            if reply is not None:
                self._attach(self._lanes.get(lane_name), reply, response_id, position)
            else:
                self._tasks.spawn(self._find_and_attach(response_id, position, lane_name), name=f"attach {response_id}")
        except RequestError as error:
            self._refuse(error, lane_name, response_id)

    async def _find_and_attach(self, response_id: str, after: int, lane_name: str | None) -> None:
        """Deliver a response that may be anywhere; an unknown id opens no lane."""
        try:
            found = await self._engine.find(response_id, self.identity.owner)
            self._attach(self._lanes.get(lane_name), found, response_id, after)
        except RequestError as error:
            if error.code is Code.RESPONSE_NOT_FOUND:
                self._metrics.resumes.labels("unknown").inc()
            self._refuse(error, lane_name, response_id)

    # What comes in

    def _receive(self, data: str | bytes) -> None:
        lane_name: str | None = None
        try:
            frame = requests.frame(data)
            lane_name = requests.stream_id(frame)
            frame_type = frame.get("type")
            if isinstance(frame_type, str) and frame_type.startswith("grizz:"):
                self._extended = True
            handler = self._handlers.get(frame_type) if isinstance(frame_type, str) else None
            if handler is None:
                raise requests.unknown_event(frame_type, self._handlers)
            if len(self._tasks) >= _MAX_TASKS:
                text = f"{len(self._tasks)} requests of this connection are being looked after, which is the limit."
                raise RequestError(429, Code.WEBSOCKET_QUEUE_FULL, text, retry_after_s=1.0)
            handler(self, frame, lane_name, requests.size(data))
        except RequestError as error:
            self._refuse(error, lane_name)

    def _on_create(self, frame: Frame, lane_name: str | None, size: int) -> None:
        if self.retired or self.leaving:
            text = "This connection is being closed; open another one."
            raise RequestError(400, Code.CONNECTION_LIMIT, text)
        self._lanes.enqueue(self._lanes.get(lane_name), frame, size)
        self._start_creates()

    def _on_cancel(self, frame: Frame, lane_name: str | None, size: int) -> None:
        response_id = requests.response_id(frame)
        if response_id is None:
            lane = self._lanes.find(lane_name)
            if lane is not None and lane.withdraw():
                return
            if lane is None or lane.cursor is None:
                text = "Nothing runs on this lane; name the response with 'response_id'."
                raise RequestError(404, Code.RESPONSE_NOT_FOUND, text, param="response_id")
            response_id = lane.cursor.reply.id
        self._tasks.spawn(self._cancel(response_id, lane_name), name=f"cancel {response_id}")

    async def _cancel(self, response_id: str, lane_name: str | None) -> None:
        try:
            await self._engine.cancel(response_id, self.identity.owner)
            log.info("response cancelled", extra={"response_id": response_id, "request_id": self.call.request_id})
        except RequestError as error:
            self._refuse(error, lane_name, response_id)

    def _on_attach(self, frame: Frame, lane_name: str | None, size: int) -> None:
        response_id = requests.response_id(frame)
        if response_id is None:
            raise RequestError(400, Code.MISSING_PARAMETER, "A 'response_id' is missing.", param="response_id")
        self.attach(response_id, frame.get("starting_after"), lane_name)

    def _on_detach(self, frame: Frame, lane_name: str | None, size: int) -> None:
        response_id = requests.response_id(frame)
        lane = self._lanes.find(lane_name) if response_id is None else self._lanes.delivering(response_id)
        if lane is not None and lane.cursor is not None:
            self._done(lane)

    def _on_presence(self, frame: Frame, lane_name: str | None, size: int) -> None:
        self._writer.presence = requests.presence(frame)
        self._writer.wake()

    def _on_auth(self, frame: Frame, lane_name: str | None, size: int) -> None:
        token = frame.get("token")
        if not isinstance(token, str):
            raise RequestError(400, Code.MISSING_PARAMETER, "'grizz:auth' needs a 'token'.", param="token")
        self._tasks.spawn(self._renew(token), name="renew a token")

    async def _renew(self, token: str) -> None:
        """A token that expires is followed by another one of the same user."""
        try:
            if self._door.has_accounts:
                identity = await self._door.authenticate(token, request_id=self.call.request_id)
                if identity.owner != self.identity.owner:
                    text = "This token is another user's; open another connection for it."
                    raise RequestError(403, Code.INVALID_API_KEY, text, param="token")
                self.identity = identity
            self.notify(notices.AUTHENTICATED)
        except RequestError as error:
            self._refuse(error, None)

    def _on_steer(self, frame: Frame, lane_name: str | None, size: int) -> None:
        requests.check_depth(frame)
        of = self._lanes.delivering(str(frame.get("previous_response_id")))
        notify = partial(self.notify, lane_name=of.name if of else None)
        self._tasks.spawn(steer.refuse(self._engine, self.identity.owner, frame, notify), name="refuse a steer")

    def _on_processed(self, frame: Frame, lane_name: str | None, size: int) -> None:
        """Some clients acknowledge what they have used. An answer would be taken for that of their next turn."""

    _handlers: dict[str, Callable[[Connection, Frame, str | None, int], None]] = {
        "response.create": _on_create,
        "response.cancel": _on_cancel,
        "response.steer": _on_steer,
        "response.processed": _on_processed,
        "grizz:attach": _on_attach,
        "grizz:auth": _on_auth,
        "grizz:detach": _on_detach,
        "grizz:presence": _on_presence,
    }

    def _start_creates(self) -> None:
        for lane, frame, size in self._lanes.startable():
            create = self._create(lane, frame, size)
            lane.task = self._tasks.spawn(create, name=f"create on {lane.name or 'the default lane'}")

    async def _create(self, lane: Lane, frame: Frame, size: int) -> None:
        try:
            default = "" if frame.get("model") else await self._default_model(self.identity.key)
            request = requests.parse(frame, default)
            reply = await submit(self._engine, self._limits, self.identity, request, size, self._scope, self.call)
        except asyncio.CancelledError:
            if not lane.withdrawn:
                raise
            self._create_failed(lane, frame, withdrawn())
        except RequestError as error:
            self._create_failed(lane, frame, error)
        except Exception:
            log.exception("a create failed", extra={"request_id": self.call.request_id, "owner": self.identity.owner})
            self._metrics.unhandled_errors.labels("handler").inc()
            self._create_failed(lane, frame, RequestError(500, Code.SERVER_ERROR, "The server failed."))
        else:
            lane.task = None
            lane.made = reply.id
            lane.cursor = Cursor(reply, -1, self._writer.push)
            if lane.withdrawn:  # too late for that
                self._tasks.spawn(self._cancel(reply.id, lane.name), name=f"cancel {reply.id}")

    def _create_failed(self, lane: Lane, frame: Frame, error: RequestError) -> None:
        lane.creating, lane.task = False, None
        if not lane.withdrawn and lane.made in self._scope.turns and lane.made == frame.get("previous_response_id"):
            self._engine.history.forget(lane.made)  # a failed fork of another lane's would not (protocol §11.3)
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
        self._engine.check_readers(found)
        resumed(self._metrics, found, after)
        self._attached(lane, response_id, after, found.last_seq, found.status, found.attempt)
        lane.cursor = Cursor(found, after, self._writer.push)
        self._writer.wake()  # a cursor with nothing left to read must free its lane

    def _attach_to_turn(self, lane: Lane, turn: Turn, after: int) -> None:
        """The log is gone: nothing to replay, but a caller that has everything is told so."""
        if resumed(self._metrics, turn, after) == "expired":
            text = f"The events of '{turn.id}' are no longer kept; GET /v1/responses/{turn.id} has the result."
            raise RequestError(410, Code.LOG_EXPIRED, text, param="response_id")
        self._attached(lane, turn.id, after, turn.last_seq, turn.response["status"], 1)

    def _attached(self, lane: Lane, response_id: str, after: int, last_seq: int, status: str, attempt: int) -> None:
        extra = {"response_id": response_id, "request_id": self.call.request_id, "after": after, "attempt": attempt}
        log.info("response resumed", extra=extra)
        if self._extended:  # a stock SDK knows no such event
            self.notify(notices.attached(response_id, after, last_seq, status, attempt), lane.name)

    def _refuse(self, error: RequestError, lane_name: str | None, response_id: str | None = None) -> None:
        log_refusal(self.call.request_id, error, **({} if response_id is None else {"response_id": response_id[:100]}))
        self.notify(envelope(error, self.call.request_id), lane_name)

    def _revoked(self) -> None:
        self._tasks.spawn(self.leave(WSCloseCode.SERVICE_RESTART, 0.0), name="leave")

    def _done(self, lane: Lane) -> None:
        """The lane's response is delivered, or no longer wanted: the next create may start."""
        if lane.cursor is not None:
            lane.cursor.close()
            lane.cursor = None
        lane.creating = False
        self._start_creates()
