"""A Chat Completions body → Chat: what was asked, checked as far as the demo uses it."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Literal

import orjson

from grizz.errors import Code, RequestError

ToolChoice = Literal["auto", "none", "required"] | tuple[Literal["named"], str]
_ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call; `parameters` is its JSON schema."""

    name: str
    description: str
    parameters: Any


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool answered, with the tool's name if the conversation tells it."""

    name: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Chat:
    """One request.

    Attributes:
        text: the last user message as it was sent, directives and all; "" if there is none.
        earlier: the user message before it, or None.
        turn: how many user messages there are.
        system: all system and developer messages.
        attachments: one phrase for every part of the last user message that is no text.
        results: the tool results at the end of the conversation, in order.
        answered: whether any tool result follows the last user message.
        tool_choice: "auto", "none", "required" or ("named", name).
        schema: the JSON schema asked for, {} for any JSON object, None for text.
        top_logprobs: how many alternatives to tell with each piece of text; None tells no probabilities.
        max_tokens: the most tokens to answer with, or None.
        prompt_tokens: words of all messages.
    """

    model: str
    text: str
    earlier: str | None
    turn: int
    system: str
    attachments: tuple[str, ...]
    results: tuple[ToolResult, ...]
    answered: bool
    tools: tuple[Tool, ...]
    tool_choice: ToolChoice
    schema: Any
    max_tokens: int | None
    prompt_tokens: int
    stream: bool
    include_usage: bool
    top_logprobs: int | None


def read(body: Any) -> Chat:
    """Check a decoded body and take from it what the demo needs.

    Raises:
        RequestError: 400; names the parameter.
    """
    if not isinstance(body, dict):
        raise _bad("The body must be a JSON object.", None)
    if not isinstance(model := body.get("model"), str) or not model:
        raise _bad("You must provide a model parameter.", "model", Code.MISSING_PARAMETER)
    if body.get("n") not in (None, 1):
        raise _bad("The demo model gives one choice: n must be 1.", "n", Code.UNSUPPORTED_PARAMETER)
    messages = _messages(body)
    texts = [_text(message, f"messages[{index}].content") for index, message in enumerate(messages)]
    users = [index for index, message in enumerate(messages) if message["role"] == "user"]
    last = users[-1] if users else -1
    tools = _tools(body.get("tools"))
    options = body.get("stream_options")
    return Chat(
        model=model,
        text=texts[last] if users else "",
        earlier=texts[users[-2]] if len(users) > 1 else None,
        turn=len(users),
        system="\n".join(
            text for message, text in zip(messages, texts, strict=True) if message["role"] in ("system", "developer")
        ),
        attachments=tuple(_attachments(messages[last].get("content"))) if users else (),
        results=_results(messages, texts),
        answered=any(message["role"] == "tool" for message in messages[last + 1 :]),
        tools=tools,
        tool_choice=_tool_choice(body.get("tool_choice"), tools),
        schema=_schema(body.get("response_format")),
        max_tokens=_max_tokens(body),
        prompt_tokens=sum(len(text.split()) for text in texts),
        stream=bool(body.get("stream")),
        include_usage=isinstance(options, dict) and bool(options.get("include_usage")),
        top_logprobs=_top_logprobs(body),
    )


def _messages(body: dict[str, Any]) -> list[dict[str, Any]]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _bad("messages must be a list with at least one message.", "messages")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise _bad(f"The role must be one of {', '.join(_ROLES)}.", f"messages[{index}].role")
    return messages


def _text(message: dict[str, Any], param: str) -> str:
    """The words of a message; its text parts are joined by newlines."""
    content = message.get("content")
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _bad("The content must be a text or a list of parts.", param, Code.INVALID_TYPE)
    words = []
    for part in content:
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise _bad("Every part must be an object with a type.", param, Code.INVALID_TYPE)
        if part["type"] in ("text", "refusal"):
            words.append(str(part.get(part["type"], "")))
    return "\n".join(words)


