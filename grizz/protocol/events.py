"""The Response object, the numbered event, and how each kind of part is spelled (protocol §5 to §8).

The order of events is the business of `compose.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from grizz.protocol.requests import Request

TERMINAL = frozenset({"response.completed", "response.incomplete", "response.failed"})
LIFECYCLE = frozenset({"response.created", "response.queued", "response.in_progress"})
ITEM_ADDED, ITEM_DONE = "response.output_item.added", "response.output_item.done"
ANNOTATION = "response.output_text.annotation.added"
NewId = Callable[[str], str]


class Event:
    """One numbered event, encoded once for all its readers.

    Attributes:
        seq: its sequence number.
        type: its type.
        data: the whole event as JSON.
        key: the open part it adds to when it is a delta, else None; deltas with one key may be merged.
    """

    __slots__ = ("data", "key", "seq", "type")

    def __init__(self, seq: int, type: str, data: bytes, key: object = None) -> None:
        self.seq = seq
        self.type = type
        self.data = data
        self.key = key

    def __repr__(self) -> str:
        return f"<Event {self.seq} {self.type}>"

    @classmethod
    def read(cls, seq: int, data: bytes) -> Event:
        """An event as `Composer` encoded it in another process; its JSON is not parsed.

        Raises:
            ValueError: it does not begin as an event of that number does.
        """
        end = data.index(b'"', 9)
        kind = data[9:end].decode()
        number = b',"sequence_number":%d' % seq
        if not data.startswith(b'{"type":"') or not data.startswith((number + b",", number + b"}"), end + 1):
            raise ValueError(f"this is not event {seq}")
        if kind not in BY_DELTA:
            return cls(seq, kind, data)
        # Which part it adds to stands between its number and its text, in the same words for the whole part.
        where = data[data.index(b",", end + 2) : data.index(b',"delta":', end)]
        return cls(seq, kind, data, (kind, where))

    @property
    def terminal(self) -> bool:
        """Is it the response's last?"""
        return self.type in TERMINAL


def merge(events: list[Event]) -> list[Event]:
    """Adjacent deltas of one part as one event under the last number, so that a cursor stays exact (protocol §19.2).

    For slow and hidden readers only: the numbers between are left out.
    """
    merged: list[Event] = []
    run: list[Event] = []
    for event in [*events, None]:
        if run and (event is None or event.key != run[0].key):
            merged.append(_join(run))
            run = []
        if event is None:
            break
        if event.key is None:
            merged.append(event)
        else:
            run.append(event)
    return merged


def _join(run: list[Event]) -> Event:
    if len(run) == 1:
        return run[0]
    bodies = [orjson.loads(event.data) for event in run]
    body = bodies[-1]
    body["delta"] = "".join(b["delta"] for b in bodies)
    if "logprobs" in body:
        body["logprobs"] = [entry for b in bodies for entry in b["logprobs"]]
    return Event(run[-1].seq, run[-1].type, orjson.dumps(body), run[-1].key)


def on_lane(data: bytes, lane: str | None) -> bytes:
    """An encoded event as it goes out on a named lane; lane names need no escaping."""
    return data if lane is None else data[:-1] + b',"stream_id":"' + lane.encode() + b'"}'


def response_object(response_id: str, created_at: int, request: Request, status: str = "queued") -> dict[str, Any]:
    """The Response that both dialects accept, before anything was produced (protocol §5).

    Args:
        created_at: seconds since the epoch.
    """
    given = request.fields
    named = {} if request.conversation is None else {"conversation": {"id": request.conversation}}
    return {
        **named,
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "completed_at": None,
        "status": status,
        "background": request.background,
        "error": None,
        "incomplete_details": None,
        "instructions": given.get("instructions"),
        "max_output_tokens": given.get("max_output_tokens"),
        "max_tool_calls": given.get("max_tool_calls"),
        "model": request.model,
        "output": [],
        "parallel_tool_calls": given.get("parallel_tool_calls", True),
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": given.get("prompt_cache_key"),
        "reasoning": _echo_reasoning(given.get("reasoning")),
        "safety_identifier": given.get("safety_identifier"),
        "service_tier": "default",
        "store": request.store,
        "temperature": given.get("temperature", 1.0),
        "text": _echo_text(given.get("text", {})),
        "tool_choice": _echo_choice(given.get("tool_choice", "auto")),
        "tools": [_echo_tool(tool) for tool in given.get("tools", ())],
        "top_logprobs": given.get("top_logprobs", 0),
        "top_p": given.get("top_p", 1.0),
        "presence_penalty": given.get("presence_penalty", 0.0),
        "frequency_penalty": given.get("frequency_penalty", 0.0),
        "truncation": given.get("truncation", "disabled"),
        "usage": None,
        "metadata": given.get("metadata", {}),
    }


