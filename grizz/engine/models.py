"""Which models there are, and which one answers when a client names none."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from grizz.config import ModelSettings
from grizz.engine.member import Member
from grizz.engine.names import Names
from grizz.errors import UpstreamError

log = logging.getLogger(__name__)

_KEEP_S = 60.0
_KEEP_FAILURE_S = 5.0
_KEEP_UNREADY_S = 0.3

Listed = list[dict[str, Any]]


class Models:
    """The models of all upstreams, each asked at most once a minute.

    Args:
        members: the upstreams, best first.
        default: the configured model, or "" to take the first one of the best upstream that says what it has.
        names: aliases, and what API keys may ask for.
    """

    def __init__(self, members: Sequence[Member], default: str, names: Names | None = None) -> None:
        self.names = Names(ModelSettings(), {}) if names is None else names
        self._lists = [_List(member) for member in members]
        self._default = default

    async def default(self, key: str = "", *, waits: bool = True) -> str:
        """The model that answers when that API key names none; "" when there is none to be found.

        All upstreams are asked at the same time, and none is waited for once a better one has said. While there is no
        default this takes as long as the slowest, and then nothing for `_KEEP_FAILURE_S`.

        Args:
            waits: for upstreams that are not ready, as long as a job would.

        Cancel-safe.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        await self._find_default()
        while (
            waits
            and not self.names.default(key, self._default)
            and loop.time() - began < max(one.patience_s for one in self._lists)
        ):
            await asyncio.sleep(_KEEP_UNREADY_S)
            await self._find_default()
        return self.names.default(key, self._default)

    async def _find_default(self) -> None:
        if not self._default:
            async with asyncio.TaskGroup() as group:
                asking = [group.create_task(one.get(), name=f"models of {one.owner}") for one in self._lists]
                for task in asking:
                    if listed := await task:
                        self._default = listed[0]["id"]
                        break
                for task in asking:
                    task.cancel()

    async def list(self, key: str = "") -> Listed:
        """Every model that this API key may ask for, under the name to ask for, of the best upstream that has it.

        The default comes first, also when no upstream lists it or none answers; aliases come last.
        """
        found = {model["id"]: model for listed in reversed(await self._all()) for model in reversed(listed)}
        models = list(reversed(found.values()))
        for alias in self.names.aliases:
            if alias not in found:
                owner = found.get(self.names.resolve(alias), {"owned_by": self._lists[0].owner})["owned_by"]
                models.append(_model(alias, owner))
        first = self.names.default(key, self._default)
        default = [model for model in models if model["id"] == first]
        if first and not default:
            default = [_model(first, self._lists[0].owner)]
        models = default + [model for model in models if model["id"] != first]
        return [model for model in models if self.names.allows(key, model["id"])]

    async def _all(self) -> Sequence[Listed]:
        """All lists, asked for at the same time: one upstream that hangs holds the others up no longer than itself."""
        return await asyncio.gather(*(one.get() for one in self._lists))


class _List:
    """The models of one upstream. When it cannot be asked, what it said last stands."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._listed: Listed = [_model(name, member.name) for name in member.terms.models]
        self._fixed = bool(member.terms.models)  # the operator has said which; the API need not be asked
        self._good_until = 0.0
        self._asking = asyncio.Lock()
        self.patience_s = 0.0  # how long a job would wait for it

    @property
    def owner(self) -> str:
        """Whose models they are."""
        return self._member.name

    async def get(self) -> Listed:
        """The list, at most a minute old, or the last one known."""
        loop = asyncio.get_running_loop()
        async with self._asking:
            if not self._fixed and loop.time() >= self._good_until:
                try:
                    self._listed = await self._member.upstream.models()
                    self._good_until = loop.time() + _KEEP_S
                    self.patience_s = 0.0
                except UpstreamError as error:
                    extra = {"upstream": self._member.name, "result": error.result}
                    if not (error.unready and self.patience_s):  # said once, while it is waited for
                        log.warning("the models of an upstream are unknown", extra=extra)
                    self.patience_s = self._member.patience_s(error) if error.unready else 0.0
                    self._good_until = loop.time() + (_KEEP_UNREADY_S if error.unready else _KEEP_FAILURE_S)
        return self._listed


def _model(name: str, owner: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}
