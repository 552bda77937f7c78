"""Grizz as an echo server: `python -m tests.conformance.echo --port 9001`, with the flags of `grizz.py`.

Autobahn's cases need a server that sends back what it gets, and Grizz answers frames with events. So one thing is put
in between, where a socket hands a message to the rest of Grizz and takes one from it: every message goes into Grizz as
it came, is read and refused there (no case sends an event that Grizz knows), and when the one answer to it leaves, its
bytes are replaced by those of the message it answers.

All else is what runs in production: the process, the handshake with its options, the receive loop and its back
pressure, the one writer with its guard, the way into the connection's buffer, the heartbeat, the close. Binary frames,
which Grizz never sends, leave by aiohttp. That each message has exactly one answer, in order, is relied on, and a run
in which it is not so fails.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence

from aiohttp import WSMessage, WSMsgType, web

from grizz.cli import main
from grizz.web.socket import Socket

_unanswered: dict[Socket, deque[WSMessage]] = {}
_send = Socket.send_texts


async def receive(ws: Socket, timeout: float | None = None) -> WSMessage:  # noqa: ASYNC109  # aiohttp's own signature
    message = await web.WebSocketResponse.receive(ws, timeout)
    if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
        _unanswered.setdefault(ws, deque()).append(message)
    else:
        _unanswered.pop(ws, None)
    return message


async def send_texts(ws: Socket, messages: Sequence[bytes]) -> None:
    """Send what came in instead of what the server says about it."""
    for _ in messages:
        asked = _unanswered[ws].popleft()
        if asked.type is WSMsgType.TEXT:
            await _send(ws, [asked.data.encode()])
        else:
            await ws.send_frame(asked.data, asked.type)


if __name__ == "__main__":
    Socket.receive = receive  # type: ignore[method-assign]
    Socket.send_texts = send_texts  # type: ignore[method-assign]
    sys.exit(main())
