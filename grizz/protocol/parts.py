"""Items of an answer and their parts, as they stand while the answer is being written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from grizz.protocol.events import PARTS, PartKind

TEXT = PARTS["output_text"]


@dataclass(slots=True, eq=False)
class Item:
    """One output item.

    Attributes:
        obj: what is settled of it; an open part is not in it.
        index: its place in the output.
        part: the part that is open; at most one is at a time.
        closed: its `output_item.done` went out.
    """

    obj: dict[str, Any]
    index: int
    part: Part | None = None
    closed: bool = False

    def standing(self) -> dict[str, Any]:
        """It with what its open part holds so far."""
        part = self.part
        if part is None:
            return self.obj
        if part.kind.home is None:
            return part.whole()
        return {**self.obj, part.kind.home: [*self.obj.get(part.kind.home, ()), part.whole()]}


@dataclass(slots=True, eq=False)
class Part:
    """An open part.

    Attributes:
        obj: it without its text; of a part that is the item itself, the item.
        where: the fields that name it in its events.
        pieces: text that went out.
        pending: text that waits for the next flush.
        announced: its `done` went out, its `closed` not yet.
    """

    kind: PartKind
    item: Item
    obj: dict[str, Any]
    where: dict[str, Any]
    pieces: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    pending_logprobs: list[Any] = field(default_factory=list)
    announced: bool = False

    @property
    def spoken(self) -> bool:
        """Has any of its text come?"""
        return bool(self.pieces or self.pending)

    def text(self) -> str:
        """All of it so far."""
        return "".join(self.pieces) + "".join(self.pending)

    def whole(self) -> dict[str, Any]:
        """It with its text."""
        whole = dict(self.obj)
        if self.spoken:
            whole[self.kind.value] = self.text()
        if self.logprobs or self.pending_logprobs:
            whole["logprobs"] = self.logprobs + self.pending_logprobs
        return whole

    def annotate(self, annotation: Any) -> None:
        """A source of its text."""
        known = self.obj.get("annotations")
        self.obj = {**self.obj, "annotations": [*(known if isinstance(known, list) else ()), annotation]}


def new_part(item: Item, kind: PartKind, given: dict[str, Any]) -> Part:
    """A part that begins now, at the end of its list; `given` is it as announced, whatever text that holds."""
    where: dict[str, Any] = {"item_id": item.obj["id"], "output_index": item.index}
    if kind.home is None:
        return Part(kind, item, item.obj, where)
    assert kind.index is not None
    where[kind.index] = len(item.obj.get(kind.home) or ())
    obj = {**given, kind.value: ""} if kind.value else given
    if kind is TEXT:
        obj = {**obj, "annotations": obj["annotations"] if isinstance(obj.get("annotations"), list) else []}
    return Part(kind, item, obj, where)
