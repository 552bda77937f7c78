"""The only place that creates tasks: each one has an owner, a name and a watcher.

`asyncio.create_task` is banned elsewhere by the linter: a task nobody holds can vanish in a collection, and one nobody
watches fails in silence.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")
OnError = Callable[[str, BaseException], None]


class TaskOwner:
    """Holds the tasks of one part of the house, reports those that fail, ends them together.

    Args:
        name: prefix of every task's name.
        on_error: called with the task's name and its exception when one fails; it is logged in any case.
    """

    __slots__ = ("_closed", "_name", "_on_error", "_tasks")

    def __init__(self, name: str, on_error: OnError | None = None) -> None:
        self._name = name
        self._on_error = on_error
        # A dict, since an empty set holds 216 bytes, and every connection has an owner.
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def __repr__(self) -> str:
        return f"<TaskOwner {self._name}: {len(self._tasks)} running{', closed' if self._closed else ''}>"

    def spawn(self, work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Start `work` now, owned and watched.

        Raises:
            RuntimeError: this owner was closed; the coroutine is closed unstarted.
        """
        if self._closed:
            work.close()
            raise RuntimeError(f"{self._name} is closed and starts nothing new ({name})")
        task = asyncio.get_running_loop().create_task(work, name=f"{self._name}:{name}")
        self._tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        log.error("task failed", exc_info=error, extra={"task": task.get_name()})
        if self._on_error is not None:
            self._on_error(task.get_name(), error)

    async def close(self, *, within_s: float) -> list[str]:
        """Cancel every task and wait at most `within_s` seconds; returns the names of those that would not end.

        Cancel-safe: a cancelled close has still cancelled the tasks.
        """
        self._closed = True
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if not tasks:
            return []
        _, stuck = await asyncio.wait(tasks, timeout=within_s)
        return sorted(task.get_name() for task in stuck)


async def bounded(work: Coroutine[Any, Any, Any], *, within_s: float, name: str) -> bool:
    """Run `work` for at most `within_s` seconds *without* cancelling it in time; True when it ended.

    For work that must not be cancelled half-way (a socket's drain future is shared by all its senders: cancelling one
    poisons the others). The caller makes it end by other means (`transport.abort()`) and may then forget it: the task
    stays referenced by the event loop until it does.
    """
    task = asyncio.get_running_loop().create_task(work, name=name)
    _FORGOTTEN.add(task)
    task.add_done_callback(_forget)
    done, _ = await asyncio.wait({task}, timeout=within_s)
    return bool(done)


_FORGOTTEN: set[asyncio.Task[Any]] = set()


def _forget(task: asyncio.Task[Any]) -> None:
    _FORGOTTEN.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.debug("bounded work failed", extra={"task": task.get_name(), "err": repr(error)})
