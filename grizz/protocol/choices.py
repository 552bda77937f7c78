"""A response in the words of Chat Completions: its events as the chunks of one choice, or all of it as one object.

The way here is `completions.py`. What that dialect has no word for is left out: items of hosted tools, annotations, and
the reasoning's own item (its text goes out as `reasoning_content`, as DeepSeek and vLLM do).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from grizz.errors import Code, RequestError
from grizz.protocol import sse
from grizz.protocol.completions import Asked
from grizz.protocol.events import TERMINAL, Event

Response = dict[str, Any]

_ID = "chatcmpl-"
# The status of an answer that failed, where it is not a fault of the model's server.
_STATUS = {
    Code.INVALID_PROMPT: 400,
    Code.CONTEXT_LENGTH: 400,
    Code.MODEL_NOT_FOUND: 404,
    Code.RATE_LIMIT: 429,
    Code.INSUFFICIENT_QUOTA: 429,
}
_PARAM = {Code.CONTEXT_LENGTH: "messages", Code.INVALID_PROMPT: "messages", Code.MODEL_NOT_FOUND: "model"}
# By then every upstream has refused it more than once.
_BUSY_RETRY_S = 5.0
_REASONS = {"max_output_tokens": "length", "content_filter": "content_filter"}
# Events of plain text: how their types begin, where it goes, and what the whole is called in the `done` event.
_TEXTS = (
    ("response.output_text.", "content", "text"),
    ("response.refusal.", "refusal", "refusal"),
    ("response.reasoning_summary_text.", "reasoning_content", "text"),
    ("response.reasoning_text.", "reasoning_content", "text"),
)
_BY_TYPE = {f"{prefix}{end}": (field, end, whole) for prefix, field, whole in _TEXTS for end in ("delta", "done")}


def completion(response: Response, asked: Asked, left: int = 0) -> dict[str, Any]:
    """An ended response as a `chat.completion`.

    Args:
        left: how many items workers that were lost have left in its output; another one began anew behind them.

    Raises:
        RequestError: it failed, or was cancelled.
    """
    failure = failure_of(response)
    if failure is not None:
        raise failure
    said = _said(response["output"][left:])
    calls = said["calls"]
    text: str | None = "".join(said["content"])
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if not text and (calls or said["refusal"]) else text,
        "refusal": "".join(said["refusal"]) or None,
    }
    if said["reasoning_content"]:
        message["reasoning_content"] = "".join(said["reasoning_content"])
    if calls and asked.functions:
        message["function_call"] = calls[0]["function"]
    elif calls:
        message["tool_calls"] = calls
    choice = {
        "index": 0,
        "message": message,
        "logprobs": _logprobs(said["logprobs"]) if asked.logprobs else None,
        "finish_reason": _finish_reason(response, asked, called=bool(calls)),
    }
    return {**_head(response, "chat.completion"), "choices": [choice], "usage": usage(response["usage"])}


class Choice:
    """The chunks of one streamed answer.

    Attributes:
        losses: numbers of events from which another worker began anew, after one was lost; its reader sets it.
        failure: why the answer is not to be had, or not to its end; nothing follows it.
    """

    def __init__(self, response: Response, asked: Asked) -> None:
        self.failure: RequestError | None = None
        self._asked = asked
        self._head = _head(response, "chat.completion.chunk")
        self._begun = False
        self.losses: Sequence[int] = ()
        self._at = self._begun_at = -1  # the event that is read, and the first that was told
        self._calls: dict[int, int] = {}  # which call an item is, by its output_index
        self._spoken: set[tuple[Any, ...]] = set()  # parts of which a delta went out

    def read(self, events: Iterable[Event]) -> bytes:
        """The next events as the bytes of server-sent events, up to `[DONE]`; none once it has failed."""
        frames: list[bytes] = []
        for event in events:
            self._at = event.seq
            if self.failure is None:
                frames += self._read(event.type, event.data)
        return b"".join(frames)

    def _read(self, kind: str, data: bytes) -> list[bytes]:
        if self.losses and self._begun and any(self._begun_at < first <= self._at for first in self.losses):
            return self._lost(kind, data)
        if kind in _BY_TYPE:
            return self._text(*_BY_TYPE[kind], orjson.loads(data))
        if kind in ("response.function_call_arguments.delta", "response.function_call_arguments.done"):
            return self._arguments(orjson.loads(data))
        if kind == "response.output_item.added":
            return self._item(orjson.loads(data))
        if kind in TERMINAL:
            return self._end(orjson.loads(data)["response"])
        return []

    def _text(self, field: str, end: str, whole: str, body: dict[str, Any]) -> list[bytes]:
        place = (body["output_index"], field, body.get("content_index", body.get("summary_index")))
        if end == "done" and place in self._spoken:
            return []
        self._spoken.add(place)
        text = body["delta" if end == "delta" else whole]
        entries = body.get("logprobs") if self._asked.logprobs and field == "content" else None
        return self._delta({field: text}, _logprobs(entries) if entries else None) if text else []

    def _lost(self, kind: str, data: bytes) -> list[bytes]:
        """Its worker was lost, and another one begins anew. What went out already cannot be taken back."""
        if kind in TERMINAL:
            self.failure = failure_of(orjson.loads(data)["response"])
        if self.failure is None:
            text = "The server lost this answer half-way; ask again."
            self.failure = RequestError(502, Code.SERVER_ERROR, text)
        return []

    def _item(self, body: dict[str, Any]) -> list[bytes]:
        item, index = body["item"], body["output_index"]
        if item["type"] == "function_call":
            self._calls[index] = len(self._calls)
            return self._call(index, {"name": item["name"], "arguments": ""}, {"id": item["call_id"]})
        return []

    def _arguments(self, body: dict[str, Any]) -> list[bytes]:
        index = body["output_index"]
        text = body.get("delta") or ("" if (index,) in self._spoken else body.get("arguments"))
        if not text or index not in self._calls:
            return []
        self._spoken.add((index,))
        return self._call(index, {"arguments": text})

    def _call(self, index: int, function: dict[str, Any], more: dict[str, Any] | None = None) -> list[bytes]:
        number = self._calls[index]
        if self._asked.functions:
            return self._delta({"function_call": function}) if number == 0 else []
        named = {**more, "type": "function"} if more else {}
        return self._delta({"tool_calls": [{"index": number, **named, "function": function}]})

    def _end(self, response: Response) -> list[bytes]:
        self.failure = failure_of(response)
        if self.failure is not None:
            return []
        reason = _finish_reason(response, self._asked, called=bool(self._calls))
        frames = [*([] if self._begun else self._delta({"content": ""})), self._chunk({}, None, reason)]
        if self._asked.include_usage and response["usage"] is not None:
            frames.append(_frame({**self._head, "choices": [], "usage": usage(response["usage"])}))
        return [*frames, sse.DONE_FRAME]

    def _delta(self, delta: dict[str, Any], logprobs: dict[str, Any] | None = None) -> list[bytes]:
        if self._begun:
            return [self._chunk(delta, logprobs)]
        self._begun, self._begun_at = True, self._at
        first = {"role": "assistant", "content": "" if "content" in delta else None, "refusal": None}
        rest = [self._chunk(delta, logprobs)] if delta != {"content": ""} else []
        return [self._chunk(first), *rest]

    def _chunk(self, delta: dict[str, Any], logprobs: Any = None, reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        chunk = {**self._head, "choices": [choice]}
        if self._asked.include_usage:
            chunk["usage"] = None
        return _frame(chunk)


def failure_of(response: Response) -> RequestError | None:
    """Why an ended response is no answer, as a refusal over HTTP; None when it is one.

    One that was cut short by its length or a filter is.
    """
    status = response["status"]
    if status == "cancelled":
        never = {"x-should-retry": "false"}
        return RequestError(409, Code.INVALID_REQUEST, "The answer was cancelled.", headers=never)
    if status != "failed":
        return None
    error = response["error"] or {}
    code = next((code for code in Code if code == error.get("code")), Code.SERVER_ERROR)
    return RequestError(
        _STATUS.get(code, 502),
        code,
        error.get("message") or "The answer failed.",
        param=_PARAM.get(code),
        retry_after_s=_BUSY_RETRY_S if code is Code.RATE_LIMIT else None,
        headers={"x-should-retry": "false"} if code is Code.INSUFFICIENT_QUOTA else None,
    )


def error_frame(error: RequestError) -> bytes:
    """What ends a stream that has begun: OpenAI's SDKs raise it. No `[DONE]` follows, since it is not done."""
    return _frame({"error": error.body()})


