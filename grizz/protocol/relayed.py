"""The items of an upstream's answer that are known here, and what of each is open: places and ids become ours."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from grizz.protocol import theirs
from grizz.protocol.compose import Composer
from grizz.protocol.events import INLINE, OPAQUE, PARTS, NewId, PartKind, part_kind
from grizz.protocol.items import ROLES
from grizz.protocol.parts import TEXT, Item, Part

_SUMMARY, _REASONING, _REFUSAL = PARTS["summary_text"], PARTS["reasoning_text"], PARTS["refusal"]
_ARGUMENTS = PARTS["arguments"]
# Where a kind of part can be.
_HOLDERS = {id(TEXT): "message", id(_REFUSAL): "message", id(_SUMMARY): "reasoning", id(_REASONING): "reasoning"} | {
    id(kind): name for name, kind in INLINE.items()
}
_HOLDERS[id(OPAQUE["response.reasoning_summary_part.added"])] = "reasoning"
_PREFIXES = {"message": "msg", "function_call": "fc", "reasoning": "rs", "compaction": "cmp"}
# Of an item of another kind: servers that check ids look at how they begin.
_PREFIX = re.compile(r"([a-z]{1,16})_")
_LISTS: tuple[str, ...] = ("content", "summary")
_LONGEST_ID = 1024


@dataclass(slots=True, eq=False)
class Relayed:
    """One item.

    Attributes:
        item: it as ours.
        at: which of the upstream's parts is the open one: its list and its place there.
        seen: all of them so far.
    """

    item: Item
    at: tuple[str, Any] | None = None
    seen: set[tuple[str, Any]] = field(default_factory=set)

    def is_at(self, at: tuple[str, Any]) -> bool:
        """Is that the open part? One whose place is not told is."""
        return self.at is not None and self.at[0] == at[0] and at[1] in (None, self.at[1])

    def has_seen(self, at: tuple[str, Any]) -> bool:
        """Was there such a part?"""
        return at in self.seen or (at[1] is None and any(home == at[0] for home, _ in self.seen))


class Known:
    """Everything that one stream has announced.

    Args:
        sealed: its reasoning may come with `encrypted_content` in the end.
    """

    def __init__(self, composer: Composer, new_id: NewId, *, sealed: bool) -> None:
        self._sealed = sealed
        self._composer = composer
        self._new_id = new_id
        self._by_place: dict[int, Relayed] = {}
        self._by_id: dict[str, Relayed] = {}
        before = composer.output
        self._ids = {item["id"] for item in before}
        self._call_ids = {item["call_id"] for item in before if "call_id" in item}
        self._all: list[Relayed] = []

    # Finding

    def find(self, event: dict[str, Any], holder: str | None = None) -> Relayed | None:
        """Whose event this is: by id, or by place where ids do not match; the last one's, if it says neither.

        Args:
            holder: the type its item must have.
        """
        named, placed = event.get("item_id"), event.get("output_index")
        if not isinstance(named, str) and type(placed) is not int:
            return self._last_open(holder) or next(iter(self._latest(holder)), None)
        by_id = self._by_id.get(named) if isinstance(named, str) else None
        by_place = self._by_place.get(placed) if type(placed) is int else None
        found = [one for one in (by_id, by_place) if one is not None and holder in (None, one.item.obj["type"])]
        opened = next((one for one in found if not one.item.closed), None)
        if opened is not None:
            return opened
        # Another id at the place of what is over is something new that was not announced.
        return next((one for one in found if one is by_id or not isinstance(named, str)), None)

    def _last_open(self, holder: str | None) -> Relayed | None:
        return next((one for one in self._latest(holder) if not one.item.closed), None)

    def _latest(self, holder: str | None) -> list[Relayed]:
        return [one for one in reversed(self._all) if holder in (None, one.item.obj["type"])]

    def open_part(self, kind: PartKind, event: dict[str, Any]) -> Part | None:
        """The open part of that kind, if it is there."""
        found = self.find(event, _HOLDERS[id(kind)])
        part = found.item.part if found is not None else None
        return part if part is not None and part.kind is kind else None

    def part_for(self, kind: PartKind, event: dict[str, Any]) -> Part | None:
        """The part that a text of that kind goes into, opened if it is not; None when there is no place for it."""
        found = self._found_or_begun(kind, event)
        if found is None or found.item.closed:
            return None
        ours, part = self._ours(kind), found.item.part
        if kind.home is None:
            return part if part is not None and not part.announced else None
        at = _at(kind, event)
        if part is None or part.kind is not ours or not found.is_at(at) or part.announced:
            part = self._begin(found, ours, at, {"type": _name(ours)})
        return part

    def _found_or_begun(self, kind: PartKind, event: dict[str, Any]) -> Relayed | None:
        holder = _HOLDERS.get(id(kind))
        found = self.find(event, holder)
        if found is None and kind is _ARGUMENTS and _is_text(event.get("name")):
            call = {key: event.get(key) for key in ("name", "call_id")}
            found = self._open({"type": "function_call", "id": event.get("item_id"), **call}, event.get("output_index"))
        if found is None and holder in (None, "message", "reasoning"):
            obj = {"type": holder or "message", "id": event.get("item_id")}
            found = self._open(obj, event.get("output_index"))
        return found

    def _ours(self, kind: PartKind) -> PartKind:
        """In which form we say it: raw reasoning only to whom asks for it."""
        return _SUMMARY if kind is _REASONING and not self._composer.raw_reasoning else kind

    # What is announced

    def added(self, obj: Any, place: Any) -> None:
        """An item is announced. A call without its name waits until that is known."""
        obj = theirs.item(obj)
        known = self._by_id.get(obj["id"]) if isinstance(obj.get("id"), str) else None
        if known is not None and not known.item.closed:
            return
        if obj["type"] == "function_call" and not _is_text(obj.get("name")):
            return
        self._open(obj, place)

    def part_added(self, kind_name: str, event: dict[str, Any]) -> None:
        """A part is announced."""
        given = theirs.part(event.get("part"))
        if not isinstance(given, dict) or not isinstance(given.get("type"), str):
            raise theirs.garbage("a part without a type")
        kind = part_kind(kind_name, given.get("type"))
        found = self._found_or_begun(kind, event)
        if found is None or found.item.closed or found.item.obj["type"] not in ("message", "reasoning"):
            return
        at, ours, part = _at(kind, event), self._ours(kind), found.item.part
        if part is not None and found.is_at(at) and not part.spoken and part.kind is ours:
            return
        self._begin(found, ours, at, given if ours is kind else {"type": _name(ours)})

    def _open(self, obj: dict[str, Any], place: Any) -> Relayed:
        given = obj.get("id")
        kind = obj["type"]
        ours = {**obj, "id": self._id(obj)}
        if kind == "message":
            role = obj.get("role") if obj.get("role") in ROLES else "assistant"
            ours |= {"status": "in_progress", "role": role, "content": []}
        elif kind == "reasoning":
            ours["summary"] = []
            ours.pop("content", None)
            if self._composer.raw_reasoning:
                ours["content"] = []
        elif kind == "function_call":
            ours |= {"status": "in_progress", "arguments": "", "call_id": self._call_id(obj.get("call_id"))}
        self._ids.add(ours["id"])
        found = Relayed(self._composer.open(ours))
        self._all.append(found)
        if _is_text(given):
            self._by_id[given] = found
        if type(place) is int:
            self._by_place[place] = found
        return found

    def _id(self, obj: dict[str, Any]) -> str:
        """Ours: some servers count anew in each answer, and of ours it is known everywhere whose they are.

        Theirs where a sealed content may be bound to it: OpenAI refuses to take it back under another one.
        """
        given, kind = obj.get("id"), obj["type"]
        sealed = kind == "compaction" or (kind == "reasoning" and (self._sealed or obj.get("encrypted_content")))
        if sealed and _is_text(given) and len(given) <= _LONGEST_ID and given not in self._ids:
            return given
        prefix = _PREFIX.match(given) if _is_text(given) else None
        return self._new_id(_PREFIXES.get(kind) or (prefix[1] if prefix else "item"))

    def _call_id(self, given: Any) -> str:
        """Ids that are missing, or used twice in one answer, would make the tool's output ambiguous."""
        call_id: str = given if _is_text(given) and given not in self._call_ids else self._new_id("call")
        self._call_ids.add(call_id)
        return call_id

    def _begin(self, found: Relayed, kind: PartKind, at: tuple[str, Any], given: dict[str, Any]) -> Part:
        found.at = at
        found.seen.add(at)
        return self._composer.begin(found.item, kind, given)

    # What is over

    def text_done(self, kind: PartKind, event: dict[str, Any], more: dict[str, Any]) -> None:
        """The whole text of a part; what of it did not come in pieces comes now."""
        whole = event.get(kind.value)
        found = self._found_or_begun(kind, event)
        if found is None or found.item.closed:
            return
        part = found.item.part
        if kind.home is not None:
            at = _at(kind, event)
            if part is None and not found.has_seen(at) and isinstance(whole, str):
                part = self._begin(found, self._ours(kind), at, {"type": _name(self._ours(kind))})
            elif not found.is_at(at):
                return
        if part is None or part.announced:
            return
        self._catch_up(part, whole)
        drop = {*part.where, "content_index", "summary_index", part.kind.value}
        if part.kind is not TEXT or not isinstance(more.get("logprobs"), list):
            drop.add("logprobs")
        if part.kind is _ARGUMENTS:
            drop.add("name")
        self._composer.announce(part, {key: value for key, value in more.items() if key not in drop})

    def part_done(self, kind_name: str, event: dict[str, Any]) -> None:
        """A part is over."""
        given = theirs.part(event.get("part"))
        found = self.find(event)
        part = found.item.part if found is not None else None
        if found is None or part is None or not found.is_at(_at(OPAQUE[kind_name.replace(".done", ".added")], event)):
            return
        if isinstance(given, dict):
            self._catch_up(part, given.get(part.kind.value))
        self._composer.end(part, _merged(part, given))

    def done(self, obj: Any, event: dict[str, Any]) -> None:
        """An item is over, announced or not."""
        obj = theirs.item(obj)
        found = self.find({"item_id": obj.get("id"), "output_index": event.get("output_index")}, obj["type"])
        if found is None:
            found = self._announced_late(obj, event.get("output_index"))
        self._finish(found, obj)

    def settle(self, output: Iterable[Any]) -> None:
        """The upstream's whole output: what is open ends as it says there, what never came comes now."""
        items = [theirs.item(obj) for obj in output]
        # Some servers have other ids in the end than before; by their kinds it shows whether any are missing.
        missing = Counter(obj["type"] for obj in items)
        missing.subtract(found.item.obj["type"] for found in self._all)
        named = [self._by_id.get(obj["id"]) if _is_text(obj.get("id")) else None for obj in items]
        for found, obj in zip(named, items, strict=True):
            if found is not None and found.item.obj["type"] == obj["type"]:
                self._finish(found, obj)
        for place, (found, obj) in enumerate(zip(named, items, strict=True)):
            if found is not None:
                continue
            kind = obj["type"]
            found = self._by_place.get(place)
            if found is None or found.item.closed or found.item.obj["type"] != kind:
                found = self._last_open(kind)
            if found is None and missing[kind] > 0:
                missing[kind] -= 1
                found = self._announced_late(obj, place)
            if found is not None:
                self._finish(found, obj)

    def _announced_late(self, obj: dict[str, Any], place: Any) -> Relayed:
        if obj["type"] == "function_call" and not _is_text(obj.get("name")):
            raise theirs.garbage("a tool call without a name")
        return self._open(obj, place)

    def _finish(self, found: Relayed, obj: dict[str, Any]) -> None:
        item = found.item
        if item.closed:
            return
        kind, final = item.obj["type"], {**obj, "id": item.obj["id"]}
        if _is_text(item.obj.get("call_id")):
            final["call_id"] = item.obj["call_id"]
        if kind in ("message", "reasoning"):
            final |= self._settle_parts(found, obj)
            if kind == "message":
                final |= {"role": item.obj["role"], "status": _status(obj)}
            elif not self._composer.raw_reasoning:
                final.pop("content", None)
        elif (part := item.part) is not None:
            if kind == "function_call" or part.spoken:
                self._catch_up(part, obj.get(part.kind.value))
                self._composer.end(part)
            if kind == "function_call":
                final |= {"name": item.obj["name"], "arguments": item.obj["arguments"], "status": _status(obj)}
        self._composer.close(item, "completed", final)

    def _settle_parts(self, found: Relayed, obj: dict[str, Any]) -> dict[str, Any]:
        """Bring what was said of a message's or a reasoning's parts together with what the whole item says."""
        item = found.item
        for home, parts in self._parts_of(obj):
            for place, (kind, given) in enumerate(parts):
                settled = item.obj.get(home) or []
                if place < len(settled):
                    continue
                part = item.part
                if part is None or part.kind.home != home:
                    part = self._begin(found, kind, (home, place), given)
                if part.kind is not kind:
                    break
                self._catch_up(part, given.get(kind.value))
                self._composer.end(part, _merged(part, given))
        if item.part is not None:
            self._composer.end(item.part)
        return {home: item.obj[home] for home in _LISTS if home in item.obj}

    def _parts_of(self, obj: dict[str, Any]) -> list[tuple[str, list[tuple[PartKind, dict[str, Any]]]]]:
        """The lists of an item as we say them, each part with its kind."""
        content = [(_kind_in("content", part), part) for part in _objects(obj.get("content"))]
        if obj["type"] == "message":
            return [("content", content)]
        summary = [(_kind_in("summary", part), part) for part in _objects(obj.get("summary"))]
        if self._composer.raw_reasoning:
            return [("summary", summary), ("content", content)]
        told = [part for kind, part in content if kind is _REASONING]
        summary += [(_SUMMARY, {"type": "summary_text", "text": part.get("text")}) for part in told]
        return [("summary", summary)]

    def _catch_up(self, part: Part, whole: Any) -> None:
        """Say what of the text has not been said; what was said otherwise stays as clients have read it."""
        if part.announced or not isinstance(whole, str) or not part.kind.value:
            return
        text = part.text()
        if len(whole) > len(text) and whole.startswith(text):
            self._composer.append(part, whole[len(text) :])


