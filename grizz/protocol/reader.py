"""Chat Completions stream → events: a state machine over chunks (protocol §16.2).

`Reader.feed` is called for every chunk a model sends; it must do nothing per token but look up and append.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from grizz.errors import Code, UpstreamError
from grizz.protocol import echo, odd_json, sse
from grizz.protocol.compose import Composer
from grizz.protocol.echo import count
from grizz.protocol.events import NewId
from grizz.protocol.tool_calls import ToolCalls

_OPEN, _CLOSE = "<think>", "</think>"
# Why a model stopped, in words of OpenAI and of others: what is not here is an answer that ended well.
_CUT_SHORT = {
    **dict.fromkeys(("length", "model_length", "max_tokens", "max_output_tokens"), "max_output_tokens"),
    **dict.fromkeys(("content_filter", "safety", "recitation", "prohibited_content", "sensitive"), "content_filter"),
}
_BROKEN = frozenset({"error", "abort", "network_error", "insufficient_system_resource"})


class Reader:
    """Reads the payloads of one chat stream into a composer.

    Args:
        most_calls: tool calls beyond so many are ignored; None ignores none.

    Attributes:
        source: what the server says of its answer at the end, its own `id` and `model` among it.
    """

    def __init__(self, composer: Composer, *, new_id: NewId, most_calls: int | None = None) -> None:
        self._composer = composer
        self._calls = ToolCalls(composer, new_id=new_id, most=most_calls)
        self._think = _Think()
        self._finish_reason: str | None = None
        self._usage: dict[str, Any] | None = None
        self.source: Mapping[str, Any] = {}
        self.tokens = 0
        self.done = False

    @property
    def finishing(self) -> bool:
        """Has the model said why it stops? Only usage and `[DONE]` may follow."""
        return self._finish_reason is not None

    @property
    def finish_reason(self) -> str:
        """Why the model stopped; "stop" when it did not say."""
        return self._finish_reason or "stop"

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
            try:
                chunk = orjson.loads(payload)
            except orjson.JSONDecodeError:
                chunk = odd_json.loads(payload)
            choices = chunk["choices"] if "choices" in chunk else None
        except (ValueError, TypeError) as error:
            raise _garbage("a chunk that is not a JSON object") from error
        if not choices:
            self._aside(chunk)
            return
        try:
            choice = choices[0]
            delta = (choice["delta"] if "delta" in choice else self._whole(choice.get("message"))) or {}
            content = delta.get("content")
            if content:
                self.tokens += 1
                self._content(content, choice.get("logprobs"))
            if len(delta) > 1 or not content:
                self._rest(delta)
            if choice.get("finish_reason"):
                self._finish_reason = _text(choice["finish_reason"]).lower()
                self.source = chunk
        except (AttributeError, TypeError, KeyError, IndexError) as error:
            raise _garbage("a chunk of another shape than chat.completion.chunk") from error
        if "error" in chunk or self._finish_reason in _BROKEN:
            self._fail(chunk)
        if isinstance(chunk.get("usage"), dict):
            self._usage = usage(chunk["usage"])

    def end(self) -> dict[str, Any]:
        """The stream is over: how the response ends, as keyword arguments of `Composer.finish`.

        Raises:
            UpstreamError: it ended without saying why (cut), or with a call that has no name.
        """
        # A server that only says [DONE] has said that this is all; of nothing it cannot be.
        if self._finish_reason is None and not (self.done and self.tokens):
            raise UpstreamError(
                Code.SERVER_ERROR, "the upstream ended its stream early", result="truncated", retryable=True
            )
        for kind, text in self._think.close():
            self._say(kind, text, None)
        try:
            self._calls.end()
        except ValueError as error:
            raise _garbage(str(error)) from error
        ending: dict[str, Any] = {"status": "completed", "usage": self._usage}
        if (reason := _CUT_SHORT.get(self._finish_reason or "")) is not None:
            ending.update(status="incomplete", incomplete=reason)
        return ending

    def _content(self, content: Any, logprobs: dict[str, Any] | None) -> None:
        if type(content) is not str:
            self._parts(content)
        elif self._think.over:
            self._composer.text(content, _logprobs(logprobs))
        else:
            for kind, text in self._think.feed(content):
                self._say(kind, text, logprobs)

    def _parts(self, parts: Any) -> None:
        """Content as a list of parts, thoughts among them: so Mistral sends it."""
        if type(parts) is not list:
            raise TypeError("not a text")
        for part in parts:
            thought = part.get("thinking")
            if isinstance(thought, list):
                thought = "".join(_text(piece.get("text", "")) for piece in thought)
            if thought:
                self._composer.reasoning(_text(thought))
            if part.get("text"):
                self._content(_text(part["text"]), None)

    def _whole(self, message: Any) -> Any:
        """The message of a server that does not stream: it thought before it spoke."""
        if isinstance(message, dict):
            self._thought(message)
            return {key: value for key, value in message.items() if not key.startswith("reasoning")}
        return message

    def _say(self, kind: str, text: str, logprobs: dict[str, Any] | None) -> None:
        if kind == "text":
            self._composer.text(text, _logprobs(logprobs))
        else:
            self._composer.reasoning(text)

    def _thought(self, delta: dict[str, Any]) -> None:
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if not thought and (details := delta.get("reasoning_details")):
            told = [one.get("text") or one.get("summary") for one in details]
            thought = "".join(text for text in told if isinstance(text, str))
        if isinstance(thought, str) and thought:  # some servers send an empty one beside each piece of text
            self.tokens += 1
            self._composer.reasoning(thought)

    def _rest(self, delta: dict[str, Any]) -> None:
        """Everything but plain content: reasoning, refusals, tool calls."""
        self._thought(delta)
        if delta.get("refusal"):
            self.tokens += 1
            self._composer.refusal(_text(delta["refusal"]))
        calls = delta.get("tool_calls") or ()
        if isinstance(calls, dict):  # as TGI sent the only one
            calls = (calls,)
        for position, fragment in enumerate(calls):
            self.tokens += self._calls.feed(fragment, position if len(calls) > 1 else None)
        if delta.get("function_call"):
            self.tokens += self._calls.feed({"index": 0, "function": delta["function_call"]})

    def _aside(self, chunk: Any) -> None:
        """A chunk without choices: usage, an error, or something to ignore (some servers open with filter results)."""
        if not isinstance(chunk, dict):
            raise _garbage("a chunk that is not a JSON object")
        if "error" in chunk or "error" in (chunk.get("object"), chunk.get("type")):
            self._fail(chunk)
        if isinstance(chunk.get("usage"), dict):
            self._usage = usage(chunk["usage"])

    def _fail(self, chunk: dict[str, Any]) -> None:
        """A chunk that says that the answer broke: in an object of its own, flat, or as the reason of the end."""
        if error := chunk.get("error"):
            raise echo.failure(error)
        if self._finish_reason in _BROKEN:
            raise echo.failure(f"it stopped with finish_reason {self._finish_reason}")
        if "error" not in chunk:
            raise echo.failure(chunk)


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
    asked, made = count(chat, "prompt_tokens"), count(chat, "completion_tokens")
    details_in, details_out = chat.get("prompt_tokens_details"), chat.get("completion_tokens_details")
    return {
        "input_tokens": asked,
        "input_tokens_details": {
            "cached_tokens": count(details_in, "cached_tokens"),
            "cache_write_tokens": count(details_in, "cache_write_tokens"),
        },
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": count(details_out, "reasoning_tokens")},
        "total_tokens": count(chat, "total_tokens") or asked + made,
    }


def _logprobs(chat: dict[str, Any] | None) -> list[Any] | None:
    if not chat or not chat.get("content"):
        return None
    return [
        {**_logprob(entry), "top_logprobs": [_logprob(top) for top in entry.get("top_logprobs") or ()]}
        for entry in chat["content"]
    ]


def _logprob(entry: dict[str, Any]) -> dict[str, Any]:
    spelling = entry.get("bytes") or []
    logprob = odd_json.LEAST_LOGPROB if entry["logprob"] is None else entry["logprob"]
    if type(logprob) not in (int, float) or not all(type(byte) is int for byte in spelling):
        raise TypeError("no logprob")
    return {"token": _text(entry["token"]), "logprob": logprob, "bytes": list(spelling)}


def _text(value: Any) -> str:
    """The value, if it is one; what is not may only be found out when it is sent, out of everybody's hands."""
    if type(value) is not str:
        raise TypeError("not a text")
    return value


def _garbage(what: str) -> UpstreamError:
    return UpstreamError(Code.SERVER_ERROR, f"the upstream sent {what}", result="truncated")
