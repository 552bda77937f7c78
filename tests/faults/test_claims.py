"""What a process has promised about keys and sealed items holds after a kill -9, from its history file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.restarts import House, house_in

pytestmark = pytest.mark.timeout(120)


async def post(http: aiohttp.ClientSession, house: House, path: str, key: str = "", **body: Any) -> tuple[int, Any]:
    headers = {"Idempotency-Key": key} if key else None
    async with http.post(f"{house.node.url}{path}", json=body, headers=headers) as answer:
        return answer.status, await answer.json()


async def test_a_key_and_a_compacted_window_outlive_the_process(tmp_path: Path) -> None:
    async with house_in(tmp_path) as house, aiohttp.ClientSession() as http:
        await house.start()
        made = await post(http, house, "/v1/responses", "k", input="[[words:5]]")
        assert made[0] == 200
        refused = await post(http, house, "/v1/responses", "free", input="x", previous_response_id="resp_none")
        assert refused[0] == 400
        status, window = await post(http, house, "/v1/responses/compact", model="grizz-demo", input="heron")
        assert status == 200
        asked = house.demo.requests
        await house.killed()
        assert await post(http, house, "/v1/responses", "k", input="[[words:5]]") == made
        assert (await post(http, house, "/v1/responses", "k", input="other"))[0] == 422
        assert house.demo.requests == asked
        assert (await post(http, house, "/v1/responses", "free", input="x"))[0] == 200
        assert (await post(http, house, "/v1/responses", input=window["output"]))[0] == 200
