"""The other nodes, as a table: asked only when somebody looks at it, and then once in ten seconds at most.

A look costs one PUBLISH to the channel that all hear, and one for each node that answers; nobody looking costs nothing.
Which nodes there should be is known from their greetings, so that one that says nothing is seen.

A node of a version that does not know the question passes over it, as every unknown part of a message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from grizz.transport.base import Bus, Part

_ASK_EVERY_S = 10.0
# An answer takes milliseconds; who has not answered by then is silent.
_PATIENCE_S = 1.0
_MAX_NODES = 200
_MAX_TEXT = 100
_NUMBERS = ("uptime_s", "connections", "running", "slots", "queued", "tokens_per_s")
_TEXTS = ("version", "degraded")


class Nodes:
    """Asks the other nodes how they are, and answers when they ask.

    Args:
        known: the other nodes, as far as they were heard of.
        own: this node's row.
        may_ask: is there budget for it?
    """

    def __init__(
        self,
        bus: Bus,
        *,
        known: Callable[[], Iterable[str]],
        own: Callable[[], dict[str, Any]],
        may_ask: Callable[[], bool],
    ) -> None:
        self._bus = bus
        self._known = known
        self._own = own
        self._may_ask = may_ask
        self._rows: dict[str, tuple[float, dict[str, Any]]] = {}
        self._asked_at = float("-inf")
        self._answered = asyncio.Event()
        bus.on("how", lambda sender, part, lines: self._answer(sender))
        bus.on("well", self._on_answer)

    def __repr__(self) -> str:
        return f"<Nodes: {len(self._rows)} answered>"

    async def table(self) -> list[dict[str, Any]]:
        """A row for each node, this one first. `state` is "answers", "silent", or "not asked" when it cannot be.

        Waits a second at most, and only when nobody has looked for a while. Cancel-safe.
        """
        now = _now()
        asks = self._bus.is_up and self._may_ask()
        if asks and now - self._asked_at >= _ASK_EVERY_S:
            is_first = now - self._asked_at >= 3 * _ASK_EVERY_S
            self._asked_at = now
            self._bus.shout({"k": "how"})
            if is_first:
                await self._all_answered()
        return [{"node": self._bus.node, "state": "answers", **self._own()}, *self._others(asks)]

    def _others(self, asks: bool) -> list[dict[str, Any]]:
        now, known = _now(), set(self._known())
        gone = [node for node, (at, _) in self._rows.items() if at < self._asked_at and node not in known]
        for node in gone:  # it said farewell, or was taken over
            del self._rows[node]
        rows = []
        for node in sorted(known | set(self._rows))[:_MAX_NODES]:
            at, row = self._rows.get(node, (float("-inf"), {}))
            is_silent = at < self._asked_at and now - self._asked_at >= _PATIENCE_S
            rows.append({"node": node, "state": ("silent" if is_silent else "answers") if asks else "not asked", **row})
        return rows

    async def _all_answered(self) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while any(self._rows.get(node, (0.0, {}))[0] < self._asked_at for node in self._known()):
                    self._answered.clear()
                    await self._answered.wait()
        except TimeoutError:
            return

    def _answer(self, asker: str) -> None:
        self._bus.post(asker, {"k": "well", "row": self._own()})

    def _on_answer(self, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        if sender in self._rows or len(self._rows) < _MAX_NODES:
            self._rows[sender] = (_now(), _checked(part["row"]))
            self._answered.set()


def _checked(row: Mapping[str, Any]) -> dict[str, Any]:
    """What another version may have written, as this one shows it: only what it knows, and of the right kind."""
    numbers = {name: row[name] for name in _NUMBERS if isinstance(row.get(name), int | float)}
    texts = {name: str(row[name])[:_MAX_TEXT] for name in _TEXTS if name in row}
    return {**numbers, **texts, "draining": row.get("draining") is True}


def _now() -> float:
    return asyncio.get_running_loop().time()
