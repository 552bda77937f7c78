"""The command line: what is asked, how much at most, and whether it may be."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson

from grizz.config.sources import KEY_OF_LOAD as KEY
from grizz.load.bar import Bar
from grizz.load.clients import Client, Plan, StreamClient, WebSocketClient
from grizz.load.tally import Tally, shown
from grizz.tasks import TaskOwner

DEMO = "grizz-demo"
# What it takes to ask for more is said, so that nobody does by a slip of the finger.
_MOST = {"clients": 1_000, "answers": 10_000, "seconds": 600.0}
# Answers that run when the time is over may end within so many seconds, or until they are known to hang.
_LAST_WORDS_S = 20.0
_DEMO_PROMPT = "[[words:60]] [[rate:40]]"
_PROMPT = "Count from one to sixty, in words."
_EXAMPLES = """\
examples:
  python grizz.py load                                     the Grizz on this machine, 20 clients, 200 answers
  python grizz.py load --clients 200 --answers 2000 --over both
  python grizz.py load http://127.0.0.1:8000 http://127.0.0.1:8001 --seconds 120 --answers 10000
                                                           two nodes; restart, kill or update one meanwhile
  GRIZZ_LOAD_KEY=... python grizz.py load https://grizz.example.com --spend

Exit status: 0 every answer came whole; 1 one was lost, doubled, hung or refused for good; 2 it could not begin; 130
after Ctrl-C.
An answer that the model fails is no fault of the way to it: it is counted, and ends nothing; all failing is 1."""


class _Impossible(Exception):
    """It cannot begin, and why."""


def main(arguments: Sequence[str]) -> int:
    """Run it; the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return asyncio.run(_run(options, os.environ))
    except _Impossible as error:
        sys.stderr.write(f"grizz load: {error}\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="grizz load",
        description="Ask a Grizz much at once, judge every answer, and say how it went.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "url",
        nargs="*",
        default=["http://127.0.0.1:8000"],
        help="where it is; several take turns (default: %(default)s)",
    )
    add("--clients", type=int, default=20, metavar="N", help="how many ask at the same time (default: 20)")
    add("--answers", type=int, default=200, metavar="N", help="answers in all (default: 200)")
    add("--seconds", type=float, default=30.0, metavar="S", help="no new questions after so long (default: 30)")
    add("--over", choices=("websocket", "sse", "both"), default="websocket", help="how (default: websocket)")
    add("--model", default="", metavar="NAME", help="which model (default: the server's)")
    add("--prompt", default="", metavar="TEXT", help="what is asked (default: for some sixty words)")
    add("--silence", type=float, default=60.0, metavar="S", help="an answer silent for longer is hung (default: 60)")
    add("--spend", action="store_true", help="also a model that may cost money, or a server that is elsewhere")
    add("--unbounded", action="store_true", help="more than " + ", ".join(f"{v:,g} {k}" for k, v in _MOST.items()))
    add("--json", action="store_true", help="the summary as one JSON object")
    return parser


async def _run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    servers = [_server(url) for url in options.url]
    _check_bounds(options)
    if not options.spend and (far := next((url for url in servers if not _is_here(url)), None)):
        raise _Impossible(f"{far} is not on this machine; say --spend if you may load it")
    key = environ.get(KEY, "")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as http:
        models = [await _default_model(http, server, has_key=bool(key)) for server in servers]
        models = [options.model] if options.model else models
        if not options.spend and (dear := next((model for model in models if model != DEMO), None)):
            raise _Impossible(f"{dear} answers there, which may cost money; say --spend if it may")
        model = models[0]
        body: dict[str, Any] = {"input": options.prompt or (_DEMO_PROMPT if model == DEMO else _PROMPT)}
        if options.model:
            body["model"] = options.model
        return await _ask_all(options, http, servers, body)


