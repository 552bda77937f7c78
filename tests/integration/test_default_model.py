"""The model that answers when neither a client nor the operator names one: asked of all upstreams at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import web

from grizz.engine.member import Member, Terms
from grizz.engine.models import Models
from grizz.upstream.openai import OpenAIUpstream


async def upstream_of(
    stack: AsyncExitStack, name: str, answer: Callable[[web.Request], Awaitable[web.Response]]
) -> OpenAIUpstream:
    """An upstream that lists its models by that handler."""
    app = web.Application()
    app.router.add_get("/v1/models", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    upstream = OpenAIUpstream(
        name=name,
        base_url=f"http://127.0.0.1:{runner.addresses[0][1]}/v1",
        api_key="none",
        connect_timeout_s=5,
        idle_timeout_s=5,
        max_connections=10,
    )
    stack.push_async_callback(upstream.close)
    return upstream


class Lists:
    """Servers that list one model each, once all of them have been asked; `broken` ones then answer 500."""

    def __init__(self, names: Sequence[str], broken: Sequence[str] = ()) -> None:
        self.asked: list[str] = []
        self._names = names
        self._broken = broken
        self._all = asyncio.Event()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[list[Member]]:
        """Listen; gives the upstreams."""
        async with AsyncExitStack() as stack:
            members = []
            for name in self._names:
                upstream = await self._upstream(stack, name)
                members.append(Member(upstream, Terms(named=True)))
            yield members

    async def _upstream(self, stack: AsyncExitStack, name: str) -> OpenAIUpstream:
        async def answer(_: web.Request) -> web.Response:
            self.asked.append(name)
            if len(self.asked) == len(self._names):
                self._all.set()
            await self._all.wait()
            if name in self._broken:
                return web.json_response({}, status=500)
            return web.json_response({"object": "list", "data": [{"id": f"model of {name}", "object": "model"}]})

        return await upstream_of(stack, name, answer)


async def test_all_are_asked_at_the_same_time_and_the_best_that_answers_has_the_default() -> None:
    lists = Lists(["a", "b", "c"], broken=["a"])
    async with lists.serve() as members:
        assert await Models(members, "").default() == "model of b"
        assert sorted(lists.asked) == ["a", "b", "c"]


async def test_when_none_lists_any_they_are_not_asked_again_for_each_request() -> None:
    lists = Lists(["a", "b"], broken=["a", "b"])
    async with lists.serve() as members:
        models = Models(members, "")
        assert await asyncio.gather(*(models.default() for _ in range(5))) == [""] * 5
        assert await models.default() == ""
        assert sorted(lists.asked) == ["a", "b"]


async def test_a_model_that_the_operator_names_is_asked_of_nobody() -> None:
    lists = Lists(["a"])
    async with lists.serve() as members:
        assert await Models(members, "mine").default() == "mine"
        assert lists.asked == []


async def test_a_server_that_loads_its_model_says_which_one_when_it_has() -> None:
    """Not at the start, which nobody waits for, but when the first request names none."""

    async def answer(_: web.Request) -> web.Response:
        if not loaded.is_set():
            return web.json_response({"error": {"message": "Loading model", "code": 503}}, status=503)
        return web.json_response({"object": "list", "data": [{"id": "small", "object": "model"}]})

    loaded = asyncio.Event()
    async with AsyncExitStack() as stack:
        members = [Member(await upstream_of(stack, "main", answer), Terms(loading_timeout_s=10))]
        models = Models(members, "")
        assert await models.default(waits=False) == ""
        asking = asyncio.create_task(models.default())
        await asyncio.sleep(1)
        assert not asking.done()
        loaded.set()
        assert await asking == "small"


async def test_a_server_that_loads_for_too_long_has_no_default_model() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({}, status=503)

    async with AsyncExitStack() as stack:
        members = [Member(await upstream_of(stack, "main", answer), Terms(loading_timeout_s=0.5))]
        async with asyncio.timeout(5):
            assert await Models(members, "").default() == ""
