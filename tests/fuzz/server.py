"""A running Grizz that a property talks to, example after example."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import aiohttp
import orjson

from grizz.errors import Code
from tests.conftest import Grizz, running_grizz

T = TypeVar("T")
Event = dict[str, Any]
CODES = frozenset(str(code) for code in Code)
WITHIN_S = 15.0


class Target:
    """Grizz and a client, on one event loop that runs whenever an example does something."""

    def __init__(self, runner: asyncio.Runner, grizz: Grizz, http: aiohttp.ClientSession) -> None:
        self._runner = runner
        self.grizz = grizz
        self.http = http

    def run(self, example: Coroutine[Any, Any, T]) -> T:
        """Play one example to its end, which must come soon."""

        async def bounded() -> T:
            async with asyncio.timeout(WITHIN_S):
                return await example

        return self._runner.run(bounded())

    async def unhandled(self) -> list[str]:
        """The counters of errors that nobody expected, those above zero."""
        async with self.http.get(f"{self.grizz.url}/metrics") as answer:
            page = await answer.text()
        assert "grizz_unhandled_errors_total" in page
        return re.findall(r"^grizz_unhandled_errors_total\S* [1-9].*", page, re.MULTILINE)


@contextmanager
def fuzzed() -> Iterator[Target]:
    """Start Grizz; whatever the examples did, at the end it must have met no error that nobody expected."""
    # What clients sent stands in some log lines, and not every text of that kind can go into a test's report.
    before = logging.root.manager.disable
    logging.disable()
    try:
        yield from _fuzzed()
    finally:
        logging.disable(before)


def _fuzzed() -> Iterator[Target]:
    with asyncio.Runner() as runner:
        context = running_grizz()
        grizz = runner.run(context.__aenter__())
        http = runner.run(_session())
        try:
            target = Target(runner, grizz, http)
            yield target
            assert not target.run(target.unhandled())
        finally:
            runner.run(http.close())
            runner.run(context.__aexit__(None, None, None))


async def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession()


def check_refusal(error: Any) -> None:
    """It is an error object as OpenAI's clients read it, with a code that is on the list."""
    assert error.keys() == {"message", "type", "param", "code"}, error
    assert error["code"] in CODES, error
    assert isinstance(error["message"], str) and error["message"]
    assert isinstance(error["type"], str) and isinstance(error["param"], str | None)
    assert error["code"] != Code.SERVER_ERROR, error
    orjson.dumps(error)