def _attachments(content: Any) -> Iterator[str]:
    for part in content if isinstance(content, list) else ():
        value = part.get(part["type"])
        match part["type"]:
            case "text":
                continue
            case "image_url":
                yield _image(value.get("url") if isinstance(value, dict) else value)
            case "file" if isinstance(value, dict) and value.get("filename"):
                yield f"a file ({str(value['filename'])[:100]})"
            case other:
                yield f"a part of type {other[:40]}"


def _image(url: Any) -> str:
    if not isinstance(url, str):
        raise _bad("An image needs a url.", "messages")
    if not url.startswith("data:"):
        return f"an image at {url[:200]}"
    head, _, payload = url[5:].partition(",")
    mime, *options = head.split(";")
    if "base64" in options:
        size = len(payload.rstrip("=")) * 3 // 4
    else:
        size = len(urllib.parse.unquote_to_bytes(payload))
    return f"an image ({mime[:100] or 'text/plain'}, {size:,} bytes)"


def _results(messages: list[dict[str, Any]], texts: list[str]) -> tuple[ToolResult, ...]:
    count = sum(1 for _ in takewhile(lambda message: message["role"] == "tool", reversed(messages)))
    if not count:
        return ()
    names = dict(_called(messages))
    pairs = zip(messages[-count:], texts[-count:], strict=True)
    return tuple(ToolResult(names.get(str(message.get("tool_call_id"))), text) for message, text in pairs)


def _called(messages: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """(call id, tool name) of every tool call made so far."""
    for message in messages:
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict) and isinstance(function := call.get("function"), dict):
                yield str(call.get("id")), str(function.get("name"))


def _tools(given: Any) -> tuple[Tool, ...]:
    if given is None:
        return ()
    if not isinstance(given, list):
        raise _bad("tools must be a list.", "tools", Code.INVALID_TYPE)
    tools = []
    for index, tool in enumerate(given):
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise _bad("A tool must be a function with a name.", f"tools[{index}]")
        tools.append(Tool(function["name"], str(function.get("description") or ""), function.get("parameters")))
    return tuple(tools)


def _tool_choice(choice: Any, tools: tuple[Tool, ...]) -> ToolChoice:
    if choice is None:
        return "auto"
    if not tools:
        raise _bad("tool_choice is only allowed with tools.", "tool_choice")
    match choice:
        case "auto":
            return "auto"
        case "none":
            return "none"
        case "required":
            return "required"
        case {"type": "function", "function": {"name": str(name)}} if any(tool.name == name for tool in tools):
            return ("named", name)
    raise _bad("tool_choice must be auto, none, required or a function among tools.", "tool_choice")


def _schema(response_format: Any) -> Any:
    match response_format:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return {}
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return schema
    raise _bad("response_format must be text, json_object or json_schema with a schema.", "response_format")


def _max_tokens(body: dict[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        limit = body.get(name)
        if limit is not None:
            if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
                raise _bad(f"{name} must be a whole number of at least 1.", name)
            return limit
    return None


def _top_logprobs(body: dict[str, Any]) -> int | None:
    most = body.get("top_logprobs")
    if most is not None and (type(most) is not int or not 0 <= most <= 20):
        raise _bad("top_logprobs must be a whole number from 0 to 20.", "top_logprobs")
    if not body.get("logprobs"):
        if most:
            raise _bad("top_logprobs is only allowed with logprobs.", "top_logprobs")
        return None
    return most or 0


def decode(raw: bytes) -> Any:
    """Decode a request body.

    Raises:
        RequestError: 400; it is no JSON.
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise _bad(f"The body is no valid JSON: {error}", None, Code.INVALID_JSON) from error


def _bad(message: str, param: str | None, code: Code = Code.INVALID_VALUE) -> RequestError:
    return RequestError(400, code, message, param=param)
