"""`doctor --through`: what it says of a proxy that is as it should be, and of each that is not."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.accounts import ACCOUNTS, ALICE, BOB
from tests.conftest import Grizz, running_grizz
from tests.deploy.proxies import KINDS, Front, Kind, front_of
from tests.integration.test_doctor import Examined, doctor
from tests.several import dead_url

NGINX = next(kind for kind in KINDS if kind.name == "nginx")
PROXY = "127.0.0.2"
# nginx has an address of its own, since the doctor is on the same machine.
OWN_ADDRESS = (r"proxy_pass .*;", rf"\g<0> proxy_bind {PROXY};")
NOTHING_SAID = (r"proxy_set_header X-.*;", "")


def nginx(*changes: tuple[str, str]) -> Kind:
    """Our file for it, changed: each pattern replaced wherever it stands."""

    def wrap(text: str, directory: Path) -> str:
        for pattern, instead in (OWN_ADDRESS, *changes):
            assert re.search(pattern, text), pattern
            text = re.sub(pattern, instead, text)
        return NGINX.wrap(text, directory)

    return dataclasses.replace(NGINX, wrap=wrap)


@asynccontextmanager
async def site(
    directory: Path, *changes: tuple[str, str], accounts: bool = True, **overrides: object
) -> AsyncIterator[tuple[Grizz, Front]]:
    """Grizz behind nginx with that file, and how to trust its certificate."""
    overrides = {"server__trusted_proxies": [PROXY], **overrides}
    async with (
        running_grizz(environ=ACCOUNTS if accounts else None, **overrides) as grizz,
        front_of(nginx(*changes), [grizz], directory) as front,
    ):
        yield grizz, front


async def look(directory: Path, front: Front, key: str = ALICE) -> Examined:
    """Through that proxy; what the test's own authority has signed is trusted."""
    environ = {"GRIZZ_DOCTOR_KEY": key} if key else {}
    (directory / "ca.pem").write_bytes(front.authority)
    return await doctor("--through", front.url, SSL_CERT_FILE=str(directory / "ca.pem"), **environ)


async def examined(directory: Path, *changes: tuple[str, str], key: str = ALICE, **overrides: object) -> Examined:
    async with site(directory, *changes, **overrides) as (_, front):
        return await look(directory, front, key)


async def test_our_nginx_has_nothing_wrong_and_no_model_is_asked(tmp_path: Path) -> None:
    async with site(tmp_path) as (grizz, front):
        seen = await look(tmp_path, front)
        assert grizz.demo.requests == 0
    assert seen.status == 0, seen.output
    names = ("certificate", "ready", "metrics", "stream", "address", "https", "websocket", "uploads")
    assert {name: seen.found[name][0] for name in seen.found} == dict.fromkeys(names, "ok"), seen.output
    assert seen.found["address"][1] == "127.0.0.1, and no other that is claimed"
    assert ALICE not in seen.output


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        # It passes on nothing that a client claims; the other adds to it, and whom the doctor comes from is trusted.
        ("caddy", ("ok", "127.0.0.1, and no other that is claimed")),
        ("haproxy", ("note", "this machine itself, which may claim any address")),
    ],
)
async def test_our_other_proxies_have_nothing_wrong_either(tmp_path: Path, kind: str, address: tuple[str, str]) -> None:
    async with (
        running_grizz(environ=ACCOUNTS, server__trusted_proxies=["127.0.0.1"]) as grizz,
        front_of(next(one for one in KINDS if one.name == kind), [grizz], tmp_path) as front,
    ):
        seen = await look(tmp_path, front)
    assert seen.status == 0, seen.output
    assert seen.found.pop("address")[:2] == address
    assert {state for state, _, _ in seen.found.values()} == {"ok"}, seen.output


async def test_without_a_key_it_says_what_it_could_not_see_and_still_tries_a_websocket(tmp_path: Path) -> None:
    seen = await examined(tmp_path, key="")
    assert seen.status == 0, seen.output
    assert seen.found["key"] == (
        "note",
        "it wants a key: how it streams and which address it sees is not known",
        "set GRIZZ_DOCTOR_KEY to one of its keys",
    )
    assert seen.found["websocket"][0] == "ok"
    assert "uploads" not in seen.found


async def test_a_wrong_key_is_named_and_not_shown(tmp_path: Path) -> None:
    wrong = BOB.swapcase()
    seen = await examined(tmp_path, key=wrong)
    assert seen.status == 1
    assert seen.found["key"][:2] == ("bad", "refused (401): This API key or token is not known here.")
    assert wrong not in seen.output


