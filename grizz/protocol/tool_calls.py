"""The tool calls of a chat stream: which call a fragment belongs to, and when there is enough of it to open it.

By OpenAI's rule a fragment says the `index` of its call, and the first one its id and name. Servers differ: some send
whole calls without an index, or all of them under index 0, the id in every fragment or in none, or another id in each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from grizz.protocol.compose import Composer
from grizz.protocol.events import NewId


@dataclass(slots=True)
class _Call:
    """A call as it comes in; it opens once its name and (its id or its first argument) are known.

    Attributes:
        place: its key for the composer.
        theirs: the id that the server gave it first.
        call_id: the one that clients see.
    """

    place: int
    theirs: str = ""
    call_id: str = ""
    name: str = ""
    waiting: list[str] = field(default_factory=list)
    open: bool = False


class ToolCalls:
    """The calls of one answer.

    Args:
        most: calls beyond so many are ignored; None ignores none.
    """

    def __init__(self, composer: Composer, *, new_id: NewId, most: int | None) -> None:
        self._composer = composer
        self._new_id = new_id
        self._most = most
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._ids: set[str] = set()

    def feed(self, fragment: dict[str, Any], position: int | None = None) -> bool:
        """One fragment; did it say anything?

        Args:
            position: its place among those of its chunk, where there are several.

        Raises:
            AttributeError, TypeError: it is of another shape.
        """
        function = fragment.get("function") or {}
        call_id, name, arguments = fragment.get("id"), function.get("name"), function.get("arguments")
        if not (call_id or name or arguments):  # says nothing, and begins no call
            return False
        if call_id and type(call_id) is not str or name and type(name) is not str:
            raise TypeError("not a text")
        call = self._of(fragment.get("index"), call_id or "", name or "", position)
        if call_id and not call.theirs:
            call.theirs = call.call_id = call_id
        if name and not call.name:
            call.name = name
        if arguments:
            call.waiting.append(arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode())
        if call.name and (call.theirs or call.waiting):
            self._open(call)
        return True

    def end(self) -> None:
        """The stream is over: open what waits.

        Raises:
            ValueError: a call has no name.
        """
        for call in self._calls:
            if not call.name:
                raise ValueError("a tool call without a name")
            self._open(call)

    def _of(self, index: Any, call_id: str, name: str, position: int | None) -> _Call:
        if index is None:
            return self._without_index(call_id, name, position)
        if type(index) is not int:
            raise TypeError("an index is no number")
        call = self._by_index.get(index)
        if call is None or (name and _is_another(call, call_id, name)):
            call = self._by_index[index] = self._new()
        return call

    def _without_index(self, call_id: str, name: str, position: int | None) -> _Call:
        if call_id:
            known = next((call for call in self._calls if call.theirs == call_id), None)
            if known is None or (position is not None and name and known.name):  # two with one id in one chunk
                return self._new()
            return known
        if position is not None:  # the fragments of one chunk belong to different calls
            return self._by_index.get(position) or self._by_index.setdefault(position, self._new())
        last = self._calls[-1] if self._calls else None
        return self._new() if last is None or (name and last.name) else last

    def _new(self) -> _Call:
        call = _Call(len(self._calls))
        self._calls.append(call)
        return call

    def _open(self, call: _Call) -> None:
        if not call.open:
            # Ids that are missing, or used twice in one answer, would make the tool's output ambiguous.
            if not call.call_id or call.call_id in self._ids:
                call.call_id = self._new_id("call")
            if self._most is not None and len(self._ids) >= self._most:
                call.waiting.clear()
                return
            self._ids.add(call.call_id)
            self._composer.call(call.place, call.call_id, call.name)
            call.open = True
        for fragment in call.waiting:
            self._composer.arguments(call.place, fragment)
        call.waiting.clear()


def _is_another(call: _Call, call_id: str, name: str) -> bool:
    """Does a fragment with a name begin a second call under the index of the first?

    As Gemini sends parallel calls. A new id alone does not: vLLM once made one up for every fragment.
    """
    if call_id and call.theirs:
        return call_id != call.theirs
    return call.name not in ("", name)
