"""Clients that ask again and again. After a drop they come back, at the next server if there are several, and go on."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from grizz.load.judge import Heard
from grizz.load.tally import Tally

PROTOCOLS = ("responses", "grizz")
# After a drop, with full jitter; and the longest that a refusal is obeyed.
_AGAIN_S, _LONGEST_S = 0.1, 10.0
# A process that takes over needs up to 15 s before an answer is found again.
_GONE_S = 30.0
_LATER = frozenset((429, 503))
_CANCEL_S = 3.0
_DROPS = (aiohttp.ClientError, ConnectionError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Plan:
    """What all clients know.

    Attributes:
        servers: where they may go, without a path.
        body: what they ask.
        silence_s: an answer that says nothing for so long is hung.
        goes_on: may another question be asked?
    """

    servers: Sequence[str]
    body: Mapping[str, Any]
    silence_s: float
    goes_on: Callable[[], bool]


class Refused(Exception):
    """The server said no."""

    def __init__(self, status: int, error: Mapping[str, Any], later_s: float) -> None:
        super().__init__(str(error.get("message", "")))
        self.status = status
        self.code = str(error.get("code") or error.get("type") or status)
        self.later_s = min(later_s, _LONGEST_S)


class Client(ABC):
    """One client.

    Attributes:
        response_id: of the answer that runs; "" when none does.
    """

    def __init__(self, number: int, http: aiohttp.ClientSession, plan: Plan, tally: Tally) -> None:
        self._http = http
        self._plan = plan
        self._tally = tally
        self._turn = number
        self.response_id = ""

    @property
    def _server(self) -> str:
        return self._plan.servers[self._turn % len(self._plan.servers)]

    async def run(self) -> None:
        """Ask until the plan is fulfilled. Cancelled, it stops the answer that runs."""
        try:
            while self._plan.goes_on():
                await self._ask()
        except asyncio.CancelledError:
            with contextlib.suppress(*_DROPS, Refused):
                async with asyncio.timeout(_CANCEL_S):
                    await self._stop()
            raise
        finally:
            await self.close()

    async def _ask(self) -> None:
        self._tally.running += 1
        asked_at = time.monotonic()
        heard = Heard()
        try:
            await self._hear(heard)
        except Refused as refusal:
            if heard.response_id:
                self._tally.blame("lost", heard.response_id)
            else:
                self._tally.denied[refusal.code] += 1
        except TimeoutError:
            self._tally.blame("hung", heard.response_id)
            await self.close()
        except LookupError:
            self._tally.blame("lost", heard.response_id)
        else:
            self._tally.end(heard, asked_at, time.monotonic())
        finally:
            self._tally.running -= 1
        await self._forget()

    async def _hear(self, heard: Heard) -> None:
        """Ask, and go on until the end, whatever breaks.

        Raises:
            Refused: for good.
            TimeoutError: it hangs, or no server is there for half a minute.
            LookupError: it had begun, and no server knows of it any more.
        """
        name = uuid.uuid4().hex
        failures, denied_since, gone_since = 0, 0.0, 0.0
        while True:
            now = time.monotonic()
            try:
                async with contextlib.aclosing(self._events(heard, name)) as events:
                    async for event in events:
                        failures, denied_since, gone_since = 0, 0.0, 0.0
                        ended = heard.take(event, time.monotonic())
                        self.response_id = heard.response_id
                        if ended:
                            return
                raise ConnectionResetError("the connection ended before the answer")
            except Refused as refusal:
                if refusal.status in _LATER:
                    self._tally.refused[refusal.code] += 1
                    await asyncio.sleep(refusal.later_s * random.uniform(1, 1.2))
                elif heard.response_id and refusal.status in (404, 410):
                    denied_since = denied_since or now
                    if now - denied_since > _GONE_S:
                        raise LookupError(heard.response_id) from None
                    self._turn += 1
                    await asyncio.sleep(_AGAIN_S * 5)
                else:
                    raise
            except (aiohttp.ClientError, ConnectionError):
                gone_since = gone_since or now
                if now - gone_since > _GONE_S:
                    raise TimeoutError from None
                await self.close()
                self._dropped(heard)
                failures = min(failures + 1, 5)
                await asyncio.sleep(random.uniform(0, _AGAIN_S * 2**failures))

    def _dropped(self, heard: Heard) -> None:
        self._turn += 1
        self._tally.reconnects += 1
        if heard.response_id:
            heard.resumed = True
            self._tally.resumes += 1
        else:
            self._tally.unconfirmed += 1

    @abstractmethod
    def _events(self, heard: Heard, name: str) -> AsyncGenerator[dict[str, Any], None]:
        """Ask, or go on behind the last event: events as they come; they end early when the connection does.

        Args:
            name: of the question, so that it is not answered twice.

        Raises:
            Refused: the server said no.
            TimeoutError: nothing came for too long.
            aiohttp.ClientError, ConnectionError: the connection broke.
        """

    @abstractmethod
    async def close(self) -> None:
        """Let the connection go."""

    async def _forget(self) -> None:
        """Leave nothing behind: answers are stored, as any client's, so that they outlive a crash of the server."""
        url, self.response_id = f"{self._server}/v1/responses/{self.response_id}", ""
        if not url.endswith("/"):
            with contextlib.suppress(*_DROPS):
                async with asyncio.timeout(_CANCEL_S), self._http.delete(url) as answer:
                    await answer.read()

    async def _stop(self) -> None:
        if self.response_id:
            self._tally.stopped += 1
            url = f"{self._server}/v1/responses/{self.response_id}/cancel"
            async with self._http.post(url) as answer:
                await answer.read()
            await self._forget()


