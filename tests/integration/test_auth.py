"""Who is let in, on every way a credential can come; and that nobody else is."""

from __future__ import annotations

import asyncio
import dataclasses
import json

import aiohttp
import pytest

from grizz.config import KeySettings
from grizz.core.api_keys import hash_of, new_key
from grizz.web.auth.tickets import MAX_TICKETS_PER_USER
from tests.accounts import ACCOUNTS, ALICE, BOB, bearer
from tests.conftest import Grizz
from tests.player import Player, text_of

PROTECTED = [
    ("POST", "/v1/responses"),
    ("GET", "/v1/responses/resp_x"),
    ("GET", "/v1/responses/resp_x?stream=true"),
    ("POST", "/v1/responses/resp_x/cancel"),
    ("DELETE", "/v1/responses/resp_x"),
    ("GET", "/v1/responses/resp_x/input_items"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/grizz-demo"),
    ("GET", "/v1/seen"),
    ("GET", "/v1/responses"),
    ("POST", "/v1/ticket"),
    ("POST", "/v1/session"),
    ("GET", "/a/route/that/comes/later"),
]


@pytest.fixture
async def closed(start_grizz) -> Grizz:
    """Grizz with two accounts."""
    return await start_grizz(environ=ACCOUNTS)


@pytest.mark.parametrize(("method", "path"), PROTECTED)
async def test_without_a_credential_every_path_answers_401_and_says_how(
    closed: Grizz, http: aiohttp.ClientSession, method: str, path: str
) -> None:
    async with http.request(method, closed.url + path) as answer:
        error = (await answer.json())["error"]
        assert (answer.status, error["code"], error["type"]) == (401, "missing_api_key", "authentication_error")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(("method", "path"), PROTECTED)
async def test_a_wrong_key_is_refused_on_every_path(
    closed: Grizz, http: aiohttp.ClientSession, method: str, path: str
) -> None:
    async with http.request(method, closed.url + path, headers=bearer(new_key())) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("path", ["/", "/pages/app.js", "/favicon.ico", "/livez", "/healthz", "/readyz"])
async def test_pages_and_health_checks_are_open(closed: Grizz, http: aiohttp.ClientSession, path: str) -> None:
    async with http.get(closed.url + path) as answer:
        assert answer.status == 200


async def test_metrics_are_open_to_this_machine_and_not_through_a_proxy(
    closed: Grizz, http: aiohttp.ClientSession
) -> None:
    url = f"{closed.url}/metrics"
    async with http.get(url) as answer:
        assert answer.status == 200
    for headers, status in (({}, 401), (bearer(ALICE), 200), (bearer("x"), 401)):
        async with http.get(url, headers={"X-Forwarded-For": "203.0.113.9", **headers}) as answer:
            assert answer.status == status


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Forwarded", "for=203.0.113.9"),
        ("X-Real-IP", "203.0.113.9"),
        ("Via", "1.1 proxy"),
        ("X-Forwarded-Host", "chat.example.com"),
        ("X-Forwarded-Proto", "https"),
        ("x-real-ip", ""),
    ],
)
async def test_metrics_are_closed_to_whatever_a_proxy_passed_on(
    closed: Grizz, http: aiohttp.ClientSession, name: str, value: str
) -> None:
    async with http.get(f"{closed.url}/metrics", headers={name: value}) as answer:
        assert answer.status == 401


async def test_a_key_asks_over_http_and_over_a_websocket(closed: Grizz, http: aiohttp.ClientSession) -> None:
    async with http.post(f"{closed.url}/v1/responses", json={"input": "[[echo:hi]]"}, headers=bearer(ALICE)) as answer:
        assert answer.status == 200
    player = await Player.connect(http, closed.ws_url, headers=bearer(ALICE))
    assert text_of(await player.ask("[[echo:over a socket]]")) == "over a socket"


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": ALICE},
        {"Authorization": f"Basic {ALICE}"},
        {"Authorization": f"Bearer {ALICE[:-1]}"},
        {"Authorization": f"Bearer {ALICE} x"},
        {"Authorization": f"Bearer {ALICE.upper()}"},
        {"Authorization": "Bearer " + "x" * 8000},
        {"Authorization": "Bearer kéy"},
        {"Authorization": f"Bearer {hash_of(ALICE)}"},
        {"Cookie": "grizz_session="},
        {"Cookie": "grizz_session=wrong"},
        {"Cookie": "grizz_owner=" + "A" * 43},
        {"X-Api-Key": ALICE},
    ],
    ids=lambda headers: str(headers)[:60],
)
async def test_what_is_nearly_a_credential_is_none(
    closed: Grizz, http: aiohttp.ClientSession, headers: dict[str, str]
) -> None:
    async with http.get(f"{closed.url}/v1/models", headers=headers) as answer:
        assert answer.status == 401


async def test_two_authorization_headers_are_refused(closed: Grizz, http: aiohttp.ClientSession) -> None:
    headers = [("Authorization", f"Bearer {ALICE}"), ("Authorization", f"Bearer {BOB}")]
    async with http.get(f"{closed.url}/v1/models", headers=headers) as answer:
        assert answer.status == 401


