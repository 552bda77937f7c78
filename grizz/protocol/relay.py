"""Events of an upstream that speaks the Responses API itself → our events (protocol §16.3).

What it says is passed on as it is, hosted tools and unknown events included; numbers, ids and places in the output
become ours. The order of §8 is kept whatever comes: what was not announced is announced, what was not closed is
closed, what belongs to nothing that is open is left out. Before the first content everything waits, so that another
upstream may still be asked unseen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from grizz.errors import Code, RequestError, UpstreamError
from grizz.protocol import echo, odd_json, sse
from grizz.protocol.compose import Composer
from grizz.protocol.events import (
    ANNOTATION,
    BY_ADDED,
    BY_CLOSED,
    BY_DELTA,
    BY_DONE,
    ITEM_ADDED,
    ITEM_DONE,
    LIFECYCLE,
    PARTS,
    NewId,
    PartKind,
)
from grizz.protocol.parts import Part
from grizz.protocol.relayed import Known
from grizz.protocol.requests import check_depth
from grizz.protocol.theirs import garbage

# How much may wait for the first content: announcements alone, and a server may send them without end.
_MOST_HELD, _MOST_HELD_BYTES = 64, 256 * 1024
# Said to whoever is connected to it, which is us; and what is about our own responses.
_HOP = frozenset({"keepalive", "ping", "response.keepalive", "response.heartbeat"})
_NOT_PASSED = ("type", "sequence_number", "stream_id", "obfuscation")
_TYPE = re.compile(r"[A-Za-z0-9_.:\-]{1,128}\Z")
# The names that Open Responses, vLLM and OpenRouter have for what OpenAI calls otherwise.
_SYNONYMS = {
    "response.reasoning_part.added": "response.content_part.added",
    "response.reasoning_part.done": "response.content_part.done",
    "response.reasoning.delta": "response.reasoning_text.delta",
    "response.reasoning.done": "response.reasoning_text.done",
    "response.content_part.delta": "response.output_text.delta",
}
# How a Response says that it is over; and the events that may say it of one that ended otherwise than they are called.
_ENDS = ("completed", "incomplete", "failed", "cancelled")
_ENDINGS = ("response.completed", "response.done")
# A delta that is no more than its text; more would be lost where texts are joined.
_PLAIN = frozenset(
    {
        "type",
        "sequence_number",
        "item_id",
        "output_index",
        "content_index",
        "summary_index",
        "delta",
        "logprobs",
        "obfuscation",
    }
)
# Longer than twice what can be written, so that shorter texts need not be looked at.
_SHALLOW_BYTES = 400


class Relay:
    """Reads the payloads of one stream of Responses events into a composer; see `Reader` for the methods.

    Args:
        new_id: makes the ids of its items.
        sealed: was encrypted reasoning asked for? Then reasoning items keep the ids that they come with.

    Attributes:
        tokens: events that brought something.
        done: the last event was read.
        finishing: never; the last event says everything.
        source: see `Reader`.
    """

    finishing = False

    def __init__(self, composer: Composer, *, new_id: NewId, sealed: bool = False) -> None:
        self._composer = composer
        self._known = Known(composer, new_id, sealed=sealed)
        self._held: list[tuple[str, dict[str, Any]]] = []
        self._held_bytes = 0
        self._begun = False
        self._ending: dict[str, Any] | None = None
        self.source: Mapping[str, Any] = {}
        self._hot: Part | None = None  # what the last delta was added to, and how it was named
        self._hot_place: tuple[Any, ...] = ()
        self.tokens = 0
        self.done = False

    @property
    def finish_reason(self) -> str:
        """Why the model stopped, in the words of chat completions."""
        why = self._ending.get("incomplete") if self._ending is not None else None
        if why is None:
            return "stop"
        return "length" if why == "max_output_tokens" else str(why)

    def feed(self, payload: bytes) -> None:
        """One SSE payload; after the last event none counts.

        Raises:
            UpstreamError: it is no event, or it says that the upstream failed.
        """
        if self.done:
            return
        if payload == sse.DONE:
            self.done = True
            return
        try:
            event = odd_json.loads(payload)
            kind = event["type"]
        except ValueError as error:
            raise garbage("an event that is not JSON") from error
        except (TypeError, KeyError) as error:
            event, kind = _untyped(event, error)
        hot = self._hot
        if hot is not None and hot.item.part is hot and _place(kind, event) == self._hot_place:
            delta = event.get("delta")
            if type(delta) is str and event.keys() <= _PLAIN and not event.get("logprobs"):
                if delta:
                    self.tokens += 1
                    self._composer.append(hot, delta)
                return
        if not isinstance(kind, str):
            raise garbage("an event whose type is no text")
        self._hot = None
        if len(payload) > _SHALLOW_BYTES:
            _check_depth(event)
        self._read(_SYNONYMS.get(kind, kind), event, len(payload))

    def end(self) -> dict[str, Any]:
        """The stream is over: how the response ends, as keyword arguments of `Composer.finish`.

        Raises:
            UpstreamError: it ended without saying so.
        """
        if self._ending is None:
            text = "the upstream ended its stream early"
            raise UpstreamError(Code.SERVER_ERROR, text, result="truncated", retryable=True)
        return self._ending

    def _read(self, kind: str, event: dict[str, Any], size: int) -> None:
        if kind in _ENDINGS:
            kind = _ending(event)
        if kind in ("response.completed", "response.incomplete"):
            self._finish(kind, event.get("response"))
        elif kind in ("response.failed", "response.cancelled"):
            response = event.get("response")
            raise echo.failure(response.get("error") if isinstance(response, dict) else None, kind)
        elif kind == "error":
            raise echo.failure(event.get("error") or event)
        elif kind in LIFECYCLE or kind in _HOP or kind.startswith("grizz:") or not _TYPE.match(kind):
            return
        elif not self._begun and self._may_wait(kind, event) and self._held_bytes + size <= _MOST_HELD_BYTES:
            self._held.append((kind, event))
            self._held_bytes += size
        else:
            self._begin()
            self.tokens += 1
            self._pass_on(kind, event)

    def _may_wait(self, kind: str, event: dict[str, Any]) -> bool:
        """Does it bring nothing by itself?"""
        if len(self._held) >= _MOST_HELD:
            return False
        return kind == ITEM_ADDED or kind in BY_ADDED or not ("output_index" in event or "item_id" in event)

    def _begin(self) -> None:
        self._begun = True
        held, self._held = self._held, []
        for kind, event in held:
            self._pass_on(kind, event)

    def _finish(self, kind: str, response: Any) -> None:
        response = response if isinstance(response, dict) else {}
        ending = echo.ending(kind, response)
        self.source = response
        self._begin()
        output = response.get("output")
        self._known.settle(output if isinstance(output, list) else ())
        self._composer.response.update(echo.of_response(self._composer.response, response))
        self._ending, self.done = ending, True
        self.tokens += 1

    def _pass_on(self, kind: str, event: dict[str, Any]) -> None:
        if kind == ITEM_ADDED:
            self._known.added(event.get("item"), event.get("output_index"))
        elif kind == ITEM_DONE:
            self._known.done(event.get("item"), event)
        elif kind in BY_ADDED:
            self._known.part_added(kind, event)
        elif kind in BY_CLOSED:
            self._known.part_done(kind, event)
        elif kind in BY_DELTA:
            self._delta(BY_DELTA[kind], kind, event)
        elif kind in BY_DONE:
            self._known.text_done(BY_DONE[kind], event, _rest(event, "text", "refusal", "arguments", "input", "code"))
        elif kind == ANNOTATION:
            self._annotation(kind, event)
        else:
            self._other(kind, event)

    def _delta(self, kind: PartKind, name: str, event: dict[str, Any]) -> None:
        delta = event.get("delta")
        if delta is None or delta == "":
            return
        if type(delta) is not str:
            raise garbage("a delta that is no text")
        part = self._known.part_for(kind, event)
        if part is None:
            return
        more: dict[str, Any] | None = None
        if not event.keys() <= _PLAIN:
            more = {key: value for key, value in event.items() if key not in _PLAIN and key not in part.where}
        self._composer.append(part, delta, _list(event.get("logprobs")), more)
        self._hot, self._hot_place = part, _place(event["type"], event)

    def _annotation(self, kind: str, event: dict[str, Any]) -> None:
        part = self._known.open_part(PARTS["output_text"], event)
        if part is not None and isinstance(event.get("annotation"), dict):
            part.annotate(event["annotation"])
            self._composer.emit(kind, {"annotation_index": 0, **_rest(event), **part.where})

    def _other(self, kind: str, event: dict[str, Any]) -> None:
        """Hosted tools, and what is not known here."""
        body = _rest(event)
        if "output_index" in event or "item_id" in event:
            found = self._known.find(event)
            if found is None or found.item.closed:
                return
            item, part = found.item, found.item.part
            body |= {"item_id": item.obj["id"], "output_index": item.index}
            if part is not None and part.kind.index in body:
                body |= part.where
        if "response_id" in body:
            body["response_id"] = self._composer.response["id"]
        if "response" in body:
            theirs = body.pop("response")
            if isinstance(theirs, dict):
                body["response"] = echo.embedded(self._composer.response, theirs)
        self._composer.emit(kind, body)


def _rest(event: dict[str, Any], *known: str) -> dict[str, Any]:
    """What is passed on as it is."""
    return {key: value for key, value in event.items() if key not in _NOT_PASSED and key not in known}


def _untyped(event: Any, error: Exception) -> tuple[dict[str, Any], str]:
    """What has no type: an error, or the whole Response of a server that does not stream, as its last event."""
    if isinstance(event, dict) and event.get("error"):
        raise echo.failure(event["error"]) from error
    if isinstance(event, dict) and event.get("object") == "response" and event.get("status") in _ENDS:
        return {"response": event}, "response.completed"
    raise garbage("an event without a type") from error


def _ending(event: dict[str, Any]) -> str:
    """The last event by what its Response says: vLLM ends all of them with `response.completed`."""
    response = event.get("response")
    status = response.get("status") if isinstance(response, dict) else None
    return f"response.{status}" if status in _ENDS else "response.completed"


def _place(kind: Any, event: dict[str, Any]) -> tuple[Any, ...]:
    get = event.get
    return kind, get("item_id"), get("output_index"), get("content_index"), get("summary_index")


def _list(value: Any) -> list[Any] | None:
    return value if isinstance(value, list) else None


def _check_depth(event: dict[str, Any]) -> None:
    """What is nested deeper than can be written would fail only when it is sent."""
    try:
        check_depth(event)
    except RequestError as error:
        raise garbage("an event that is nested too deep") from error
