"""One answer as its client saw it. Pure: time comes as an argument."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Event = Mapping[str, Any]

ENDS = frozenset(("response.completed", "response.incomplete", "response.failed"))
DELTA = "response.output_text.delta"
# Of every kind: text, reasoning, refusals, arguments. Who reads slowly gets several as one, under the last number.
_DELTAS = ".delta"
# An answer whose home died begins anew, numbered from the next multiple of this; what was said before is void.
RESTART_STEP = 1_000_000


class Heard:
    """Takes an answer's events as they come, and judges it at its end.

    Attributes:
        response_id: of the answer; "" before it is known.
        last: number of the last event; -1 before the first.
        first_at, last_at: when the first and the last delta came, None before; seconds of any one clock.
        gaps: seconds between two deltas.
        deltas: how many came.
        tokens: what the model counted, once it has ended.
        outcome: completed, incomplete or failed, with the error's code behind it; "" while it runs.
        doubled: events that came twice.
        lost: numbers that were missing where none may be.
        anew: how often it began anew.
        resumed: it was asked for again, after the connection had broken: the server may have nothing left of it but its
            end, which is all of it once more.
    """

    def __init__(self) -> None:
        self.response_id = ""
        self.last = -1
        self.first_at: float | None = None
        self.last_at: float | None = None
        self.gaps: list[float] = []
        self.deltas = self.tokens = 0
        self.outcome = ""
        self.doubled = self.lost = self.anew = 0
        self.resumed = False
        self._texts: dict[tuple[int, int], list[str]] = {}
        self._differs = False

    def take(self, event: Event, now: float) -> bool:
        """One event of the response; True when it is the last."""
        number, kind = int(event["sequence_number"]), str(event["type"])
        if number <= self.last:
            self.doubled += 1
            return False
        at_once = self.resumed and kind in ENDS and number > self.last + 1
        if kind == "response.created" and number and number % RESTART_STEP == 0:
            self.anew += 1
            self._texts.clear()
        elif number > self.last + 1 and not kind.endswith(_DELTAS) and not at_once:
            # Before a delta it may be right. Whether a word is missing is seen at the end.
            self.lost += number - self.last - 1
        self.last = number
        if "response" in event:
            self.response_id = str(event["response"]["id"])
        if kind == DELTA:
            self._said(event, now)
        if kind not in ENDS:
            return False
        self._ended(event["response"], whole_again=at_once)
        return True

    @property
    def fault(self) -> str:
        """What is wrong with how it came, in words; "" when nothing is. A failed answer that came whole is no fault."""
        if self.lost or self._differs:
            return "lost"
        return "doubled" if self.doubled else ""

    def _said(self, event: Event, now: float) -> None:
        self.deltas += 1
        if self.last_at is not None:
            self.gaps.append(now - self.last_at)
        self.first_at = now if self.first_at is None else self.first_at
        self.last_at = now
        place = int(event["output_index"]), int(event["content_index"])
        self._texts.setdefault(place, []).append(str(event["delta"]))

    def _ended(self, response: Mapping[str, Any], *, whole_again: bool) -> None:
        code = (response.get("error") or {}).get("code")
        self.outcome = str(response["status"]) + (f": {code}" if code else "")
        self.tokens = int((response.get("usage") or {}).get("output_tokens", 0))
        final = {
            (index, place): part["text"]
            for index, item in enumerate(response["output"])
            if item["type"] == "message"
            for place, part in enumerate(item["content"])
            if part["type"] == "output_text" and part["text"]
        }
        said = {place: "".join(pieces) for place, pieces in self._texts.items()}
        self._differs = not whole_again and final != said
