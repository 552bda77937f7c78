"""What is wrong with an answer, judged by what its client saw alone. No I/O and no clock in here."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Event = dict[str, Any]
Kind = Literal["lost", "doubled", "hung", "wrong"]

KINDS: tuple[Kind, ...] = ("lost", "doubled", "hung", "wrong")
ENDS = ("response.completed", "response.incomplete", "response.failed")
# An answer that begins anew after its home died is numbered from a multiple of this.
RESTART_STEP = 1_000_000
DELTA = "response.output_text.delta"
OPENED = "response.content_part.added"


class Finding(NamedTuple):
    """One thing that is wrong."""

    kind: Kind
    why: str


def words(tag: str, count: int) -> str:
    """The text of an answer: numbered words, each with the answer's own tag, so that no two answers share a word."""
    return " ".join(f"{tag}.{n}" for n in range(count))


@dataclass(frozen=True, slots=True)
class Expected:
    """How an answer must end.

    Attributes:
        text: exactly what is said, of the one item that counts: the last.
        end: its terminal event.
        error: what the message of its error contains; empty when it has none.
    """

    text: str
    end: str = "response.completed"
    error: str = ""


@dataclass(slots=True)
class Seen:
    """What one client saw of one answer.

    Attributes:
        name: for findings.
        patience_s: the longest silence that is no hang.
        began_at: when it asked, in seconds of any one clock.
        over_at: when it stopped looking: at the end, or since it gave up.
        times: when each event came.
        refused: error frames that ended it, by code.
        denied: how often an answer that was accepted was unknown.
        cuts: how often its connection was lost.
    """

    name: str
    expected: Expected
    patience_s: float
    began_at: float
    over_at: float = 0.0
    events: list[Event] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    denied: int = 0
    cuts: int = 0

    @property
    def longest_s(self) -> float:
        """The longest silence between asking and the end."""
        moments = [self.began_at, *self.times, self.over_at]
        return max(after - before for before, after in zip(moments, moments[1:], strict=False))

    @property
    def concerned(self) -> bool:
        """Did it notice anything: a connection lost, an answer that began anew or went on as another item?"""
        begun = sum(event["type"] == "response.created" for event in self.events)
        items = len(self.events[-1].get("response", {}).get("output", ())) if self.events else 0
        return self.cuts > 0 or begun > 1 or items > 1

    @property
    def ended(self) -> bool:
        """Did it see a terminal event?"""
        return any(event["type"] in ENDS for event in self.events)


def judge(seen: Seen, slowness: float = 1.0) -> list[Finding]:
    """Everything that is wrong with it, each kind at most once and by its first sign.

    Args:
        slowness: how many times longer silences may be, since the machine was that much slower.
    """
    found = [*_silences(seen, slowness), *_numbers(seen), *_ends(seen)]
    if seen.ended:
        found += _texts(seen)
    first: dict[Kind, Finding] = {}
    for finding in found:
        first.setdefault(finding.kind, Finding(finding.kind, f"{seen.name}: {finding.why}"))
    return list(first.values())


def _silences(seen: Seen, slowness: float) -> list[Finding]:
    found = []
    if seen.longest_s > seen.patience_s * slowness:
        found.append(Finding("hung", f"nothing came for {seen.longest_s:.1f} s"))
    elif not seen.ended and not seen.refused:
        found.append(Finding("hung", f"it did not end; {len(seen.events)} events came"))
    if seen.denied:
        found.append(Finding("lost", f"answered {seen.denied} times that it is unknown"))
    found += [Finding("wrong", f"refused with {code}") for code in seen.refused]
    return found


def _merged(skipped: int, event: Event) -> bool:
    """May this one stand for those before it? A client that falls behind gets deltas joined under the last number.

    A delta has a word at least; that none of the words is missing is for `_texts` to see.
    """
    return event["type"] == DELTA and len(event["delta"].split()) > skipped


