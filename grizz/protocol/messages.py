"""Messages of the Chat Completions API → items, so that both APIs ask the same models in the same way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grizz.errors import Code
from grizz.protocol.items import Item, bad, kind

Part = dict[str, Any]


def items(messages: Any) -> list[Item]:
    """The items of all messages, in their order; a call and its answer are items of their own.

    Raises:
        RequestError: 400 with the path of what is wrong and what is allowed.
    """
    if messages is None:
        raise bad(Code.MISSING_PARAMETER, "'messages' is missing: an array of messages.", "messages")
    thread = _Thread()
    for index, message in enumerate(array(messages, "messages")):
        thread.add(message, f"messages[{index}]")
    if not messages:
        raise bad(Code.INVALID_VALUE, "'messages' is empty; at least one is needed.", "messages")
    return thread.items


def array(value: Any, where: str) -> list[Any]:
    """The value, which must be an array.

    Raises:
        RequestError: 400.
    """
    if not isinstance(value, list):
        raise bad(Code.INVALID_TYPE, f"'{where}' must be an array, not {kind(value)}.", where)
    return value


def name_of(holder: Any, where: str) -> str:
    """The name of a function.

    Raises:
        RequestError: 400, there is none.
    """
    name = holder.get("name") if isinstance(holder, dict) else None
    if not isinstance(name, str) or not name:
        raise bad(Code.MISSING_PARAMETER, f"'{where}' must be an object with a 'name'.", f"{where}.name")
    return name


class _Thread:
    """Messages as items; knows which calls were made, since a tool's message must answer one."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self._called: set[str] = set()
        # Calls of functions have no id: (name, the id they get here), those without an answer yet.
        self._unanswered: list[tuple[str, str]] = []

    def add(self, message: Any, where: str) -> None:
        if not isinstance(message, dict):
            raise bad(Code.INVALID_TYPE, f"'{where}' must be an object, not {kind(message)}.", where)
        role = message.get("role")
        if not isinstance(role, str) or role not in _PARTS_OF:
            raise bad(Code.INVALID_VALUE, f"'{where}.role' must be one of {', '.join(_PARTS_OF)}.", f"{where}.role")
        if role == "assistant":
            self._add_assistant(message, where)
        elif role in ("tool", "function"):
            call_id = self._answered(message, role, where)
            output = "".join(part["text"] for part in _parts(message.get("content"), role, f"{where}.content"))
            self.items.append({"type": "function_call_output", "call_id": call_id, "output": output})
        else:
            parts = _parts(message.get("content"), role, f"{where}.content")
            self.items.append(_message(role, parts, message, where))

    def _add_assistant(self, message: dict[str, Any], where: str) -> None:
        content, refusal = message.get("content"), message.get("refusal")
        parts = _parts(content, "assistant", f"{where}.content") if content not in (None, "") else []
        if refusal:
            parts.append(_refusal_part(message, where))
        calls = [
            self._call(call, f"{where}.tool_calls[{index}]")
            for index, call in enumerate(array(message.get("tool_calls") or [], f"{where}.tool_calls"))
        ]
        if message.get("function_call") is not None:
            calls.append(self._function_call(message["function_call"], f"{where}.function_call"))
        if message.get("audio") is not None:
            raise bad(Code.UNSUPPORTED_PARAMETER, f"'{where}.audio' is not supported: answers are text.", where)
        said = [_message("assistant", parts, message, where)] if parts or not calls else []
        thought = message.get("reasoning_content") or message.get("reasoning")
        if isinstance(thought, str):  # servers that want it back are given it with the message it led to
            (said + calls)[0]["grizz_reasoning"] = thought
        self.items += said + calls

    def _call(self, call: Any, where: str) -> Item:
        if not isinstance(call, dict) or call.get("type", "function") != "function":
            raise bad(Code.UNSUPPORTED_PARAMETER, f"'{where}' must be an object with the 'type' function.", where)
        call_id = call.get("id")
        if not isinstance(call_id, str):
            raise bad(Code.MISSING_PARAMETER, f"'{where}' needs an 'id', which is a string.", f"{where}.id")
        self._called.add(call_id)
        return _called(call_id, call.get("function"), f"{where}.function")

    def _function_call(self, function: Any, where: str) -> Item:
        call_id = f"call_{len(self.items)}"
        item = _called(call_id, function, where)
        self._unanswered.append((item["name"], call_id))
        return item

    def _answered(self, message: dict[str, Any], role: str, where: str) -> str:
        """The id of the call that a tool's or function's message answers."""
        key = "tool_call_id" if role == "tool" else "name"
        value = message.get(key)
        if not isinstance(value, str):
            raise bad(Code.MISSING_PARAMETER, f"'{where}' needs a '{key}', which is a string.", f"{where}.{key}")
        if role == "tool" and value in self._called:
            return value
        for name, call_id in self._unanswered if role == "function" else ():
            if name == value:
                self._unanswered.remove((name, call_id))
                return call_id
        text = f"'{where}' answers '{value[:100]}', but no assistant message before it made such a call."
        raise bad(Code.NO_TOOL_CALL, text, f"{where}.{key}")


