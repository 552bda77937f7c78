"""A model server with https: it is believed if the system, or the environment, knows who signed its certificate."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from tests.player import text_of
from tests.raw_upstream import Call, raw_upstream
from tests.several import running


async def quick(call: Call) -> None:
    await call.answer("quick")


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


async def test_an_authority_that_the_environment_names_is_believed(
    authority: trustme.CA, tls: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with raw_upstream(quick, tls=tls) as (model, url), running({"main": {"base_url": url}}) as grizz:
        assert text_of(await (await grizz.player()).ask("hello")) == "quick"
    assert model.requests == 1


async def test_a_certificate_that_nobody_known_has_signed_is_refused_and_nothing_is_sent(
    tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    async with raw_upstream(quick, tls=tls) as (model, url), running({"main": {"base_url": url}}) as grizz:
        events = await (await grizz.player()).ask("hello")
    assert events[-1]["type"] == "response.failed"
    assert model.requests == 0