async def test_a_wrong_header_is_not_made_good_by_a_weaker_place(closed: Grizz, http: aiohttp.ClientSession) -> None:
    headers = {**bearer("wrong"), "Cookie": f"grizz_session={ALICE}", "Origin": closed.url}
    async with http.get(f"{closed.url}/v1/models", headers=headers) as answer:
        assert answer.status == 401
    with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
        await Player.connect(
            http, closed.ws_url, headers=bearer("wrong"), protocols=("responses", f"openai-insecure-api-key.{ALICE}")
        )


async def test_a_token_among_the_subprotocols_is_taken_and_never_echoed(
    closed: Grizz, http: aiohttp.ClientSession
) -> None:
    player = await Player.connect(http, closed.ws_url, protocols=("responses", f"openai-insecure-api-key.{ALICE}"))
    assert player.ws.protocol == "responses"
    assert text_of(await player.ask("[[echo:hi]]")) == "hi"
    with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
        await Player.connect(http, closed.ws_url, protocols=("responses", "openai-insecure-api-key.wrong"))


async def test_a_key_among_the_subprotocols_does_not_make_a_stock_client_one_that_knows_our_events(
    closed: Grizz, http: aiohttp.ClientSession
) -> None:
    assert ALICE.startswith("grizz-")
    mine = ("responses", f"openai-insecure-api-key.{ALICE}")
    first = await Player.connect(http, closed.ws_url, protocols=mine)
    response_id = (await first.ask("[[echo:hi]]"))[0]["response"]["id"]
    for protocols, sent in ((mine, "response.created"), (("grizz", *mine), "grizz:attached")):
        player = await Player.connect(http, f"{closed.ws_url}?response_id={response_id}", protocols=protocols)
        assert (await player.next())["type"] == sent


async def test_a_refused_handshake_has_a_body_that_says_why(closed: Grizz, http: aiohttp.ClientSession) -> None:
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    async with http.get(f"{closed.url}/v1/responses", headers={**upgrade, "Sec-WebSocket-Key": "eA=="}) as answer:
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert (await answer.json())["error"]["code"] == "missing_api_key"


async def test_a_browser_says_by_its_first_message_who_it_is(closed: Grizz, http: aiohttp.ClientSession) -> None:
    player = await Player.connect(http, closed.ws_url, protocols=("responses", "grizz"))
    await player.send({"type": "grizz:auth", "token": ALICE})
    await player.until("grizz:authenticated")
    assert text_of(await player.ask("[[echo:hi]]")) == "hi"


@pytest.mark.parametrize(
    "frame",
    [{"type": "grizz:auth", "token": "wrong"}, {"type": "grizz:auth"}, {"type": "response.create", "input": "x"}],
    ids=str,
)
async def test_any_other_first_message_closes_with_1008(
    closed: Grizz, http: aiohttp.ClientSession, frame: dict[str, str]
) -> None:
    player = await Player.connect(http, closed.ws_url, protocols=("responses", "grizz"))
    await player.send(frame)
    assert await player.closed() == 1008
    assert [event["type"] for event in player.events] == ["error"]
    assert player.events[0]["status"] == 401


async def test_who_does_not_know_of_first_messages_is_refused_before_the_upgrade(
    closed: Grizz, http: aiohttp.ClientSession
) -> None:
    for protocols in ((), ("responses",)):
        with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
            await Player.connect(http, closed.ws_url, protocols=protocols)


async def ticket_of(http: aiohttp.ClientSession, grizz: Grizz, key: str) -> str:
    async with http.post(f"{grizz.url}/v1/ticket", headers=bearer(key)) as answer:
        assert answer.status == 200
        assert answer.headers["Cache-Control"] == "no-store"
        body = await answer.json()
    assert body["expires_in"] == 30
    ticket: str = body["ticket"]
    return ticket


async def test_a_ticket_opens_one_websocket_for_its_owner(closed: Grizz, http: aiohttp.ClientSession) -> None:
    ticket = await ticket_of(http, closed, ALICE)
    player = await Player.connect(http, f"{closed.ws_url}?ticket={ticket}")
    answer = await player.ask("[[echo:hi]]")
    assert text_of(answer) == "hi"
    url = f"{closed.url}/v1/responses/{answer[0]['response']['id']}"
    for key, status in ((ALICE, 200), (BOB, 404)):
        async with http.get(url, headers=bearer(key)) as fetched:
            assert fetched.status == status
    for used in (ticket, "", "x", f"{ticket}&ticket={ticket}"):
        with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
            await Player.connect(http, f"{closed.ws_url}?ticket={used}")


async def test_a_ticket_is_good_for_nothing_but_a_websocket(closed: Grizz, http: aiohttp.ClientSession) -> None:
    ticket = await ticket_of(http, closed, ALICE)
    async with http.get(f"{closed.url}/v1/models?ticket={ticket}") as answer:
        assert answer.status == 401
    async with http.get(f"{closed.url}/v1/models", headers=bearer(ticket)) as answer:
        assert answer.status == 401
    await Player.connect(http, f"{closed.ws_url}?ticket={ticket}")


