"""What the benchmark asks of other servers: it hears all that the model said, and says when an answer broke off."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from benchmarks.peers import asks
from benchmarks.peers.asks import Failed
from benchmarks.peers.check import served
from benchmarks.peers.subjects import PEERS, PYTHON, Ask
from grizz.upstream.demo import DemoServer
from tests.conftest import ROOT
from tests.redis_servers import RedisServer

ECHO = 'one\ntwo "quoted" \\ drei ä 好 🙂 data: {"delta":"no"} 42["done"] end'
WORDS = "".join(f"w{n} " for n in range(200))
# What is asked, and what must be heard.
ANSWERS = {f"[[echo:{ECHO}]]": ECHO, "[[words:200]] [[split:7]] [[comment]] [[crlf]]": WORDS, "[[words:1]]": "w0 "}

# LiteLLM speaks as OpenAI does; so does the demo model, which is here without an installation.
OPENAI = pytest.mark.parametrize("ask", [asks.litellm_chat, asks.litellm_responses])
# Of these two servers one needs nothing that the development environment does not have.
OVER_REDIS = pytest.mark.parametrize(
    ("command", "ask"),
    [
        pytest.param([sys.executable, "-m", "benchmarks.peers.old_design"], asks.old_design, id="old design"),
        pytest.param(
            [PYTHON, "-m", "benchmarks.peers.socketio_server"],
            asks.socketio_ws,
            marks=pytest.mark.skipif(
                not (ROOT / PYTHON).exists(), reason="only where .venv-peers is: make bench-peers"
            ),
            id="Socket.IO",
        ),
    ],
)


@asynccontextmanager
async def demo() -> AsyncIterator[DemoServer]:
    server = DemoServer(tokens_per_second=0)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def asked(ask: Ask, url: str, text: str) -> str:
    heard: list[str] = []
    async with aiohttp.ClientSession() as http, asyncio.timeout(30):
        await ask(http, url, text, heard.append)
    return "".join(heard)


async def all_of(ask: Ask, url: str) -> dict[str, str]:
    """Every question three times, all at once: what belongs to one must not reach another."""
    texts = [*ANSWERS] * 3
    heard = await asyncio.gather(*(asked(ask, url, text) for text in texts))
    assert heard[: len(ANSWERS)] * 3 == heard
    return dict(zip(texts, heard, strict=True))


@OPENAI
async def test_all_that_an_openai_server_streams_is_heard(ask: Ask) -> None:
    async with demo() as server:
        assert await all_of(ask, server.url.removesuffix("/v1")) == ANSWERS


@OPENAI
@pytest.mark.parametrize("how", ["error:500", "eof:2", "cut:2", "midstream-error:2", "length:2"])
async def test_an_openai_stream_that_is_not_whole_is_a_failure(ask: Ask, how: str) -> None:
    async with demo() as server:
        with pytest.raises((Failed, aiohttp.ClientError)):
            await asked(ask, server.url.removesuffix("/v1"), f"[[words:4]] [[{how}]]")


@OVER_REDIS
async def test_all_that_the_model_says_is_heard_through_redis(
    command: list[str], ask: Ask, redis_server: RedisServer
) -> None:
    async with demo() as model:
        environ = {"OPENAI_BASE_URL": model.url, "OPENAI_API_KEY": "test", "REDIS_URL": redis_server.url}
        async with served(command, **environ) as url:
            assert await all_of(ask, url) == ANSWERS
            for how in ("error:500", "cut:2", "midstream-error:2"):
                with pytest.raises(Failed):
                    await asked(ask, url, f"[[words:4]] [[{how}]]")


def test_every_peer_has_a_name_of_its_own_and_a_server_that_is_there() -> None:
    assert len({peer.name for peer in PEERS}) == len(PEERS)
    for peer in PEERS:
        python, _, module = peer.command
        assert python == PYTHON
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists()
