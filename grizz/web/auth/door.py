"""The door: everything that the rest of the web side asks about who sends a request, and from where.

Without accounts (no [keys.NAME], no JWT setting) each browser is its own owner by a random cookie that the page sets,
all SDK clients on this machine share one owner, and keys are accepted and ignored; on other addresses than loopback
only if `server.allow_anonymous` says so. With accounts, an API key or a token
is needed for everything but the page's files and the health checks; `server.allow_anonymous` lets those without any in
as before. What is wrong is refused even then: a typing error must not make somebody anonymous.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from aiohttp import web

from grizz.config import AuthSettings, Settings, is_loopback
from grizz.errors import Code, RequestError
from grizz.tasks import TaskOwner
from grizz.web.auth.credentials import MAX_BYTES, Credential, cookie_of, is_upgrade, presented, protocols
from grizz.web.auth.identity import Identity, refused
from grizz.web.auth.key_sets import FileKeySet, KeySet, UrlKeySet
from grizz.web.auth.keys import Keys
from grizz.web.auth.places import Places, client_network
from grizz.web.auth.tickets import Tickets
from grizz.web.auth.tokens import Tokens, looks_like_token
from grizz.web.errors import REQUEST_ID

log = logging.getLogger(__name__)

OWNER_COOKIE = "grizz_owner"
# The one owner of all clients of this machine that have no account.
LOCAL = "local"
_OWNER_FORM = re.compile(r"[A-Za-z0-9_\-]{43}\Z")
_OWNER_AGE_S = 400 * 86_400  # what browsers cap it at
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_PUBLIC = re.compile(r"/(?:|favicon\.ico|status|pages/[^/]+|livez|healthz|readyz|v1/session)\Z")

# What a page may do: anything, as there are no accounts; act for who is signed in; act anonymously; nothing.
Access = Literal["open", "session", "guest", "needed"]

_IDENTITY = web.RequestKey("identity", Identity)


@dataclass(frozen=True, slots=True)
class _Rules:
    """All that a reload replaces, in one piece."""

    places: Places
    keys: Keys
    tokens: Tokens | None
    key_set: KeySet | None
    accounts: bool
    anonymous: bool
    ticket_s: float
    issuer: str


class Door:
    """Names the owner of each request, and checks where it comes from.

    Args:
        settings: the [server], [auth] and [keys.NAME] sections are used.
        now: the clock, in seconds since the epoch.

    Raises:
        ConfigError: the secret or the file of signing keys is of no use.
    """

    def __init__(self, settings: Settings, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._tickets = Tickets()
        self._shares_port = settings.server.reuse_port
        self._tasks: TaskOwner | None = None
        self._rules = self._make_rules(settings, None)

    async def start(self, tasks: TaskOwner) -> None:
        """Fetch the keys that sign tokens, if they are behind a URL, and keep fetching; waits at most 5 s."""
        self._tasks = tasks
        if isinstance(self._rules.key_set, UrlKeySet):
            await self._rules.key_set.start(tasks)

    def reload(self, settings: Settings) -> None:
        """From now on go by other settings, all at once; `still_valid` then says whom they no longer know.

        Only the signing keys of before stay until a new URL has answered once, if the issuer is still the same.
        Must run in the event loop when signing keys are behind a URL.

        Raises:
            ConfigError: they are of no use; nothing has changed.
        """
        old, new = self._rules.key_set, self._make_rules(settings, self._rules)
        self._rules = new
        if old is new.key_set:
            return
        if isinstance(old, UrlKeySet):
            old.stop()
        if not isinstance(new.key_set, UrlKeySet):
            return
        if new.key_set.keys:
            extra = {"url": new.key_set.url, "kept": len(new.key_set.keys)}
            log.info("the signing keys of before stay until the new URL has answered", extra=extra)
        if self._tasks is not None:
            new.key_set.begin(self._tasks)

    def _make_rules(self, settings: Settings, before: _Rules | None) -> _Rules:
        auth = settings.auth
        key_set = self._key_set(auth, before)
        uses_tokens = bool(auth.jwt_secret or auth.jwt_keys)
        return _Rules(
            places=Places(settings.server),
            keys=Keys(settings.keys),
            tokens=Tokens(auth, key_set, self._now) if uses_tokens else None,
            key_set=key_set,
            accounts=settings.has_accounts,
            anonymous=settings.server.allow_anonymous
            or (not settings.has_accounts and is_loopback(settings.server.host)),
            ticket_s=auth.ticket_s,
            issuer=auth.jwt_issuer,
        )

    def _key_set(self, auth: AuthSettings, before: _Rules | None) -> KeySet | None:
        if not auth.jwt_keys:
            return None
        if not auth.jwt_keys.startswith(("http://", "https://")):
            return FileKeySet(auth.jwt_keys)
        old = before.key_set if before is not None else None
        if isinstance(old, UrlKeySet) and old.url == auth.jwt_keys:
            return old
        if before is None or old is None or before.issuer != auth.jwt_issuer:  # one issuer's must not sign for another
            return UrlKeySet(auth.jwt_keys)
        return UrlKeySet(auth.jwt_keys, old.keys)

    # Where from

    def check_host(self, request: web.Request) -> None:
        """Is it meant for us? See `Places.check_host`.

        Raises:
            RequestError: 403.
        """
        self._rules.places.check_host(request)

    def check_origin(self, request: web.Request) -> None:
        """May this page act here? See `Places.check_origin`.

        Raises:
            RequestError: 403.
        """
        self._rules.places.check_origin(request)

    def address_of(self, request: web.Request) -> str:
        """The client's address, behind trusted proxies too."""
        return self._rules.places.address_of(request)

    def is_proxy(self, address: str) -> bool:
        """Whether many clients come from this address, through a proxy that is trusted."""
        return self._rules.places.is_proxy(address)

    def is_secure(self, request: web.Request) -> bool:
        """Whether the browser sees https."""
        return self._rules.places.is_secure(request)

    def seen(self, request: web.Request) -> dict[str, Any]:
        """What of that is believed. See `Places.seen`."""
        return self._rules.places.seen(request)

    # Who

    @property
    def has_accounts(self) -> bool:
        """Whether there are keys or tokens to know anybody by."""
        return self._rules.accounts

    async def admit(self, request: web.Request) -> None:
        """Nothing but pages and health checks is open to whom nobody knows, whatever the route and its handler.

        /metrics is, to a scraper on this machine: a request from loopback that no proxy has passed on.

        Raises:
            RequestError: 401 or 403.
        """
        if _PUBLIC.match(request.path):
            return
        if request.path == "/metrics" and self._rules.places.is_direct_loopback(request):
            return
        await self.identify(request)

    async def identify(self, request: web.Request) -> Identity:
        """Who sends this request. Asked again for the same request, it answers the same: a ticket is spent once.

        Raises:
            RequestError: 401, nobody that is known here; 403, a page that must not use this session; 503, the keys
                that sign tokens are not there yet.
        """
        known: Identity | None = request.get(_IDENTITY)
        if known is not None:
            return known
        credential = presented(request)
        try:
            identity = await self._identify(request, credential)
        except RequestError as error:
            by = credential.source if credential else "none"
            extra = {"address": self.address_of(request), "code": str(error.code), "by": by, "path": request.path}
            log.info("sign-in refused", extra={"request_id": request.get(REQUEST_ID, ""), **extra})
            raise
        request[_IDENTITY] = identity
        return identity

    async def authenticate(self, token: str, address: str = "", request_id: str = "") -> Identity:
        """Who shows this key or token, as the first message of a WebSocket or to begin a session.

        Args:
            address: where from, for the log.
            request_id: of its WebSocket's handshake, for the log.

        Raises:
            RequestError: as `identify`.
        """
        try:
            return await self._check(Credential("message", token))
        except RequestError as error:
            extra = {"request_id": request_id, "address": address, "code": str(error.code), "by": "message"}
            log.info("sign-in refused", extra=extra)
            raise

    def may_introduce_itself(self, request: web.Request) -> bool:
        """Whether this WebSocket may be opened for somebody who has yet to say who it is.

        It shows nothing, it would need to, and by the subprotocol `grizz` it knows how to make up for it.
        """
        rules = self._rules
        return (
            not rules.anonymous and is_upgrade(request) and presented(request) is None and "grizz" in protocols(request)
        )

    async def access(self, request: web.Request) -> tuple[Access, bool, str]:
        """What a page has to know about its visitor, whether the session it shows is over, and the owner that it is.

        Never refuses, and a stranger here is nothing for the log.
        """
        rules, credential = self._rules, presented(request)
        try:
            identity = await self._identify(request, credential)
        except RequestError as error:
            over = error.status == 401 and credential is not None and credential.source == "cookie"
            return ("guest" if over and rules.anonymous else "needed"), over, ""
        access: Access = "open" if not rules.accounts else "session" if credential else "guest"
        return access, False, identity.owner

    def still_valid(self, identity: Identity) -> bool:
        """Whether who came in earlier would still be let in as the same: keys go, tokens expire, rules change."""
        rules = self._rules
        if identity.expires_at is not None and self._now() >= identity.expires_at:
            return False
        if identity.key:
            return rules.keys.knows(identity)
        if identity.proof:
            return rules.tokens is not None and rules.tokens.knows(identity)
        return rules.anonymous

    def issue_ticket(self, identity: Identity) -> tuple[str, float]:
        """A ticket for one WebSocket of theirs, and for how many seconds it is good.

        Raises:
            RequestError: 503, there are too many; 400, its user could not come back to this process with it.
        """
        if self._shares_port:
            text = "A ticket is good at the process that gave it, and several share this port: show the key or token"
            raise RequestError(400, Code.INVALID_REQUEST, f"{text} in the first message, or as a subprotocol.")
        lasts_s, now = self._rules.ticket_s, self._now()
        return self._tickets.issue(identity, now + lasts_s, now), lasts_s

    def give_cookie(self, request: web.Request, response: web.StreamResponse) -> None:
        """Make this browser an owner of its own, for as long as the browser keeps it.

        Not when another site led here: the browser then keeps strict cookies back, and the new one would replace the
        one it has.
        """
        has_one = _OWNER_FORM.match(cookie_of(request, OWNER_COOKIE) or "")
        if has_one or request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
            return
        response.set_cookie(
            OWNER_COOKIE,
            secrets.token_urlsafe(32),
            httponly=True,
            samesite="Strict",
            max_age=_OWNER_AGE_S,
            secure=self.is_secure(request),
        )

    # Inside

    async def _identify(self, request: web.Request, credential: Credential | None) -> Identity:
        rules = self._rules
        if rules.anonymous and (credential is None or not rules.accounts):
            return self._anonymous(request)
        if credential is None:
            text = "This server wants to know who you are: send 'Authorization: Bearer YOUR_API_KEY'."
            raise refused(text, Code.MISSING_API_KEY)
        if credential.source == "cookie":
            # A browser adds it to whatever any page sends; only our own pages may use it to act.
            acts = request.method not in _SAFE_METHODS or is_upgrade(request)
            rules.places.check_origin(request, required=acts)
        return await self._check(credential)

    async def _check(self, credential: Credential) -> Identity:
        rules, text = self._rules, credential.text
        if not text or len(text) > MAX_BYTES or not text.isascii():
            raise refused(_WRONG)
        if credential.source == "ticket":
            identity = self._tickets.take(text, self._now())
            if identity is None or not self.still_valid(identity):
                raise refused("This ticket is unknown, used or too old; get another one.")
            return identity
        if (known := rules.keys.find(text)) is not None:
            return known
        if rules.tokens is not None and looks_like_token(text):
            return await rules.tokens.verify(text)
        raise refused(_WRONG)

    def _anonymous(self, request: web.Request) -> Identity:
        cookie, address = cookie_of(request, OWNER_COOKIE) or "", self.address_of(request)
        if _OWNER_FORM.match(cookie):
            owner = "browser:" + hashlib.sha256(cookie.encode()).hexdigest()[:32]
        else:
            owner = LOCAL if is_loopback(address) else f"address:{address}"
        # Anybody can make up a cookie, and so an owner. That opens nothing that is somebody else's, but must not open
        # new limits either: for them a client from elsewhere is its address. On this machine all are one house.
        limited_as = owner if is_loopback(address) else f"address:{client_network(address)}"
        return Identity(owner, limited_as=limited_as)


_WRONG = "This API key or token is not known here."
