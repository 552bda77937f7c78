"""Which model a request gets: aliases, defaults of keys, and what a key may ask for."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from tests.accounts import ACCOUNTS, ALICE, BOB, bearer
from tests.conftest import running_grizz
from tests.player import Player
from tests.several import Several, running

TWO = {"main": {"models": "gpt-5=there"}, "other": {"models": "phi", "priority": 2, "api": "responses"}}
ALIASES = {"models__aliases": "fast=phi,quick=fast,best=gpt-5", "upstream__model": "quick"}


async def listed(grizz: Any, http: aiohttp.ClientSession, **headers: str) -> list[str]:
    async with http.get(f"{grizz.url}/v1/models", headers=headers) as answer:
        return [model["id"] for model in (await answer.json())["data"]]


async def create(grizz: Any, http: aiohttp.ClientSession, headers: dict[str, str], **body: Any) -> tuple[int, Any]:
    async with http.post(f"{grizz.url}/v1/responses", json={"input": "[[echo:x]]", **body}, headers=headers) as answer:
        return answer.status, await answer.json()


def asked_for(grizz: Several) -> dict[str, str | None]:
    """The model that each upstream was last asked for."""
    return {name: (demo.last_request or {}).get("model") for name, demo in grizz.demos.items()}


async def test_an_alias_is_asked_for_under_the_name_there_and_echoed_as_it_was_said() -> None:
    async with running(TWO, **ALIASES) as grizz:
        for model, name, there in (("best", "main", "there"), ("fast", "other", "phi"), ("quick", "other", "phi")):
            status, done = await create(grizz, grizz.http, {}, model=model)
            assert (status, done["status"], done["model"]) == (200, "completed", model)
            assert asked_for(grizz)[name] == there
        _, done = await create(grizz, grizz.http, {})
        assert done["model"] == "quick"


async def test_the_list_has_models_and_aliases_the_default_first() -> None:
    async with running(TWO, **ALIASES) as grizz:
        assert await listed(grizz, grizz.http) == ["quick", "gpt-5", "phi", "fast", "best"]
        async with grizz.http.get(f"{grizz.url}/v1/models/best") as answer:
            assert (await answer.json())["owned_by"] == "main"


KEYS = {
    **ACCOUNTS,
    "GRIZZ_KEYS_ALICE_MODEL": "small",
    "GRIZZ_KEYS_ALICE_MODELS": "small,grizz-demo",
}


async def test_a_key_has_a_default_of_its_own_and_sees_what_it_may_use(http: aiohttp.ClientSession) -> None:
    async with running_grizz(KEYS, models__aliases="small=grizz-demo,big=huge") as grizz:
        assert (await create(grizz, http, bearer(ALICE)))[1]["model"] == "small"
        assert (await create(grizz, http, bearer(BOB)))[1]["model"] == "grizz-demo"
        assert await listed(grizz, http, **bearer(ALICE)) == ["small", "grizz-demo"]
        assert await listed(grizz, http, **bearer(BOB)) == ["grizz-demo", "small", "big"]
        async with http.get(f"{grizz.url}/v1/models/big", headers=bearer(ALICE)) as answer:
            assert answer.status == 404


@pytest.mark.parametrize("way", ["http", "ws"])
async def test_what_a_key_may_not_use_is_not_found_and_costs_nothing(way: str, http: aiohttp.ClientSession) -> None:
    async with running_grizz(KEYS, models__aliases="small=grizz-demo,big=huge") as grizz:
        if way == "http":
            status, body = await create(grizz, http, bearer(ALICE), model="big")
        else:
            player = await Player.connect(http, grizz.ws_url, headers=bearer(ALICE))
            (body,) = await player.ask("[[echo:x]]", model="big")
            status = body["status"]
        assert (status, body["error"]["code"], body["error"]["param"]) == (404, "model_not_found", "model")
        assert grizz.demo.requests == 0


async def test_without_a_default_that_it_may_use_a_key_gets_the_first_it_may(http: aiohttp.ClientSession) -> None:
    environ = {**ACCOUNTS, "GRIZZ_KEYS_BOB_MODELS": "other,third"}
    async with running_grizz(environ) as grizz:
        assert (await create(grizz, http, bearer(BOB)))[1]["model"] == "other"
