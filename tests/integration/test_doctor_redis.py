"""`doctor` and the Redis: what it needs, what it may, how it is; and that each right that is missed is named."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable

import pytest

from grizz.config import RedisSettings, Settings
from grizz.doctor.redis import _commands as redis_commands
from grizz.doctor.redis import redis
from tests.conftest import ROOT
from tests.faults.test_redis_kinds import RIGHTS
from tests.integration.test_doctor import SECRET, Found, doctor
from tests.redis_servers import RedisServer
from tests.several import dead_url


async def test_a_sound_redis_is_found_so_and_nothing_is_left_in_it(redis_server: RedisServer) -> None:
    seen = await doctor("--redis-url", redis_server.url)
    names = ("connection", "clock", "version", "memory", "rights")
    assert [seen.found[f"redis: {what}"][0] for what in names] == ["ok"] * 5
    assert redis_server.command("DBSIZE") == 0


async def test_a_redis_that_may_forget_jobs_is_bad(own_redis: RedisServer) -> None:
    own_redis.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    seen = await doctor("--redis-url", own_redis.url)
    assert seen.found["redis: memory"][0] == "bad"
    assert seen.found["redis: memory"][2] == "CONFIG SET maxmemory-policy noeviction"


async def test_the_least_rights_suffice_and_one_less_is_named(own_redis: RedisServer) -> None:
    own_redis.command("ACL", "SETUSER", "least", "on", f">{SECRET}", *RIGHTS.split())
    own_redis.command("ACL", "SETUSER", "less", "on", f">{SECRET}", *RIGHTS.split(), "-xclaim", "-renamenx")
    place = own_redis.url.removeprefix("redis://")
    seen = await doctor(GRIZZ_REDIS_URL=f"redis://least:{SECRET}@{place}")
    assert seen.found["redis: rights"][0] == "ok"
    assert seen.found["redis: version"][0] == "note"  # INFO is not among them
    assert seen.found["redis: clock"][0] == "ok"
    seen = await doctor(GRIZZ_REDIS_URL=f"redis://less:{SECRET}@{place}")
    assert seen.found["redis: rights"][:2] == ("bad", "this account may not: renamenx, xclaim")
    assert SECRET not in seen.output
    seen = await doctor(GRIZZ_REDIS_URL=f"redis://least:not-{SECRET}@{place}")
    assert seen.found["redis: connection"][0] == "bad"
    assert SECRET not in seen.output


async def found_by(server: RedisServer, now: Callable[[], float] = time.time, user: str = "") -> Found:
    """What is found in a Redis, by an account of this name."""
    url = f"redis://{user}:{SECRET}@" if user else "redis://"
    settings = Settings(redis=RedisSettings(url=url + server.url.removeprefix("redis://")))
    return {finding.about: (finding.state, finding.text, finding.advice) async for finding in redis(settings, now)}


async def test_each_right_of_the_documents_is_one_that_the_doctor_misses(own_redis: RedisServer) -> None:
    rights = [right.removeprefix("+") for right in RIGHTS.split() if right.startswith("+")]
    assert len(rights) > 30
    for right in rights:
        own_redis.command("ACL", "SETUSER", "less", "reset", "on", f">{SECRET}", *RIGHTS.split(), f"-{right}")
        found = await found_by(own_redis, user="less")
        assert found["redis: rights"][:2] == ("bad", f"this account may not: {right}")


def test_every_command_that_stands_in_the_code_is_tried() -> None:
    files = [*(ROOT / "grizz" / "transport" / "redis").glob("*.py"), *(ROOT / "grizz").glob("*.py")]
    code = "".join(path.read_text() for path in files)
    sent = set(re.findall(r"\(\s*\"([A-Z]{3,})\"|redis\.call\('([A-Z]+)'|'(Z[A-Z]+)'", code))
    names = {next(filter(None, name)) for name in sent}
    assert len(names) > 30
    tried = {command[0] for command in redis_commands("probe", newest=True)} | {"SUBSCRIBE", "INFO"}
    # To find the server, and what `history` does for people, with an account of theirs.
    assert names - tried == {"SENTINEL", "CLUSTER", "SCAN", "HSCAN"}


@pytest.mark.parametrize(
    ("right", "text"),
    [
        ("~{other}:*", "use keys {grizz}:*"),
        ("&{other}:*", "use channels {grizz}:*"),
    ],
)
async def test_rights_to_other_keys_or_channels_are_told_from_missing_commands(
    own_redis: RedisServer, right: str, text: str
) -> None:
    reset = {"~": "resetkeys", "&": "resetchannels"}[right[0]]
    own_redis.command("ACL", "SETUSER", "less", "on", f">{SECRET}", *RIGHTS.split(), reset, right)
    state, found, _ = (await found_by(own_redis, user="less"))["redis: rights"]
    assert (state, found) == ("bad", f"this account may not: {text}")


@pytest.mark.parametrize(("ahead_s", "state"), [(0, "ok"), (-100, "note"), (100, "note")])
async def test_a_redis_with_another_time_is_noted(redis_server: RedisServer, ahead_s: int, state: str) -> None:
    found = await found_by(redis_server, lambda: time.time() + ahead_s)
    assert found["redis: clock"][0] == state
    if ahead_s:
        assert found["redis: clock"][1:] == ("the two clocks are 100 s apart", "let both follow NTP")


async def test_a_redis_that_is_not_there_is_bad() -> None:
    began = time.monotonic()
    seen = await doctor("--redis-url", dead_url().replace("http", "redis").removesuffix("/v1"))
    assert seen.found["redis: connection"][0] == "bad"
    assert "Connect call failed" in seen.found["redis: connection"][1]
    assert time.monotonic() - began < 30


async def test_a_password_that_goes_in_the_clear_to_another_machine_is_noted() -> None:
    place = dead_url().removeprefix("http://").removesuffix("/v1")
    elsewhere = place.replace("127.0.0.1", socket.gethostname())
    for url, noted in ((f"redis://:{SECRET}@{elsewhere}", True), (f"redis://:{SECRET}@{place}", False)):
        seen = await doctor(GRIZZ_REDIS_URL=url)
        assert ("redis: TLS" in seen.found) is noted
        assert SECRET not in seen.output
