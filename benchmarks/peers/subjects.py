"""The peers by name: how to start each, and how to ask it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp

from benchmarks.peers import asks

PYTHON = ".venv-peers/bin/python"
Ask = Callable[[aiohttp.ClientSession, str, str, Callable[[str], None]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Peer:
    """A server to be started and asked.

    It runs as one process, the one that `command` starts, takes OPENAI_BASE_URL, OPENAI_API_KEY and (where it needs
    one) REDIS_URL from its environment, prints a line with `http://HOST:PORT` once it serves, and ends at SIGTERM.

    Attributes:
        command: relative to the root of the repository, where it must be started.
        ask: takes the address that was printed; see asks.py.
    """

    name: str
    command: list[str]
    ask: Ask
    needs_redis: bool


def _peer(name: str, module: str, ask: Ask, *, needs_redis: bool) -> Peer:
    return Peer(name, [PYTHON, "-m", f"benchmarks.peers.{module}"], ask, needs_redis)


PEERS = (
    _peer("LiteLLM, Chat Completions", "litellm_proxy", asks.litellm_chat, needs_redis=False),
    _peer("LiteLLM, Responses", "litellm_proxy", asks.litellm_responses, needs_redis=False),
    _peer("Socket.IO + Redis", "socketio_server", asks.socketio_ws, needs_redis=True),
    _peer("old design", "old_design", asks.old_design, needs_redis=True),
)
