"""Grizz as an echo server: `python -m tests.conformance.echo --port 9001`, with the flags of `grizz.py`.

Autobahn's cases need a server that sends back what it gets, and Grizz answers frames with events. So one thing is put
in between, where aiohttp hands a message to Grizz and takes one from it: every message goes into Grizz as it came, is
read and refused there (no case sends an event that Grizz knows), and when the one answer to it leaves, its bytes are
replaced by those of the message it answers.

All else is what runs in production: the process, the handshake with its options, the receive loop and its back
pressure, the one writer with its guard, the heartbeat, the close. No name of Grizz is touched; that each message has
exactly one answer, in order, is the one thing relied on, and a run in which it is not so fails.
"""

from __future__ import annotations

import sys
from collections import deque
from typing import Any

from aiohttp import WSMessage, WSMsgType, web

from grizz.cli import main


class EchoResponse(web.WebSocketResponse):
    """Sends what came in instead of what the server says about it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._unanswered: deque[WSMessage] = deque()

    async def receive(self, timeout: float | None = None) -> WSMessage:  # noqa: ASYNC109  # aiohttp's own signature
        message = await super().receive(timeout)
        if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            self._unanswered.append(message)
        return message

    async def send_frame(self, message: bytes, opcode: WSMsgType, compress: int | None = None) -> None:
        asked = self._unanswered.popleft()
        data = asked.data.encode() if asked.type is WSMsgType.TEXT else asked.data
        await super().send_frame(data, asked.type, compress)


if __name__ == "__main__":
    web.WebSocketResponse = EchoResponse  # type: ignore[misc]
    sys.exit(main())