class WebSocketClient(Client):
    """Keeps one WebSocket open for all that it asks."""

    def __init__(self, number: int, http: aiohttp.ClientSession, plan: Plan, tally: Tally) -> None:
        super().__init__(number, http, plan, tally)
        self._socket: aiohttp.ClientWebSocketResponse | None = None

    async def _events(self, heard: Heard, name: str) -> AsyncGenerator[dict[str, Any], None]:
        socket = await self._connected()
        if heard.response_id:
            asked = {"type": "grizz:attach", "response_id": heard.response_id, "starting_after": heard.last}
        else:
            asked = {"type": "response.create", **self._plan.body}
        await socket.send_str(orjson.dumps(asked).decode())
        while True:
            async with asyncio.timeout(self._plan.silence_s):
                message = await socket.receive()
            if message.type is not aiohttp.WSMsgType.TEXT:
                await self.close()
                return
            event = orjson.loads(message.data)
            if event["type"] == "error":
                raise _refusal(event["status"], event["error"], event.get("headers", {}))
            if not event["type"].startswith("grizz:"):  # those are about the connection, or the queue
                yield event

    async def _connected(self) -> aiohttp.ClientWebSocketResponse:
        if self._socket is not None and not self._socket.closed:
            return self._socket
        url = f"{self._server}/v1/responses"
        try:
            async with asyncio.timeout(self._plan.silence_s):
                self._socket = await self._http.ws_connect(url, protocols=PROTOCOLS, max_msg_size=0)
        except aiohttp.WSServerHandshakeError as error:
            if error.status in (502, 504):
                raise ConnectionError(str(error)) from None
            raise _refusal(error.status, {"message": error.message}, error.headers or {}) from None
        self._tally.connections += 1
        return self._socket

    async def close(self) -> None:
        """Let the connection go."""
        socket, self._socket = self._socket, None
        if socket is not None:
            with contextlib.suppress(*_DROPS):
                async with asyncio.timeout(_CANCEL_S):
                    await socket.close()


class StreamClient(Client):
    """Asks by POST and reads server-sent events."""

    async def _events(self, heard: Heard, name: str) -> AsyncGenerator[dict[str, Any], None]:
        url = f"{self._server}/v1/responses"
        self._tally.connections += 1
        if heard.response_id:
            query = {"stream": "true", "starting_after": str(heard.last)}
            request = self._http.get(f"{url}/{heard.response_id}", params=query)
        else:
            body = orjson.dumps({**self._plan.body, "stream": True})
            headers = {"Content-Type": "application/json", "Idempotency-Key": name}
            request = self._http.post(url, data=body, headers=headers)
        async with asyncio.timeout(self._plan.silence_s):
            answer = await request
        async with answer:
            if answer.status in (502, 504):
                raise ConnectionError(f"{answer.status} from a proxy")
            if answer.status != 200:
                raise _refusal(answer.status, _error_of(await answer.read()), answer.headers)
            while True:
                async with asyncio.timeout(self._plan.silence_s):
                    line = await answer.content.readline()
                if not line:
                    return
                if line.startswith(b"data: {"):
                    yield orjson.loads(line[6:])

    async def close(self) -> None:
        """There is nothing to let go between two requests."""


def _refusal(status: int, error: Mapping[str, Any], headers: Mapping[str, str]) -> Refused:
    found = {name.lower(): value for name, value in headers.items()}
    with contextlib.suppress(ValueError):
        return Refused(status, error, float(found.get("retry-after", 1.0)))
    return Refused(status, error, 1.0)


def _error_of(body: bytes) -> Mapping[str, Any]:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        error = orjson.loads(body)["error"]
        if isinstance(error, dict):
            return error
    return {"message": body[:200].decode(errors="replace")}
