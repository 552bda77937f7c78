"""`/metrics` on an address of its own (`server.metrics_listen`), so that it need not be where the clients are."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler

from grizz.config import address_of
from grizz.errors import ConfigError


class ScrapeSite:
    """A second listener, for scrapes and health checks.

    Args:
        routes: what it answers: path to handler.
    """

    def __init__(self, routes: dict[str, Handler]) -> None:
        app = web.Application()
        app.add_routes([web.get(path, handler) for path, handler in routes.items()])
        self._runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=1)
        self._site: web.TCPSite | None = None

    async def start(self, listen: str) -> None:
        """Listen on that address and port.

        Raises:
            ConfigError: it cannot be bound.
        """
        host, port = address_of(listen)
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, host, port, backlog=16)
        try:
            await self._site.start()
        except OSError as error:
            raise ConfigError(f"server.metrics_listen = {listen}: cannot listen there: {error.strerror}") from error

    async def stop_listening(self) -> None:
        """Take no new connections, so that the next process may; a scraper that has one goes on."""
        if self._site is not None:
            await self._site.stop()

    async def close(self) -> None:
        """Listen no more."""
        await self._runner.cleanup()