async def test_a_ticket_that_was_not_used_in_time_is_worthless(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(environ=ACCOUNTS, auth__ticket_s=1)
    async with http.post(f"{grizz.url}/v1/ticket", headers=bearer(ALICE)) as answer:
        ticket = (await answer.json())["ticket"]
    await asyncio.sleep(1.05)
    with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
        await Player.connect(http, f"{grizz.ws_url}?ticket={ticket}")


async def test_with_anonymous_access_keys_still_count_and_wrong_ones_are_refused(
    start_grizz, http: aiohttp.ClientSession
) -> None:
    grizz = await start_grizz(environ=ACCOUNTS, server__allow_anonymous=True)
    for headers, status in (({}, 200), (bearer(ALICE), 200), (bearer("wrong"), 401)):
        async with http.get(f"{grizz.url}/v1/models", headers=headers) as answer:
            assert answer.status == status
    async with http.post(f"{grizz.url}/v1/responses", json={"input": "x"}, headers=bearer(ALICE)) as answer:
        of_alice = (await answer.json())["id"]
    async with http.get(f"{grizz.url}/v1/responses/{of_alice}") as answer:
        assert answer.status == 404


async def test_without_accounts_any_key_is_accepted_and_ignored(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    async with http.post(f"{grizz.url}/v1/responses", json={"input": "x"}, headers=bearer("anything")) as answer:
        made = (await answer.json())["id"]
    async with http.get(f"{grizz.url}/v1/responses/{made}", headers=bearer("another")) as answer:
        assert answer.status == 200
    player = await Player.connect(
        http, f"{grizz.ws_url}?ticket=x", protocols=("responses", "openai-insecure-api-key.x")
    )
    assert text_of(await player.ask("[[echo:hi]]")) == "hi"


def with_keys(grizz: Grizz, **tables: KeySettings):
    return dataclasses.replace(grizz.app._settings, keys=tables)


async def test_a_key_is_rotated_without_a_restart_and_its_owner_keeps_what_is_theirs(
    closed: Grizz, http: aiohttp.ClientSession
) -> None:
    old, new = ALICE, new_key()
    async with http.post(f"{closed.url}/v1/responses", json={"input": "x"}, headers=bearer(old)) as answer:
        url = f"{closed.url}/v1/responses/{(await answer.json())['id']}"
    player = await Player.connect(http, closed.ws_url, headers=bearer(old))
    both = KeySettings(hashes=(hash_of(old), hash_of(new)))
    closed.app.reload(with_keys(closed, alice=both))
    for key in (old, new):
        async with http.get(url, headers=bearer(key)) as answer:
            assert answer.status == 200
    assert text_of(await player.ask("[[echo:still here]]")) == "still here"
    closed.app.reload(with_keys(closed, alice=KeySettings(hashes=(hash_of(new),))))
    for key, status in ((old, 401), (new, 200), (BOB, 401)):
        async with http.get(url, headers=bearer(key)) as answer:
            assert answer.status == status
    assert await player.closed() == 1008


async def test_one_user_cannot_spend_the_tickets_of_others(closed: Grizz, http: aiohttp.ClientSession) -> None:
    of_bob = await ticket_of(http, closed, BOB)
    of_alice = [await ticket_of(http, closed, ALICE) for _ in range(MAX_TICKETS_PER_USER + 1)]
    await Player.connect(http, f"{closed.ws_url}?ticket={of_bob}")
    await Player.connect(http, f"{closed.ws_url}?ticket={of_alice[-1]}")
    with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
        await Player.connect(http, f"{closed.ws_url}?ticket={of_alice[0]}")


async def test_a_ticket_of_a_key_that_is_gone_is_worthless(closed: Grizz, http: aiohttp.ClientSession) -> None:
    ticket = await ticket_of(http, closed, ALICE)
    closed.app.reload(with_keys(closed, bob=KeySettings(hashes=(hash_of(BOB),))))
    with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
        await Player.connect(http, f"{closed.ws_url}?ticket={ticket}")


async def test_the_anonymous_are_sent_away_once_there_are_accounts(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    player = await Player.connect(http, grizz.ws_url)
    grizz.app.reload(with_keys(grizz, alice=KeySettings(hashes=(hash_of(ALICE),))))
    async with http.get(f"{grizz.url}/v1/models") as answer:
        assert answer.status == 401
    assert await player.closed() == 1008


async def test_refusals_are_counted_as_such(closed: Grizz, http: aiohttp.ClientSession) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
        await Player.connect(http, closed.ws_url, headers=bearer("wrong"))
    async with http.get(f"{closed.url}/metrics") as answer:
        assert 'grizz_connections_total{result="auth"} 1.0' in await answer.text()


async def test_no_error_body_repeats_what_was_shown(closed: Grizz, http: aiohttp.ClientSession) -> None:
    wrong = new_key()
    async with http.get(f"{closed.url}/v1/models", headers=bearer(wrong)) as answer:
        assert wrong not in json.dumps(await answer.json())
