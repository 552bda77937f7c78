"""`doctor` and settings that start, and that an operator will be sorry for; and what its command line takes."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import pytest

from grizz.cli import main
from grizz.core.api_keys import hash_of, new_key
from tests.accounts import Signer, key_set, key_set_server
from tests.conftest import ROOT, Process
from tests.integration.test_doctor import SECRET, doctor

HASH = hash_of(new_key())


@pytest.mark.parametrize(
    ("environ", "about", "state", "text"),
    [
        ({}, "proxies", "ok", "none is needed"),
        ({"KEYS_ALICE_HASHES": HASH}, "proxies", "ok", "programs of this machine are believed"),
        ({"SERVER_TRUSTED_PROXIES": "127.0.0.1"}, "proxies", "note", "127.0.0.1 are believed"),
        (
            {"SERVER_TRUSTED_PROXIES": "127.0.0.1", "SERVER_ALLOWED_HOSTS": "grizz.example.com"},
            *("proxies", "ok", "127.0.0.1 are believed"),
        ),
        ({"SERVER_TRUSTED_PROXIES": "10.0.0.1,0.0.0.0/0"}, "proxies", "bad", "server.trusted_proxies names 0.0.0.0/0:"),
        ({"SERVER_TRUSTED_PROXIES": "::/0"}, "proxies", "bad", "server.trusted_proxies names ::/0:"),
        (
            {"SERVER_HOST": "0.0.0.0", "KEYS_ALICE_HASHES": HASH},
            *("proxies", "note", "no proxy is believed: behind one, all clients would share its address"),
        ),
        ({"WORKERS_CONCURRENCY": "0"}, "workers", "bad", "workers.concurrency = 0 without a Redis"),
        ({"AUTH_JWT_SECRET": SECRET * 2}, "tokens", "ok", "they can be checked"),
        (
            {"AUTH_JWT_KEYS": "/nowhere/keys.json"},
            "tokens",
            "bad",
            'auth.jwt_keys = "/nowhere/keys.json": No such file',
        ),
        (
            {"AUTH_JWT_KEYS": "https://login.example.com/keys", "AUTH_JWT_AUDIENCE": "grizz"},
            *("tokens", "note", "no auth.jwt_issuer: tokens that were made for others open this"),
        ),
        (
            {f"{section}_MAX_BYTES": "1024GiB" for section in ("REPLIES", "HISTORY", "QUEUE")},
            *("memory", "note", "3,145,828 MiB may be needed, and there are "),
        ),
        ({"WORKERS_JOB_TIMEOUT_S": "30s"}, "times", "note", "an attempt is over after 30 s"),
        ({"WORKERS_CONCURRENCY": "2000"}, "connections", "note", "2000 jobs at a time"),
    ],
)
async def test_settings_that_an_operator_will_be_sorry_for_are_named(
    environ: dict[str, str], about: str, state: str, text: str
) -> None:
    seen = await doctor("--offline", **{f"GRIZZ_{name}": value for name, value in environ.items()})
    assert seen.found[about][0] == state, seen.output
    assert seen.found[about][1].startswith(text)
    assert state == "ok" or seen.found[about][2]


async def test_a_secret_in_a_file_that_others_may_read_is_noted(tmp_path: Path) -> None:
    file = tmp_path / "key of ours"
    file.write_text(SECRET)
    for mode, state in ((0o644, "note"), (0o640, "ok")):
        file.chmod(mode)
        seen = await doctor("--offline", OPENAI_API_KEY_FILE=str(file))
        assert seen.found["secrets"][0] == state
        assert SECRET not in seen.output
        assert seen.found["secrets"][2] == (f"chmod 600 '{file}'" if state == "note" else "")


async def test_signing_keys_behind_a_url_are_fetched() -> None:
    async with key_set_server(key_set(Signer().jwk())) as server:
        environ = {"GRIZZ_AUTH_JWT_KEYS": server.url, "GRIZZ_DEMO_ENABLED": "true"}
        assert (await doctor(**environ)).found["signing keys"][:2] == ("ok", f"1 at {server.url}")
        server.body = b"a page that says sign in"
        state, text, advice = (await doctor(**environ)).found["signing keys"]
        assert (state, text) == ("bad", f'{server.url}: not a JSON Web Key Set, {{"keys": [...]}}')
        assert "jwks_uri" in advice
        server.asked = 0
        await doctor("--offline", **environ)
        assert not server.asked


async def test_the_key_of_the_doctor_is_no_mistake_in_the_environment_of_a_server() -> None:
    with mock.patch.dict(os.environ, {"GRIZZ_DOCTOR_KEY": SECRET}), redirect_stdout(io.StringIO()) as output:
        assert main(["--check-config"]) == 0
    assert SECRET not in output.getvalue()


@pytest.mark.parametrize("url", ["example.com", "ftp://example.com", "https://u:p@example.com", "https://x/?a=1"])
def test_what_is_no_address_of_a_site_is_refused(url: str) -> None:
    with pytest.raises(SystemExit, match="2"), redirect_stderr(io.StringIO()) as said:
        main(["doctor", "--through", url])
    assert "must be the address of a site" in said.getvalue()
    assert "u:p" not in said.getvalue()


def typed(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "grizz.py"), "doctor", "--offline", "--demo", *arguments]
    return subprocess.run(
        command, env={**os.environ, **environ}, capture_output=True, text=True, timeout=30, check=False
    )


def test_a_port_where_a_grizz_answers_is_no_trouble(start_process: Callable[..., Process]) -> None:
    ran = typed("--port", start_process("--demo").url.rpartition(":")[2])
    assert "is in use by a Grizz that runs, version " in ran.stdout
    assert ran.returncode == 0, ran.stdout


def test_traces_that_a_start_would_refuse_are_found() -> None:
    ran = typed("--port", "0", OTEL_EXPORTER_OTLP_ENDPOINT="nonsense")
    assert ran.returncode == 1
    assert "a collector's address begins with http:// or https://" in ran.stdout
