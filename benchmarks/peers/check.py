"""Every peer in turn gives a short answer, and every word of it is compared: `python -m benchmarks.peers.check`.

Runs in .venv and needs .venv-peers beside it (`make bench-peers` makes it). Exits 1 when a peer loses, doubles or
changes text, fails, or does not start. Its times are of one answer each: a sign of life, not a measurement.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from benchmarks.peers.asks import Failed
from benchmarks.peers.subjects import PEERS, PYTHON, Peer
from benchmarks.redis_parts import ROOT, Broken, find_server, redis_server

WORDS, RATE = 50, 50
# A start of LiteLLM takes ten seconds of CPU.
START_S, LIMIT_S, STOP_S = 60.0, 30.0, 10.0
DEMO = [sys.executable, "-m", "grizz.upstream.demo", "--tokens-per-second", "0"]


@contextlib.asynccontextmanager
async def served(command: list[str], **environ: str) -> AsyncIterator[str]:
    """The address that a child prints, which is ended by SIGTERM afterwards; Broken if it prints none in time."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env={**os.environ, **environ},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    url, tail = asyncio.get_running_loop().create_future(), deque[str](maxlen=10)

    async def read() -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            tail.append(line.decode(errors="replace").rstrip())
            if (found := re.search(r"http://\S+", tail[-1])) and not url.done():
                url.set_result(found[0].rstrip("/"))

    reader = asyncio.create_task(read())
    try:
        await asyncio.wait((url, reader), timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
        if not url.done():
            raise Broken("\n".join([f"{' '.join(command)} did not start; its last lines:", *tail]))
        yield url.result()
    finally:
        await _end(process)
        await reader


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise Broken(f"process {process.pid} did not end within {STOP_S:g} s of SIGTERM") from None


async def fault(peer: Peer, **environ: str) -> str | None:
    """Ask a peer once and print what came; returns what was wrong with it."""
    expected = "".join(f"w{n} " for n in range(WORDS))
    heard: list[str] = []
    times: list[float] = []

    def hear(piece: str) -> None:
        heard.append(piece)
        times.append(time.perf_counter() - began)

    try:
        async with served(peer.command, **environ) as url, aiohttp.ClientSession() as http:
            began = time.perf_counter()
            async with asyncio.timeout(LIMIT_S):
                await peer.ask(http, url, f"[[words:{WORDS}]] [[rate:{RATE}]]", hear)
            took = time.perf_counter() - began
    except (Failed, Broken, OSError, aiohttp.ClientError) as error:  # a TimeoutError is an OSError
        return f"{type(error).__name__}: {error}"
    if (text := "".join(heard)) != expected:
        return f"other text than was sent: {text!r}"
    print(
        f"{peer.name:26} first word {times[0] * 1000:6.1f} ms, all {took:5.2f} s, {len(heard)} pieces, text exact",
        flush=True,
    )
    return None


async def main(server: Path | None) -> int:
    """Check all peers, whatever comes of the ones before; returns the exit status."""
    if not (ROOT / PYTHON).exists():
        print(f"no {PYTHON}: make bench-peers makes it", file=sys.stderr)
        return 1
    status = 0
    async with redis_server(find_server(server)) as redis, served(DEMO) as upstream:
        environ = {"OPENAI_BASE_URL": upstream, "OPENAI_API_KEY": "sk-demo", "REDIS_URL": redis.url}
        for peer in PEERS:
            if wrong := await fault(peer, **environ):
                print(f"{peer.name:26} WRONG: {wrong}", flush=True)
                status = 1
    return status


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.check", description=__doc__)
    parser.add_argument("--server", type=Path, help="the Redis or Valkey server to use")
    try:
        sys.exit(asyncio.run(main(parser.parse_args().server)))
    except Broken as error:
        sys.exit(f"check: {error}")