def _at(kind: PartKind, event: dict[str, Any]) -> tuple[str, Any]:
    assert kind.home is not None
    place = event.get(kind.index or "")
    return kind.home, place if isinstance(place, int | str) else None


def _name(kind: PartKind) -> str:
    return next(name for name, one in PARTS.items() if one is kind)


def _kind_in(home: str, part: dict[str, Any]) -> PartKind:
    added = "response.reasoning_summary_part.added" if home == "summary" else "response.content_part.added"
    return part_kind(added, part.get("type"))


def _merged(part: Part, given: Any) -> dict[str, Any] | None:
    """A part as the upstream has it, with the text that was really said; None when it is another one's."""
    if not isinstance(given, dict) or given.get("type") != part.obj.get("type"):
        return None
    own = part.whole()
    merged = {**given, **{key: own[key] for key in (part.kind.value,) if key}}
    if part.kind is TEXT and not isinstance(merged.get("annotations"), list):
        merged["annotations"] = own["annotations"]
    return merged


def _objects(value: Any) -> list[dict[str, Any]]:
    given = value if isinstance(value, list) else ()
    return [one for one in given if isinstance(one, dict) and isinstance(one.get("type"), str)]


def _status(obj: dict[str, Any]) -> str:
    status = obj.get("status")
    return status if status in ("completed", "incomplete") else "completed"


def _is_text(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and value != ""
