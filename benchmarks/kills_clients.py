"""Clients that ask while processes are killed, and know what became of their answers."""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from typing import Any

import aiohttp
import redis_grizz as grizz
import redis_parts as parts
from kills_nodes import Fleet, Node

sys.path.insert(0, str(parts.ROOT))
from tests.nodes import Client, Event

WORDS, RATE = 200, 50
TEXT = "".join(f"w{n} " for n in range(WORDS))
_RESTART_STEP = 1_000_000
# An answer that has not ended by then never will.
ANSWER_S = 120.0


class Gone(Exception):
    """No process knows the response any more."""


class Asker(Client):
    """A client with one question; knows who was killed while it waited for which event."""

    def __init__(self, http: aiohttp.ClientSession, fleet: Fleet, number: int) -> None:
        super().__init__(http, [])
        self._fleet = fleet
        self.question = f"[[words:{WORDS}]] [[rate:{RATE}]] question {number}"
        self.node: Node | None = None
        self.asked = self.resumed = self.restarts = self.not_found = 0
        self.log_expired = self.killed_late = False
        self.began = self._event_at = time.monotonic()
        self.ended_at = 0.0
        self.hits: list[tuple[float, str]] = []  # kills of a process that had it: its home, its worker, its heir
        self.pauses: list[tuple[float, float]] = []  # from, to
        self.story: list[str] = []

    async def run(self) -> None:
        self.nodes = _AnyNode(self._fleet)  # type: ignore[assignment]
        try:
            await self.ask(self.question, within_s=ANSWER_S)
        finally:
            self.ended_at = time.monotonic()
            self.pauses.append((self._event_at, self.ended_at))

    def tell(self, what: str) -> None:
        self.story.append(f"{time.strftime('%H:%M:%S')} +{time.monotonic() - self.began:.2f} {what}")

    async def _once(self, node: Any, text: str, fields: dict[str, Any]) -> bool:
        self.node = node
        self.resumed += bool(self.response_id)
        self.asked += not self.response_id
        self.tell(f"{'resumes' if self.response_id else 'asks'} at {node.number} after {self.last}")
        before = len(self.closes)
        self.errors.clear()  # it looks at the last one after every event
        try:
            return await super()._once(node, text, fields)
        finally:
            self.tell(f"socket over, closes {self.closes[before:]}, last event {self.last}")

    def _take(self, event: Event) -> bool:
        now, known = time.monotonic(), len(self.events)
        over = super()._take(event)
        if event["type"] == "error":
            code = event["error"]["code"]
            self.tell(f"error {code}")
            if code == "response_not_found":
                self.not_found += 1
                if self.not_found >= 5:
                    raise Gone
            self.log_expired |= code == "grizz:log_expired"
        elif len(self.events) > known:
            self.pauses.append((self._event_at, now))
            self._event_at = now
            if event["type"] == "response.created" and known:
                self.restarts += 1
                self.tell(f"begins anew as {event['sequence_number']}")
        return over

    @property
    def status(self) -> str:
        return self.events[-1]["type"] if self.events else "nothing"

    @property
    def response(self) -> dict[str, Any]:
        return self.events[-1].get("response", {}) if self.events else {}

    def longest(self) -> float:
        return max(to - since for since, to in self.pauses)

    def longest_since_hit(self) -> float:
        """Of each pause only what came after the last kill in it: the time that one takeover took."""
        return max(to - max([since, *(at for at, _ in self.hits if since < at < to)]) for since, to in self.pauses)

    def faults(self) -> dict[str, str]:
        """What is wrong with the events, by kind."""
        found: dict[str, str] = {}
        numbers = [event["sequence_number"] for event in self.events]
        if len(set(numbers)) < len(numbers):
            found["doubled"] = f"{[n for n, count in Counter(numbers).items() if count > 1][:5]}"
        for before, event in zip(numbers, self.events[1:], strict=False):
            number = event["sequence_number"]
            anew = number > before and number % _RESTART_STEP == 0 and event["type"] == "response.created"
            if number != before + 1 and not anew:
                found.setdefault("out of order", f"{before}, then {number} ({event['type']})")
        ends = [event["type"] for event in self.events if event["type"] in grizz.ENDS]
        if len(ends) > 1:
            found["doubled"] = f"ends {ends}"
        if self.status == "response.completed" and not self.log_expired:
            items = [item for item in self.response["output"] if item["type"] == "message"]
            start = max(i for i, e in enumerate(self.events) if e["type"] == "response.created")
            deltas = [e for e in self.events[start:] if e["type"] == "response.output_text.delta"]
            said = "".join(e["delta"] for e in deltas if e["item_id"] == items[-1]["id"])
            if said != TEXT or items[-1]["content"][0]["text"] != TEXT:
                found["text wrong"] = f"{len(said)} of {len(TEXT)} characters streamed, {len(items)} items"
        return found


class _AnyNode:
    """Where a client goes next: half of the questions and resumes to a process that runs no jobs."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, at: int) -> Node:
        front = [node for node in self._fleet.live if not node.runs_jobs]
        if front and random.random() < 0.25:
            return random.choice(front)
        if not self._fleet.live:
            raise ConnectionError("no process lives")
        return random.choice(self._fleet.live)
