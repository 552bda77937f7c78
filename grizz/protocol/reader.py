"""Chat Completions stream → events: a state machine over chunks (protocol §16.2).

`Reader.feed` is called for every chunk a model sends; it must do nothing per token but look up and append.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from grizz.errors import Code, UpstreamError
from grizz.protocol import sse
from grizz.protocol.compose import Composer
from grizz.protocol.events import NewId

# Characters of an upstream's error that clients are shown, and the largest count of tokens that is believed.
_MAX_DETAIL = 1000
_MAX_TOKENS = 2**53
_OPEN, _CLOSE = "<think>", "</think>"


@dataclass(slots=True)
class _Call:
    """A tool call as it comes in; it opens once its name and (its id or its first argument) are known."""

    call_id: str = ""
    name: str = ""
    waiting: list[str] = field(default_factory=list)
    open: bool = False


class Reader:
    """Reads the payloads of one chat stream into a composer.

    Args:
        most_calls: tool calls beyond so many are ignored; None ignores none.
    """

    def __init__(self, composer: Composer, *, new_id: NewId, most_calls: int | None = None) -> None:
        self._most_calls = most_calls
        self._composer = composer
        self._new_id = new_id
        self._calls: dict[int, _Call] = {}
        self._call_ids: set[str] = set()
        self._think = _Think()
        self._finish_reason: str | None = None
        self._usage: dict[str, Any] | None = None
        self.tokens = 0
        self.done = False

    @property
    def finishing(self) -> bool:
        """Has the model said why it stops? Only usage and `[DONE]` may follow."""
        return self._finish_reason is not None

    @property
    def usage(self) -> dict[str, Any] | None:
        """Usage in the Responses shape, or None when the upstream told none."""
        return self._usage

    def feed(self, payload: bytes) -> None:
        """One SSE payload; after `[DONE]` none counts.

        Raises:
            UpstreamError: it is not a chunk, or it is an error object.
        """
        if self.done:
            return
        if payload == sse.DONE:
            self.done = True
            return
        try:
            chunk = orjson.loads(payload)
            choices = chunk["choices"] if "choices" in chunk else None
        except (orjson.JSONDecodeError, TypeError) as error:
            raise _garbage("a chunk that is not a JSON object") from error
        if not choices:
            self._aside(chunk)
            return
        try:
            choice = choices[0]
            delta = choice.get("delta") or {}
            content = delta.get("content")
            if content:
                self.tokens += 1
                self._content(_text(content), choice.get("logprobs"))
            if len(delta) > 1 or not content:
                self._rest(delta)
            if choice.get("finish_reason"):
                self._finish_reason = _text(choice["finish_reason"])
        except (AttributeError, TypeError, KeyError, IndexError) as error:
            raise _garbage("a chunk of another shape than chat.completion.chunk") from error
        if isinstance(chunk.get("usage"), dict):
            self._usage = usage(chunk["usage"])

    def end(self) -> dict[str, Any]:
        """The stream is over: how the response ends, as keyword arguments of `Composer.finish`.

        Raises:
            UpstreamError: it ended without saying why (cut), or with a call that has no name.
        """
        if self._finish_reason is None:
            raise UpstreamError(
                Code.SERVER_ERROR, "the upstream ended its stream early", result="truncated", retryable=True
            )
        for kind, text in self._think.close():
            self._say(kind, text, None)
        for index, call in self._calls.items():
            if not call.name:
                raise _garbage("a tool call without a name")
            self._open_call(index, call)
        ending: dict[str, Any] = {"status": "completed", "usage": self._usage}
        if self._finish_reason == "length":
            ending.update(status="incomplete", incomplete="max_output_tokens")
        elif self._finish_reason == "content_filter":
            ending.update(status="incomplete", incomplete="content_filter")
        return ending

    def _content(self, content: str, logprobs: dict[str, Any] | None) -> None:
        if self._think.over:
            self._composer.text(content, _logprobs(logprobs))
            return
        for kind, text in self._think.feed(content):
            self._say(kind, text, logprobs)

    def _say(self, kind: str, text: str, logprobs: dict[str, Any] | None) -> None:
        if kind == "text":
            self._composer.text(text, _logprobs(logprobs))
        else:
            self._composer.reasoning(text)

    def _rest(self, delta: dict[str, Any]) -> None:
        """Everything but plain content: reasoning, refusals, tool calls."""
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if isinstance(thought, str) and thought:  # some servers send an empty one beside each piece of text
            self.tokens += 1
            self._composer.reasoning(thought)
        if delta.get("refusal"):
            self.tokens += 1
            self._composer.refusal(_text(delta["refusal"]))
        for position, fragment in enumerate(delta.get("tool_calls") or ()):
            self._tool_call(fragment.get("index"), position, fragment.get("id"), fragment.get("function") or {})
        if delta.get("function_call"):
            self._tool_call(0, 0, None, delta["function_call"])

    def _tool_call(self, index: int | None, position: int, call_id: str | None, function: dict[str, Any]) -> None:
        arguments = function.get("arguments")
        if not (call_id or function.get("name") or arguments):  # says nothing, and begins no call
            return
        if index is None:  # some servers send whole calls without one
            index = len(self._calls) if call_id else position
        if type(index) is not int:
            raise TypeError("an index is no number")
        call = self._calls.setdefault(index, _Call())
        self.tokens += 1
        if call_id and not call.call_id:
            call.call_id = _text(call_id)
        if function.get("name") and not call.name:
            call.name = _text(function["name"])
        if arguments:
            call.waiting.append(arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode())
        if call.name and (call.call_id or call.waiting):
            self._open_call(index, call)

    def _open_call(self, index: int, call: _Call) -> None:
        if not call.open:
            # Ids that are missing, or used twice in one answer, would make the tool's output ambiguous.
            if not call.call_id or call.call_id in self._call_ids:
                call.call_id = self._new_id("call")
            if self._most_calls is not None and len(self._call_ids) >= self._most_calls:
                call.waiting.clear()
                return
            self._call_ids.add(call.call_id)
            self._composer.call(index, call.call_id, call.name)
            call.open = True
        for fragment in call.waiting:
            self._composer.arguments(index, fragment)
        call.waiting.clear()

    def _aside(self, chunk: Any) -> None:
        """A chunk without choices: usage, an error, or something to ignore (some servers open with filter results)."""
        if not isinstance(chunk, dict):
            raise _garbage("a chunk that is not a JSON object")
        if error := chunk.get("error"):
            detail = error.get("message") if isinstance(error, dict) else error
            detail = detail[:_MAX_DETAIL] if isinstance(detail, str) else "it did not say why"
            raise UpstreamError(Code.SERVER_ERROR, f"the upstream failed: {detail}", result="5xx", retryable=True)
        if isinstance(chunk.get("usage"), dict):
            self._usage = usage(chunk["usage"])


class _Think:
    """Inline reasoning: content that begins with `<think>` is reasoning up to `</think>`, the rest is text."""

    def __init__(self) -> None:
        self.over = False
        self._inside = False
        self._after = False
        self._held = ""

    def feed(self, content: str) -> list[tuple[str, str]]:
        self._held += content
        if self._after:  # the blank lines between a thought and its answer belong to neither
            self._held = self._held.lstrip("\n")
            self.over = bool(self._held)
            return self.close()
        if not self._inside:
            start = self._held.lstrip()
            if _OPEN.startswith(start):
                return []  # undecided: it may still become the tag
            if not start.startswith(_OPEN):
                self.over = True
                return self.close()
            self._inside = True
            self._held = start[len(_OPEN) :].lstrip("\n")
        thought, tag, rest = self._held.partition(_CLOSE)
        if not tag:
            # Keep back what may be the beginning of the closing tag.
            keep = next((n for n in range(len(_CLOSE) - 1, 0, -1) if thought.endswith(_CLOSE[:n])), 0)
            self._held = thought[len(thought) - keep :] if keep else ""
            thought = thought[: len(thought) - keep] if keep else thought
            return [("reasoning", thought)] if thought else []
        self._inside, self._after, self._held = False, True, ""
        return [("reasoning", thought)] * bool(thought) + self.feed(rest)

    def close(self) -> list[tuple[str, str]]:
        held, self._held = self._held, ""
        return [("reasoning" if self._inside else "text", held)] if held else []


def usage(chat: dict[str, Any]) -> dict[str, Any]:
    """Chat usage in the Responses shape; what is not told, or is no count, is 0."""
    asked, made = _count(chat, "prompt_tokens"), _count(chat, "completion_tokens")
    details_in, details_out = chat.get("prompt_tokens_details"), chat.get("completion_tokens_details")
    return {
        "input_tokens": asked,
        "input_tokens_details": {
            "cached_tokens": _count(details_in, "cached_tokens"),
            "cache_write_tokens": _count(details_in, "cache_write_tokens"),
        },
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": _count(details_out, "reasoning_tokens")},
        "total_tokens": _count(chat, "total_tokens") or asked + made,
    }


def _count(holder: Any, name: str) -> int:
    value = holder.get(name) if isinstance(holder, dict) else None
    return value if type(value) is int and 0 <= value <= _MAX_TOKENS else 0


def _logprobs(chat: dict[str, Any] | None) -> list[Any] | None:
    if not chat or not chat.get("content"):
        return None
    return [
        {**_logprob(entry), "top_logprobs": [_logprob(top) for top in entry.get("top_logprobs") or ()]}
        for entry in chat["content"]
    ]


def _logprob(entry: dict[str, Any]) -> dict[str, Any]:
    spelling = entry.get("bytes") or []
    if type(entry["logprob"]) not in (int, float) or not all(type(byte) is int for byte in spelling):
        raise TypeError("no logprob")
    return {"token": _text(entry["token"]), "logprob": entry["logprob"], "bytes": list(spelling)}


def _text(value: Any) -> str:
    """The value, if it is one; what is not may only be found out when it is sent, out of everybody's hands."""
    if type(value) is not str:
        raise TypeError("not a text")
    return value


def _garbage(what: str) -> UpstreamError:
    return UpstreamError(Code.SERVER_ERROR, f"the upstream sent {what}", result="truncated")