async def test_an_upgrade_that_does_not_pass_is_found_with_a_key_and_without(tmp_path: Path) -> None:
    async with site(tmp_path, (r"proxy_set_header (Upgrade|Connection) .*;", "")) as (_, front):
        for key, status in ((ALICE, 426), ("", 401)):
            state, text, advice = (await look(tmp_path, front, key)).found["websocket"]
            assert (state, text) == ("bad", f"the upgrade does not pass ({status})")
            assert "proxy_http_version 1.1" in advice


async def test_a_proxy_that_says_nothing_is_found_by_all_that_goes_wrong(tmp_path: Path) -> None:
    seen = await examined(tmp_path, NOTHING_SAID, (r"(?s)location = /metrics.*?}", ""), server__trusted_proxies=[])
    assert seen.status == 1
    assert seen.found["address"][1].startswith("whatever a client says its address is, is believed")
    assert "$proxy_add_x_forwarded_for" in seen.found["address"][2]
    assert seen.found["https"][:2] == ("bad", "it takes https for http: cookies are not Secure, and pages are refused")
    assert seen.found["websocket"][1] == "pages are refused (403): it takes their origin for a foreign one"
    assert seen.found["metrics"][:2] == ("bad", "anybody who reaches this address may read /metrics")


@pytest.mark.parametrize(
    ("change", "about", "state", "text"),
    [
        (
            (r"proxy_buffering off;", "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering;"),
            *("stream", "bad", "events are held back until the stream ends"),
        ),
        (
            (r"X-Forwarded-For .*;", 'X-Forwarded-For "";'),
            *("address", "bad", f"the proxy does not say who the client is: all of them look like {PROXY}"),
        ),
        (
            (r"client_max_body_size.*;", ""),
            *("uploads", "note", "a request of 2 MiB, as with a picture, is refused (413)"),
        ),
        (
            (r"proxy_set_header Host .*;", ""),
            *("ready", "bad", "Host 'grizz' is not served here; add it to server.allowed_hosts."),
        ),
        (
            (
                r"server 127\.0\.0\.1:\d+ ",
                dead_url().removeprefix("http://").removesuffix("/v1").join(("server ", " ")),
            ),
            *("ready", "bad", "the proxy answers 502: it reaches no Grizz"),
        ),
        (
            (r"location / {", "location / { return 404;"),
            "ready",
            "bad",
            "/readyz is answered 404, and not as Grizz does",
        ),
    ],
    ids=["buffering", "no address", "small uploads", "no host", "nobody there", "not passed on"],
)
async def test_one_thing_that_is_wrong_is_named(
    tmp_path: Path, change: tuple[str, str], about: str, state: str, text: str
) -> None:
    seen = await examined(tmp_path, change)
    assert seen.found[about][:2] == (state, text), seen.output
    assert seen.found[about][2]
    assert [name for name, found in seen.found.items() if found[0] != "ok"] == [about]


async def test_a_proxy_that_is_not_trusted_is_named_by_the_address_to_trust(tmp_path: Path) -> None:
    seen = await examined(tmp_path, server__trusted_proxies=["192.0.2.1"])
    assert seen.found["address"] == (
        "bad",
        f"what the proxy says is not believed: all clients look like {PROXY}",
        f'set server.trusted_proxies = ["{PROXY}"], if that is the proxy',
    )


async def test_to_trust_clients_as_if_they_were_proxies_is_bad(tmp_path: Path) -> None:
    elsewhere = (r"\$proxy_add_x_forwarded_for", '"$http_x_forwarded_for, 198.51.100.1"')
    seen = await examined(tmp_path, elsewhere, server__trusted_proxies=["0.0.0.0/0"])
    assert seen.found["address"][:2] == ("bad", "198.51.100.1 is taken for a proxy, and may claim any address")


async def test_a_certificate_that_clients_do_not_trust_ends_it(tmp_path: Path) -> None:
    async with site(tmp_path) as (_, front):
        seen = await doctor("--through", front.url)
    assert list(seen.found) == ["certificate"]
    assert seen.found["certificate"][0] == "bad"
    assert "certificate" in seen.found["certificate"][1]


async def test_without_a_proxy_there_is_nothing_to_change(grizz: Grizz) -> None:
    seen = await doctor("--through", grizz.url)
    assert {state for state, _, _ in seen.found.values()} == {"ok"}, seen.output
    assert seen.found["address"][1] == "no proxy shows itself, and this client is 127.0.0.1"


async def test_where_nobody_listens_it_says_so() -> None:
    seen = await doctor("--through", dead_url().removesuffix("/v1"))
    assert seen.status == 1
    assert list(seen.found) == ["ready"]
    assert seen.found["ready"][2] == "start it, or check the name, the port and the firewall"
