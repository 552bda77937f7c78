"""A model server under examination, and one question to it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson

from grizz.config import UpstreamSettings, is_loopback
from grizz.doctor.findings import Finding, State

MOST_BODY = 1 << 20


@dataclass(slots=True)
class Patient:
    """One model server under examination, and what is known about it so far.

    Attributes:
        label: for findings: "upstream main".
        table: where its settings stand: "[upstreams.main]".
        model: to ask, under its name there.
        api: what Grizz is to ask it for, as its setting says.
        tokens: what the questions have cost.
        reused: requests that went over a connection that was kept open.
    """

    label: str
    table: str
    settings: UpstreamSettings
    base_url: str
    key_name: str
    model: str
    api: str = "chat"
    tokens: int = 0
    reused: int = 0
    is_over: bool = False
    facts: dict[str, str] = field(default_factory=dict)

    def found(self, what: str, state: State, text: str, advice: str = "") -> Finding:
        """A finding about it."""
        return Finding(f"{self.label}: {what}", state, text, advice)


@dataclass(frozen=True, slots=True)
class Said:
    """What came of one request for a stream.

    Attributes:
        error: what the server said instead of a stream.
        first_s: seconds to the first event with content.
        events: the decoded ones.
    """

    status: int
    kind: str
    error: str = ""
    first_s: float | None = None
    events: tuple[dict[str, Any], ...] = ()


async def ask(patient: Patient, http: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> Said:
    """Ask for a stream, and read it to its end."""
    began = asyncio.get_running_loop().time()
    try:
        async with (
            asyncio.timeout(patient.settings.first_token_timeout_s + patient.settings.idle_timeout_s),
            http.post(f"{patient.base_url}/{path}", json=body) as response,
        ):
            kind = response.content_type
            if keep := response.headers.get("Keep-Alive"):
                patient.facts["keep-alive"] = f" ({keep})"
            if response.status != 200 or kind != "text/event-stream":
                text = (await body_of(response)).decode(errors="replace")
                error = text_of(text) if response.status != 200 else ""
                return Said(response.status, kind, error)
            return await _stream(response, began)
    except (aiohttp.ClientError, TimeoutError) as error:
        return Said(0, "", why(error))


async def _stream(response: aiohttp.ClientResponse, began: float) -> Said:
    first_s = None
    events = []
    async for line in response.content:
        data = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:") or data == b"[DONE]":
            continue
        try:
            event = orjson.loads(data)
        except ValueError:
            return Said(response.status, "events that are no JSON")
        if isinstance(event, dict):
            events.append(event)
            if first_s is None and _has_content(event):
                first_s = asyncio.get_running_loop().time() - began
    return Said(response.status, response.content_type, first_s=first_s, events=tuple(events))


def delta_of(event: dict[str, Any]) -> dict[str, Any]:
    """What the first choice of a chunk brings; nothing where a server sends something else."""
    choices = event.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    delta = first.get("delta") if isinstance(first, dict) else None
    return delta if isinstance(delta, dict) else {}


def count_of(usage: object) -> int:
    """The tokens of a `usage`; 0 where it says none."""
    total = usage.get("total_tokens") if isinstance(usage, dict) else None
    return total if isinstance(total, int) else 0


def _has_content(event: dict[str, Any]) -> bool:
    delta = delta_of(event)
    return any(delta.get(name) for name in ("content", "reasoning_content", "reasoning", "tool_calls"))


async def body_of(response: aiohttp.ClientResponse) -> bytes:
    """All of it, or the first `MOST_BODY` bytes: one read brings no more than what has come."""
    came = b""
    async for chunk in response.content.iter_any():
        came += chunk
        if len(came) > MOST_BODY:
            break
    return came[:MOST_BODY]


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for this address. aiohttp's own look-up reads ~/.netrc as well."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return None if is_loopback(host) or proxy_bypass(host) else getproxies().get(parts.scheme)


def text_of(body: str) -> str:
    """What an error's body says, shortened."""
    try:
        error = orjson.loads(body)["error"]
        text = error["message"] if isinstance(error, dict) else error
    except (ValueError, TypeError, KeyError):
        text = body
    return " ".join(str(text).split())[:200] or "without a word"


def why(error: BaseException) -> str:
    """In words why no answer came."""
    return str(error) or "no answer in time"
