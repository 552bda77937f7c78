"""The one thread that writes the file. What comes while it commits is committed together.

A commit takes some tenths of a millisecond and, when the disk is busy, seconds: none of that may happen on the event
loop. Whatever one reply needs written is two steps, its job when it is accepted and its turn when it ends; what is less
urgent rides along with the next step of anybody's.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from grizz.telemetry.metrics import HistoryMetrics

log = logging.getLogger(__name__)

Step = Callable[[sqlite3.Connection], Any]
"""Something to do within a transaction, in the writer's thread. May be called twice: the first time may be undone."""

MAX_WAITING_BYTES = 64 << 20
_MAX_AT_ONCE = 500
_LOOK_EVERY_S = 0.5
_SAY_EVERY_S = 60.0
_BEHIND_S = 1.0


@dataclass(slots=True)
class _Order:
    step: Step
    size: int
    done: asyncio.Future[Any] | None
    result: Any = None
    error: Exception | None = None
    rest: Sequence[_Order] = ()


class Writer:
    """Owns the connection that writes.

    Args:
        db: opened, migrated, locked; the writer closes it.
        upkeep: what to do, outside any transaction, about twice a second: keep bounds, look for what others changed.

    Attributes:
        waiting_bytes: of steps that are not committed.
        commits: how many transactions wrote something, those of the upkeep left out.
    """

    def __init__(self, db: sqlite3.Connection, metrics: HistoryMetrics, upkeep: Step) -> None:
        self._db = db
        self._metrics = metrics
        self._upkeep = upkeep
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self._behind: dict[str, list[_Order]] = {}
        self._riding: deque[_Order] = deque()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="grizz history writer", daemon=True)
        self._said_at = -_SAY_EVERY_S
        self._closed = False
        self.waiting_bytes = 0
        self.commits = 0

    def __repr__(self) -> str:
        return f"<Writer: {self.commits} commits, {self.waiting_bytes} bytes waiting>"

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    @property
    def full(self) -> bool:
        """Do more bytes wait than are allowed? Then the disk is far too slow, and what can be left out is."""
        return self.waiting_bytes >= MAX_WAITING_BYTES

    def write(self, step: Step, size: int = 0, *, behind: str | None = None) -> asyncio.Future[Any]:
        """Do it with the next transaction; the future has what `step` returned once that is committed. Never waits.

        Args:
            behind: do it only with what `write_with` brings for that name, or after a second without.

        The future raises what `step` did, or `sqlite3.Error`, when it could not be written; that is logged and counted
        here. To wait for it, shield it: a cancelled future cancels nothing.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        order = _Order(step, size, future)
        if behind is None:
            self._put(order)
        else:
            self._behind.setdefault(behind, []).append(order)
            self._loop.call_later(_BEHIND_S, self.release, behind)
        return future

    def write_with(self, name: str, step: Step, size: int = 0) -> asyncio.Future[Any]:
        """As `write`, in one transaction with what waits behind that name."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._put(_Order(step, size, future, rest=self._behind.pop(name, ())))
        return future

    def release(self, name: str) -> None:
        """Nothing comes with that name: do what waits behind it."""
        for order in self._behind.pop(name, ()):
            self._put(order)

    def ride(self, step: Step) -> None:
        """Do it with the next transaction that somebody else asks for, or at the close."""
        self._riding.append(_Order(step, 0, None))

    async def close(self, within_s: float) -> bool:
        """Write what waits and close the connection; False when that is not done in time. Safe to call twice."""
        if not self._closed:
            for name in list(self._behind):
                self.release(name)
            self._closed = True
            self._orders.put(None)
        if self._thread.ident is None:  # never started
            self._db.close()
            return True
        await asyncio.to_thread(self._thread.join, within_s)
        return not self._thread.is_alive()

    def _put(self, order: _Order) -> None:
        self.waiting_bytes += order.size + sum(other.size for other in order.rest)
        if self._closed:
            for one in (order, *order.rest):
                one.error = sqlite3.ProgrammingError("the history is closed")
            self._resolve([order, *order.rest])
        else:
            self._orders.put(order)

    # In the thread

    def _run(self) -> None:
        looked_at, going_on = time.monotonic(), True
        while going_on:
            try:
                order = self._orders.get(timeout=_LOOK_EVERY_S)
            except queue.Empty:
                pass  # nobody wants anything; it is time to look after the file
            else:
                # First: what rides was called for after what it changes, so that this is among the orders already.
                riding = [self._riding.popleft() for _ in range(len(self._riding))]
                batch, going_on = self._gather(order)
                self._commit([*batch, *riding])
                self._tell(batch)
            if going_on and time.monotonic() - looked_at >= _LOOK_EVERY_S:
                looked_at = time.monotonic()
                self._look_after()
        self._db.close()

    def _gather(self, order: _Order | None) -> tuple[list[_Order], bool]:
        """Whatever waits, and whether more may come."""
        batch: list[_Order] = []
        while order is not None:
            batch += [order, *order.rest]
            if len(batch) >= _MAX_AT_ONCE:
                return batch, True
            try:
                order = self._orders.get_nowait()
            except queue.Empty:
                return batch, True
        return batch, False

    def _commit(self, orders: list[_Order]) -> None:
        """All of them in one transaction; if that fails each in its own, so that one cannot take others with it."""
        if not orders or self._transact(orders) or len(orders) == 1:
            return
        for order in orders:
            order.error = None
            self._transact([order])

    def _transact(self, orders: list[_Order]) -> bool:
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            for order in orders:
                order.result = order.step(db)
            db.execute("COMMIT")
        except Exception as error:  # whatever it is, this thread goes on
            self._undo()
            for order in orders:
                order.error = error
            return False
        self.commits += 1
        return True

    def _undo(self) -> None:
        if not self._db.in_transaction:
            return
        try:
            self._db.execute("ROLLBACK")
        except sqlite3.Error as error:
            log.error("a transaction of the history cannot be undone", extra={"err": str(error)})

    def _tell(self, orders: list[_Order]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._resolve, orders)
        except RuntimeError:  # the process did not wait for this thread; nobody is there to be told
            log.debug("the event loop is gone", extra={"count": len(orders)})

    def _look_after(self) -> None:
        try:
            self._upkeep(self._db)
        except Exception as error:
            self._undo()
            self._loop.call_soon_threadsafe(self._report, error)

    # On the event loop

    def _resolve(self, orders: list[_Order]) -> None:
        self._metrics.commits.inc(self.commits - self._metrics.counted)
        self._metrics.counted = self.commits
        for order in orders:
            self.waiting_bytes -= order.size
            if order.error is not None:
                self._report(order.error)
            if order.done is None or order.done.done():
                continue
            if order.error is not None:
                order.done.set_exception(order.error)
                order.done.exception()  # whoever waits has it; when nobody does, it is logged above
            else:
                order.done.set_result(order.result)

    def _report(self, error: Exception) -> None:
        self._metrics.errors.labels("write").inc()
        if not isinstance(error, sqlite3.Error):
            log.error("a step of the history's writer failed", exc_info=error)
        elif time.monotonic() - self._said_at >= _SAY_EVERY_S:
            self._said_at = time.monotonic()
            log.error("the history cannot be written; answers go on in memory", extra={"err": str(error)})