def usage(given: dict[str, Any] | None) -> dict[str, Any] | None:
    """Usage of a response as that of a completion; None when nobody counted."""
    if given is None:
        return None
    asked, made = given.get("input_tokens_details") or {}, given.get("output_tokens_details") or {}
    return {
        "prompt_tokens": given["input_tokens"],
        "completion_tokens": given["output_tokens"],
        "total_tokens": given["total_tokens"],
        "prompt_tokens_details": {"cached_tokens": asked.get("cached_tokens", 0)},
        "completion_tokens_details": {"reasoning_tokens": made.get("reasoning_tokens", 0)},
    }


def _head(response: Response, name: str) -> dict[str, Any]:
    return {
        "id": _ID + response["id"].removeprefix("resp_"),
        "object": name,
        "created": response["created_at"],
        "model": response["model"],
        "system_fingerprint": None,
    }


def _frame(body: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


def _said(output: Iterable[dict[str, Any]]) -> dict[str, list[Any]]:
    """The texts, calls and logprobs of the output."""
    said: dict[str, list[Any]] = {name: [] for name in ("content", "refusal", "reasoning_content", "calls", "logprobs")}
    for item in output:
        if item["type"] == "message":
            for part in item["content"]:
                _part(said, part)
        elif item["type"] == "reasoning":
            parts = item.get("content") or item.get("summary") or ()
            said["reasoning_content"] += [part["text"] for part in parts if isinstance(part.get("text"), str)]
        elif item["type"] == "function_call":
            function = {"name": item["name"], "arguments": item["arguments"]}
            said["calls"].append({"id": item["call_id"], "type": "function", "function": function})
    return said


def _part(said: dict[str, list[Any]], part: dict[str, Any]) -> None:
    if part["type"] == "output_text":
        said["content"].append(part["text"])
        said["logprobs"] += part.get("logprobs") or ()
    elif part["type"] == "refusal":
        said["refusal"].append(part["refusal"])


def _finish_reason(response: Response, asked: Asked, *, called: bool) -> str:
    if response["status"] == "incomplete":
        # What an upstream may stop for besides: all of it cut the answer short.
        return _REASONS.get((response["incomplete_details"] or {}).get("reason", ""), "length")
    if called:
        return "function_call" if asked.functions else "tool_calls"
    return "stop"


def _logprobs(entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {"content": [_with_bytes(entry) for entry in entries], "refusal": None}


def _with_bytes(entry: dict[str, Any]) -> dict[str, Any]:
    """Servers that do not know a token's bytes tell none; an empty list would say that it has none."""
    found = {**entry, "bytes": entry.get("bytes") or None}
    if "top_logprobs" in entry:
        found["top_logprobs"] = [{**top, "bytes": top.get("bytes") or None} for top in entry["top_logprobs"]]
    return found
