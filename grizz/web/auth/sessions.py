"""The routes of browsers that sign in: a session for pages of ours, a ticket for what can show nothing else.

The cookie of a session holds the key or token itself. So there is nothing to store, every node of an installation
knows it, and it ends the moment the key is taken out of the configuration or the token expires. Scripts cannot read it
(HttpOnly), other sites cannot make a browser send it (SameSite=Strict), and where it acts the Origin must be ours.
"""

from __future__ import annotations

import time

from aiohttp import web

from grizz.errors import Code, RequestError
from grizz.web.auth.credentials import SESSION_COOKIE, presented
from grizz.web.auth.door import Door
from grizz.web.auth.identity import refused
from grizz.web.errors import json_response

# Browsers drop a cookie of more than 4096 bytes with its name and attributes, without a word.
_MAX_COOKIE = 3800
_NO_STORE = {"Cache-Control": "no-store"}


class Sessions:
    """Handlers of `/v1/session` and `/v1/ticket`."""

    def __init__(self, door: Door) -> None:
        self._door = door

    def routes(self) -> list[web.RouteDef]:
        """What to add to the router."""
        return [
            web.post("/v1/session", self.begin),
            web.delete("/v1/session", self.end),
            web.post("/v1/ticket", self.ticket),
        ]

    async def begin(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/session`: the credential of the header as a cookie; without accounts there is nothing to begin."""
        self._door.check_origin(request)
        if not self._door.has_accounts:
            await self._door.identify(request)
            return json_response({"object": "session", "expires_at": None}, headers=_NO_STORE)
        credential = presented(request)
        if credential is None or credential.source != "header":
            raise refused("A session begins with 'Authorization: Bearer YOUR_API_KEY'.", Code.MISSING_API_KEY)
        identity = await self._door.identify(request)
        if len(credential.text) > _MAX_COOKIE:
            text = "This token is too long for a cookie; use a ticket or the first message."
            raise RequestError(400, Code.INVALID_VALUE, text)
        until = identity.expires_at
        response = json_response({"object": "session", "expires_at": until}, headers=_NO_STORE)
        response.set_cookie(
            SESSION_COOKIE,
            credential.text,
            httponly=True,
            samesite="Strict",
            path="/",
            secure=self._door.is_secure(request),
            # A key has no end of its own: its session lasts until the browser is closed.
            max_age=None if until is None else max(0, int(until - time.time())),
        )
        return response

    async def end(self, request: web.Request) -> web.StreamResponse:
        """`DELETE /v1/session`: whoever it is, and also when the key no longer counts."""
        self._door.check_origin(request)
        response = json_response({"object": "session", "deleted": True}, headers=_NO_STORE)
        end_session(response, secure=self._door.is_secure(request))
        return response

    async def ticket(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/ticket`: opens one WebSocket, `?ticket=…`, soon, on this process."""
        self._door.check_origin(request)
        ticket, lasts_s = self._door.issue_ticket(await self._door.identify(request))
        return json_response({"object": "ticket", "ticket": ticket, "expires_in": lasts_s}, headers=_NO_STORE)


def end_session(response: web.StreamResponse, *, secure: bool) -> None:
    """Make the browser forget its session."""
    response.del_cookie(SESSION_COOKIE, path="/", secure=secure, httponly=True, samesite="Strict")
