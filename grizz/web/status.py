"""`GET /status.json`: how this process is, and how the others are. Who may read it is for the door, as everywhere."""

from __future__ import annotations

import gzip
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web

from grizz.engine.vitals import Vitals
from grizz.errors import Code, RequestError
from grizz.telemetry.health import nodes_check, worst_first

# Below it packing costs more than it saves.
_WORTH_PACKING = 2048
_LONGEST_NUMBER = 12

Table = Callable[[], Awaitable[list[dict[str, Any]]]]


class StatusApi:
    """The handler.

    Args:
        nodes: the table of all nodes; None in a process alone.
        is_ready: what `/readyz` says.
        shares_port: other processes listen on the same port, and the next answer may be another's.
    """

    def __init__(self, vitals: Vitals, nodes: Table | None, *, is_ready: Callable[[], bool], shares_port: bool) -> None:
        self._vitals = vitals
        self._nodes = nodes
        self._is_ready = is_ready
        self._shares_port = shares_port

    def routes(self) -> list[web.RouteDef]:
        """What to add to the router."""
        return [web.get("/status.json", self.status)]

    async def status(self, request: web.Request) -> web.StreamResponse:
        """`GET /status.json`, with `?node=ID&after=N` only the samples of that node after that number."""
        after = _number(request.query.get("after", "-1"))
        nodes = await self._nodes() if self._nodes is not None else None
        # Another process's numbers are no use to this one: who comes from there gets the whole hour.
        report = self._vitals.report(after if request.query.get("node") == self._vitals.node else -1)
        report |= {"at": round(time.time(), 1), "ready": self._is_ready(), "shares_port": self._shares_port}
        report["nodes"] = nodes
        if nodes is not None:
            report["checks"] = worst_first([*report["checks"], nodes_check(nodes)])
        body = orjson.dumps(report)
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store", "Vary": "Accept-Encoding"}
        if len(body) >= _WORTH_PACKING and "gzip" in request.headers.get("Accept-Encoding", ""):
            body = gzip.compress(body, compresslevel=1)  # 0.5 ms for a whole hour (measured)
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=body, headers=headers)


def _number(text: str) -> int:
    try:
        if len(text) > _LONGEST_NUMBER:
            raise ValueError("too long")
        return int(text)
    except ValueError:
        raise RequestError(400, Code.INVALID_VALUE, "'after' is the number of a sample.", param="after") from None