def _message(role: str, parts: list[Part], message: dict[str, Any], where: str) -> Item:
    item: Item = {"type": "message", "role": role, "content": parts}
    name = message.get("name")
    if name is not None:
        if not isinstance(name, str):
            raise bad(Code.INVALID_TYPE, f"'{where}.name' must be a string, not {kind(name)}.", f"{where}.name")
        item["grizz_name"] = name
    return item


def _called(call_id: str, function: Any, where: str) -> Item:
    arguments = function.get("arguments") if isinstance(function, dict) else None
    if not isinstance(arguments, str):
        text = f"'{where}' must be an object with a 'name' and 'arguments', which are strings."
        raise bad(Code.INVALID_TYPE, text, where)
    return {"type": "function_call", "call_id": call_id, "name": name_of(function, where), "arguments": arguments}


def _parts(content: Any, role: str, where: str) -> list[Part]:
    said = "output_text" if role == "assistant" else "input_text"
    if isinstance(content, str):
        return [{"type": said, "text": content}]
    if not isinstance(content, list):
        raise bad(Code.INVALID_TYPE, f"'{where}' must be a string or an array of parts, not {kind(content)}.", where)
    parts = []
    for index, part in enumerate(content):
        place = f"{where}[{index}]"
        form = part.get("type") if isinstance(part, dict) else None
        if not isinstance(form, str) or form not in _PARTS_OF[role]:
            allowed = ", ".join(_PARTS_OF[role])
            text = f"'{place}' must be a part of a type that a {role} message may have: {allowed}."
            raise bad(Code.UNSUPPORTED_PARAMETER, text, f"{place}.type")
        parts.append({**_PART[form](part, place), **({"type": said} if form == "text" else {})})
    return parts


def _text_part(part: Part, where: str) -> Part:
    return {"text": _string(part, "text", where)}


def _refusal_part(part: Part, where: str) -> Part:
    return {"type": "refusal", "refusal": _string(part, "refusal", where)}


def _image_part(part: Part, where: str) -> Part:
    image = part.get("image_url")
    if isinstance(image, str):
        return {"type": "input_image", "image_url": image}
    if not isinstance(image, dict):
        raise bad(Code.INVALID_TYPE, f"'{where}.image_url' must be an object with a 'url'.", f"{where}.image_url")
    found = {"type": "input_image", "image_url": _string(image, "url", f"{where}.image_url")}
    return found | ({"detail": image["detail"]} if isinstance(image.get("detail"), str) else {})


def _file_part(part: Part, where: str) -> Part:
    file = part.get("file")
    keys = ("file_data", "file_id", "file_url", "filename")
    found = {key: file[key] for key in keys if isinstance(file.get(key), str)} if isinstance(file, dict) else {}
    if not found.keys() - {"filename"}:
        text = f"'{where}.file' must be an object with 'file_data', 'file_url' or 'file_id'."
        raise bad(Code.MISSING_PARAMETER, text, f"{where}.file")
    return {"type": "input_file", **found}


def _string(holder: dict[str, Any], key: str, where: str) -> str:
    value = holder.get(key)
    if not isinstance(value, str):
        raise bad(Code.INVALID_TYPE, f"'{where}.{key}' must be a string, not {kind(value)}.", f"{where}.{key}")
    return value


_PART: dict[str, Callable[[Part, str], Part]] = {
    "text": _text_part,
    "image_url": _image_part,
    "file": _file_part,
    "refusal": _refusal_part,
}
# The roles, and the parts that each one's content may have.
_PARTS_OF: dict[str, tuple[str, ...]] = {
    "user": ("text", "image_url", "file"),
    "system": ("text",),
    "developer": ("text",),
    "assistant": ("text", "refusal"),
    "tool": ("text",),
    "function": ("text",),
}
