"""What it costs as work grows: nothing may grow worse than linearly, and a token costs the same however many there are.

Each series starts a Grizz of its own for each point, so that none sees what another left behind. What the process uses
idle is taken off.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import aiohttp
import orjson

from benchmarks.processes import MIB, Process
from benchmarks.speed.asks import create, over_websocket, prompt, read_on
from benchmarks.speed.load import Load, run
from benchmarks.speed.subjects import Stage, Subject

Point = dict[str, float]
_IDLE_S = 2.0


@dataclass(frozen=True, slots=True)
class Series:
    """One way to grow.

    Attributes:
        x: what grows.
        at: its values.
        measure: measures one point.
        seconds: what all points take, about.
    """

    x: str
    at: tuple[int, ...]
    measure: Callable[[Stage, int], Awaitable[Point]]
    seconds: float


class Meter:
    """The CPU of a process over a stretch of work, without what it uses idle."""

    def __init__(self, process: Process, idle: float) -> None:
        self._process = process
        self._idle = idle
        self._cpu_s, self._at = process.cpu_s(), time.monotonic()

    @classmethod
    async def of(cls, process: Process) -> Meter:
        """Watch it idle first."""
        before = process.cpu_s()
        await asyncio.sleep(_IDLE_S)
        return cls(process, (process.cpu_s() - before) / _IDLE_S)

    def again(self) -> Meter:
        """From now on."""
        return Meter(self._process, self._idle)

    def used_us(self) -> float:
        """Microseconds since it was made."""
        idle = self._idle * (time.monotonic() - self._at)
        return max(0.0, self._process.cpu_s() - self._cpu_s - idle) * 1e6


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), read_bufsize=2**18)


async def _warm(process: Process) -> Meter:
    await run(Subject("", over_websocket, process.url, [process]), Load(20, 50, 0, starts_s=0.2))
    return await Meter.of(process)


async def _loaded(process: Process, load: Load, meter: Meter | None = None) -> Point:
    meter = (meter or await _warm(process)).again()
    found = await run(Subject("", over_websocket, process.url, [process]), load)
    if found["wrong"] or found["cut"]:
        raise SystemExit(f"answers were wrong or cut: {found}")
    used = meter.used_us()
    return {
        "cpu_us_per_token": used / found["tokens"],
        "ttft_p99_ms": found["ttft_p99_ms"],
        "rss_mib": found["rss_mib"],
    }


async def streams(stage: Stage, count: int) -> Point:
    """So many answers at once, 5 tokens a second each, so that each token is an event of its own."""
    return await _loaded(
        stage.grizz(GRIZZ_WORKERS_CONCURRENCY="5000"), Load(count, 60, 5, starts_s=max(1, count / 100))
    )


async def length(stage: Stage, words: int) -> Point:
    """Four answers of so many words at once, 1,000 a second each."""
    return await _loaded(stage.grizz(), Load(4, words, 1000, starts_s=0.04))


async def tabs(stage: Stage, count: int) -> Point:
    """So many tabs that read one answer of 50 tokens a second; and bare aiohttp that sends them as many frames."""
    words, rate = 200, 50
    grizz = stage.grizz()
    meter = await _warm(grizz)
    async with _session() as http, _sockets(http, f"{grizz.url}/v1/responses", count) as sockets:
        frames, size, used_us = await _shared(sockets, meter, prompt(words, rate))
    bare = stage.start(["-m", "benchmarks.speed.fanout"], 1)
    async with _session() as http, _sockets(http, bare.url, count) as sockets:
        warm = {"frames": 20, "bytes": size, "pause_s": 0.01}
        await sockets[0].send_str(orjson.dumps(warm).decode())
        await asyncio.gather(*(_receive(ws, 20) for ws in sockets))
        await sockets[0].receive()  # its end
        meter = await Meter.of(bare)
        asked = {"frames": frames, "bytes": size, "pause_s": words / rate / frames}
        await sockets[0].send_str(orjson.dumps(asked).decode())
        await asyncio.gather(*(_receive(ws, frames) for ws in sockets))
        bare_us = meter.used_us()
    each, least = used_us / (frames * count), bare_us / (frames * count)
    return {"cpu_us_per_tab_frame": each, "bare_us_per_tab_frame": least, "of_bare": each / least}


async def _shared(sockets: list[aiohttp.ClientWebSocketResponse], meter: Meter, text: str) -> tuple[int, int, float]:
    """One answer, read by all from its first word on; returns frames for each, bytes of one, and CPU."""
    first, *others = sockets
    await create(first, text)
    response_id, sizes = "", []
    async with asyncio.timeout(60):
        while not response_id:
            event = orjson.loads((await first.receive()).data)
            if event["type"] == "response.created":
                response_id = event["response"]["id"]
        for ws in others:
            attach = {"type": "grizz:attach", "response_id": response_id, "starting_after": -1}
            await ws.send_str(orjson.dumps(attach).decode())
            while orjson.loads((await ws.receive()).data)["type"] != "response.in_progress":
                pass
        meter = meter.again()

        async def read(ws: aiohttp.ClientWebSocketResponse) -> int:
            count = 0
            async for message in ws:
                count += 1
                if ws is first and '"response.output_text.delta"' in message.data[:60]:
                    sizes.append(len(message.data))
                if message.data.startswith('{"type":"response.completed"'):
                    break
            return count

        counts = await asyncio.gather(*map(read, sockets))
    return max(counts), sum(sizes) // len(sizes), meter.used_us()


async def _receive(ws: aiohttp.ClientWebSocketResponse, count: int) -> None:
    for _ in range(count):
        await ws.receive()


@contextlib.asynccontextmanager
async def _sockets(
    http: aiohttp.ClientSession, url: str, count: int
) -> AsyncIterator[list[aiohttp.ClientWebSocketResponse]]:
    sockets = []
    try:
        for start in range(0, count, 100):
            opening = (http.ws_connect(url, max_msg_size=0) for _ in range(min(100, count - start)))
            sockets += await asyncio.gather(*opening)
        yield sockets
    finally:
        for ws in sockets:
            await ws.close()


async def idle(stage: Stage, count: int) -> Point:
    """A load of 2,500 tokens/s beside so many idle sockets."""
    process = stage.grizz(GRIZZ_LIMITS_CONNECTIONS="10000")
    meter = await _warm(process)  # idle sockets are not what it uses idle
    before = process.rss_kib()
    async with _session() as http, _sockets(http, f"{process.url}/v1/responses", count):
        grown = process.rss_kib() - before
        found = await _loaded(process, Load(50, 250, 50), meter)
    return found | ({"kib_per_socket": grown / count} if count else {})


async def queue(stage: Stage, depth: int) -> Point:
    """So many jobs waiting behind 100 answers of 10 tokens a second: what a token, one more job and a turn cost."""
    slots, rate, sample = 100, 10, 200
    process = stage.grizz(
        GRIZZ_WORKERS_CONCURRENCY=str(slots),
        GRIZZ_WORKERS_JOB_TIMEOUT_S="3600",
        GRIZZ_QUEUE_MAX_JOBS="200000",
        GRIZZ_QUEUE_MAX_BYTES="2GiB",
        GRIZZ_QUEUE_MAX_WAIT_S="3600",
        GRIZZ_LIMITS_QUEUE_SHARE="1",
        GRIZZ_REPLIES_MAX_BYTES="4GiB",
        GRIZZ_REPLIES_GRACE_S="0.1",
    )
    meter = await _warm(process)
    heard: list[str] = []
    async with _session() as http:
        holding = [
            asyncio.create_task(over_websocket(http, process.url, prompt(100_000, rate), heard.append))
            for _ in range(slots)
        ]
        await asyncio.sleep(3)
        await _fill(http, process.url, depth)
        meter = meter.again()
        words = len("".join(heard).split())
        await asyncio.sleep(5)
        token_us = meter.used_us() / (len("".join(heard).split()) - words)
        meter = meter.again()
        began, words = time.monotonic(), len("".join(heard).split())
        await _fill(http, process.url, sample)
        others_us = token_us * rate * slots * (time.monotonic() - began)
        put_us = (meter.used_us() - others_us) / sample
        found = {"cpu_us_per_token": token_us, "cpu_us_per_job_put": put_us, "rss_mib": process.rss_kib() / MIB}
        if depth >= 10_000:
            found["cpu_us_per_job_run"] = await _drained(http, process, meter, holding)
        for task in holding:
            task.cancel()
        await asyncio.gather(*holding, return_exceptions=True)
    return found


async def _fill(http: aiohttp.ClientSession, url: str, count: int) -> None:
    """Queue answers of one word."""
    body = orjson.dumps({"input": prompt(1, 0), "background": True})
    left = iter(range(count))

    async def post() -> None:
        for _ in left:
            async with http.post(f"{url}/v1/responses", data=body, headers={"Content-Type": "application/json"}) as got:
                if got.status != 200:
                    raise SystemExit(f"a job was refused: {await got.text()}")

    await asyncio.gather(*(post() for _ in range(20)))


async def _drained(
    http: aiohttp.ClientSession, process: Process, meter: Meter, holding: list[asyncio.Task[None]]
) -> float:
    """Give the slots to the queue; returns what each job took within half a second."""

    async def ended() -> float:
        async with http.get(f"{process.url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("grizz_jobs_finished_total{"))

    for task in holding:
        task.cancel()
    await asyncio.gather(*holding, return_exceptions=True)
    await asyncio.sleep(1.5)  # until what nobody follows is cancelled
    before = await ended()
    meter = meter.again()
    await asyncio.sleep(0.5)
    used = meter.used_us()
    done = await ended() - before
    used = (used + meter.used_us()) / 2  # what was counted is of a moment while that was asked for
    if not done:
        raise SystemExit("no queued job ran: the answers before them were not cancelled")
    return used / done


async def history(stage: Stage, turns: int) -> Point:
    """A conversation of so many turns: what the next one costs, and its tokens."""
    process = stage.grizz()
    meter = await _warm(process)
    async with _session() as http, http.ws_connect(f"{process.url}/v1/responses", max_msg_size=0) as ws:
        last: dict[str, object] = {}

        async def turn(words: int, rate: float) -> None:
            more = {"previous_response_id": last["id"]} if last else {}
            await create(ws, prompt(words, rate), **{"store": True, **more})
            response = (await read_on(ws, lambda _: None))["response"]
            assert isinstance(response, dict)
            last["id"] = response["id"]

        for _ in range(turns):
            await turn(1, 0)
        meter = meter.again()
        for _ in range(20):
            await turn(1, 0)
        turn_us = meter.used_us() / 20
        meter = meter.again()
        await turn(500, 200)
        return {"cpu_us_per_turn": turn_us, "cpu_us_per_token": max(0.0, meter.used_us() - turn_us) / 500}


SERIES = {
    "streams": Series("answers at once", (1, 10, 100, 500, 1000, 2000), streams, 160),
    "reply length": Series("tokens of an answer", (10, 100, 1000, 5000, 20_000), length, 60),
    "tabs": Series("tabs that read one answer", (1, 10, 100, 500), tabs, 60),
    "idle sockets": Series("idle sockets beside 50 answers", (0, 1000, 5000), idle, 45),
    "queue": Series("jobs waiting", (0, 1000, 10_000, 100_000), queue, 240),
    "history": Series("turns before", (1, 10, 100, 1000), history, 40),
}
