"""`python -m grizz.upstream.demo`: the demo server alone. Prints its URL, then runs until SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import signal
import sys
from collections.abc import Callable, Sequence

from grizz.upstream.demo.directives import table
from grizz.upstream.demo.server import DemoServer


def main(argv: Sequence[str] | None = None) -> int:
    """Parse flags and serve; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m grizz.upstream.demo",
        description="An OpenAI-compatible API that needs no key and follows directives in the last user message.",
        epilog="directives:\n" + table(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 takes a free one (default)")
    parser.add_argument(
        "--tokens-per-second", type=float, default=40.0, help="pace; 0 is as fast as possible (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(args.host, args.port, args.tokens_per_second))
    except (OSError, OverflowError, ValueError) as error:
        sys.stderr.write(f"demo: {error}\n")
        return 1
    return 0


async def _serve(host: str, port: int, tokens_per_second: float) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    demo = DemoServer(tokens_per_second)
    await demo.start(host, port)
    sys.stdout.write(f"{demo.url}\n")
    sys.stdout.flush()
    await stop.wait()
    await demo.stop()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The loop of uvloop where it is installed, else the standard one."""
    try:
        factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
    except ImportError:
        return None
    return factory


if __name__ == "__main__":
    sys.exit(main())
