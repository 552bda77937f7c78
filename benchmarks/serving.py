"""What floors and peers share: a free port, uvloop, the line that says they are ready, an end by SIGTERM."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Callable

import uvloop
from aiohttp import web


def run(make_app: Callable[[], web.Application]) -> int:
    """Serve what `make_app` makes, inside of the loop, until SIGTERM or SIGINT; returns the exit status."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(make_app))
    return 0


async def _serve(make_app: Callable[[], web.Application]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    # Clients that are still connected at the end are cut: nothing is measured then.
    runner = web.AppRunner(make_app(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    gc.collect()
    gc.freeze()  # as Grizz does: a full collection is a pause
    host, port = runner.addresses[0][:2]
    print(f"http://{host}:{port}", flush=True)
    await stop.wait()
    await runner.cleanup()
