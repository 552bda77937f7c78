"""`/v1/conversations`: conversations and their items; listing them is an extension (docs/protocol.md)."""

from __future__ import annotations

import re
from typing import Any

import orjson
from aiohttp import web

from grizz.engine.compaction import Compactions
from grizz.engine.conversations import Conversations
from grizz.errors import Code, RequestError
from grizz.protocol import conversations as shapes
from grizz.protocol.fields import conversation_id
from grizz.protocol.items import check_calls_match, shown
from grizz.transport.shelf import Conversation, Wanted
from grizz.web.auth import Door, Identity
from grizz.web.errors import json_response
from grizz.web.handlers import Handler, Handlers
from grizz.web.limits import Limits
from grizz.web.paging import bounds
from grizz.web.watchdog import Watchdog

_METADATA = re.compile(r"metadata\[(.{1,64})\]\Z", re.DOTALL)


class ConversationApi(Handlers):
    """Handlers of `/v1/conversations`.

    Args:
        compactions: know which compaction items can be opened.
    """

    def __init__(
        self,
        conversations: Conversations,
        compactions: Compactions,
        *,
        door: Door,
        limits: Limits,
        watchdog: Watchdog,
        request_timeout_s: float,
    ) -> None:
        super().__init__(door=door, limits=limits, watchdog=watchdog, request_timeout_s=request_timeout_s)
        self._conversations = conversations
        self._compactions = compactions

    def routes(self) -> list[web.RouteDef]:
        """What to add to the router."""
        one, items = "/v1/conversations/{id}", "/v1/conversations/{id}/items"
        routes: list[tuple[str, str, Handler]] = [
            ("POST", "/v1/conversations", self.create),
            ("GET", "/v1/conversations", self.listing),
            ("GET", one, self.retrieve),
            ("POST", one, self.update),
            ("DELETE", one, self.delete),
            ("POST", items, self.add),
            ("GET", items, self.items),
            ("GET", items + "/{item}", self.item),
            ("DELETE", items + "/{item}", self.remove),
        ]
        return [web.route(method, path, self._admitted(handler)) for method, path, handler in routes]

    async def create(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        """`POST /v1/conversations`: with up to 20 items and metadata, or with nothing."""
        items, metadata = shapes.created(await self._json_or_nothing(request))
        check_calls_match(await self._compactions.check(identity.owner, items, "items"), where="items")
        return json_response(_object(await self._conversations.create(identity.owner, items, metadata)))

    async def listing(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        """`GET /v1/conversations`: the caller's, the last used first."""
        after, limit, newest_first = _paging(request)
        wanted = Wanted(shapes.query(request.query.get("query", "")), _wanted_metadata(request))
        found, more = await self._conversations.listing(
            identity.owner, after=after, limit=limit, newest_first=newest_first, wanted=wanted
        )
        return json_response(shapes.page([_listed(one) for one in found], has_more=more))

    async def retrieve(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        """`GET /v1/conversations/{id}`; with `include=running` as the listing has it."""
        show = _listed if "running" in request.query.getall("include", ()) else _object
        return json_response(show(await self._conversations.get(_id(request), identity.owner)))

    async def update(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        """`POST /v1/conversations/{id}`: its metadata is replaced."""
        name = _id(request)
        metadata = shapes.updated(await self._json_or_nothing(request))
        return json_response(_object(await self._conversations.update(name, identity.owner, metadata)))

    async def delete(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        """`DELETE /v1/conversations/{id}`: it and its items; the responses in it stay."""
        name = _id(request)
        await self._conversations.delete(name, identity.owner)
        return json_response(shapes.deleted_object(name))

    async def add(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        """`POST /v1/conversations/{id}/items`: up to 20, at the end.

        Whether an output answers a call of the conversation is looked at when a turn is made: it is read then anyway.
        """
        name = _id(request)
        items = shapes.added(await self._json_or_nothing(request))
        await self._compactions.check(identity.owner, items, "items")
        added = await self._conversations.add(name, identity.owner, items)
        return json_response(shapes.item_list(added, has_more=False))

    async def items(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        """`GET /v1/conversations/{id}/items`: the newest first unless `order` is `asc`."""
        name = _id(request)
        after, limit, newest_first = _paging(request)
        items, more = await self._conversations.page(
            name, identity.owner, after=after, limit=limit, newest_first=newest_first
        )
        return json_response(shapes.item_list(items, has_more=more))

    async def item(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        """`GET /v1/conversations/{id}/items/{item_id}`."""
        found = await self._conversations.item(_id(request), identity.owner, request.match_info["item"])
        return json_response(shown(found))

    async def remove(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        """`DELETE /v1/conversations/{id}/items/{item_id}`: the conversation without it."""
        left = await self._conversations.remove(_id(request), identity.owner, request.match_info["item"])
        return json_response(_object(left))

    async def _json_or_nothing(self, request: web.Request) -> Any:
        raw = await self._body(request)
        if not raw.strip():
            return None
        try:
            return orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise RequestError(400, Code.INVALID_JSON, f"The request body is not JSON: {error}.") from error


def _id(request: web.Request) -> str:
    return conversation_id(request.match_info["id"], "conversation_id")


def _object(conversation: Conversation) -> dict[str, Any]:
    return shapes.conversation_object(conversation.id, conversation.created_at, conversation.metadata)


def _listed(conversation: Conversation) -> dict[str, Any]:
    """As a page that lists conversations needs it."""
    return {
        **_object(conversation),
        "title": conversation.title,
        "updated_at": int(conversation.updated_at),
        "items": conversation.items,
        "running": conversation.running or None,
    }


def _paging(request: web.Request) -> tuple[str | None, int, bool]:
    """`after`, `limit`, and whether the newest come first.

    Raises:
        RequestError: 400.
    """
    limit, newest_first = bounds(request.query)
    return request.query.get("after") or None, limit, newest_first


def _wanted_metadata(request: web.Request) -> dict[str, str]:
    return {match[1]: value for key, value in request.query.items() if (match := _METADATA.match(key))}
