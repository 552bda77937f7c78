"""SIGHUP, certificates, and starts that cannot succeed: `python grizz.py` as an operator meets it."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme

from grizz.config import LimitSettings, ServerSettings, Settings, WorkerSettings, change
from grizz.core.api_keys import hash_of, new_key
from tests.accounts import bearer
from tests.conftest import ROOT, Process
from tests.player import Player


async def line_with(process: Process, words: str) -> str:
    """Read its log on to a line with these words."""
    stderr = process.popen.stderr
    assert stderr is not None
    async with asyncio.timeout(10):
        while True:
            line = await asyncio.to_thread(stderr.readline)
            assert line, f"the process ended without saying {words!r}"
            process.log.append(line)
            if words in line:
                return line


async def status_of_a_request(http: aiohttp.ClientSession, process: Process) -> int:
    async with http.post(f"{process.url}/v1/responses", json={"input": "[[echo:x]]"}) as answer:
        return answer.status


async def test_sighup_takes_over_limits_and_names_what_needs_a_restart(
    start_process, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[demo]\nenabled = true\n")
    process = start_process("--config", str(file))
    assert [await status_of_a_request(http, process) for _ in range(3)] == [200, 200, 200]
    file.write_text("[demo]\nenabled = true\n[limits]\nrequests_per_minute = 1\n[workers]\nconcurrency = 5\n")
    process.popen.send_signal(signal.SIGHUP)
    assert "limits.requests_per_minute" in await line_with(process, "settings reloaded")
    assert "workers.concurrency" in await line_with(process, "need a restart")
    assert [await status_of_a_request(http, process) for _ in range(2)] == [200, 429]


async def test_a_key_is_rotated_at_sighup_and_whoever_came_by_the_old_one_is_sent_away(
    start_process, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    old, new = new_key(), new_key()
    file = tmp_path / "config.toml"

    def write(*keys: str) -> None:
        hashes = ", ".join(f'"{hash_of(key)}"' for key in keys)
        file.write_text(f"[demo]\nenabled = true\n[keys.alice]\nhashes = [{hashes}]\n")

    write(old)
    process = start_process("--config", str(file))
    for keys, counts in (([old, new], {old: 200, new: 200}), ([new], {old: 401, new: 200})):
        player = await Player.connect(http, f"{process.url}/v1/responses", headers=bearer(old))
        write(*keys)
        process.popen.send_signal(signal.SIGHUP)
        assert "keys.alice" in await line_with(process, "settings reloaded")
        for key, status in counts.items():
            async with http.get(f"{process.url}/v1/models", headers=bearer(key)) as answer:
                assert answer.status == status
    assert await player.closed() == 1008


async def test_bad_settings_at_sighup_change_nothing_and_are_said(
    start_process, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[demo]\nenabled = true\n")
    process = start_process("--config", str(file))
    file.write_text("[limits]\nrequests_per_minute = 1\nconections = 5\n")
    process.popen.send_signal(signal.SIGHUP)
    assert "did you mean limits.connections?" in await line_with(process, "settings not reloaded")
    assert [await status_of_a_request(http, process) for _ in range(3)] == [200, 200, 200]


def test_only_live_settings_are_taken_over() -> None:
    new = Settings(
        workers=WorkerSettings(concurrency=5),
        limits=LimitSettings(connections=7),
        server=ServerSettings(port=1, allowed_hosts=("a",)),
    )
    changed = change(Settings(), new)
    assert changed.settings.limits.connections == 7
    assert changed.settings.workers.concurrency == Settings().workers.concurrency
    assert (changed.settings.server.port, changed.settings.server.allowed_hosts) == (8000, ("a",))
    assert set(changed.taken) == {"limits.connections", "server.allowed_hosts"}
    assert set(changed.refused) == {"workers.concurrency", "server.port"}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def write_certificate(authority: trustme.CA, folder: Path) -> tuple[str, str, int]:
    """Certificate and key files for this machine, and the serial number."""
    issued = authority.issue_cert("localhost", "127.0.0.1")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    issued.private_key_pem.write_to_path(str(key))
    decoded: dict[str, Any] = ssl._ssl._test_decode_cert(str(certificate))  # type: ignore[attr-defined]
    return str(certificate), str(key), int(decoded["serialNumber"], 16)


def spoil(file: str) -> None:
    Path(file).write_text("spoilt")


async def test_it_serves_https_and_wss_and_takes_a_renewed_certificate_at_sighup(
    start_process, authority: trustme.CA, tmp_path: Path
) -> None:
    certificate, key, first = write_certificate(authority, tmp_path)
    environ = {"GRIZZ_SERVER_TLS_CERT_FILE": certificate, "GRIZZ_SERVER_TLS_KEY_FILE": key}
    process = start_process("--demo", environ=environ)
    assert process.url.startswith("https://")
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)

    async def serial() -> int:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting)) as session:
            player = await Player.connect(session, process.url.replace("https", "wss") + "/v1/responses")
            assert player.ws.get_extra_info("ssl_object") is not None
            found = int(player.ws.get_extra_info("peercert")["serialNumber"], 16)
            assert (await player.ask("[[echo:x]]"))[-1]["type"] == "response.completed"
            await player.ws.close()
            return found

    assert await serial() == first
    _, _, second = write_certificate(authority, tmp_path)
    process.popen.send_signal(signal.SIGHUP)
    await line_with(process, "settings reloaded")
    assert await serial() == second != first
    spoil(certificate)
    process.popen.send_signal(signal.SIGHUP)
    assert "tls_cert_file" in await line_with(process, "settings not reloaded")
    assert await serial() == second


@pytest.mark.parametrize(
    ("environ", "status", "words"),
    [
        ({"GRIZZ_SERVER_TLS_CERT_FILE": "/no/such.pem"}, 2, "server.tls_cert_file = '/no/such.pem': cannot be used"),
        ({"GRIZZ_SERVER_TLS_CERT_FILE": str(ROOT / "README.md")}, 2, "cannot be used"),
        ({"GRIZZ_SERVER_HOST": "192.0.2.1", "GRIZZ_SERVER_ALLOW_ANONYMOUS": "1"}, 1, "cannot listen"),
    ],
)
def test_a_start_that_cannot_succeed_fails_fast_and_says_why(environ: dict[str, str], status: int, words: str) -> None:
    ended = subprocess.run(
        [sys.executable, str(ROOT / "grizz.py"), "--port", "0", "--demo", "--log-format", "text"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env={**os.environ, **environ},
    )
    assert ended.returncode == status
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_unreadable_configuration_is_said_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "config.toml"
    folder.mkdir()
    ended = subprocess.run(
        [sys.executable, str(ROOT / "grizz.py"), "--config", str(folder)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert ended.returncode == 2
    assert "cannot be read" in ended.stderr
    assert "Traceback" not in ended.stderr