def _numbers(seen: Seen) -> list[Finding]:
    """Numbers go up by one; what begins anew does so at the next multiple, and only with its first event."""
    found = []
    numbers = [event["sequence_number"] for event in seen.events]
    twice = [number for number, count in Counter(numbers).items() if count > 1]
    if twice:
        found.append(Finding("doubled", f"events {twice[:5]} came twice"))
    if numbers and numbers[0] % RESTART_STEP:
        found.append(Finding("lost", f"the first event is number {numbers[0]}"))
    for before, event in zip(numbers, seen.events[1:], strict=False):
        number = event["sequence_number"]
        anew = number > before and number % RESTART_STEP == 0 and event["type"] == "response.created"
        if number > before + 1 and not anew and not _merged(number - before - 1, event):
            found.append(Finding("lost", f"after event {before} came {number}"))
        elif number < before:
            found.append(Finding("wrong", f"after event {before} came {number}"))
    opened = {event["item_id"] for event in seen.events if event["type"] == OPENED}
    if any(event["type"] == DELTA and event["item_id"] not in opened for event in seen.events):
        found.append(Finding("lost", "a delta came of a part that was never opened"))
    ids = {event["response"]["id"] for event in seen.events if "response" in event}
    if len(ids) > 1:
        found.append(Finding("wrong", f"events of {len(ids)} responses"))
    return found


def _ends(seen: Seen) -> list[Finding]:
    ends = [event["type"] for event in seen.events if event["type"] in ENDS]
    if len(ends) > 1:
        return [Finding("doubled", f"it ended {len(ends)} times: {ends}")]
    if ends and seen.events[-1]["type"] != ends[0]:
        return [Finding("wrong", f"{seen.events[-1]['type']} came after the end")]
    if not ends:
        return []
    error = seen.events[-1]["response"].get("error") or {}
    if ends[0] != seen.expected.end or seen.expected.error not in str(error.get("message", "")):
        return [Finding("wrong", f"{ends[0]} instead of {seen.expected.end}: {error}")]
    return []


def _texts(seen: Seen) -> list[Finding]:
    """What was streamed of each item, and what its end says was streamed."""
    start = max((i for i, event in enumerate(seen.events) if event["type"] == "response.created"), default=0)
    streamed: dict[str, str] = {}
    for event in seen.events[start:]:
        if event["type"] == DELTA:
            streamed[event["item_id"]] = streamed.get(event["item_id"], "") + event["delta"]
    items = [item for item in seen.events[-1].get("response", {}).get("output", ()) if item["type"] == "message"]
    found = []
    for item in items:
        whole = "".join(part.get("text", "") for part in item["content"])
        said = streamed.pop(item["id"], "")
        if said != whole:
            found += _compare(said, whole, "the stream and its end differ")
        # An attempt that was lost leaves an item that stops somewhere; the last one is the answer.
        if item is not items[-1] and not seen.expected.text.startswith(whole):
            found += _compare(whole, seen.expected.text[: len(whole)], "an interrupted item")
    if any(streamed.values()):
        found.append(Finding("wrong", f"text of {len(streamed)} items that the end does not know"))
    last = "".join(part.get("text", "") for part in items[-1]["content"]) if items else ""
    if last != seen.expected.text:
        found += _compare(last, seen.expected.text, "the text")
    return found


def _compare(said: str, meant: str, what: str) -> list[Finding]:
    """Which words are missing, come twice, or belong to nobody; `said` and `meant` differ."""
    have, want = Counter(said.split()), Counter(meant.split())
    found: list[Finding] = []
    strange = [word for word in have if word not in want]
    more = [word for word, count in have.items() if 0 < want[word] < count]
    less = [word for word, count in want.items() if have[word] < count]
    if strange:
        found.append(Finding("wrong", f"{what}: has {len(strange)} words that are not its own, {strange[:3]}"))
    if more:
        found.append(Finding("doubled", f"{what}: {len(more)} words come twice, {more[:3]}"))
    if less:
        found.append(Finding("lost", f"{what}: {len(less)} words are missing, {less[:3]}"))
    return found or [Finding("wrong", f"{what}: the words are right, their order or the spaces are not")]
