"""A model server under examination, and one question to it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from grizz.config import UpstreamSettings
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
                text = (await response.content.read(MOST_BODY)).decode(errors="replace")
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


def _has_content(event: dict[str, Any]) -> bool:
    choices = event.get("choices") or [{}]
    delta = choices[0].get("delta") or {}
    return any(delta.get(name) for name in ("content", "reasoning_content", "reasoning", "tool_calls"))


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
