"""Chat Completions, the dialect every model server speaks: Request → body (protocol §16.1)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from grizz.protocol.items import Item, text_of
from grizz.protocol.requests import Request

Message = dict[str, Any]

# Of an item, under the name it has in a message.
_MORE = {"grizz_name": "name", "grizz_reasoning": "reasoning_content"}
# Sent on under the same name, only when the client sent them.
_NAMES = {"input_image": "image", "input_file": "file"}
_SAME = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "parallel_tool_calls")


def body(
    request: Request,
    context: Iterable[Item],
    *,
    max_tokens_field: str = "max_tokens",
    developer_role: bool = False,
) -> dict[str, Any]:
    """The body of `POST /chat/completions`, streaming, usage included.

    Args:
        context: everything the model shall see, oldest first: the resolved history and this turn's input.
        max_tokens_field: what the upstream calls the output bound.
        developer_role: the upstream knows `developer`; else such messages become `system`.
    """
    given = request.fields
    chat: dict[str, Any] = {
        "model": request.model,
        "messages": messages(context, instructions=given.get("instructions"), developer_role=developer_role),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    chat.update({key: given[key] for key in _SAME if key in given})
    if "max_output_tokens" in given:
        chat[max_tokens_field] = given["max_output_tokens"]
    if effort := (given.get("reasoning") or {}).get("effort"):
        chat["reasoning_effort"] = effort
    if user := given.get("safety_identifier") or given.get("user"):
        chat["user"] = user
    if verbosity := given.get("text", {}).get("verbosity"):
        chat["verbosity"] = verbosity
    if given.get("top_logprobs") or "message.output_text.logprobs" in given.get("include", ()):
        chat["logprobs"] = True
        chat["top_logprobs"] = given.get("top_logprobs", 0)
    chat.update(_response_format(given.get("text", {}).get("format")))
    chat.update(_tools(given.get("tools", ()), given.get("tool_choice")))
    if "tools" not in chat:
        chat.pop("parallel_tool_calls", None)  # refused by several servers when there are no tools
    chat.update(given.get("grizz_chat", ()))  # what a client said in this dialect, and the other has no word for
    return chat


def messages(context: Iterable[Item], *, instructions: str | None, developer_role: bool) -> list[Message]:
    """Items as chat messages: leading system texts in one message, adjacent calls in one assistant message.

    A tool's answer is text there: its pictures and files follow as a user's message, behind all answers of that round.
    """
    seen: list[Message] = []
    chat: list[Message] = []
    if instructions:
        chat.append({"role": "system", "content": instructions})
    for item in context:
        if seen and item["type"] in ("message", "function_call"):
            chat += seen
            seen = []
        if item["type"] == "message":
            _add_message(chat, item, developer_role)
        elif item["type"] == "function_call":
            _add_call(chat, item)
        elif item["type"] == "function_call_output":
            content = _output_text(item["output"])
            chat.append({"role": "tool", "tool_call_id": item["call_id"], "content": content})
            seen += _attached(item)
    return chat + seen


def _add_message(chat: list[Message], item: Item, developer_role: bool) -> None:
    role = item["role"]
    if role == "assistant":
        text = "".join(text_of(part) or "" for part in item["content"])
        chat.append({"role": "assistant", "content": text, **_more(item)})
        return
    if role == "user":
        chat.append({"role": "user", "content": _user_content(item["content"]), **_more(item)})
        return
    role = "developer" if role == "developer" and developer_role else "system"
    text = "".join(text_of(part) or "" for part in item["content"])
    # Many chat templates allow a system message only first.
    if role == "system" and chat and all(message["role"] == "system" for message in chat):
        chat[-1]["content"] += "\n\n" + text
    else:
        chat.append({"role": role, "content": text})


def _more(item: Item) -> dict[str, str]:
    """What clients that speak this dialect say of a message besides, or of the first call of one without words."""
    return {name: item[key] for key, name in _MORE.items() if isinstance(item.get(key), str)}


def _user_content(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    texts = [text_of(part) for part in parts]
    if None in texts:
        return [_user_part(part) for part in parts]
    return "".join(text or "" for text in texts)


def _user_part(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] == "input_image":
        image = {"url": part["image_url"]}
        if part.get("detail"):
            image["detail"] = part["detail"]
        return {"type": "image_url", "image_url": image}
    if part["type"] == "input_file":
        keys = ("file_data", "file_id", "file_url", "filename")
        return {"type": "file", "file": {key: part[key] for key in keys if part.get(key) is not None}}
    return {"type": "text", "text": text_of(part)}


def _add_call(chat: list[Message], item: Item) -> None:
    call = {
        "id": item["call_id"],
        "type": "function",
        # Models that give a function nothing may write nothing, and servers refuse to read it.
        "function": {"name": item["name"], "arguments": item["arguments"] or "{}"},
    }
    last = chat[-1] if chat else None
    if last is not None and last["role"] == "assistant":
        last.setdefault("tool_calls", []).append(call)
    else:
        chat.append({"role": "assistant", "content": None, "tool_calls": [call], **_more(item)})


def _output_text(output: str | list[dict[str, Any]]) -> str:
    if isinstance(output, str):
        return output
    texts = ((part, text_of(part)) for part in output)
    return "".join(f"[{_NAMES[part['type']]}, shown below]" if text is None else text for part, text in texts)


def _attached(item: Item) -> list[Message]:
    """What of a tool's answer is no text, as a message that may hold it."""
    output = item["output"]
    parts = [] if isinstance(output, str) else [part for part in output if text_of(part) is None]
    if not parts:
        return []
    told = {"type": "text", "text": f"From the output of tool call {item['call_id']}:"}
    return [{"role": "user", "content": [told, *map(_user_part, parts)]}]


def _response_format(form: dict[str, Any] | None) -> dict[str, Any]:
    if form is None or form["type"] == "text":
        return {}
    if form["type"] == "json_object":
        return {"response_format": {"type": "json_object"}}
    schema = {key: form[key] for key in ("name", "schema", "strict", "description") if form.get(key) is not None}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _tools(tools: Iterable[dict[str, Any]], choice: Any) -> dict[str, Any]:
    """Functions and the choice among them; tools of other kinds cannot run behind a chat API and are left out."""
    functions = [tool for tool in tools if tool["type"] == "function"]
    if isinstance(choice, dict) and choice["type"] == "allowed_tools":
        allowed = {name for tool in choice["tools"] if isinstance(name := tool.get("name"), str)}
        functions = [tool for tool in functions if tool["name"] in allowed]
        choice = choice.get("mode", "auto")
    if not functions:
        return {}
    keys = ("name", "description", "parameters", "strict")
    chat: dict[str, Any] = {
        "tools": [
            {"type": "function", "function": {key: tool[key] for key in keys if tool.get(key) is not None}}
            for tool in functions
        ]
    }
    if isinstance(choice, str):
        chat["tool_choice"] = choice
    elif isinstance(choice, dict) and choice["type"] == "function":
        chat["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    return chat
