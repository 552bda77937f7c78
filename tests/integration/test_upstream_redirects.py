"""A model server that has moved, as after a change to https or of its path."""

from __future__ import annotations

from aiohttp import web

from tests.player import text_of
from tests.raw_upstream import Call, raw_upstream
from tests.several import running


async def quick(call: Call) -> None:
    await call.answer("quick")


async def test_a_redirect_is_followed_with_the_whole_request() -> None:
    async with raw_upstream(quick) as (model, url):

        async def moved(request: web.Request) -> web.Response:
            await request.read()
            return web.Response(status=308, headers={"Location": url + request.path.removeprefix("/old")})

        app = web.Application()
        app.router.add_route("*", "/old/{rest:.*}", moved)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            old = "http://{}:{}/old".format(*runner.addresses[0])
            async with running({"main": {"base_url": old}}) as grizz:
                assert text_of(await (await grizz.player()).ask("hello")) == "quick"
        finally:
            await runner.cleanup()
    assert model.requests == 1
