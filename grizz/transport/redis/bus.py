"""What nodes say to each other: one channel each, one PUBLISH for all that a node has for another at a tick.

A message is one JSON line that says what follows, then the events, each one line of JSON as it will reach the client:
nothing is encoded or decoded twice on the way.

    {"v":1,"from":"0a1b2c3d","parts":[{"k":"events","id":"resp_…","t":"token","s":7,"n":2}, …]}
    {"type":"response.output_text.delta","sequence_number":7,…}
    {"type":"response.output_text.delta","sequence_number":8,…}

A part of an unknown kind is passed over, so that two releases can share a Redis; `v` is `keys.FORMAT`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from grizz.telemetry.metrics import RedisMetrics
from grizz.transport.base import Haste, Part, Source
from grizz.transport.redis.keys import FORMAT, Keys
from grizz.transport.redis.link import Link

log = logging.getLogger(__name__)

# A mailbox that holds more goes out at once, in messages of about this size: subscribers that lag are cut off by the
# server at 32 MB, or at 8 MB for a minute.
_MESSAGE_BYTES = 256 << 10
_SOON_S = 0.04
_MAX_BOXES = 1000
_TO_ONESELF = ("echo", "hello")

Handler = Callable[[str, Part, Sequence[bytes]], None]


class _Mailbox:
    """What waits for one node."""

    __slots__ = ("bytes", "due_at", "items", "sent_at", "sources", "timer")

    def __init__(self) -> None:
        # In the order they came; a source stands where it was first ready.
        self.items: list[tuple[Part, Sequence[bytes]] | Source] = []
        self.sources: set[Source] = set()
        self.bytes = 0
        self.sent_at = 0.0
        self.due_at = 0.0
        self.timer: asyncio.TimerHandle | None = None


class Bus:
    """Implements `transport.base.Bus`.

    Args:
        interval_s: seconds between two messages to a node, asked anew each time.

    Attributes:
        node: this node's id; a new one when the old one was taken over.
    """

    def __init__(
        self, node: str, keys: Keys, link: Link, metrics: RedisMetrics, *, interval_s: Callable[[], float]
    ) -> None:
        self.node = node
        self._keys = keys
        self._link = link
        self._metrics = metrics
        self._interval_s = interval_s
        self._boxes: dict[str, _Mailbox] = {}
        self._handlers: dict[str, Handler] = {}
        self._watchers: list[Callable[[str, int], None]] = []

    def __repr__(self) -> str:
        return f"<Bus of {self.node}: mail for {len(self._boxes)} nodes>"

    @property
    def is_up(self) -> bool:
        """Can something be sent?"""
        return self._link.is_up

    def on(self, kind: str, handler: Handler) -> None:
        """Let `handler` take the parts of a kind: it gets the sender, the part and its lines, and must not wait."""
        self._handlers[kind] = handler

    def watch(self, watcher: Callable[[str, int], None]) -> None:
        """After each message, tell `watcher` its node and how many it reached: 0 when nobody listens there."""
        self._watchers.append(watcher)

    def post(self, node: str, part: Part, lines: Sequence[bytes] = (), *, haste: Haste = Haste.NOW) -> bool:
        """Send a part to a node with the next message; False when nothing can be sent. Never waits."""
        if not self._link.is_up:
            return False
        box = self._box(node)
        if lines:
            part = {**part, "n": len(lines)}
        box.items.append((part, lines))
        box.bytes += sum(map(len, lines)) + 100
        self._schedule(node, box, Haste.NOW if box.bytes > _MESSAGE_BYTES else haste)
        return True

    def ready(self, node: str, source: Source, *, haste: Haste = Haste.TICK) -> bool:
        """Ask `source` for what it has when the next message to the node goes out."""
        if not self._link.is_up:
            return False
        box = self._box(node)
        if source not in box.sources:
            box.sources.add(source)
            box.items.append(source)
        self._schedule(node, box, haste)
        return True

    def echo(self) -> None:
        """Speak to oneself, through Redis: what comes back proves that the subscription works."""
        self._link.send("PUBLISH", self._keys.channel(self.node), self._alone({"k": "echo"}))

    def shout(self, part: Part) -> bool:
        """Tell all other nodes; False when nothing can be sent. Never waits."""
        return self._link.send("PUBLISH", self._keys.everybody, self._alone(part))

    async def tell_everybody(self, part: Part) -> int:
        """Tell all nodes, this one included; how many were reached.

        Raises:
            RedisDown, RedisError: it could not be sent.
        """
        return int(await self._link.ask("PUBLISH", self._keys.everybody, self._alone(part)))

    def _alone(self, part: Part) -> bytes:
        return orjson.dumps({"v": FORMAT, "from": self.node, "parts": [part]})

    def clear(self) -> None:
        """Forget what waits: the link is down, and the events will be asked for again."""
        for box in self._boxes.values():
            if box.timer is not None:
                box.timer.cancel()
        self._boxes.clear()

    def flush(self) -> None:
        """Send what waits, to everybody, now."""
        for node in list(self._boxes):
            self._send(node)

    def receive(self, payload: bytes) -> None:
        """Hand a message's parts to their handlers; one that cannot be read is counted and dropped."""
        head, _, rest = payload.partition(b"\n")
        try:
            message = orjson.loads(head)
            if message["v"] != FORMAT:
                raise ValueError(f"version {message['v']}")
            sender, parts = str(message["from"]), message["parts"]
            lines = rest.split(b"\n") if rest else []
            counts = [int(part.get("n", 0)) for part in parts]
            handlers = [self._handlers.get(part.get("k")) for part in parts]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._metrics.errors.labels("message").inc()
            log.warning("a message from another node cannot be read", extra={"err": repr(error)[:200]})
            return
        at = 0
        for part, count, handler in zip(parts, counts, handlers, strict=True):
            # An heir hears what it said itself to the node it took over.
            if handler is not None and (sender != self.node or part["k"] in _TO_ONESELF):
                self._handle(handler, sender, part, lines[at : at + count])
            at += count

    def _handle(self, handler: Handler, sender: str, part: Part, lines: Sequence[bytes]) -> None:
        try:
            handler(sender, part, lines)
        except Exception:  # what another process sent must not end the listener
            self._metrics.errors.labels("message").inc()
            log.exception("a message from another node was not understood", extra={"kind": str(part.get("k"))})

    def _box(self, node: str) -> _Mailbox:
        box = self._boxes.get(node)
        if box is None:
            box = self._boxes[node] = _Mailbox()
            while len(self._boxes) > _MAX_BOXES and not (first := next(iter(self._boxes.values()))).items:
                if first is box:
                    break
                del self._boxes[next(iter(self._boxes))]
        return box

    def _schedule(self, node: str, box: _Mailbox, haste: Haste) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if haste is Haste.TICK:
            due = max(box.sent_at + self._interval_s(), now + _SOON_S)
        else:
            due = now + (_SOON_S if haste is Haste.SOON else 0.0)
        if box.timer is not None:
            if box.due_at <= due:
                return
            box.timer.cancel()
        box.due_at = due
        box.timer = loop.call_at(due, self._send, node)

    def _send(self, node: str) -> None:
        box = self._boxes.get(node)
        if box is None:
            return
        if box.timer is not None:
            box.timer.cancel()
        box.timer, box.sent_at = None, asyncio.get_running_loop().time()
        items, box.items, box.bytes = box.items, [], 0
        box.sources.clear()
        parts: list[tuple[Part, Sequence[bytes]]] = []
        for item in items:
            parts.extend([item] if isinstance(item, tuple) else item.collect())
        while parts:
            self._publish(node, _cut(parts))

    def _publish(self, node: str, parts: list[tuple[Part, Sequence[bytes]]]) -> None:
        head = orjson.dumps({"v": FORMAT, "from": self.node, "parts": [part for part, _ in parts]})
        payload = b"\n".join([head, *(line for _, lines in parts for line in lines)])

        def then(reply: Any) -> None:
            if reply == 0 and (box := self._boxes.get(node)) is not None and not box.items:
                del self._boxes[node]
            if isinstance(reply, int):
                for watcher in self._watchers:
                    watcher(node, reply)

        self._link.send("PUBLISH", self._keys.channel(node), payload, then=then)


def _cut(parts: list[tuple[Part, Sequence[bytes]]]) -> list[tuple[Part, Sequence[bytes]]]:
    """Take the first parts off the list, about `_MESSAGE_BYTES` of them, one at least."""
    size, count = 0, 0
    for _, lines in parts:
        size += sum(map(len, lines)) + 100
        if count and size > _MESSAGE_BYTES:
            break
        count += 1
    head = parts[:count]
    del parts[:count]
    return head
