"""Where a request comes from: pages by their Origin, names by the Host, addresses through proxies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from grizz.config import ServerSettings, Settings
from grizz.errors import RequestError
from grizz.web.auth import Door, Identity
from grizz.web.auth.sessions import Sessions

Ask = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
async def ask(http: aiohttp.ClientSession) -> AsyncIterator[Ask]:
    """Send a request through a door, and hear what the door thinks of it; `_` in a header's name is a dash."""
    runners = []

    async def send(server: ServerSettings, *more: tuple[str, str], path: str = "/", **headers: str) -> dict[str, Any]:
        door = Door(Settings(server=server))

        async def answer(request: web.Request) -> web.Response:
            seen: dict[str, Any] = {"address": door.address_of(request), "secure": door.is_secure(request)}
            if request.path == "/who":
                identity = await door.identify(request)
                return web.json_response({"owner": identity.owner, "limited_as": identity.limited_as})
            for name, check in (("host", door.check_host), ("origin", door.check_origin)):
                try:
                    check(request)
                    seen[name] = "ok"
                except RequestError as error:
                    seen[name] = str(error.code)
            return web.json_response(seen)

        app = web.Application()
        app.router.add_get("/{path:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        named = [(name.replace("_", "-"), text.replace("PORT", str(port))) for name, text in headers.items()]
        async with http.get(f"http://127.0.0.1:{port}{path}", headers=[*named, *more]) as reply:
            seen: dict[str, Any] = await reply.json()
            return seen

    yield send
    for runner in runners:
        await runner.cleanup()


LOCAL = ServerSettings()
PUBLIC = ServerSettings(host="0.0.0.0", allow_anonymous=True)


def proxied(*proxies: str, **more: Any) -> ServerSettings:
    return ServerSettings(host="0.0.0.0", trusted_proxies=proxies, **more)


@pytest.mark.parametrize(
    ("origin", "verdict"),
    [
        ("http://127.0.0.1:PORT", "ok"),
        ("HTTP://127.0.0.1:PORT", "ok"),
        ("https://127.0.0.1:PORT", "forbidden_origin"),
        ("http://127.0.0.1", "forbidden_origin"),
        ("http://127.0.0.1:1", "forbidden_origin"),
        ("http://localhost:PORT", "forbidden_origin"),
        ("http://127.0.0.1:PORT.evil.example", "forbidden_origin"),
        ("http://127.0.0.1:PORT@evil.example", "forbidden_origin"),
        ("http://evil.example/127.0.0.1:PORT", "forbidden_origin"),
        ("http://127.0.0.1:PORT/path", "forbidden_origin"),
        ("http://127.0.0.1:99999", "forbidden_origin"),
        ("http://[::1", "forbidden_origin"),
        ("127.0.0.1:PORT", "forbidden_origin"),
        ("null", "forbidden_origin"),
        ("", "forbidden_origin"),
    ],
)
async def test_only_our_own_origin_may_act(ask: Ask, origin: str, verdict: str) -> None:
    assert (await ask(LOCAL, Origin=origin))["origin"] == verdict


async def test_without_an_origin_it_is_no_page(ask: Ask) -> None:
    assert (await ask(LOCAL))["origin"] == "ok"


async def test_two_origins_are_none(ask: Ask) -> None:
    seen = await ask(LOCAL, ("Origin", "https://evil.example"), Origin="http://127.0.0.1:PORT")
    assert seen["origin"] == "forbidden_origin"


@pytest.mark.parametrize(
    ("origin", "verdict"),
    [
        ("https://chat.example.com", "ok"),
        ("https://chat.example.com:443", "ok"),
        ("https://Chat.Example.com", "ok"),
        ("https://www.example.com", "ok"),
        ("http://chat.example.com", "forbidden_origin"),
        ("https://chat.example.com:8443", "forbidden_origin"),
        ("https://evil.chat.example.com", "forbidden_origin"),
        ("https://chat.example.com.evil.example", "forbidden_origin"),
        ("null", "forbidden_origin"),
    ],
)
async def test_an_allowed_origin_is_that_one_exactly(ask: Ask, origin: str, verdict: str) -> None:
    server = ServerSettings(allowed_origins=("https://chat.example.com", "https://www.example.com:443"))
    assert (await ask(server, Origin=origin))["origin"] == verdict


async def test_behind_a_trusted_proxy_our_origin_is_what_the_browser_sees(ask: Ask) -> None:
    seen = {
        "Origin": "https://chat.example.com",
        "Host": "internal:8000",
        "X_Forwarded_Proto": "https",
        "X_Forwarded_Host": "chat.example.com",
    }
    assert await ask(proxied("127.0.0.1"), **seen) == {
        "address": "127.0.0.1",
        "secure": True,
        "host": "ok",
        "origin": "ok",
    }
    for server in (proxied("10.0.0.0/8"), PUBLIC):
        untrusted = await ask(server, **seen)
        assert (untrusted["origin"], untrusted["secure"]) == ("forbidden_origin", False)
    assert (await ask(proxied("127.0.0.1"), **{**seen, "X_Forwarded_Proto": "http"}))["origin"] == "forbidden_origin"


async def test_what_the_nearest_proxy_wrote_last_counts(ask: Ask) -> None:
    seen = await ask(
        proxied("127.0.0.1"),
        Origin="https://evil.example",
        X_Forwarded_Proto="https",
        X_Forwarded_Host="evil.example, chat.example.com",
    )
    assert seen["origin"] == "forbidden_origin"


@pytest.mark.parametrize(
    ("host", "verdict"),
    [
        ("127.0.0.1:PORT", "ok"),
        ("localhost", "ok"),
        ("[::1]:8000", "ok"),
        ("grizz.test:9", "ok"),
        ("GRIZZ.test", "ok"),
        ("evil.example", "forbidden_host"),
        ("127.0.0.1.evil.example", "forbidden_host"),
        ("[::1", "forbidden_host"),
        ("grizz.test@evil.example", "forbidden_host"),
    ],
)
async def test_on_loopback_only_known_names_are_ours(ask: Ask, host: str, verdict: str) -> None:
    assert (await ask(ServerSettings(allowed_hosts=("grizz.test",)), Host=host))["host"] == verdict


@pytest.mark.parametrize(("host", "verdict"), [("grizz.test", "ok"), ("evil.example", "forbidden_host")])
async def test_elsewhere_names_that_are_given_are_all_there_are(ask: Ask, host: str, verdict: str) -> None:
    server = ServerSettings(host="0.0.0.0", allow_anonymous=True, allowed_hosts=("grizz.test",))
    assert (await ask(server, Host=host))["host"] == verdict


async def test_elsewhere_any_name_may_lead_here(ask: Ask) -> None:
    assert (await ask(PUBLIC, Host="chat.example.com"))["host"] == "ok"


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("198.51.100.1, 203.0.113.7", "203.0.113.7"),
        ("203.0.113.7, 10.1.2.3", "203.0.113.7"),
        ("203.0.113.7, 10.1.2.3, 10.9.9.9", "203.0.113.7"),
        ("10.5.5.5, 10.1.2.3", "10.5.5.5"),
        ("203.0.113.7:4711", "203.0.113.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("203.0.113.7, ::ffff:10.1.2.3", "203.0.113.7"),
        ("evil, 203.0.113.7", "203.0.113.7"),
        ("203.0.113.7, evil", "127.0.0.1"),
        ("203.0.113.7, evil, 10.1.2.3", "10.1.2.3"),
        ("203.0.113.7, , 10.1.2.3", "10.1.2.3"),
        ("unknown", "127.0.0.1"),
        ("", "127.0.0.1"),
        (",,,", "127.0.0.1"),
        ("203.0.113.777", "127.0.0.1"),
        ("1" * 7000, "127.0.0.1"),
    ],
)
async def test_the_address_is_the_nearest_that_is_no_trusted_proxy(ask: Ask, forwarded: str, address: str) -> None:
    seen = await ask(proxied("127.0.0.1", "10.0.0.0/8"), X_Forwarded_For=forwarded)
    assert seen["address"] == address


