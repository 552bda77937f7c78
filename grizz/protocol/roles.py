"""Chat messages for templates that take a system message only first, or none, and users who do not speak twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Message = dict[str, Any]


def fold(messages: Sequence[Message], *, system_first: bool) -> list[Message]:
    """The same words in roles that alternate: system messages become the user's where they stand, and are joined.

    Args:
        system_first: the first message may be the system's.
    """
    folded: list[Message] = []
    for message in messages:
        if message["role"] in ("system", "developer") and (folded or not system_first):
            message = {**message, "role": "user"}
        if folded and message["role"] == "user" == folded[-1]["role"]:
            folded[-1] = {**folded[-1], "content": _joined(folded[-1]["content"], message["content"])}
        else:
            folded.append(message)
    return folded


def _joined(first: Any, second: Any) -> Any:
    if isinstance(first, str) and isinstance(second, str):
        return f"{first}\n\n{second}"
    return [*_parts(first), *_parts(second)]


def _parts(content: Any) -> Iterable[Any]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content or ()
