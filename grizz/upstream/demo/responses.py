"""The demo model behind `POST /v1/responses`: body → Chat Completions body, deltas → Responses events.

An independent server for tests of the pass-through: it forgets everything, numbers its own events, has ids of its own,
and breaks the order of events where a script asks for it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

import orjson

from grizz.errors import Code, RequestError
from grizz.protocol import chat, requests
from grizz.upstream.demo.directives import Script
from grizz.upstream.demo.wire import error

_REFUSED = ("previous_response_id", "conversation", "background", "generate")
_QUERY = "what the demo looks for"
_SOURCE = {
    "type": "url_citation",
    "url": "https://example.com/",
    "title": "Example",
    "start_index": 0,
    "end_index": 1,
}


def as_chat(body: Any) -> dict[str, Any]:
    """The same question as a Chat Completions body.

    Raises:
        RequestError: 400; it is none, or asks for what a server that stores nothing cannot do.
    """
    if isinstance(body, dict):
        for key in _REFUSED:
            if body.get(key):
                text = f"The demo server stores nothing: {key} is not supported."
                raise RequestError(400, Code.UNSUPPORTED_PARAMETER, text, param=key)
    asked = requests.parse(body, "")
    return {**chat.body(asked, asked.input), "stream": asked.stream}


class Events:
    """Writes the events of one answer as SSE."""

    def __init__(self, created_s: int, model: str, script: Script) -> None:
        self._script = script
        self._line_end = b"\r\n" if script.crlf else b"\n"
        self._comment = b": the demo says hello" + self._line_end * 2 if script.comment else b""
        self._seq = 0
        self._deltas = 0
        self._said: list[bytes] = []
        self._output: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None  # the open item, whole so far
        self._part: dict[str, Any] | None = None
        self._calls: dict[int, dict[str, Any]] = {}
        self._names: dict[int, dict[str, str]] = {}
        self._response: dict[str, Any] = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": created_s,
            "status": "in_progress",
            "model": model,
            "output": [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "service_tier": "flex",
            "store": False,
            "metadata": {"of": "demo"},
            "demo_region": "loopback",
        }

    def head(self) -> bytes:
        """What comes before the answer."""
        self._say("response.created", "created", response=self._response)
        self._say("response.in_progress", "in_progress", response=self._response)
        if self._script.unknown_event == 0:
            self._unknown()
        if self._script.encrypted and self._script.reasoning is None:
            self._begin({"id": f"rs_{uuid.uuid4().hex}", "type": "reasoning", "summary": []})
            self._finish_item()
        if self._script.hosted:
            self._search()
        return self._take()

    def delta(self, delta: bytes) -> bytes:
        """A delta of a chat stream, said in events."""
        for key, value in orjson.loads(delta).items():
            if key == "tool_calls":
                for fragment in value:
                    self._call(fragment)
            elif key == "content":
                self._text("message", "output_text", value)
            elif key == "refusal":
                self._text("message", "refusal", value)
            else:
                self._text("reasoning", "reasoning_text", value)
        self._deltas += 1
        if self._script.unknown_event == self._deltas:
            self._unknown()
        return self._take()

    def end(self, reason: str, counts: dict[str, Any] | None) -> bytes:
        """How the answer ends; `counts` as in chat, if usage is told."""
        self._end(reason, counts)
        return self._take()

    def failure(self) -> bytes:
        """The server fails in the middle of the answer."""
        said = error("500")[1]["error"]
        failed = {"code": "server_error", "message": said["message"]}
        self._say("response.failed", response={**self._response, "status": "failed", "error": failed})
        return self._take()

    def data(self, payload: bytes) -> bytes:
        """Any other data line."""
        return b"data: " + payload + self._line_end * 2

    def whole(self, deltas: Iterable[bytes], reason: str, counts: dict[str, Any]) -> dict[str, Any]:
        """The Response that all of it comes to."""
        self.head()
        for delta in deltas:
            self.delta(delta)
        self._end(reason, counts)
        return self._response

    # Inside

    def _text(self, holder: str, name: str, text: str) -> None:
        form = self._script.reasoning_form if holder == "reasoning" else ""
        if form == "summary":
            name = "summary_text"
        if self._open is None or self._open["type"] != holder:
            self._finish_item()
            fields: dict[str, Any] = {"role": "assistant", "content": []}
            prefix = "msg"
            if holder == "reasoning":
                prefix, fields = "rs", {"summary": []} if form == "summary" else {"summary": [], "content": []}
            self._begin({"id": f"{prefix}_{uuid.uuid4().hex}", "type": holder, "status": "in_progress", **fields})
        if self._part is None or self._part["type"] != name:
            self._finish_part()
            self._part = {"type": name, _value(name): ""}
            if name == "output_text":
                self._part["annotations"] = []
            self._say(_part_event(name, "added"), "part", part=self._part, **self._where())
        self._part[_value(name)] += text
        extra: dict[str, Any] = {"logprobs": [], "obfuscation": "x" * 8} if name == "output_text" else {}
        self._say(_text_event(name, form, "delta"), delta=text, **self._where(), **extra)

    def _call(self, fragment: dict[str, Any]) -> None:
        index, function = fragment["index"], fragment["function"]
        known = self._names.setdefault(index, {"call_id": "", "name": "", "early": ""})
        known["call_id"] = known["call_id"] or fragment.get("id") or ""
        known["name"] = known["name"] or function.get("name") or ""
        text = known["early"] + (function.get("arguments") or "")
        known["early"] = text if not known["name"] else ""
        if not known["name"]:
            return
        call = self._calls.get(index)
        if call is None:
            self._finish_item()
            call = {"id": f"fc_{uuid.uuid4().hex}", "type": "function_call", "status": "in_progress"}
            call |= {"call_id": known["call_id"], "name": known["name"], "arguments": ""}
            self._calls[index] = call
            self._begin(call)
        if text:
            call["arguments"] += text
            self._say("response.function_call_arguments.delta", delta=text, **self._place(call))

    def _search(self) -> None:
        action = {"type": "search", "query": _QUERY}
        item: dict[str, Any] = {"id": f"ws_{uuid.uuid4().hex}", "type": "web_search_call", "status": "in_progress"}
        item["action"] = action
        self._begin(item)
        for step in ("in_progress", "searching", "completed"):
            self._say(f"response.web_search_call.{step}", **self._place(item))
        self._finish_item()

    def _unknown(self) -> None:
        where = self._place(self._open) if self._open else {}
        self._say("demo:weather", forecast={"tomorrow": "sun"}, **where)

    def _begin(self, item: dict[str, Any]) -> None:
        self._open = item
        self._output.append(item)
        self._say("response.output_item.added", "item", item=item, output_index=self._index(item))

    def _finish_part(self) -> None:
        part, self._part = self._part, None
        if part is None or self._open is None:
            return
        name, form = part["type"], self._script.reasoning_form if self._open["type"] == "reasoning" else ""
        home = "summary" if name == "summary_text" else "content"
        where = self._where(part)
        if self._script.hosted and name == "output_text":
            part["annotations"] = [_SOURCE]
            self._say("response.output_text.annotation.added", annotation=_SOURCE, annotation_index=0, **where)
        self._say(_text_event(name, form, "done"), "text_done", **{**where, _value(name): part[_value(name)]})
        self._say(_part_event(name, "done"), "part_done", part=part, **where)
        self._open[home].append(part)

    def _finish_item(self) -> None:
        self._finish_part()
        item, self._open = self._open, None
        if item is None:
            return
        if item["type"] == "function_call":
            said = {"arguments": item["arguments"], "name": item["name"], **self._place(item)}
            self._say("response.function_call_arguments.done", "text_done", **said)
        if item["type"] == "reasoning" and self._script.encrypted:
            item["encrypted_content"] = "gAAA-demo-" + item["id"]
        item["status"] = "completed"
        self._say("response.output_item.done", "item_done", item=item, output_index=self._index(item))

    def _end(self, reason: str, counts: dict[str, Any] | None) -> None:
        self._finish_item()
        status = "incomplete" if reason in ("length", "content_filter") else "completed"
        if "output" not in self._script.skip:
            self._response["output"] = self._output
        if status == "incomplete":
            cause = "max_output_tokens" if reason == "length" else reason
            self._response["incomplete_details"] = {"reason": cause}
        self._response |= {"status": status, "usage": _usage(counts)}
        self._say(f"response.{status}", response=self._response)

    def _index(self, item: dict[str, Any]) -> int:
        return 0 if self._script.collide else self._output.index(item)

    def _place(self, item: dict[str, Any]) -> dict[str, Any]:
        return {"item_id": item["id"], "output_index": self._index(item)}

    def _where(self, part: dict[str, Any] | None = None) -> dict[str, Any]:
        part = part or self._part
        assert part is not None and self._open is not None
        home = "summary" if part["type"] == "summary_text" else "content"
        return {**self._place(self._open), f"{home}_index": len(self._open[home])}

    def _say(self, kind: str, skipped_as: str = "", **fields: Any) -> None:
        if skipped_as and skipped_as in self._script.skip:
            return
        data = orjson.dumps({"type": kind, "sequence_number": self._seq, **fields})
        self._seq += 1
        event = b"event: " + kind.encode() + self._line_end + b"data: " + data + self._line_end * 2
        self._said.append(self._comment + event)

    def _take(self) -> bytes:
        said, self._said = self._said, []
        return b"".join(said)


def _value(name: str) -> str:
    return "refusal" if name == "refusal" else "text"


def _part_event(name: str, step: str) -> str:
    return f"response.{'reasoning_summary_part' if name == 'summary_text' else 'content_part'}.{step}"


def _text_event(name: str, form: str, step: str) -> str:
    names = {"summary": "reasoning_summary_text", "text": "reasoning_text", "open": "reasoning"}
    return f"response.{names.get(form, name)}.{step}"


def _usage(counts: dict[str, Any] | None) -> dict[str, Any] | None:
    if counts is None:
        return None
    details = counts["completion_tokens_details"]
    return {
        "input_tokens": counts["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": counts["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": details["reasoning_tokens"]},
        "total_tokens": counts["total_tokens"],
    }