async def test_several_headers_are_one_list(ask: Ask) -> None:
    seen = await ask(proxied("127.0.0.1", "10.0.0.0/8"), ("X-Forwarded-For", "10.1.2.3"), X_Forwarded_For="203.0.113.7")
    assert seen["address"] == "203.0.113.7"


async def test_who_is_no_trusted_proxy_is_not_believed(ask: Ask) -> None:
    for server in (PUBLIC, proxied("10.0.0.0/8"), ServerSettings(trusted_proxies=("10.0.0.0/8",))):
        assert (await ask(server, X_Forwarded_For="203.0.113.7"))["address"] == "127.0.0.1"


async def test_bound_to_loopback_a_proxy_on_this_machine_is_believed_if_none_is_named(ask: Ask) -> None:
    assert (await ask(LOCAL, X_Forwarded_For="203.0.113.7"))["address"] == "203.0.113.7"


# For whom the anonymous are counted

COOKIES = [f"grizz_owner={letter * 43}" for letter in "AB"]


@pytest.mark.parametrize(
    ("address", "limited_as"),
    [
        ("203.0.113.7", "address:203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "address:2001:db8:1:2::/64"),
        ("::ffff:203.0.113.7", "address:203.0.113.7"),
        ("fe80::1%eth0", "address:fe80::/64"),
    ],
)
async def test_who_makes_up_a_cookie_is_another_owner_and_has_no_other_limits(
    ask: Ask, address: str, limited_as: str
) -> None:
    server = proxied("127.0.0.1", allow_anonymous=True)
    seen = [await ask(server, path="/who", Cookie=cookie, X_Forwarded_For=address) for cookie in COOKIES]
    assert [who["limited_as"] for who in seen] == [limited_as, limited_as]
    assert seen[0]["owner"] != seen[1]["owner"]
    assert all(who["owner"].startswith("browser:") for who in seen)


async def test_without_a_cookie_the_owner_is_the_whole_address_and_limits_are_of_its_network(ask: Ask) -> None:
    server = proxied("127.0.0.1", allow_anonymous=True)
    seen = [await ask(server, path="/who", X_Forwarded_For=f"2001:db8:1:2::{number}") for number in (1, 2)]
    assert [who["owner"] for who in seen] == ["address:2001:db8:1:2::1", "address:2001:db8:1:2::2"]
    assert {who["limited_as"] for who in seen} == {"address:2001:db8:1:2::/64"}


async def test_on_this_machine_each_browser_has_limits_of_its_own(ask: Ask) -> None:
    for server in (LOCAL, PUBLIC):
        one, two = [await ask(server, path="/who", Cookie=cookie) for cookie in COOKIES]
        assert one["limited_as"] == one["owner"] != two["owner"] == two["limited_as"]
        assert await ask(server, path="/who") == {"owner": "local", "limited_as": "local"}


# Who comes in where there are no accounts


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
async def test_without_accounts_nobody_comes_in_from_elsewhere_unless_that_is_allowed(
    http: aiohttp.ClientSession, host: str
) -> None:
    door = Door(Settings(server=ServerSettings(host=host)))
    allowed = Door(Settings(server=ServerSettings(host=host, allow_anonymous=True)))
    somebody = Identity("browser:x")
    assert allowed.still_valid(somebody)
    assert not door.still_valid(somebody)
    app = web.Application()

    async def answer(request: web.Request) -> web.Response:
        codes = []
        for each in (door, allowed):
            try:
                await each.admit(request)
                codes.append("ok")
            except RequestError as error:
                codes.append(str(error.code))
        return web.json_response([*codes, await door.access(request)])

    async def begin(request: web.Request) -> web.StreamResponse:
        with pytest.raises(RequestError, match="."):
            await Sessions(door).begin(request)
        return web.json_response("refused")

    app.router.add_get("/{path:.*}", answer)
    app.router.add_post("/v1/session", begin)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        for headers, code in (({}, "missing_api_key"), ({"Authorization": "Bearer x"}, "invalid_api_key")):
            async with http.get(f"{url}/v1/models", headers=headers) as reply:
                assert await reply.json() == [code, "ok", ["needed", False, ""]]
            async with http.post(f"{url}/v1/session", headers=headers) as reply:
                assert await reply.json() == "refused"
    finally:
        await runner.cleanup()
