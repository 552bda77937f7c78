"""Answer → OpenAI's format: chunks of a stream, a whole body, errors."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from grizz.upstream.demo.answer import Answer, Call
from grizz.upstream.demo.directives import Script

_FRAGMENT = 8  # characters of tool arguments in one delta

# directive value: status, type, code, message
_ERRORS = {
    "400": (400, "invalid_request_error", None, "The request is not valid."),
    "401": (401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    "403": (403, "permission_error", "permission_denied", "You are not allowed to use this model."),
    "404": (404, "invalid_request_error", "model_not_found", "The model does not exist."),
    "408": (408, "timeout_error", "request_timeout", "The request took too long to arrive."),
    "409": (409, "conflict_error", "conflict", "The request is in conflict with another one."),
    "413": (413, "invalid_request_error", "request_too_large", "The request is too large."),
    "422": (422, "invalid_request_error", "unprocessable_entity", "The request cannot be processed."),
    "429": (429, "requests", "rate_limit_exceeded", "Rate limit reached. Please try again later."),
    "500": (500, "server_error", None, "The server had an error while processing your request."),
    "502": (502, "server_error", "bad_gateway", "Bad gateway."),
    "503": (503, "server_error", "server_is_overloaded", "The server is overloaded. Please try again later."),
    "context": (
        400,
        "invalid_request_error",
        "context_length_exceeded",
        "This model's maximum context length is 4096 tokens. Please reduce the length of the messages.",
    ),
    "quota": (
        429,
        "insufficient_quota",
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
}


def error(name: str) -> tuple[int, dict[str, Any]]:
    """HTTP status and body of a scripted error; `name` is a value of the error directive."""
    status, kind, code, message = _ERRORS[name]
    text = f"{message} (Scripted by the demo server.)"
    return status, {"error": {"message": text, "type": kind, "param": None, "code": code}}


def deltas(answer: Answer, script: Script) -> Iterator[bytes]:
    """The delta objects of an answer as JSON, one token each; the role is not among them."""
    for key, texts in ((script.reasoning_field, answer.reasoning), ("content", answer.content)):
        yield from _texts(key, texts)
    yield from _texts("refusal", answer.refusal)
    for index, call in enumerate(answer.calls):
        for fragment in _fragments(call, script):
            yield orjson.dumps({"tool_calls": [{"index": index, **fragment}]})


def _texts(key: str, texts: Iterable[str]) -> Iterator[bytes]:
    head = b'{"%b":' % key.encode()
    dumps = orjson.dumps
    for text in texts:
        yield head + dumps(text) + b"}"


def _fragments(call: Call, script: Script) -> Iterator[dict[str, Any]]:
    head: dict[str, Any] = {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function"}
    name = {"name": call.name}
    if script.whole_tool:
        yield {**head, "function": {**name, "arguments": call.arguments}}
        return
    parts = [call.arguments[at : at + _FRAGMENT] for at in range(0, len(call.arguments), _FRAGMENT)]
    yield {**head, "function": {**({} if script.late_name else name), "arguments": ""}}
    for number, part in enumerate(parts):
        yield {"function": {"arguments": part}}
        if script.late_name and number == 0:
            yield {"function": {**name, "arguments": ""}}


def usage(prompt_tokens: int, completion_tokens: int, reasoning_tokens: int) -> dict[str, Any]:
    """The usage object; a token is a word of the prompt and a delta of the answer."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


