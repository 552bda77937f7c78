"""All WebSockets: who may open one, and when the server closes one.

What is kept for each is kept small: an idle one shall cost as little as aiohttp lets it. So its coroutine is one frame
deep here, and all that is only needed at the start is in functions that have returned by then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiohttp import WSCloseCode, web

from grizz.config import Settings
from grizz.engine.engine import Engine
from grizz.errors import Code, RequestError
from grizz.tasks import OnError, TaskOwner
from grizz.telemetry.metrics import Metrics
from grizz.web.auth import Door, Identity
from grizz.web.auth.credentials import protocols, query_of
from grizz.web.errors import REQUEST_ID, Answers, call_of, log_refusal
from grizz.web.limits import Limits, Place
from grizz.web.notices import AUTHENTICATED
from grizz.web.socket import Socket
from grizz.web.stranger import introduction, reject
from grizz.web.watchdog import Guard, Watchdog
from grizz.web.websocket import Connection

log = logging.getLogger(__name__)

# When the server sends a client away: what one that still reads may take to get the rest.
_FLUSH_S = 2.0
# How often connections are looked at; a shorter idle timeout makes it more often.
_TEND_S = 5.0
# How often clients hear of their place in the queue, when it has changed.
_POSITIONS_S = 0.5
_POSITIONS_S_A_JOB = 0.5 / 1000  # all positions are found in one pass, half a microsecond for each job (measured)
# A client hears that it is idle when a tenth of its time is left.
_WARN_PART = 0.1
_REFUSED = {401: "auth", 403: "origin"}


class Sockets:
    """Opens, watches and closes the WebSockets of this process."""

    def __init__(
        self,
        *,
        settings: Settings,
        answers: Answers,
        engine: Engine,
        door: Door,
        limits: Limits,
        watchdog: Watchdog,
        metrics: Metrics,
        tasks: TaskOwner,
        on_error: OnError,
        default_model: Callable[[str], Awaitable[str]],
    ) -> None:
        self._settings = settings
        self._answers = answers
        self._engine = engine
        self._door = door
        self._limits = limits
        self._watchdog = watchdog
        self._metrics = metrics
        self._tasks = tasks
        self._on_error = on_error
        self._default_model = default_model
        self._open: set[Connection] = set()
        metrics.on_scrape(metrics.outbox, lambda: sum(connection.waiting_bytes for connection in self._open))

    def __repr__(self) -> str:
        return f"<Sockets: {len(self._open)} open>"

    def reload(self, settings: Settings) -> None:
        """Other settings from now on."""
        self._settings = settings

    # One of them

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """`GET /v1/responses`, to its end."""
        try:
            self._answers.begin(request)
            connection, ws, place = await self._enter(request)
        except Exception as error:
            return self._answers.refusal(request, error)
        try:
            if connection is not None:
                await connection.run()
        finally:
            place.give_back()
            if connection is not None:
                self._closed(connection)
        return ws

    async def _enter(self, request: web.Request) -> tuple[Connection | None, Socket, Place]:
        """Shake hands with whom may come in; no connection when it was sent away again after that.

        Raises:
            RequestError: it may not come in, and no handshake was made.
        """
        if request.headers.get("Upgrade", "").lower() != "websocket":
            await self._door.identify(request)
            text = "GET /v1/responses speaks WebSocket: send 'Upgrade: websocket', or POST to create a response."
            raise RequestError(426, Code.UPGRADE_REQUIRED, text)
        ws = Socket(self._settings.server, known=not self._door.may_introduce_itself(request))
        ws.headers["x-request-id"] = request[REQUEST_ID]
        try:
            self._door.check_origin(request)
            place = self._limits.connection(self._door.address_of(request))
            try:
                welcome = self._welcome if ws.known else self._welcome_stranger
                return await welcome(request, ws, place), ws, place
            except BaseException:
                place.give_back()
                raise
        except RequestError as error:
            self._refused(error)
            raise
        except web.HTTPBadRequest:
            self._metrics.connects.labels("bad").inc()
            raise

    async def _welcome(self, request: web.Request, ws: Socket, place: Place) -> Connection:
        identity = await self._door.identify(request)
        self._limits.belongs_to(place, identity)
        ws.headers.update(self._limits.headers(identity))
        transport = await ws.open(request)
        return self._opened(request, ws, self._watchdog.guard(transport, request[REQUEST_ID]), identity)

    async def _welcome_stranger(self, request: web.Request, ws: Socket, place: Place) -> Connection | None:
        """Its first message says who it is; a refusal can only come as a frame, since it is a WebSocket by then."""
        self._limits.stranger(place)
        guard = self._watchdog.guard(await ws.open(request), request[REQUEST_ID])
        address = self._door.address_of(request)
        try:
            identity = await introduction(ws, guard, self._door, self._settings.auth.first_message_s, address)
            self._limits.belongs_to(place, identity)
        except RequestError as error:
            self._refused(error)
            log_refusal(guard.name, error)
            code = WSCloseCode.POLICY_VIOLATION if error.status == 401 else WSCloseCode.TRY_AGAIN_LATER
            await reject(ws, guard, error, code)
            return None
        connection = self._opened(request, ws, guard, identity, introduced=True)
        connection.notify(AUTHENTICATED)
        return connection

    def _refused(self, error: RequestError) -> None:
        self._metrics.connects.labels(_REFUSED.get(error.status, "capacity")).inc()

    def _opened(
        self, request: web.Request, ws: Socket, guard: Guard, identity: Identity, *, introduced: bool = False
    ) -> Connection:
        connection = Connection(
            ws,
            call=call_of(request),
            identity=identity,
            extended=introduced or "grizz" in protocols(request),
            door=self._door,
            engine=self._engine,
            limits=self._limits,
            settings=self._settings,
            guard=guard,
            metrics=self._metrics,
            tasks=TaskOwner("connection", self._on_error),
            default_model=self._default_model,
        )
        extra = {"owner": identity.owner, "address": self._door.address_of(request), "request_id": guard.name}
        log.info("connection opened", extra=extra)
        self._metrics.connects.labels("accepted").inc()
        self._metrics.connections.inc()
        self._open.add(connection)
        if responses := query_of(request, "response_id"):
            connection.attach(responses[0], next(iter(query_of(request, "starting_after")), None))
        return connection

    def _closed(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._metrics.connections.dec()
        code, by = connection.ended()
        self._metrics.closed(by, code)
        log.info("connection closed", extra={"request_id": connection.call.request_id, "close_code": code, "by": by})

    # All of them

    async def leave(self, code: int) -> None:
        """Send every client away, so that it comes back and resumes; bounded, stalled ones are cut."""
        async with asyncio.TaskGroup() as group:
            for connection in list(self._open):
                if not connection.leaving:
                    connection.leaving = code
                    group.create_task(connection.leave(code, _FLUSH_S), name="leave")

    async def tend(self) -> None:
        """Look after connections, for ever: who is idle, too old, or no longer allowed."""
        loop = asyncio.get_running_loop()
        while True:
            server = self._settings.server
            limits = [limit / 25 for limit in (server.idle_timeout_s, server.max_age_s) if limit]
            await asyncio.sleep(min([_TEND_S, *limits]))
            for connection in list(self._open):
                code = self._verdict(connection, loop.time())
                if code:
                    connection.leaving = code  # at once: no create shall come in between
                    self._tasks.spawn(connection.leave(code, _FLUSH_S), name="leave")

    async def tell_positions(self) -> None:
        """Tell clients how far their jobs have come in the queue, for ever; the longer it is, the less often."""
        while True:
            await asyncio.sleep(max(_POSITIONS_S, self._engine.waiting * _POSITIONS_S_A_JOB))
            listeners = [connection for connection in self._open if connection.wants_positions]
            if listeners:
                positions = self._engine.positions()
                for connection in listeners:
                    connection.tell_positions(positions)

    def _verdict(self, connection: Connection, now: float) -> int:
        """With which code this connection is to be closed; 0 to keep it."""
        server = self._settings.server
        if connection.leaving:
            return 0
        if not self._door.still_valid(connection.identity):
            return WSCloseCode.POLICY_VIOLATION
        if server.max_age_s and now - connection.opened_at > server.max_age_s:
            # What it waits for still comes, and only then it closes: the error on an idle socket crashes some clients.
            connection.retired = True
            return 0 if connection.busy else WSCloseCode.GOING_AWAY
        if not server.idle_timeout_s or connection.busy:
            connection.closes_at = 0.0
        elif connection.closes_at:
            return WSCloseCode.OK if now >= connection.closes_at else 0
        elif (left_s := connection.last_frame_at + server.idle_timeout_s - now) <= server.idle_timeout_s * _WARN_PART:
            connection.warn_idle(now, left_s)
        return 0
