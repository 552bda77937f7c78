"""Proxies to the model server, as the environment names them: looked up once, and not by a thread at each request."""

from __future__ import annotations

import pytest

from tests.player import Player, text_of
from tests.raw_upstream import Call, raw_upstream
from tests.several import running

_FREE = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _FREE:
        monkeypatch.delenv(name, raising=False)


async def quick(call: Call) -> None:
    await call.answer("quick")


async def test_the_model_server_is_asked_through_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with raw_upstream(quick) as (proxy, proxy_url):
        monkeypatch.setenv("http_proxy", proxy_url.removesuffix("/v1"))
        async with running({"main": {"base_url": "http://model.example/v1"}}) as grizz:
            assert text_of(await (await grizz.player()).ask("hello")) == "quick"
    assert proxy.requests == 1


async def test_a_model_server_on_this_machine_is_asked_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    async with raw_upstream(quick) as (proxy, proxy_url), raw_upstream(quick) as (model, url):
        monkeypatch.setenv("http_proxy", proxy_url.removesuffix("/v1"))
        async with running({"main": {"base_url": url}}) as grizz:
            assert text_of(await (await grizz.player()).ask("hello")) == "quick"
    assert (proxy.requests, model.requests) == (0, 1)


async def test_a_request_to_the_model_server_starts_no_job_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(player: Player) -> None:
        assert text_of(await player.ask("hello")) == "quick"

    async with raw_upstream(quick) as (_, url), running({"main": {"base_url": url}}) as grizz:
        player = await grizz.player()
        await ask(player)
        started: list[object] = []
        monkeypatch.setattr("concurrent.futures.ThreadPoolExecutor.submit", lambda *job: started.append(job))
        for _ in range(5):
            await ask(player)
    assert not started
