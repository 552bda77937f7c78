"""A WebSocket whose first message says who it is: for browsers, which cannot set headers (protocol §2)."""

from __future__ import annotations

import asyncio
import contextlib

import orjson
from aiohttp import WSMessage, WSMsgType

from grizz.errors import Code, RequestError
from grizz.web.auth import Door, Identity
from grizz.web.errors import envelope
from grizz.web.socket import Socket
from grizz.web.watchdog import Guard

# A token is no longer than that; what is has no business here.
_MAX_FRAME = 16 * 1024


async def introduction(ws: Socket, guard: Guard, door: Door, within_s: float, address: str) -> Identity:
    """Wait for the first message, and let it in by the token it brings.

    Raises:
        RequestError: 401, it did not come in time, or is no credential.
    """
    try:
        async with asyncio.timeout(within_s):
            message = await ws.receive()
    except TimeoutError:
        text = f"No 'grizz:auth' came within {within_s:g} s."
        raise RequestError(401, Code.MISSING_API_KEY, text) from None
    identity = await door.authenticate(_token(message), address, guard.name)
    ws.known = True
    return identity


async def reject(ws: Socket, guard: Guard, error: RequestError, code: int) -> None:
    """Say why, and close; a client that reads nothing is cut by the watchdog."""
    if not ws.closed:
        with contextlib.suppress(ConnectionError), guard:
            await ws.send_frame(orjson.dumps(envelope(error, guard.name)), WSMsgType.TEXT)
        await guard.close(ws.close(code=code))
    guard.release()
    guard.abort()


def _token(message: WSMessage) -> str:
    if message.type in (WSMsgType.TEXT, WSMsgType.BINARY) and len(message.data) <= _MAX_FRAME:
        with contextlib.suppress(orjson.JSONDecodeError):
            frame = orjson.loads(message.data)
            if isinstance(frame, dict) and frame.get("type") == "grizz:auth" and isinstance(frame.get("token"), str):
                return str(frame["token"])
    text = 'The first message must be {"type": "grizz:auth", "token": "…"}.'
    raise RequestError(401, Code.MISSING_API_KEY, text)
