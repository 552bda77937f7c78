"""Sessions of browsers: how they begin and end, and that no other site acts in them."""

from __future__ import annotations

import time

import aiohttp
import pytest

from tests.accounts import ACCOUNTS, ALICE, SECRET, bearer, secret_token
from tests.conftest import Grizz
from tests.player import Player, text_of

COOKIE = {"Cookie": f"grizz_session={ALICE}"}
PROTOCOLS = ("responses", "grizz")


@pytest.fixture
async def house(start_grizz) -> Grizz:
    return await start_grizz(environ={**ACCOUNTS, "GRIZZ_AUTH_JWT_SECRET": SECRET})


async def test_a_key_becomes_a_cookie_that_only_our_pages_use(house: Grizz, http: aiohttp.ClientSession) -> None:
    async with http.post(f"{house.url}/v1/session", headers={**bearer(ALICE), "Origin": house.url}) as answer:
        assert (answer.status, await answer.json()) == (200, {"object": "session", "expires_at": None})
        assert answer.headers["Cache-Control"] == "no-store"
        cookie = answer.cookies["grizz_session"]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"], cookie["secure"]) == (True, "Strict", "/", "")
    assert (cookie["max-age"], cookie["domain"]) == ("", "")
    async with http.get(f"{house.url}/v1/models", headers={"Cookie": f"grizz_session={cookie.value}"}) as answer:
        assert answer.status == 200


async def test_behind_a_proxy_with_https_the_cookie_is_for_https_only(
    house: Grizz, http: aiohttp.ClientSession
) -> None:
    headers = {**bearer(ALICE), "X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.5"}
    async with http.post(f"{house.url}/v1/session", headers=headers) as answer:
        assert answer.cookies["grizz_session"]["secure"] is True


async def test_the_session_of_a_token_ends_with_it(house: Grizz, http: aiohttp.ClientSession) -> None:
    expires = int(time.time()) + 600
    async with http.post(f"{house.url}/v1/session", headers=bearer(secret_token(exp=expires))) as answer:
        assert (await answer.json())["expires_at"] == expires + 30, "and the leeway"
        assert 600 < int(answer.cookies["grizz_session"]["max-age"]) <= 630


async def test_a_token_that_fits_no_cookie_is_refused_and_not_cut(house: Grizz, http: aiohttp.ClientSession) -> None:
    token = secret_token(pad="x" * 3500)
    async with http.get(f"{house.url}/v1/models", headers=bearer(token)) as answer:
        assert answer.status == 200
    async with http.post(f"{house.url}/v1/session", headers=bearer(token)) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (400, "invalid_value")


async def test_only_a_header_begins_a_session(house: Grizz, http: aiohttp.ClientSession) -> None:
    for headers in ({}, {**COOKIE, "Origin": house.url}):
        async with http.post(f"{house.url}/v1/session", headers=headers) as answer:
            assert (answer.status, len(answer.cookies)) == (401, 0)


@pytest.mark.parametrize("session", [ALICE, "over", ""])
async def test_a_session_is_ended_even_if_it_no_longer_counts(
    house: Grizz, http: aiohttp.ClientSession, session: str
) -> None:
    headers = {"Cookie": f"grizz_session={session}", "Origin": house.url}
    async with http.delete(f"{house.url}/v1/session", headers=headers) as answer:
        assert answer.status == 200
        assert (answer.cookies["grizz_session"].value, answer.cookies["grizz_session"]["max-age"]) == ("", "0")


@pytest.mark.parametrize("origin", [None, "null", "https://evil.example", "http://127.0.0.1:1"])
async def test_no_other_page_acts_in_a_session(house: Grizz, http: aiohttp.ClientSession, origin: str | None) -> None:
    headers = {**COOKIE, **({"Origin": origin} if origin else {})}
    for method, path in (
        ("POST", "/v1/responses"),
        ("POST", "/v1/responses/resp_x/cancel"),
        ("DELETE", "/v1/responses/resp_x"),
        ("POST", "/v1/ticket"),
    ):
        async with http.request(method, house.url + path, json={"input": "x"}, headers=headers) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (403, "forbidden_origin"), (method, path)
    with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
        await Player.connect(http, house.ws_url, headers=headers, protocols=PROTOCOLS)


@pytest.mark.parametrize("origin", ["null", "https://evil.example"])
async def test_a_foreign_page_neither_begins_nor_ends_a_session(
    house: Grizz, http: aiohttp.ClientSession, origin: str
) -> None:
    for method in ("POST", "DELETE"):
        headers = {**bearer(ALICE), "Origin": origin}
        async with http.request(method, f"{house.url}/v1/session", headers=headers) as answer:
            assert (answer.status, len(answer.cookies)) == (403, 0)


async def test_our_own_page_acts_in_its_session(house: Grizz, http: aiohttp.ClientSession) -> None:
    headers = {**COOKIE, "Origin": house.url}
    async with http.post(f"{house.url}/v1/responses", json={"input": "x"}, headers=headers) as answer:
        url = f"{house.url}/v1/responses/{(await answer.json())['id']}"
    player = await Player.connect(http, house.ws_url, headers=headers, protocols=PROTOCOLS)
    assert text_of(await player.ask("[[echo:hi]]")) == "hi"
    async with http.get(url, headers=bearer(ALICE)) as answer:
        assert answer.status == 200, "the same user as with the key itself"


async def access(http: aiohttp.ClientSession, grizz: Grizz, **headers: str) -> tuple[dict, bool]:
    """What the page learns, and whether its session was taken away."""
    async with http.get(f"{grizz.url}/pages/info.json", headers=headers) as answer:
        assert answer.status == 200
        return await answer.json(), "grizz_session" in answer.cookies


async def test_the_page_learns_whether_it_must_sign_in_and_a_stranger_learns_nothing_else(
    house: Grizz, http: aiohttp.ClientSession
) -> None:
    assert await access(http, house) == ({"access": "needed"}, False)
    info, taken = await access(http, house, **COOKIE)
    assert (info["access"], "version" in info, taken) == ("session", True, False)
    assert await access(http, house, Cookie="grizz_session=over") == ({"access": "needed"}, True)


async def test_a_session_that_is_over_does_not_lock_out_who_may_be_anonymous(
    start_grizz, http: aiohttp.ClientSession
) -> None:
    grizz = await start_grizz(environ=ACCOUNTS, server__allow_anonymous=True)
    info, taken = await access(http, grizz, Cookie="grizz_session=over")
    assert (info["access"], taken) == ("guest", True)


async def test_without_accounts_there_is_nothing_to_begin(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    async with http.post(f"{grizz.url}/v1/session", headers=bearer("anything")) as answer:
        assert (answer.status, len(answer.cookies)) == (200, 0)
    info, _ = await access(http, grizz)
    assert info["access"] == "open"


async def test_a_link_on_another_site_does_not_replace_the_browser_as_an_owner(
    grizz: Grizz, http: aiohttp.ClientSession
) -> None:
    """A browser keeps strict cookies back then; one that came anew would take its answers away from it."""
    for site, given in (("cross-site", 0), ("same-site", 0), ("none", 1), ("same-origin", 1)):
        async with http.get(grizz.url, headers={"Sec-Fetch-Site": site}) as answer:
            assert len(answer.cookies) == given, site
    async with http.get(f"{grizz.url}/pages/app.js", headers={"Sec-Fetch-Site": "same-origin"}) as answer:
        assert len(answer.cookies) == 1, "a newcomer has become an owner before the page connects"
