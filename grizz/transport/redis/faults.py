"""What kind of failure a Redis answered with, and so what to do about it."""

from __future__ import annotations

import re
from enum import StrEnum

from redis import exceptions as redis


class Fault(StrEnum):
    """Kinds of failure that are treated differently."""

    DOWN = "down"  # refused, reset, timed out, loading, read-only, no master: try again soon, from scratch
    FULL = "full"  # out of memory: what writes is refused, the rest goes on
    QUOTA = "quota"  # the provider's command quota is spent: every further command is in vain
    LOGIN = "login"  # wrong password or missing permission: a person must act
    LOST = "lost"  # the stream or its group is gone: make it anew
    COMMAND = "command"  # this one command is at fault, nothing else


_QUOTA = re.compile(r"max (?:daily )?requests? limit exceeded|quota exceeded|concurrent connections exceeded", re.I)
_DOWN = re.compile(
    r"(?:LOADING|READONLY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|MOVED|ASK|UNBLOCKED|BUSY|NOREPLICAS|MISCONF|UNKILLABLE) "
    r"|(?:ERR )?max number of clients|Redis is loading"
)
_LOST = re.compile(r"NOGROUP|no such key", re.I)
_LOGIN = re.compile(r"NOAUTH|WRONGPASS|NOPERM|invalid (?:username-)?password", re.I)
_FULL = re.compile(r"\bOOM\b|command not allowed when used memory", re.I)

_BROKEN = (
    OSError,
    TimeoutError,
    redis.ConnectionError,
    redis.TimeoutError,
    redis.ReadOnlyError,
    redis.ClusterError,
    redis.AskError,
    redis.TryAgainError,
)


def fault_of(error: BaseException) -> Fault:
    """The kind of an error reply or of a broken connection. The order matters: some classes inherit from others."""
    text = str(error)
    if isinstance(error, redis.OutOfMemoryError) or _FULL.search(text):
        return Fault.FULL
    if isinstance(error, redis.AuthenticationError | redis.NoPermissionError) or _LOGIN.search(text):
        return Fault.LOGIN
    if _QUOTA.search(text):
        return Fault.QUOTA
    if _LOST.search(text):
        return Fault.LOST
    if isinstance(error, _BROKEN) or _DOWN.match(text):
        return Fault.DOWN
    return Fault.COMMAND
