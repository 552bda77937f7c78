from __future__ import annotations

import pytest
from redis import exceptions as redis
from redis._parsers.base import BaseParser

from grizz.transport.redis.faults import Fault, fault_of

UPSTASH = "See https://upstash.com/docs/redis/troubleshooting/max_requests_limit for details"

REPLIES = [
    (f"ERR max requests limit exceeded. Limit: 500000, Usage: 500000. {UPSTASH}", Fault.QUOTA),
    ("ERR max daily request limit exceeded. Limit: 10000, Usage: 10000.", Fault.QUOTA),
    ("ERR max concurrent connections exceeded", Fault.QUOTA),
    ("LOADING Redis is loading the dataset in memory", Fault.DOWN),
    ("READONLY You can't write against a read only replica.", Fault.DOWN),
    ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", Fault.DOWN),
    ("CLUSTERDOWN The cluster is down", Fault.DOWN),
    ("CLUSTERDOWN Hash slot not served", Fault.DOWN),
    ("MOVED 3999 127.0.0.1:6381", Fault.DOWN),
    ("ASK 3999 127.0.0.1:6381", Fault.DOWN),
    ("TRYAGAIN Multiple keys request during rehashing of slot", Fault.DOWN),
    ("UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)", Fault.DOWN),
    ("ERR max number of clients reached", Fault.DOWN),
    ("ERR max number of clients + cluster connections reached", Fault.DOWN),
    ("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.", Fault.DOWN),
    ("NOREPLICAS Not enough good replicas to write.", Fault.DOWN),
    ("MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.", Fault.DOWN),
    ("OOM command not allowed when used memory > 'maxmemory'.", Fault.FULL),
    ("NOGROUP No such key '{grizz}:jobs' or consumer group 'grizz' in XREADGROUP with GROUP option", Fault.LOST),
    ("NOGROUP the consumer group this client was blocked on no longer exists", Fault.LOST),
    ("ERR no such key", Fault.LOST),
    ("WRONGPASS invalid username-password pair or user is disabled.", Fault.LOGIN),
    ("NOAUTH Authentication required.", Fault.LOGIN),
    ("NOPERM this user has no permissions to run the 'xadd' command", Fault.LOGIN),
    ("NOPERM No permissions to access a channel", Fault.LOGIN),
    ("ERR invalid password", Fault.LOGIN),
    ("BUSYGROUP Consumer Group name already exists", Fault.COMMAND),
    ("WRONGTYPE Operation against a key holding the wrong kind of value", Fault.COMMAND),
    ("ERR wrong number of arguments for 'hset' command", Fault.COMMAND),
    ("ERR syntax error", Fault.COMMAND),
    ("ERR max request size exceeded. Limit: 1048576 bytes, Actual: 2000000 bytes.", Fault.COMMAND),
    # What a reply quotes says nothing: a prefix may well be called "tasks", and a command be removed.
    ("ERR unknown command 'XACKDEL', with args beginning with: '{tasks}:jobs' 'grizz' ", Fault.COMMAND),
    ("ERR the command was removed, see downloading notes", Fault.COMMAND),
]


@pytest.mark.parametrize(("reply", "fault"), REPLIES)
def test_an_error_reply_is_known_by_its_words(reply, fault):
    assert fault_of(redis.ResponseError(reply)) is fault


@pytest.mark.parametrize(("reply", "fault"), REPLIES)
def test_an_error_reply_is_known_as_the_client_library_raises_it(reply, fault):
    # The library cuts the first word off, and has classes that inherit from one another unexpectedly.
    assert fault_of(BaseParser.parse_error(reply)) is fault


@pytest.mark.parametrize(
    "reply",
    [
        "ERR Client sent AUTH, but no password is set",
        "ERR AUTH <password> called without any password configured for the default user. "
        "Are you sure your configuration is correct?",
    ],
)
def test_a_password_where_none_is_set_needs_a_person(reply):
    assert fault_of(BaseParser.parse_error(reply)) is Fault.LOGIN


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 6379)"),
        ConnectionResetError(104, "Connection reset by peer"),
        OSError("No route to host"),
        TimeoutError(),
        redis.ConnectionError("Connection closed by server."),
        redis.TimeoutError("Timeout connecting to server"),
        redis.BusyLoadingError("Redis is loading the dataset in memory"),
        redis.ClusterDownError("The cluster is down"),
    ],
)
def test_a_broken_connection_is_down(error):
    assert fault_of(error) is Fault.DOWN


def test_what_is_not_known_concerns_one_command_alone():
    assert fault_of(redis.ResponseError("ERR something new")) is Fault.COMMAND
    assert fault_of(redis.RedisError("")) is Fault.COMMAND
