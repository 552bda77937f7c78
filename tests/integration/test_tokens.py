"""Tokens of another login system: which count, whose they are, and the forgeries that do not."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import hmac
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from grizz.config import AuthSettings, Settings
from grizz.errors import Code, ConfigError, RequestError
from grizz.tasks import TaskOwner
from grizz.web.auth import Door, Identity
from grizz.web.auth.key_sets import UrlKeySet, parse
from tests.accounts import SECRET, Signer, bearer, claims_of, key_set, key_set_server, secret_token
from tests.conftest import Grizz
from tests.player import Player, text_of

RSA = Signer("RS256", "rsa")
CURVE = Signer("ES256", "curve")


def door(**auth: Any) -> Door:
    return Door(Settings(auth=AuthSettings(**auth)))


async def refusal(door: Door, token: str) -> RequestError:
    with pytest.raises(RequestError) as caught:
        await door.authenticate(token)
    assert token not in caught.value.message
    return caught.value


@pytest.fixture
def keys_file(tmp_path: Path) -> Callable[..., str]:
    def write(*keys: dict[str, object]) -> str:
        path = tmp_path / "keys.json"
        path.write_bytes(key_set(*keys))
        return str(path)

    return write


@pytest.fixture
def signed(keys_file: Callable[..., str]) -> Door:
    """A door that knows two public keys."""
    return door(jwt_keys=keys_file(RSA.jwk(), CURVE.jwk()))


async def test_a_token_names_its_user_by_a_hash_of_issuer_and_subject() -> None:
    found = await door(jwt_secret=SECRET).authenticate(secret_token(sub="carol@example.com", iss="https://login"))
    name = hashlib.sha256(json.dumps(["https://login", "carol@example.com"]).encode()).hexdigest()[:32]
    assert found.owner == f"user:{name}"
    assert found.key == ""
    other = await door(jwt_secret=SECRET).authenticate(secret_token(sub="carol@example.com", iss="https://other"))
    assert other.owner != found.owner


async def test_the_user_may_stand_in_another_claim() -> None:
    by_mail = door(jwt_secret=SECRET, jwt_user_claim="email")
    one = await by_mail.authenticate(secret_token(sub="1", email="carol@example.com"))
    two = await by_mail.authenticate(secret_token(sub="2", email="carol@example.com"))
    assert one.owner == two.owner
    for claims in ({}, {"email": ""}, {"email": ["x"]}, {"email": True}, {"email": "x" * 2000}):
        assert "does not name its user" in (await refusal(by_mail, secret_token(**claims))).message


@pytest.mark.parametrize("signer", [RSA, CURVE], ids=["RS256", "ES256"])
async def test_public_keys_of_a_set_check_tokens(signed: Door, signer: Signer) -> None:
    assert (await signed.authenticate(signer.token())).owner.startswith("user:")
    assert (await signed.authenticate(signer.token(headers={}))).owner.startswith("user:"), "without a kid"


async def test_every_claim_that_matters_is_checked() -> None:
    strict = door(jwt_secret=SECRET, jwt_issuer="https://login", jwt_audience="grizz", jwt_leeway_s=10)
    now = int(time.time())
    good = {"iss": "https://login", "aud": ["other", "grizz"]}
    await strict.authenticate(secret_token(**good))
    await strict.authenticate(secret_token(**good, exp=now - 5, nbf=now + 5, iat=now + 5))
    for claims, text in (
        ({"iss": "https://evil"}, "another issuer"),
        ({"iss": None}, "no claim 'iss'"),
        ({"aud": "other"}, "another audience"),
        ({"aud": None}, "no claim 'aud'"),
        ({"exp": None}, "no claim 'exp'"),
        ({"exp": "soon"}, "malformed"),
        ({"exp": 1e400}, "malformed"),
        ({"nbf": now + 60}, "not valid yet"),
        ({"iat": now + 60}, "not valid yet"),
        ({"iat": "x"}, "malformed"),
    ):
        error = await refusal(strict, secret_token(**{**good, **claims}))
        assert (error.status, error.code) == (401, Code.INVALID_API_KEY)
        assert text in error.message, claims
    assert (await refusal(strict, secret_token(**good, exp=now - 60))).code is Code.TOKEN_EXPIRED


def forged(header: dict[str, object], sign: Callable[[bytes], bytes], **claims: object) -> str:
    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    body = f"{part(json.dumps(header).encode())}.{part(json.dumps(claims_of(**claims)).encode())}"
    return f"{body}.{part(sign(body.encode()))}"


async def test_no_public_key_is_ever_a_secret(signed: Door, keys_file: Callable[..., str]) -> None:
    public = RSA.private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for door_ in (signed, door(jwt_secret=SECRET, jwt_keys=keys_file(RSA.jwk()))):
        for header in ({"alg": "HS256"}, {"alg": "HS256", "kid": "rsa"}):
            token = forged(header, lambda body: hmac.digest(public, body, "sha256"))
            assert (await refusal(door_, token)).code is Code.INVALID_API_KEY


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NONE", "", "HS384", "HS512", "RS512", "PS256", None, 5, ["RS256"]]
)
async def test_no_other_algorithm_counts(signed: Door, algorithm: object) -> None:
    for sign in (lambda body: b"", lambda body: hmac.digest(SECRET.encode(), body, "sha256")):
        await refusal(signed, forged({"alg": algorithm}, sign))
        await refusal(door(jwt_secret=SECRET), forged({"alg": algorithm}, sign))


async def test_a_token_may_not_bring_its_own_key(signed: Door) -> None:
    own = Signer("RS256", "rsa")
    for headers in (
        {"kid": "rsa", "jwk": own.jwk()},
        {"jku": "http://127.0.0.1:1/keys"},
        {"x5u": "http://127.0.0.1:1"},
    ):
        assert "signature is wrong" in (await refusal(signed, own.token(headers=headers))).message


async def test_the_key_a_token_names_is_the_one_that_counts(keys_file: Callable[..., str]) -> None:
    one, two = Signer(kid="one"), Signer(kid="two")
    both = door(jwt_keys=keys_file(one.jwk(), two.jwk()))
    await both.authenticate(one.token())
    await refusal(both, one.token(headers={"kid": "two"}))
    assert "not known here" in (await refusal(both, one.token(headers={"kid": "three"}))).message


async def test_malformed_tokens_are_refused_and_break_nothing(signed: Door) -> None:
    nested = base64.urlsafe_b64encode(b"[" * 5000).decode()
    for token in (
        "a.b.c",
        "..",
        f"{nested}.x.y",
        "eyJhbGciOiJSUzI1NiJ9..",
        RSA.token()[:-2] + "AA",
        "x" * 9000,
        "é.é.é",
    ):
        assert (await refusal(signed, token)).status == 401
    assert (await refusal(signed, RSA.token(headers={"kid": "rsa", "crit": ["exp"]}))).status == 401
    assert (await refusal(signed, RSA.token(pad="x" * 9000))).status == 401


@pytest.mark.parametrize(
    "jwk",
    [
        RSA.jwk(use="enc"),
        RSA.jwk(key_ops=["encrypt"]),
        RSA.jwk(alg="RS512"),
        RSA.jwk(alg="HS256"),
        RSA.jwk(n="AQAB"),
        RSA.jwk(n=None),
        RSA.jwk(kid=5),
        Signer(bits=1024).jwk(),
        CURVE.jwk(crv="P-384"),
        CURVE.jwk(x="AAAA"),
        {"kty": "oct", "k": base64.urlsafe_b64encode(SECRET.encode()).decode(), "alg": "HS256"},
        {},
    ],
    ids=lambda jwk: str({name: jwk.get(name) for name in ("kty", "alg", "use")}),
)
def test_keys_that_are_no_good_for_this_are_left_out(jwk: dict[str, object]) -> None:
    good = CURVE.jwk()
    assert [key.kid for key in parse(key_set(jwk, good))] == ["curve"]
    with pytest.raises(ValueError, match="no key"):
        parse(key_set(jwk))


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"keys": {}}', b'{"keys": []}', b"[" * 9999, b"<html>"])
def test_a_bad_file_of_keys_stops_the_start_and_is_named(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match="auth.jwt_keys = .*keys.json"):
        door(jwt_keys=str(path))
    with pytest.raises(ConfigError, match="No such file"):
        door(jwt_keys=str(tmp_path / "none.json"))


def test_a_secret_that_can_be_guessed_stops_the_start() -> None:
    with pytest.raises(ConfigError, match=r"auth.jwt_secret = \*\*\*: must have at least 32 characters"):
        door(jwt_secret="short")


async def test_a_reload_reads_the_file_again_and_keeps_the_old_keys_if_it_is_bad(keys_file: Callable[..., str]) -> None:
    path = keys_file(RSA.jwk())
    settings = Settings(auth=AuthSettings(jwt_keys=path))
    checks = Door(settings)
    identity = await checks.authenticate(RSA.token())
    keys_file({})
    with pytest.raises(ConfigError):
        checks.reload(settings)
    assert await checks.authenticate(RSA.token()) == identity
    keys_file(CURVE.jwk())
    checks.reload(settings)
    await refusal(checks, RSA.token())
    await checks.authenticate(CURVE.token())
    assert not checks.still_valid(identity), "its signer is gone"


async def test_who_came_in_by_a_token_goes_when_it_expires_or_the_rules_change() -> None:
    settings = Settings(auth=AuthSettings(jwt_secret=SECRET, jwt_leeway_s=0))
    clock = time.time()
    checks = Door(settings, now=lambda: clock)
    expires = int(clock) + 10
    identity = await checks.authenticate(secret_token(exp=expires))
    assert identity.expires_at == expires
    assert checks.still_valid(identity)
    clock += 11
    assert not checks.still_valid(identity)
    clock -= 11
    checks.reload(dataclasses.replace(settings, auth=AuthSettings(jwt_secret=SECRET + "!", jwt_leeway_s=0)))
    assert not checks.still_valid(identity)
    assert (await refusal(checks, secret_token(exp=expires))).code is Code.INVALID_API_KEY


async def test_a_token_that_was_checked_once_still_expires() -> None:
    clock = time.time()
    checks = Door(Settings(auth=AuthSettings(jwt_secret=SECRET, jwt_leeway_s=0)), now=lambda: clock)
    token = secret_token(exp=int(time.time()) + 1)
    await checks.authenticate(token)
    clock += 3600
    await asyncio.sleep(1.1)
    assert (await refusal(checks, token)).code is Code.TOKEN_EXPIRED


# Key sets behind a URL


async def test_keys_are_fetched_at_the_start_and_a_new_one_when_a_token_names_it() -> None:
    new = Signer(kid="new")
    async with key_set_server(key_set(RSA.jwk())) as server:
        tasks = TaskOwner("test")
        keys = UrlKeySet(server.url, pause_s=0)
        await keys.start(tasks)
        assert [key.kid for key in keys.keys] == ["rsa"]
        server.body = key_set(RSA.jwk(), new.jwk())
        await keys.look_again()
        assert [key.kid for key in keys.keys] == ["rsa", "new"]
        await tasks.close(within_s=1)


async def test_made_up_key_ids_do_not_become_a_load_for_the_login_system() -> None:
    async with key_set_server(key_set(RSA.jwk())) as server:
        tasks = TaskOwner("test")
        checks = door(jwt_keys=server.url)
        await checks.start(tasks)
        for n in range(20):
            await refusal(checks, RSA.token(headers={"kid": f"made up {n}"}))
        assert server.asked == 1
        await tasks.close(within_s=1)


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, b""), (301, b""), (200, b"oops"), (200, b'{"keys": []}'), (200, b" " * (1 << 20) + b"{}")],
)
async def test_the_old_keys_stay_when_the_url_fails(status: int, body: bytes) -> None:
    async with key_set_server(key_set(RSA.jwk())) as server:
        tasks = TaskOwner("test")
        keys = UrlKeySet(server.url, pause_s=0)
        await keys.start(tasks)
        server.status, server.body = status, body
        await keys.look_again()
        assert server.asked == 2
        assert [key.kid for key in keys.keys] == ["rsa"]
        await tasks.close(within_s=1)


async def test_an_unreachable_url_does_not_stop_the_start_and_tokens_are_told_to_come_back(
    start_grizz, http: aiohttp.ClientSession
) -> None:
    async with key_set_server(b"") as server:
        server.status = 500
        grizz = await start_grizz(auth__jwt_keys=server.url)
        async with http.get(f"{grizz.url}/v1/models", headers=bearer(RSA.token())) as answer:
            assert (answer.status, answer.headers["x-should-retry"]) == (503, "true")
        async with http.get(f"{grizz.url}/v1/models", headers=bearer(secret_token())) as answer:
            assert answer.status == 401


async def test_a_reload_to_another_url_forgets_the_keys_of_the_first() -> None:
    async with key_set_server(key_set(RSA.jwk())) as one, key_set_server(key_set(CURVE.jwk())) as two:
        tasks = TaskOwner("test")
        checks = door(jwt_keys=one.url)
        await checks.start(tasks)
        identity = await checks.authenticate(RSA.token())
        checks.reload(Settings(auth=AuthSettings(jwt_keys=one.url, jwt_leeway_s=5)))
        assert checks.still_valid(identity)
        assert one.asked == 1, "the same URL goes on"
        checks.reload(Settings(auth=AuthSettings(jwt_keys=two.url)))
        await checks.authenticate(CURVE.token())
        assert not checks.still_valid(identity)
        await refusal(checks, RSA.token())
        assert len(tasks) == 1
        await tasks.close(within_s=1)


@pytest.mark.parametrize("source", ["url", "file"])
async def test_the_keys_of_before_stay_until_another_url_has_answered_once(
    keys_file: Callable[..., str], caplog: pytest.LogCaptureFixture, source: str
) -> None:
    caplog.set_level("INFO", "grizz")
    async with key_set_server(key_set(RSA.jwk())) as one, key_set_server(b"oops") as two:
        tasks = TaskOwner("test")
        checks = door(jwt_keys=one.url if source == "url" else keys_file(RSA.jwk()))
        await checks.start(tasks)
        identity = await checks.authenticate(RSA.token())
        checks.reload(Settings(auth=AuthSettings(jwt_keys=two.url)))
        assert checks.still_valid(identity), "before the first answer"
        assert "the signing keys of before stay until the new URL has answered" in caplog.messages
        assert (await refusal(checks, CURVE.token())).status == 503, "it may be signed by a key of the new URL"
        assert two.asked == 1
        assert checks.still_valid(identity), "after a bad answer"
        assert await checks.authenticate(RSA.token()) == identity
        # From one bad URL to the next: the good keys are still those of the first.
        checks.reload(Settings(auth=AuthSettings(jwt_keys=one.url + "/none")))
        assert checks.still_valid(identity)
        assert await checks.authenticate(RSA.token(pad="not checked before")) == identity
        two.body = key_set(CURVE.jwk())
        checks.reload(Settings(auth=AuthSettings(jwt_keys=two.url)))
        await checks.authenticate(CURVE.token())
        assert not checks.still_valid(identity)
        await refusal(checks, RSA.token())
        await tasks.close(within_s=1)


async def test_keys_of_one_issuer_do_not_stay_for_another(keys_file: Callable[..., str]) -> None:
    async with key_set_server(b"oops") as server:
        tasks = TaskOwner("test")
        checks = door(jwt_keys=keys_file(RSA.jwk()), jwt_issuer="https://one")
        await checks.start(tasks)
        await checks.authenticate(RSA.token(iss="https://one"))
        checks.reload(Settings(auth=AuthSettings(jwt_keys=server.url, jwt_issuer="https://two")))
        assert (await refusal(checks, RSA.token(iss="https://two"))).status == 503
        await tasks.close(within_s=1)


async def test_a_reload_to_a_wrong_url_closes_no_socket(start_grizz, http: aiohttp.ClientSession) -> None:
    async with key_set_server(key_set(RSA.jwk())) as server:
        # Connections are looked at every second then.
        grizz = await start_grizz(auth__jwt_keys=server.url, server__max_age_s=25)
        player = await Player.connect(http, grizz.ws_url, headers=bearer(RSA.token()))
        wrong = dataclasses.replace(grizz.app._settings.auth, jwt_keys=server.url + "/none")
        grizz.app.reload(dataclasses.replace(grizz.app._settings, auth=wrong))
        await asyncio.sleep(2.5)
        assert text_of(await player.ask("[[echo:still here]]")) == "still here"
        async with http.get(f"{grizz.url}/v1/models", headers=bearer(RSA.token())) as answer:
            assert answer.status == 200


async def test_a_token_works_over_http_and_websocket_and_its_end_closes_the_socket(
    start_grizz, http: aiohttp.ClientSession
) -> None:
    grizz = await start_grizz(environ={"GRIZZ_AUTH_JWT_SECRET": SECRET}, auth__jwt_leeway_s=0)
    async with http.get(f"{grizz.url}/v1/models", headers=bearer(secret_token())) as answer:
        assert answer.status == 200
    player = await Player.connect(http, grizz.ws_url, headers=bearer(secret_token(exp=int(time.time()) + 2)))
    assert await player.closed() == 1008


async def test_a_token_is_renewed_on_an_open_socket_by_the_same_user_only(
    start_grizz, http: aiohttp.ClientSession
) -> None:
    grizz = await start_grizz(environ={"GRIZZ_AUTH_JWT_SECRET": SECRET}, auth__jwt_leeway_s=0, server__max_age_s=25)
    player = await Player.connect(http, grizz.ws_url, headers=bearer(secret_token(exp=int(time.time()) + 3)))
    await player.send({"type": "grizz:auth", "token": secret_token(sub="somebody else")})
    assert (await player.next())["status"] == 403
    await player.send({"type": "grizz:auth", "token": "nonsense"})
    assert (await player.next())["status"] == 401
    await player.send({"type": "grizz:auth", "token": secret_token(exp=int(time.time()) + 600)})
    assert (await player.next())["type"] == "grizz:authenticated"
    await asyncio.sleep(4.5)
    assert (await player.ask("[[echo:still me]]"))[-1]["type"] == "response.completed"


async def test_who_introduces_itself_where_nobody_needs_to_is_told_that_all_is_well(
    grizz: Grizz, http: aiohttp.ClientSession
) -> None:
    player = await Player.connect(http, grizz.ws_url)
    await player.send({"type": "grizz:auth", "token": "whatever"})
    assert (await player.next())["type"] == "grizz:authenticated"


def test_an_identity_shows_no_proof_in_logs() -> None:
    assert "jwt:" not in repr(Identity("user:x", proof="jwt:abc"))


@pytest.fixture(autouse=True)
def short_test_secrets() -> None:
    """PyJWT warns of what some forgeries use."""
    warnings.filterwarnings("ignore", category=jwt.InsecureKeyLengthWarning)


async def test_a_token_that_never_ends_is_good(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(environ={"GRIZZ_AUTH_JWT_SECRET": SECRET})
    async with http.get(f"{grizz.url}/v1/models", headers=bearer(secret_token(exp=10**400))) as answer:
        assert answer.status == 200
