from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grizz.config.redis_url import RedisUrl, is_redis_url, parse_redis_url
from grizz.config.schema import redact_url

FORMS = [
    ("redis://h", RedisUrl(kind="single", hosts=(("h", 6379),))),
    ("redis://h/", RedisUrl(kind="single", hosts=(("h", 6379),))),
    ("redis://127.0.0.1:7000/3", RedisUrl(kind="single", hosts=(("127.0.0.1", 7000),), db=3)),
    ("redis://h?db=2", RedisUrl(kind="single", hosts=(("h", 6379),), db=2)),
    ("rediss://h.example:1", RedisUrl(kind="single", tls=True, hosts=(("h.example", 1),))),
    ("redis://me:pw@h", RedisUrl(kind="single", hosts=(("h", 6379),), user="me", password="pw")),
    ("redis://:pw@h", RedisUrl(kind="single", hosts=(("h", 6379),), password="pw")),
    ("redis://token@h", RedisUrl(kind="single", hosts=(("h", 6379),), password="token")),
    ("redis://me:@h", RedisUrl(kind="single", hosts=(("h", 6379),), user="me")),
    ("redis://[::1]", RedisUrl(kind="single", hosts=(("::1", 6379),))),
    ("redis://:p@[fe80::1]:7000/1", RedisUrl(kind="single", hosts=(("fe80::1", 7000),), password="p", db=1)),
    ("redis://[::ffff:127.0.0.1]:1", RedisUrl(kind="single", hosts=(("::ffff:127.0.0.1", 1),))),
    ("unix:///run/redis.sock", RedisUrl(kind="unix", path="/run/redis.sock")),
    ("unix:///run/redis.sock?db=4", RedisUrl(kind="unix", path="/run/redis.sock", db=4)),
    ("unix://me:pw@/run/a%20b%40c", RedisUrl(kind="unix", path="/run/a b@c", user="me", password="pw")),
    ("redis+sentinel://s/main", RedisUrl(kind="sentinel", hosts=(("s", 26379),), master="main")),
    (
        "redis+sentinel://me:pw@s:1,[::1],t:2/my%2Fmain/5",
        RedisUrl(
            kind="sentinel",
            hosts=(("s", 1), ("::1", 26379), ("t", 2)),
            master="my/main",
            db=5,
            user="me",
            password="pw",
        ),
    ),
    ("rediss+sentinel://s/main?db=1", RedisUrl(kind="sentinel", tls=True, hosts=(("s", 26379),), master="main", db=1)),
    ("redis+cluster://a,b:7001", RedisUrl(kind="cluster", hosts=(("a", 6379), ("b", 7001)))),
    ("rediss+cluster://:pw@a:7000/0", RedisUrl(kind="cluster", tls=True, hosts=(("a", 7000),), password="pw")),
]


@pytest.mark.parametrize(("url", "parsed"), FORMS)
def test_every_form_is_taken_apart(url, parsed):
    assert parse_redis_url(url) == parsed
    assert is_redis_url(url)


@pytest.mark.parametrize(
    ("written", "password"),
    [
        ("p%40ss%3Aw%2Fd", "p@ss:w/d"),
        ("p@ss", "p@ss"),
        ("a:b", "a:b"),
        ("a/b?c#d", "a/b?c#d"),
        ("a+b%20c", "a+b c"),
        ("%C3%A9", "é"),
        ("100%", "100%"),
    ],
)
def test_a_password_is_percent_decoded_and_the_last_at_sign_ends_it(written, password):
    parsed = parse_redis_url(f"redis://me:{written}@h:1/2")
    assert (parsed.user, parsed.password, parsed.hosts, parsed.db) == ("me", password, (("h", 1),), 2)


@settings(deadline=None)
@given(st.text(), st.text())
def test_whatever_is_percent_encoded_comes_back_and_shows_nowhere(user, password):
    parsed = parse_redis_url(f"rediss://{quote(user, safe='')}:{quote(password + 'hunter2', safe='')}@h/1")
    assert (parsed.user, parsed.password) == (user, password + "hunter2")
    assert "hunter2" not in parsed.where


REFUSED = [
    "",
    "h",
    "h:6379",
    "http://h",
    "REDIS://h",
    "redis:h",
    "redis://",
    "redis:///0",
    "redis://:6379",
    "redis://h:0",
    "redis://h:65536",
    "redis://h:port",
    "redis://h:",
    "redis://a,b",
    "redis://::1",
    "redis://[::1",
    "redis://[host]",
    "redis://h/x",
    "redis://h/-1",
    "redis://h/0/1",
    "redis://h/123456",
    "redis://h?db=x",
    "redis://h?db",
    "redis://h?ssl_cert_reqs=none",
    "redis://h?db=1&password=hunter2",
    "redis://h/0#fragment",
    "redis://h /0",
    "redis://h\n",
    "redis://:hunter2@127.0.0.1/x",
    "redis://:hunter2@",
    "unix://run/redis.sock",
    "unix://",
    "unix:///",
    "unix:///run/redis.sock?db=x",
    "redis+sentinel://s",
    "redis+sentinel://s/",
    "redis+sentinel://s,/main",
    "redis+sentinel://s/main/x",
    "redis+cluster://a/1",
    "redis+cluster://a?db=1",
    "redis+cluster://",
]


@pytest.mark.parametrize("url", REFUSED)
def test_what_is_none_of_them_is_refused_without_a_word_of_its_password(url):
    with pytest.raises(ValueError) as caught:
        parse_redis_url(url)
    assert "hunter2" not in str(caught.value)


@settings(deadline=None)
@given(st.text(alphabet="redisunx+clutr:/@?=&,[].%0a1 é", max_size=30))
def test_any_text_is_taken_or_refused(text):
    for prefix in ("", "redis://", "unix://", "redis+sentinel://", "redis+cluster://"):
        try:
            assert isinstance(parse_redis_url(prefix + text), RedisUrl)
        except ValueError:
            pass


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("redis://me:hunter2@h:1/2", "h:1"),
        ("redis://hunter2@h", "h:6379"),
        ("unix://:hunter2@/run/redis.sock", "/run/redis.sock"),
        ("rediss+sentinel://:hunter2@a,b:2/main/1", "main@a:26379,b:2"),
        ("redis+cluster://me:hunter2@a,b:2", "a:6379,b:2"),
    ],
)
def test_neither_the_place_nor_the_representation_nor_the_redacted_url_holds_the_password(url, where):
    parsed = parse_redis_url(url)
    assert parsed.password == "hunter2"
    assert parsed.where == where
    assert "hunter2" not in repr(parsed) + str(parsed) + redact_url(url)
