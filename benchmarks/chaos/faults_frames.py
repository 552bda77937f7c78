"""Frames, requests and handshakes that no honest client sends. Each attack names the answer that is right."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable

from benchmarks.chaos.judge import words
from benchmarks.chaos.raw import BINARY, CONTINUATION, HANDSHAKE, PING, PONG, TEXT, Raw, frame, shout, text
from benchmarks.chaos.readers import Asker, tag
from benchmarks.chaos.scene import Fault, Scene

ANSWER_S = 10.0
MIB = 1 << 20
FLOOD = 2000
UNKNOWN = text({"type": "nonsense"})
Attack = Callable[[str], Awaitable[str]]


class Resists(Exception):
    """The answer was another than the right one."""


async def _alive(raw: Raw) -> str:
    """Is this socket still served?"""
    await raw.send(UNKNOWN)
    event = await raw.event()
    raw.vanish()
    return "" if event["type"] == "error" else f"answered with {event['type']}"


def closes(*codes: int, data: bytes) -> Attack:
    """These bytes after a handshake end the connection, with one of these codes."""

    async def attack(url: str) -> str:
        raw = await Raw.open(url)
        await raw.send(data)
        await raw.closed()
        raw.vanish()
        return "" if raw.code in codes else f"closed with {raw.code} instead of {' or '.join(map(str, codes))}"

    return attack


def too_big(data: bytes) -> Attack:
    """These bytes after a handshake are too many, and are told so."""

    async def attack(url: str) -> str:
        code = await asyncio.to_thread(shout, url, data)
        return "" if code == 1009 else f"closed with {code} instead of 1009"

    return attack


def refused(code: str, data: bytes) -> Attack:
    """These bytes after a handshake are answered with an error event, and the connection goes on."""

    async def attack(url: str) -> str:
        raw = await Raw.open(url)
        await raw.send(data)
        event = await raw.event()
        if event["type"] != "error" or event["error"]["code"] != code:
            return f"answered with {event} instead of {code}"
        return await _alive(raw)

    return attack


def http(*statuses: int, data: bytes) -> Attack:
    """These bytes are no good HTTP, and are told so; 0: or the connection just ends."""

    async def attack(url: str) -> str:
        raw = await Raw.connect(url)
        await raw.send(data)
        answer = await raw.everything()
        raw.vanish()
        status = int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0
        return "" if status in statuses else f"answered with {status} instead of {' or '.join(map(str, statuses))}"

    return attack


async def pings(url: str) -> str:
    """A flood of pings, each answered."""
    raw = await Raw.open(url)
    await raw.send(frame(PING, b"!") * FLOOD)
    for _ in range(FLOOD):
        if (await raw.receive())[0] != PONG:
            return "a ping without a pong"
    return await _alive(raw)


async def nonsense(url: str) -> str:
    """A flood of frames that are no JSON, each refused."""
    raw = await Raw.open(url)
    sending = asyncio.create_task(raw.send(frame(TEXT, b"{") * FLOOD))
    for _ in range(FLOOD):
        if (await raw.event())["error"]["code"] != "invalid_json":
            return "another error"
    await sending
    return await _alive(raw)


async def deaf_nonsense(url: str) -> str:
    """The same from one that does not listen: its frames are not read any more, and it is let go."""
    raw = await Raw.open(url, narrow=True)
    sending = asyncio.create_task(raw.send(frame(TEXT, b"{") * 20 * FLOOD))
    await asyncio.sleep(1)
    raw.vanish()
    await sending
    return ""


async def half_handshake(url: str) -> str:
    """It stops in the middle, and stays for a while."""
    raw = await Raw.connect(url)
    await raw.send(HANDSHAKE[: len(HANDSHAKE) // 2])
    await asyncio.sleep(1.5)
    raw.vanish()
    return ""


async def slow_loris(url: str) -> str:
    """Headers byte by byte."""
    raw = await Raw.connect(url)
    for byte in b"GET / HTTP/1.1\r\nX-Slow: 1\r\n":
        await raw.send(bytes([byte]))
        await asyncio.sleep(0.05)
    raw.vanish()
    return ""


async def in_pieces(url: str) -> str:
    """An honest question, but in one frame for each byte, with pings between."""
    raw = await Raw.open(url)
    said = words(tag(), 5)
    body = json.dumps({"type": "response.create", "input": f"[[echo:{said}]]"}).encode()
    for at, byte in enumerate(body):
        first, last = at == 0, at == len(body) - 1
        await raw.send(frame(TEXT if first else CONTINUATION, bytes([byte]), last=last) + frame(PING))
    while (event := await raw.event())["type"] != "response.completed":
        pass
    raw.vanish()
    got = event["response"]["output"][0]["content"][0]["text"]
    return "" if got == said else f"answered {got!r}"


def _create(fields: str) -> bytes:
    return frame(TEXT, b'{"type":"response.create",' + fields.encode() + b"}")


ATTACKS: dict[str, Attack] = {
    "bad UTF-8": closes(1007, data=frame(TEXT, b'{"type":"\xff\xfe"}')),
    "a reserved opcode": closes(1002, data=frame(0x3, b"x")),
    "a reserved control opcode": closes(1002, data=frame(0xB, b"x")),
    "a reserved bit": closes(1002, data=frame(TEXT, b"{}", reserved=4)),
    "compressed without consent": closes(1002, data=frame(TEXT, b"\xaa\x56\x4a\x2c", reserved=1)),
    "a ping in pieces": closes(1002, data=frame(PING, b"x", last=False)),
    "a ping of 126 bytes": closes(1002, data=frame(PING, bytes(126))),
    "a continuation of nothing": closes(1002, data=frame(CONTINUATION, b"x")),
    "a message within a message": closes(1002, data=frame(TEXT, b"{", last=False) + frame(TEXT, b"}")),
    "a close frame of one byte": closes(1002, data=frame(0x8, b"x")),
    "a close code that is none": closes(1002, data=frame(0x8, b"\x00\x01")),
    "an unmasked frame": refused("unknown_event_type", frame(TEXT, b'{"type":"x"}', masked=False)),
    "a frame that announces 2^62 bytes": closes(1009, data=b"\x81\xff" + (1 << 62).to_bytes(8, "big") + bytes(4)),
    "a frame that announces 2^63 bytes": closes(1002, 1009, data=b"\x81\xff" + (1 << 63).to_bytes(8, "big") + bytes(4)),
    "a flood of pings": pings,
    "a flood of nonsense": nonsense,
    "a flood of nonsense, unread": deaf_nonsense,
    "a question in one-byte frames": in_pieces,
    "binary noise": refused("invalid_json", frame(BINARY, os.urandom(1000))),
    "a list": refused("invalid_json", frame(TEXT, b"[]")),
    "null": refused("invalid_json", frame(TEXT, b"null")),
    "nested 100,000 deep": refused("invalid_json", frame(TEXT, b"[" * 100_000)),
    "input nested 100,000 deep": refused("invalid_json", _create('"input":' + '{"a":' * 100_000 + "1" + "}" * 100_000)),
    "half a surrogate": refused("invalid_json", _create('"input":"\\ud800"')),
    "a number beyond all": refused("invalid_json", _create('"input":1e999')),
    "a type that is a number": refused("unknown_event_type", frame(TEXT, b'{"type":7}')),
    "half a handshake": half_handshake,
    "slow headers": slow_loris,
    "HTTP garbage": http(400, data=os.urandom(200).replace(b"\n", b"x") + b"\r\n\r\n"),
    "a TLS hello": http(400, 0, data=b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n"),
    "two lengths": http(400, data=b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
    "length and chunks": http(
        400,
        data=b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "a megabyte of headers": http(400, 431, data=b"GET / HTTP/1.1\r\nX: " + b"x" * MIB + b"\r\n\r\n"),
    "a foreign host": http(403, data=b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"),
}

GIANTS: dict[str, Attack] = {
    "a frame of 17 MiB": too_big(frame(TEXT, b"x" * 17 * MIB)),
    "17 MiB in fragments": too_big(
        frame(TEXT, b"x" * MIB, last=False) + frame(CONTINUATION, b"x" * MIB, last=False) * 16
    ),
    "a body of 17 MiB": http(
        413,
        data=b"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n" % (17 * MIB) + b" " * 17 * MIB,
    ),
}


async def _one(scene: Scene, name: str, attack: Attack) -> None:
    try:
        async with asyncio.timeout(ANSWER_S):
            problem = await attack(scene.fleet.live[0].url)
    except TimeoutError:
        scene.blame("hung", f"{name}: no answer within {ANSWER_S:g} s")
    except (OSError, EOFError) as error:
        scene.blame("wrong", f"{name}: {error!r} instead of an answer")
    else:
        if problem:
            scene.blame("wrong", f"{name}: {problem}")


async def hostile(scene: Scene) -> None:
    async with asyncio.TaskGroup() as group:
        for name, attack in ATTACKS.items():
            group.create_task(_one(scene, name, attack))


async def giant(scene: Scene) -> None:
    """Too large ones are refused; one that just fits is answered."""
    fits = words(tag(), 10)
    filler = "[[comment]]" + " " * (15 * MIB)
    scene.crowd.askers.append(Asker(scene.http, scene.fleet.live, fits, directives=filler))
    for name, attack in GIANTS.items():
        await _one(scene, name, attack)


FAULTS = [
    Fault("hostile", f"{len(ATTACKS)} kinds of malformed and hostile frames and requests", hostile, length=120),
    Fault("giant", "messages of 17 MiB are refused, one of 15 MiB is answered", giant, length=120),
]
