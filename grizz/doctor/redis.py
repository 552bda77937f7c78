"""Checks of the Redis through which several processes share their work."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from grizz.config import Settings
from grizz.doctor.findings import Finding
from grizz.scaled import target_of
from grizz.transport.redis.connection import Command, Wire
from grizz.transport.redis.keys import Keys

_DEADLINE_S = 10.0
_PINGS = 5
_SLOW_MS = 50.0
_OLDEST = (6, 2)


async def redis(settings: Settings) -> AsyncIterator[Finding]:
    """All that can be seen without rights besides those that Grizz needs."""
    target = target_of(settings)
    wire = target.wire()
    where = target.url.where
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
            for finding in await _facts(wire):
                yield finding
            yield await _rights(wire, Keys(settings.redis.prefix))
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


async def _facts(wire: Wire) -> list[Finding]:
    """What INFO says."""
    reply = (await wire.ask([("INFO",)]))[0]
    if isinstance(reply, Exception):
        return [Finding("redis: version", "note", f"unknown, since this account may not ask ({reply})")]
    info = dict(
        line.split(":", 1) for line in reply.decode(errors="replace").splitlines() if ":" in line and line[0] != "#"
    )
    return [_version(info), _when_full(info)]


def _version(info: dict[str, str]) -> Finding:
    if valkey := info.get("valkey_version"):
        return Finding("redis: version", "ok", f"Valkey {valkey}")
    version = info.get("redis_version", "0")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < _OLDEST:
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


async def _rights(wire: Wire, keys: Keys) -> Finding:
    """Each command that Grizz sends, on a key that is deleted at the end."""
    probe = f"{keys.dead.rpartition(':')[0]}:doctor:{secrets.token_hex(4)}"
    refused, failed = [], []
    for command in _commands(probe):
        reply: Any = (await wire.ask([command]))[0]
        name = command[0].lower() if isinstance(command[0], str) else ""
        if isinstance(reply, NoPermissionError):
            refused.append(name)
        elif isinstance(reply, Exception):
            failed.append(f"{name}: {reply}")
    if refused:
        text = f"this account may not: {', '.join(dict.fromkeys(refused))}"
        return Finding("redis: rights", "bad", text, "docs/scaling.md has the line for ACL SETUSER")
    if failed:
        return Finding("redis: rights", "bad", "; ".join(failed), "see docs/scaling.md")
    return Finding("redis: rights", "ok", "every command that is needed is allowed")


def _commands(probe: str) -> list[Command]:
    stream, table, text, other = (f"{probe}:{name}" for name in "shto")
    return [
        ("SET", text, "1", "EX", "60"),
        ("GET", text),
        ("INCRBY", text, "1"),
        ("EXPIRE", text, "60"),
        ("MGET", text),
        ("EXISTS", text),
        ("HSET", table, "a", "1"),
        ("HGETALL", table),
        ("HMGET", table, "a"),
        ("RENAMENX", table, other),
        ("HDEL", other, "a"),
        ("XADD", stream, "1-1", "a", "1"),
        ("XGROUP", "CREATE", stream, "g", "0"),
        ("XGROUP", "CREATECONSUMER", stream, "g", "c"),
        ("XREADGROUP", "GROUP", "g", "c", "COUNT", "1", "STREAMS", stream, ">"),
        ("XPENDING", stream, "g"),
        ("XCLAIM", stream, "g", "c", "0", "1-1"),
        ("XINFO", "CONSUMERS", stream, "g"),
        ("XRANGE", stream, "-", "+"),
        ("XACK", stream, "g", "1-1"),
        ("XDEL", stream, "1-1"),
        ("XGROUP", "DELCONSUMER", stream, "g", "c"),
        ("PUBLISH", probe, "1"),
        ("PUBSUB", "NUMSUB", probe),
        ("DEL", stream, table, text, other),
    ]
