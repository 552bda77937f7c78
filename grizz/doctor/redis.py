"""Checks of the Redis through which several processes share their work."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from grizz.config import Settings, is_loopback
from grizz.doctor.findings import Finding
from grizz.scaled import target_of
from grizz.transport.redis.connection import Command, Wire
from grizz.transport.redis.keys import Keys

_DEADLINE_S = 10.0
_PINGS = 5
_SLOW_MS = 50.0
_SKEW_S = 5.0
_OLDEST = (6, 2)
_WITH_XDELEX = (8, 2)
# Rights to these are given by part.
_WITH_PARTS = ("XGROUP", "XINFO", "PUBSUB")
_LINE = "docs/scaling.md has the line for ACL SETUSER"


async def redis(settings: Settings, now: Callable[[], float] = time.time) -> AsyncIterator[Finding]:
    """All that can be seen without rights besides those that Grizz needs.

    Args:
        now: the clock, in seconds since the epoch.
    """
    target = target_of(settings)
    wire = target.wire()
    where = target.url.where
    for host, _ in target.url.hosts[:1]:
        if not target.url.tls and target.url.password and not is_loopback(host):
            text = "the password, prompts and answers go over the network in the clear"
            yield Finding("redis: TLS", "note", text, "use rediss:// (docs/scaling.md)")
    try:
        async with asyncio.timeout(_DEADLINE_S):
            await wire.open()
    except (AuthenticationError, NoPermissionError) as error:
        yield Finding("redis: connection", "bad", f"{where} refuses the account: {error}", "set GRIZZ_REDIS_URL anew")
        return
    except (RedisError, OSError, TimeoutError) as error:
        text = f"{where} cannot be reached: {str(error) or type(error).__name__}"
        yield Finding("redis: connection", "bad", text, "start it, or name another with GRIZZ_REDIS_URL")
        return
    try:
        async with asyncio.timeout(_DEADLINE_S):
            yield await _latency(wire, where, Keys(settings.redis.prefix))
            yield await _clock(wire, now)
            newest, facts = await _facts(wire)
            for finding in facts:
                yield finding
            yield await _rights(wire, Keys(settings.redis.prefix), newest)
    except (RedisError, OSError, TimeoutError) as error:
        yield Finding("redis", "bad", f"{where} broke off: {str(error) or type(error).__name__}", "see its log")
    finally:
        await wire.close()


async def _latency(wire: Wire, where: str, keys: Keys) -> Finding:
    took = []
    for _ in range(_PINGS):
        began = time.perf_counter()
        await wire.ask([("EXISTS", keys.dead)])
        took.append((time.perf_counter() - began) * 1000)
    middle = sorted(took)[_PINGS // 2]
    text = f"{where} answers in {middle:.1f} ms"
    if middle > _SLOW_MS:
        return Finding("redis: connection", "note", text, "take one that is nearer: takeovers wait for it")
    return Finding("redis: connection", "ok", text)


async def _clock(wire: Wire, now: Callable[[], float]) -> Finding:
    """Its clock ends what is kept there, ours names what is kept by the hour."""
    before = now()
    reply = (await wire.ask([("TIME",)]))[0]
    if isinstance(reply, Exception):
        return Finding("redis: clock", "note", f"unknown, since this account may not ask ({reply})", _LINE)
    theirs = int(reply[0]) + int(reply[1]) / 1e6
    off_s = max(before - theirs, theirs - now(), 0.0)
    if off_s > _SKEW_S:
        return Finding("redis: clock", "note", f"the two clocks are {off_s:.0f} s apart", "let both follow NTP")
    return Finding("redis: clock", "ok", "the same as here")


async def _facts(wire: Wire) -> tuple[bool, list[Finding]]:
    """Whether Grizz will take it for one with XDELEX; and what INFO says."""
    reply = (await wire.ask([("INFO",)]))[0]
    if isinstance(reply, Exception):
        return False, [Finding("redis: version", "note", f"unknown, since this account may not ask ({reply})")]
    info = dict(
        line.split(":", 1) for line in reply.decode(errors="replace").splitlines() if ":" in line and line[0] != "#"
    )
    newest = "valkey_version" not in info and _numbers(info) >= _WITH_XDELEX
    return newest, [_version(info), _when_full(info)]


def _numbers(info: dict[str, str]) -> tuple[int, ...]:
    return tuple(int(part) for part in info.get("redis_version", "0").split(".")[:2] if part.isdigit())


def _version(info: dict[str, str]) -> Finding:
    if valkey := info.get("valkey_version"):
        return Finding("redis: version", "ok", f"Valkey {valkey}")
    version = info.get("redis_version", "0")
    if _numbers(info) < _OLDEST:
        return Finding("redis: version", "bad", f"Redis {version}", "Grizz needs Redis 6.2 or newer, or Valkey")
    return Finding("redis: version", "ok", f"Redis {version}")


def _when_full(info: dict[str, str]) -> Finding:
    policy = info.get("maxmemory_policy", "noeviction")
    if policy.startswith("allkeys"):
        text = f"maxmemory-policy is {policy}, so that jobs may vanish when it is full"
        return Finding("redis: memory", "bad", text, "CONFIG SET maxmemory-policy noeviction")
    limit = info.get("maxmemory_human", "0B")
    of = "without a limit" if info.get("maxmemory", "0") == "0" else f"of {limit}"
    return Finding("redis: memory", "ok", f"{info.get('used_memory_human', '?')} used {of}, {policy}")


async def _rights(wire: Wire, keys: Keys, newest: bool) -> Finding:
    """Each command that Grizz sends, by itself or in a script, on keys that are deleted at the end."""
    ours = f"{{{keys.prefix}}}"
    probe = f"{ours}:doctor:{secrets.token_hex(4)}"
    refused, failed = [], []
    for command in _commands(probe, newest):
        reply: Any = (await wire.ask([command]))[0]
        name = (f"{command[0]}|{command[1]}" if command[0] in _WITH_PARTS else command[0]).lower()
        if isinstance(reply, NoPermissionError):
            refused.append(_what(reply, name, ours))
        elif isinstance(reply, Exception):
            failed.append(f"{name}: {reply}")
    refused += [_what(error, name, ours) for name, error in await _channel(wire, probe)]
    if refused:
        text = f"this account may not: {', '.join(dict.fromkeys(refused))}"
        return Finding("redis: rights", "bad", text, _LINE)
    if failed:
        return Finding("redis: rights", "bad", "; ".join(failed), "see docs/scaling.md")
    return Finding("redis: rights", "ok", "every command that is needed is allowed")


def _what(error: NoPermissionError, command: str, ours: str) -> str:
    """What is refused: the command, or ours among the keys or channels."""
    kind = re.search(r"access (?:a|one of the) (key|channel)", str(error))
    return f"use {kind[1]}s {ours}:*" if kind else command


async def _channel(wire: Wire, channel: str) -> list[tuple[str, NoPermissionError]]:
    """The last on a connection: one that has subscribed can do nothing else."""
    try:
        await wire.subscribe([channel])
    except NoPermissionError as error:
        return [("subscribe", error)]
    await wire.send(("UNSUBSCRIBE", channel))
    reply = await wire.next()
    return [("unsubscribe", reply)] if isinstance(reply, NoPermissionError) else []


def _commands(probe: str, newest: bool) -> list[Command]:
    stream, table, text, other, order = (f"{probe}:{name}" for name in "shtoz")
    return [
        ("SET", text, "1", "EX", "60"),
        ("GET", text),
        ("INCRBY", text, "1"),
        ("EXPIRE", text, "60"),
        ("MGET", text),
        ("EXISTS", text),
        ("HSET", table, "a", "1"),
        ("EXPIRE", table, "60"),
        ("HGETALL", table),
        ("HGET", table, "a"),
        ("HVALS", table),
        ("HMGET", table, "a"),
        ("HSETNX", table, "b", "1"),
        ("PEXPIRE", table, "60000"),
        ("RENAMENX", table, other),
        ("HDEL", other, "a"),
        ("XADD", stream, "1-1", "a", "1"),
        ("EXPIRE", stream, "60"),
        ("XGROUP", "CREATE", stream, "g", "0"),
        ("XGROUP", "CREATECONSUMER", stream, "g", "c"),
        ("XREADGROUP", "GROUP", "g", "c", "COUNT", "1", "STREAMS", stream, ">"),
        ("XPENDING", stream, "g"),
        ("XCLAIM", stream, "g", "c", "0", "1-1"),
        ("XINFO", "CONSUMERS", stream, "g"),
        ("XRANGE", stream, "-", "+"),
        ("XLEN", stream),
        ("XACK", stream, "g", "1-1"),
        ("XDEL", stream, "1-1"),
        ("XGROUP", "DELCONSUMER", stream, "g", "c"),
        *([("XDELEX", stream, "DELREF", "IDS", "1", "1-1")] if newest else []),
        ("ZADD", order, "1", "a"),
        ("ZCARD", order),
        ("ZRANK", order, "a"),
        ("ZREVRANK", order, "a"),
        ("ZRANGE", order, "0", "-1"),
        ("ZREVRANGE", order, "0", "-1"),
        ("ZREMRANGEBYSCORE", order, "-inf", "0"),
        ("ZREM", order, "a"),
        ("EVAL", "return 1", "1", text),
        ("PUBLISH", probe, "1"),
        ("PUBSUB", "NUMSUB", probe),
        ("TIME",),
        ("DEL", stream, table, text, other, order),
    ]
