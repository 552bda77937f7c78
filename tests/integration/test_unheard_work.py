"""What only the connection that asked could have read is not written down, and so not begun again after a restart."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.conftest import running_grizz
from tests.contract.cast import until

SLOW = "[[words:2000]] [[rate:10]]"
SAID = [{"role": "user", "content": SLOW}]


@pytest.mark.parametrize(
    ("path", "body", "safe"),
    [
        ("chat/completions", {"messages": SAID}, False),
        ("responses/compact", {"model": "grizz-demo", "input": SLOW}, False),
        ("chat/completions", {"messages": SAID, "store": True}, True),
        ("responses", {"input": SLOW}, True),
    ],
)
async def test_only_what_somebody_can_come_back_for_is_left_to_the_next_process(
    tmp_path: Path, http: aiohttp.ClientSession, path: str, body: dict[str, Any], safe: bool
) -> None:
    file = str(tmp_path / "state" / "grizz.db")
    async with running_grizz(history__store="sqlite", history__path=file) as grizz:
        assert grizz.app.durable is not None
        store, transport = grizz.app.durable.store, grizz.app.transport
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(http.post(f"{grizz.url}/v1/{path}", json=body))
            await until(lambda: transport.depth().leased == 1)
            rows = await store.writer.write(lambda db: db.execute("SELECT count(*) FROM jobs").fetchone()[0])
            assert rows == safe
            (job, _), *_ = transport._ledger.jobs()
            assert (await transport.hand_over() == [job.id]) is safe
            asking.cancel()
