"""What the process before left unfinished goes on here, as an heir goes on with what a dead node left.

All of it begins anew under the same ids: its log starts again with `response.created`, numbered from a multiple of
1,000,000 above what anybody may have seen. That is written down before the process listens, so that another crash
finds the next multiple.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import sqlite3
import time
from collections.abc import Callable

from grizz.core.job import Delivery, Job
from grizz.transport.base import Home
from grizz.transport.memory import MemoryTransport
from grizz.transport.sqlite.journal import Journal, Unfinished

log = logging.getLogger(__name__)


class Revival:
    """Begins them.

    Args:
        max_attempts: deliveries of one job at most.
        free: how many workers will begin at once.
        adopted: called for each that goes on.
    """

    def __init__(
        self,
        journal: Journal,
        transport: MemoryTransport,
        home: Home,
        *,
        max_attempts: int,
        free: int,
        adopted: Callable[[], None],
    ) -> None:
        self._journal = journal
        self._transport = transport
        self._home = home
        self._max_attempts = max_attempts
        self._free = free
        self._adopted = adopted

    async def begin(self) -> int:
        """Take over all that was left, before the workers start; how many responses there were."""
        try:
            found = await self._journal.unfinished()
        except sqlite3.Error as error:
            log.error("unfinished answers cannot be read", extra={"err": str(error)})
            return 0
        taken = [one for one in map(self._adopt, found) if one is not None]
        if not taken:
            return 0
        try:
            await self._journal.begin_anew(self._with_attempts(taken))
        except sqlite3.Error as error:
            log.error("unfinished answers cannot be written down again", extra={"err": str(error)})
        for one in taken:
            if one.attempt >= self._max_attempts:
                self._home.buried(Delivery(one.job, one.attempt, ""))
            elif self._is_spent(one):
                self._home.overdue(one.job)
            else:
                self._transport.resume(one.job, one.attempt)
        log.warning("answers that a restart had interrupted begin anew", extra={"count": len(taken)})
        return len(taken)

    def _with_attempts(self, taken: list[Unfinished]) -> list[tuple[Job, int]]:
        """Each with the deliveries that it has had in a moment: workers take the first ones at once."""
        begins = {one.job.id for one in [one for one in taken if not self._is_spent(one)][: self._free]}
        return [(one.job, one.attempt + (one.job.id in begins)) for one in taken]

    def _adopt(self, found: Unfinished) -> Unfinished | None:
        # The time without a process is no waiting in line.
        job = dataclasses.replace(found.job, accepted_at=asyncio.get_running_loop().time())
        begun = self._home.adopt(job, found.attempt + (not self._is_spent(found)), None)
        if begun is None:
            return None
        self._adopted()
        log.info("response begun anew after a restart", extra={"response_id": begun.id, "attempt": found.attempt})
        return dataclasses.replace(found, job=begun)

    def _is_spent(self, found: Unfinished) -> bool:
        return found.attempt >= self._max_attempts or found.expires_at < time.time()