async def _ask_all(
    options: argparse.Namespace, http: aiohttp.ClientSession, servers: Sequence[str], body: Mapping[str, Any]
) -> int:
    tally, began, cpu = Tally(), time.monotonic(), time.process_time()
    until = began + options.seconds
    left = options.answers
    interrupted = asyncio.Event()

    def goes_on() -> bool:
        nonlocal left
        if left <= 0 or interrupted.is_set() or time.monotonic() >= until:
            return False
        left -= 1
        return True

    plan = Plan(servers, body, options.silence, goes_on)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, interrupted.set)
    kinds = {"websocket": (WebSocketClient,), "sse": (StreamClient,), "both": (WebSocketClient, StreamClient)}
    chosen: Sequence[type[Client]] = kinds[options.over]
    clients = [chosen[number % len(chosen)](number, http, plan, tally) for number in range(options.clients)]
    owner = TaskOwner("load")
    tasks = [owner.spawn(client.run(), name=f"client {number}") for number, client in enumerate(clients)]
    try:
        await _until_over(
            tasks,
            Bar(sys.stderr, tally, answers=options.answers, seconds=options.seconds),
            interrupted,
            until + max(_LAST_WORDS_S, options.silence + 1),
        )
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.result()  # a fault of this program is not hidden
    took_s = time.monotonic() - began
    facts = tally.facts(took_s, (time.process_time() - cpu) / took_s)
    sys.stdout.write((orjson.dumps(facts).decode() if options.json else shown(facts)) + "\n")
    if interrupted.is_set():
        return 130
    return int(tally.faults.total() > 0 or tally.denied.total() > 0 or tally.failed == tally.answers)


async def _until_over(tasks: Sequence[asyncio.Task[None]], bar: Bar, interrupted: asyncio.Event, until: float) -> None:
    """Wait for all, but not for ever; at Ctrl-C at once. Answers that still run are stopped."""
    began, running = time.monotonic(), set(tasks)
    while running and not interrupted.is_set() and time.monotonic() < until:
        done, running = await asyncio.wait(running, timeout=bar.every_s, return_when=asyncio.FIRST_EXCEPTION)
        bar.show(time.monotonic() - began)
        if any(task.exception() for task in done):
            break
    bar.clear()
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)


def _server(url: str) -> str:
    parts = urlsplit(url if "//" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _Impossible(f"{url!r} is no address; one is http://127.0.0.1:8000")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"


def _check_bounds(options: argparse.Namespace) -> None:
    for name, most in _MOST.items():
        value = getattr(options, name)
        if not value > 0:  # nor is it no number
            raise _Impossible(f"--{name} must be more than 0, not {value:g}")
        if value > most and not options.unbounded:
            raise _Impossible(f"--{name} {value:g} is more than {most:,g}; say --unbounded if you mean it")
    if options.silence <= 0:
        raise _Impossible(f"--silence must be more than 0, not {options.silence:g}")


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _default_model(http: aiohttp.ClientSession, server: str, *, has_key: bool) -> str:
    """The model that is asked when none is named.

    Raises:
        _Impossible: nothing, or something else, is there, or it does not let us in.
    """
    try:
        async with http.get(f"{server}/v1/models", timeout=aiohttp.ClientTimeout(total=15)) as answer:
            body = await answer.read()
    except aiohttp.ClientSSLError as error:
        raise _Impossible(f"{server}: its certificate is not trusted: {error}") from None
    except (aiohttp.ClientError, TimeoutError) as error:
        raise _Impossible(f"{server} does not answer: {str(error) or 'no reply within 15 s'}") from None
    if answer.status in (401, 403):
        text = f"its key is not taken ({KEY})" if has_key else f"it wants a key: set {KEY} to one"
        raise _Impossible(f"{server}: {text}")
    try:
        return str(orjson.loads(body)["data"][0]["id"])
    except (ValueError, KeyError, IndexError, TypeError):
        text = f"{server}/v1/models answers {answer.status}, and not with a list of models: is that a Grizz?"
        raise _Impossible(text) from None
