"""Which models there are, and which one answers when a client names none."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from grizz.errors import UpstreamError
from grizz.upstream.base import Upstream

log = logging.getLogger(__name__)

_KEEP_S = 60.0
_KEEP_FAILURE_S = 5.0


class Models:
    """The upstream's models, asked at most once a minute.

    Args:
        default: the configured model, or "" to take the upstream's first.
    """

    def __init__(self, upstream: Upstream, default: str) -> None:
        self._upstream = upstream
        self._default = default
        self._listed: list[dict[str, Any]] = []
        self._good_until = 0.0
        self._asking = asyncio.Lock()

    async def default(self) -> str:
        """The model that answers when none is named; "" when there is none to be found."""
        if not self._default:
            listed = await self.list()
            self._default = listed[0]["id"] if listed else ""
        return self._default

    async def list(self) -> list[dict[str, Any]]:
        """Every model; the default first, also when the upstream does not list it or does not answer."""
        loop = asyncio.get_running_loop()
        async with self._asking:
            if loop.time() >= self._good_until:
                try:
                    self._listed = await self._upstream.models()
                    self._good_until = loop.time() + _KEEP_S
                except UpstreamError as error:
                    log.warning("the upstream's models are unknown", extra={"err": error.message})
                    self._good_until = loop.time() + _KEEP_FAILURE_S
        default = [model for model in self._listed if model["id"] == self._default]
        if self._default and not default:
            default = [{"id": self._default, "object": "model", "created": 0, "owned_by": self._upstream.name}]
        return default + [model for model in self._listed if model["id"] != self._default]
