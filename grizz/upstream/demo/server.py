"""DemoServer: routes, counters, start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import math
import time
import urllib.parse
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web

from grizz.errors import Code, RequestError
from grizz.upstream.demo import responses
from grizz.upstream.demo.answer import compose
from grizz.upstream.demo.conversation import decode, read
from grizz.upstream.demo.directives import Script, parse
from grizz.upstream.demo.exchange import Exchange

MODEL = "grizz-demo"
_MAX_BODY = 64 * 1024 * 1024  # bytes; images come inside the body
_MAX_MESSAGES = 1000  # how many different messages are counted
_STOP_WAIT_S = 0.4  # for running answers to notice that they were cut off
_SHUTDOWN_S = 0.1  # aiohttp waits this long, twice, for requests whose body is still arriving


class Counters:
    """What happened so far. requests = active + completed + failed + disconnected.

    Attributes:
        requests: chat requests whose body arrived.
        active: being answered now.
        completed: answered to the end.
        failed: refused, failed or cut by script, or cut by `stop`.
        disconnected: the client went away before the end.
        by_message: how often each last user message was sent; cut at 200 characters, the newest 1000.
        last_disconnect_at: when a client last went away, in monotonic seconds, or None.
        last_request: body of the last chat request, decoded, or None.
    """

    def __init__(self) -> None:
        """Start from zero."""
        self.active = 0
        self.reset()

    def reset(self) -> None:
        """Forget everything but the answers that are still running."""
        self.requests = self.active
        self.completed = 0
        self.failed = 0
        self.disconnected = 0
        self.by_message: OrderedDict[str, int] = OrderedDict()
        self.last_disconnect_at: float | None = None
        self.last_request: Any = None

    def snapshot(self) -> dict[str, Any]:
        """All counters, ready for JSON."""
        names = ("requests", "active", "completed", "failed", "disconnected", "last_disconnect_at", "last_request")
        return {name: getattr(self, name) for name in names} | {"by_message": dict(self.by_message)}


class DemoServer(Counters):
    """A model API that needs no key.

        demo = DemoServer()
        await demo.start()
        ...  # AsyncOpenAI(base_url=demo.url, api_key="none")
        await demo.stop()

    It may be started again after a stop, also on its old port.
    """

    def __init__(self, tokens_per_second: float = 40.0) -> None:
        """`tokens_per_second` is the pace of answers without a `rate` directive; 0: as fast as possible."""
        if not (math.isfinite(tokens_per_second) and tokens_per_second >= 0):
            raise ValueError(f"tokens_per_second must be a number of at least 0, not {tokens_per_second}")
        super().__init__()
        self._rate = tokens_per_second
        self._url: str | None = None
        self._loopback = True
        self._runner: web.AppRunner | None = None
        self._open: set[asyncio.Transport] = set()
        self._idle = asyncio.Event()
        self._tries: OrderedDict[bytes, int] = OrderedDict()

    @property
    def url(self) -> str:
        """Base URL for a client, "http://HOST:PORT/v1"; after a stop the last one."""
        if self._url is None:
            raise RuntimeError("the demo server was never started")
        return self._url

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; port 0 takes a free one.

        Raises:
            OSError: the address is taken or not ours.
            RuntimeError: it is running already.
        """
        if self._runner is not None:
            raise RuntimeError("the demo server is running already")
        runner = web.AppRunner(
            self._app(),
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,  # a client that leaves ends its answer at once, even a stalled one
            shutdown_timeout=_SHUTDOWN_S,
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._loopback = _is_loopback(host)
        self._runner = runner
        name = f"[{host}]" if ":" in host else host
        self._url = f"http://{name}:{runner.addresses[0][1]}/v1"

    async def stop(self) -> None:
        """Stop listening and cut off every running answer; takes less than a second. Does nothing when stopped."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        for site in runner.sites:
            await site.stop()
        for transport in list(self._open):
            transport.abort()
        # Answers end by being cancelled; if one should not, aiohttp cancels it again.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_WAIT_S):
                while self.active:
                    self._idle.clear()
                    await self._idle.wait()
        await runner.cleanup()

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=_MAX_BODY, middlewares=[self._guard])
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/responses", self._chat)
        app.router.add_get("/demo/stats", self._stats)
        app.router.add_post("/demo/reset", self._reset)
        return app

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Refuse foreign Host names on loopback, and give every refusal OpenAI's error body."""
        try:
            # Otherwise a web page whose name resolves to 127.0.0.1 could read the statistics, prompts included.
            if self._loopback and not _is_loopback(_host_name(request)):
                raise RequestError(403, Code.FORBIDDEN_HOST, "This host name is not served here.")
            return await handler(request)
        except RequestError as error:
            return _json({"error": error.body()}, error.status)
        except web.HTTPException as error:
            body = {"message": error.reason, "type": "invalid_request_error", "param": None, "code": None}
            return _json({"error": body}, error.status)

    async def _models(self, _: web.Request) -> web.Response:
        model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "grizz"}
        return _json({"object": "list", "data": [model]})

    async def _stats(self, _: web.Request) -> web.Response:
        return _json(self.snapshot())

    async def _reset(self, _: web.Request) -> web.Response:
        self.reset()
        self._tries.clear()
        return _json({})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        self.requests += 1
        self.active += 1
        outcome = "failed"
        if (transport := request.transport) is not None:
            self._open.add(transport)
        try:
            exchange = self._prepare(request, raw)
            response = await exchange.run()
            outcome = "completed" if exchange.finished else "failed"
            return response
        except (asyncio.CancelledError, ConnectionError):
            if self._runner is not None:
                outcome = "disconnected"
                self.last_disconnect_at = time.monotonic()
            raise
        finally:
            setattr(self, outcome, getattr(self, outcome) + 1)
            self.active -= 1
            if transport is not None:
                self._open.discard(transport)
            self._idle.set()

    def _prepare(self, request: web.Request, raw: bytes) -> Exchange:
        body = decode(raw)
        self.last_request = body
        chat = read(responses.as_chat(body) if request.path.endswith("/responses") else body)
        self._count(chat.text)
        text, script = parse(chat.text)
        script = self._after_tries(chat.text, script)
        rate = self._rate if script.rate is None else script.rate
        return Exchange(request, chat, script, compose(chat, script, text), rate)

    def _count(self, text: str) -> None:
        key = text[:200]
        self.by_message[key] = self.by_message.pop(key, 0) + 1
        if len(self.by_message) > _MAX_MESSAGES:
            self.by_message.popitem(last=False)

    def _after_tries(self, text: str, script: Script) -> Script:
        """Count this try of a message with `times`; beyond its number nothing goes wrong."""
        if script.times is None:
            return script
        key = hashlib.sha256(text.encode(errors="surrogatepass")).digest()
        tried = self._tries.pop(key, 0) + 1
        self._tries[key] = tried
        if len(self._tries) > _MAX_MESSAGES:
            self._tries.popitem(last=False)
        return script if tried <= script.times else script.without_failures()


def _host_name(request: web.Request) -> str:
    """The name in the Host header, or "" if there is none to be found."""
    try:
        return urllib.parse.urlsplit("//" + request.host).hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(body), content_type="application/json")
