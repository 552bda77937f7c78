"""The same promise with several processes: another node tells a stranger no more than the response's own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from tests.accounts import ALICE, BOB
from tests.integration.test_owners import ACCOUNTS, ALICES_PHONE, RESPONSE_PATHS, finished, running
from tests.nodes import Node, nodes_on
from tests.redis_servers import RedisServer

pytestmark = pytest.mark.timeout(120)
KEYS = {name.removeprefix("GRIZZ_").lower(): value for name, value in ACCOUNTS.items()}


def at(node: Node) -> Any:
    """A node as the paths take it."""
    return SimpleNamespace(url=node.url, ws_url=node.url.replace("http", "ws", 1) + "/v1/responses")


async def test_at_another_node_a_foreign_id_is_an_unknown_one_and_the_owner_reads_on(
    own_redis: RedisServer, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with nodes_on(own_redis.url, tmp_path) as nodes:
        home, other = at(await nodes.start(**KEYS)), at(await nodes.start(**KEYS))
        made = (await finished(http, home, ALICE))["id"]
        player, begun = await running(http, home, ALICE)
        for id_ in (made, begun):
            unknown = id_[:-8] + ("00000000" if not id_.endswith("0") else "11111111")
            for node in (other, home):
                for name, path in RESPONSE_PATHS.items():
                    told = await path(http, node, BOB, id_)
                    assert told == await path(http, node, BOB, unknown), name
                    assert told[0] in (400, 404), name
        assert (await RESPONSE_PATHS["retrieve"](http, other, ALICES_PHONE, made))[0] == 200
        assert (await RESPONSE_PATHS["cancel"](http, other, ALICE, begun))[0] == 200
        assert (await player.answer())[-1]["response"]["status"] == "cancelled"