def _echo_reasoning(reasoning: dict[str, Any] | None) -> dict[str, Any] | None:
    if not reasoning:
        return None
    return {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")}


def _echo_text(text: dict[str, Any]) -> dict[str, Any]:
    form = text.get("format") or {"type": "text"}
    if form["type"] == "json_schema":
        form = {"description": None, "strict": False, **form}
    return {**text, "format": form}


def _echo_choice(choice: Any) -> Any:
    if isinstance(choice, dict) and choice["type"] == "allowed_tools":
        return {"mode": "auto", **choice}
    return choice


def _echo_tool(tool: dict[str, Any]) -> dict[str, Any]:
    if tool["type"] != "function":
        return tool
    return {
        "type": "function",
        "name": tool["name"],
        "description": tool.get("description"),
        "parameters": tool.get("parameters"),
        "strict": tool.get("strict"),
    }


@dataclass(frozen=True, slots=True)
class PartKind:
    """How one kind of part is spelled on the wire."""

    delta: str
    done: str
    value: str  # the field that holds the whole text in `done` and in the part; "" for a part that has no text
    added: str | None  # None: the item itself is the part (function call arguments)
    closed: str | None
    index: str | None  # the name of the part's position within its item
    home: str | None  # the item's list that the part is appended to


def _content(name: str, value: str) -> PartKind:
    return PartKind(
        delta=f"response.{name}.delta",
        done=f"response.{name}.done",
        value=value,
        added="response.content_part.added",
        closed="response.content_part.done",
        index="content_index",
        home="content",
    )


def _inline(name: str, value: str) -> PartKind:
    """The item itself is the part."""
    delta, done = f"response.{name}.delta", f"response.{name}.done"
    return PartKind(delta=delta, done=done, value=value, added=None, closed=None, index=None, home=None)


def _opaque(name: str, index: str, home: str) -> PartKind:
    added, closed = f"response.{name}.added", f"response.{name}.done"
    return PartKind(delta="", done="", value="", added=added, closed=closed, index=index, home=home)


PARTS: dict[str, PartKind] = {
    "output_text": _content("output_text", "text"),
    "refusal": _content("refusal", "refusal"),
    "reasoning_text": _content("reasoning_text", "text"),
    "summary_text": PartKind(
        delta="response.reasoning_summary_text.delta",
        done="response.reasoning_summary_text.done",
        value="text",
        added="response.reasoning_summary_part.added",
        closed="response.reasoning_summary_part.done",
        index="summary_index",
        home="summary",
    ),
    "arguments": _inline("function_call_arguments", "arguments"),
}
# Items whose text comes in pieces without a part around it, by their type.
INLINE: dict[str, PartKind] = {
    "function_call": PARTS["arguments"],
    "mcp_call": _inline("mcp_call_arguments", "arguments"),
    "custom_tool_call": _inline("custom_tool_call_input", "input"),
    "code_interpreter_call": _inline("code_interpreter_call_code", "code"),
}
# Parts of kinds that are not known here, by the event that announces them.
OPAQUE: dict[str, PartKind] = {
    "response.content_part.added": _opaque("content_part", "content_index", "content"),
    "response.reasoning_summary_part.added": _opaque("reasoning_summary_part", "summary_index", "summary"),
}
_KINDS = (*PARTS.values(), *INLINE.values())
BY_DELTA = {kind.delta: kind for kind in _KINDS}
BY_DONE = {kind.done: kind for kind in _KINDS}
BY_ADDED = OPAQUE.keys()
BY_CLOSED = {kind.closed: kind for kind in OPAQUE.values() if kind.closed}


def part_kind(added: str, name: object) -> PartKind:
    """The kind of a part by the event that announces it, and the part's type."""
    kind = PARTS.get(name) if isinstance(name, str) else None
    return kind if kind is not None and kind.added == added else OPAQUE[added]
