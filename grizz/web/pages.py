"""The pages: plain files, read and compressed once at start, served under a policy that allows nothing foreign."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from aiohttp import web

from grizz.web.auth import Door
from grizz.web.auth.sessions import end_session
from grizz.web.errors import json_response
from grizz.web.lean import lean

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class _Page:
    body: bytes
    packed: bytes
    content_type: str
    etag: str


@cache
def read_pages() -> tuple[dict[str, _Page], dict[str, _Page]]:
    """All files by name, and those of them that differ where there are accounts; once in a process: 45 ms."""
    pages = {
        entry.name: _load(entry.read_bytes(), entry.name)
        for entry in files("grizz.web").joinpath("pages").iterdir()
        if entry.name.endswith(tuple(_TYPES))
    }
    with_accounts = {
        name: _load(pages[name].body.replace(b"<html ", b"<html data-accounts ", 1), name)
        for name in ("index.html", "status.html")
    }
    return pages, with_accounts


class Pages:
    """Serves `/`, `/status` and `/pages/…`.

    Args:
        info: what the page shows about this server.
    """

    def __init__(self, door: Door, info: Callable[[], dict[str, Any]]) -> None:
        self._door = door
        self._info = info
        self._pages, self._with_accounts = read_pages()

    def routes(self) -> list[web.RouteDef]:
        """What to add to the router."""
        return [
            web.get("/", self.index),
            web.get("/status", self.status),
            web.get("/favicon.ico", self.favicon),
            web.get("/pages/info.json", self.info),
            web.get("/pages/{name}", self.file),
        ]

    async def index(self, request: web.Request) -> web.StreamResponse:
        """The chat page; makes the browser an owner of its own. Where there are accounts, the page knows from this."""
        response = _answer(request, self._page("index.html"))
        self._door.give_cookie(request, response)
        return response

    async def status(self, request: web.Request) -> web.StreamResponse:
        """The status page: no more than the page, which asks `/status.json` for the rest."""
        return _answer(request, self._page("status.html"))

    async def favicon(self, request: web.Request) -> web.StreamResponse:
        """What browsers ask for unasked."""
        return _answer(request, self._pages["favicon.svg"])

    async def file(self, request: web.Request) -> web.StreamResponse:
        """One of the files."""
        name = request.match_info["name"]
        if name not in self._pages:
            raise web.HTTPNotFound
        response = _answer(request, self._pages[name])
        if name == "app.js":
            # Before the first connection, and other than the page itself never asked for by another site's link.
            self._door.give_cookie(request, response)
        return response

    def _page(self, name: str) -> _Page:
        return (self._with_accounts if self._door.has_accounts else self._pages)[name]

    async def info(self, request: web.Request) -> web.StreamResponse:
        """What the page shows about this server, and who we take it for; to a stranger nothing but that it is one."""
        access, over, owner = await self._door.access(request)
        body: dict[str, Any] = {"access": access}
        if access != "needed":
            # So that a page can tell whose chats it has cached.
            body |= {**self._info(), "owner": hashlib.sha256(owner.encode()).hexdigest()[:16]}
        response = json_response(body, headers={"Cache-Control": "no-store"})
        if over:
            end_session(response, secure=self._door.is_secure(request))
        return response


def _answer(request: web.Request, page: _Page) -> web.Response:
    headers = {
        "ETag": page.etag,
        "Cache-Control": "no-cache",
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Vary": "Accept-Encoding",
    }
    if request.headers.get("If-None-Match") == page.etag:
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = page.content_type
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        return web.Response(body=page.packed, headers={**headers, "Content-Encoding": "gzip"})
    return web.Response(body=page.body, headers=headers)


def _load(body: bytes, name: str) -> _Page:
    ending = name[name.rindex(".") :]
    body = lean(body, ending)
    etag = '"' + hashlib.sha256(body).hexdigest()[:20] + '"'
    return _Page(body, gzip.compress(body, mtime=0), _TYPES[ending], etag)