class Chunks:
    """Writes the chunks of one answer as SSE. What never changes is encoded once; a delta costs two concatenations."""

    api = "chat"

    def __init__(
        self,
        ident: str,
        created_s: int,
        model: str,
        script: Script,
        *,
        usage_field: bool,
        top_logprobs: int | None = None,
    ) -> None:
        """`usage_field`: every chunk carries `usage`, null until the last, as it does when usage was asked for.

        `top_logprobs`: how many alternatives to tell with each piece of text; None tells no probabilities.
        """
        self._top_logprobs = top_logprobs
        self._no_role = script.no_role
        self._end = b"\r\n\r\n" if script.crlf else b"\n\n"
        self._start = (b": the demo says hello" + self._end if script.comment else b"") + b"data: "
        same = {"id": ident, "object": "chat.completion.chunk", "created": created_s, "model": model}
        self._same = orjson.dumps(same)[:-1] + b',"choices":['
        self._delta_start = self._start + self._same + b'{"index":0,"delta":'
        self._close = (b',"usage":null}' if usage_field else b"}") + self._end
        self._delta_end = b',"logprobs":null,"finish_reason":null}]' + self._close

    def head(self) -> bytes:
        """What comes before the answer: the role, and no word."""
        return b"" if self._no_role else self.delta(b'{"role":"assistant","content":""}')

    def end(self, reason: str, counts: dict[str, Any] | None) -> bytes:
        """How the answer ends; `counts` are its usage, if that is told."""
        last = self.finish(reason) + (self.usage(counts) if counts is not None else b"")
        return last + self.data(b"[DONE]")

    def failure(self) -> bytes:
        """The server fails in the middle of the answer."""
        return self.data(orjson.dumps(error("500")[1])) + self.data(b"[DONE]")

    def delta(self, delta: bytes) -> bytes:
        """A chunk in the middle of the answer; `delta` is a JSON object."""
        if self._top_logprobs is not None and delta.startswith(b'{"content":'):
            told = orjson.dumps(_logprobs(orjson.loads(delta)["content"], self._top_logprobs))
            end = self._delta_end.replace(b'"logprobs":null', b'"logprobs":' + told, 1)
            return self._delta_start + delta + end
        return self._delta_start + delta + self._delta_end

    def finish(self, reason: str) -> bytes:
        """The chunk that says why the answer ends."""
        return self._delta_start + b'{},"logprobs":null,"finish_reason":' + orjson.dumps(reason) + b"}]" + self._close

    def usage(self, counts: dict[str, Any]) -> bytes:
        """The chunk with the token counts and no choice."""
        return self._start + self._same + b'],"usage":' + orjson.dumps(counts) + b"}" + self._end

    def data(self, payload: bytes) -> bytes:
        """Any other data line."""
        return self._start + payload + self._end


def _logprobs(text: str, alternatives: int) -> dict[str, Any]:
    """The demo is rather sure of itself: each alternative is a tenth as likely as the one before."""
    if not text:
        return {"content": [], "refusal": None}
    tokens = [text, *(f"{text}{number}" for number in range(1, alternatives))]
    told = [
        {"token": token, "logprob": -0.1 - 2.3 * number, "bytes": list(token.encode())}
        for number, token in enumerate(tokens)
    ]
    return {"content": [{**told[0], "top_logprobs": told[:alternatives]}], "refusal": None}


def message(said: Iterable[bytes]) -> dict[str, Any]:
    """The message that the deltas add up to, for an answer that is not streamed."""
    texts: dict[str, list[str]] = {"content": []}
    calls: dict[int, dict[str, Any]] = {}
    for raw in said:
        delta = orjson.loads(raw)
        for fragment in delta.pop("tool_calls", ()):
            call = calls.setdefault(fragment["index"], {"function": {"name": None, "arguments": ""}})
            call.update({key: fragment[key] for key in ("id", "type") if key in fragment})
            function = fragment["function"]
            call["function"]["name"] = function.get("name", call["function"]["name"])
            call["function"]["arguments"] += function["arguments"]
        for key, text in delta.items():
            texts.setdefault(key, []).append(text)
    joined: dict[str, Any] = {key: "".join(parts) for key, parts in texts.items()}
    whole: dict[str, Any] = {"role": "assistant", "refusal": None, **joined}
    if calls:
        whole["content"] = whole["content"] or None
        whole["tool_calls"] = [calls[index] for index in sorted(calls)]
    return whole
