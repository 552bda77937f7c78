"""Every flow once more, through a Grizz whose model server is another Grizz: what passes through stays valid."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from grizz.upstream.demo import DemoServer
from tests import grammar
from tests.conformance import judges
from tests.conformance.flows import FLOWS
from tests.conformance.test_flows import came_of_it
from tests.conformance.ways import WAYS
from tests.conftest import running_grizz

QUIET = {"GRIZZ_UPSTREAM_MAX_RETRIES": "0", "GRIZZ_UPSTREAM_BREAKER_FAILURES": "1000"}


@pytest.mark.parametrize("way", ["JSON", "SSE", "WebSocket"])
async def test_all_flows_pass_through_another_server_of_the_same_api(
    start_process, http: aiohttp.ClientSession, way: str
) -> None:
    demo, failures = DemoServer(tokens_per_second=0), {}
    await demo.start()
    other = {"GRIZZ_UPSTREAM_BASE_URL": demo.url, "GRIZZ_UPSTREAM_API_KEY": "any", **QUIET}
    inner = await asyncio.to_thread(start_process, environ=other)
    async with running_grizz(
        {"GRIZZ_UPSTREAM_BASE_URL": f"{inner.url}/v1", **QUIET}, upstream__api="responses"
    ) as outer:
        for name, flow in FLOWS.items():
            try:
                events, response = await WAYS[way](http, outer, {"model": "grizz-demo", **flow.body})
                judges.response(response)
                came_of_it(flow, response)
                if events:
                    grammar.check(events)
            except Exception as error:  # all that fail are told at once
                failures[name] = f"{type(error).__name__}: {error}"
    asked = demo.requests
    await demo.stop()
    assert failures == {}
    assert asked == len(FLOWS), "each was answered by the model behind the other server"
