"""What a systemd sees of Grizz: a real datagram socket hears it, and a real listening one is handed over."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from grizz import systemd
from grizz.errors import ConfigError
from tests.conftest import ROOT

# As systemd does it: the socket is descriptor 3, and the process that gets it is named.
HANDED_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.argv[2], sys.argv[2:])
"""
GRIZZ = [sys.executable, str(ROOT / "grizz.py"), "--demo", "--log-format", "text"]


class Ear:
    """Stands in for systemd's notify socket."""

    def __init__(self, path: str) -> None:
        self.environ = {"NOTIFY_SOCKET": path.replace("\0", "@")}
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.socket.settimeout(30)

    def hear(self) -> list[str]:
        return self.socket.recv(4096).decode().split("\n")

    def until(self, line: str) -> list[str]:
        while line not in (heard := self.hear()):
            pass
        return heard

    def waiting(self) -> int:
        """How many signs of life have come since."""
        count = 0
        self.socket.setblocking(False)
        try:
            while self.socket.recv(4096):
                count += 1
        except BlockingIOError:
            return count
        finally:
            self.socket.settimeout(30)
        return count


@pytest.fixture(params=["a path", "an abstract name"])
def ear(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ear]:
    found = Ear(str(tmp_path / "notify") if request.param == "a path" else f"\0grizz-{os.getpid()}-{time.time_ns()}")
    with found.socket:
        yield found


def test_it_says_when_it_serves_and_lives_and_leaves(ear: Ear, start_process) -> None:
    process = start_process("--demo", environ={**ear.environ, "WATCHDOG_USEC": "300000"})
    assert f"STATUS=Serves {process.url}/" in ear.until("READY=1")
    for _ in range(3):
        assert ear.hear() == ["WATCHDOG=1"]
    process.popen.terminate()
    assert any(line.startswith("STATUS=Drains") for line in ear.until("STOPPING=1"))
    assert process.popen.wait(30) == 0


def test_a_loop_that_stands_still_gives_no_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ear = Ear(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", ear.environ["NOTIFY_SOCKET"])

    async def live_and_stand_still() -> tuple[int, int]:
        beating = asyncio.create_task(systemd.beat(0.02))
        lived = 0
        while lived < 3:
            await asyncio.sleep(0.02)
            lived += ear.waiting()
        time.sleep(0.3)  # noqa: ASYNC251  # what is tested
        still = ear.waiting()
        beating.cancel()
        return lived, still

    with ear.socket:
        assert asyncio.run(live_and_stand_still()) == (pytest.approx(3, abs=2), 0)


def test_a_watchdog_of_another_process_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert systemd.beat_every_s() == 10
    monkeypatch.setenv("WATCHDOG_PID", str(os.getppid()))
    assert systemd.beat_every_s() == 0


def test_a_systemd_that_is_gone_is_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    systemd.tell("READY=1")


def test_of_several_processes_the_parent_alone_talks(ear: Ear, start_process, redis_server) -> None:
    environ = {
        **ear.environ,
        "WATCHDOG_USEC": "300000",
        "GRIZZ_REDIS_URL": redis_server.url,
        "GRIZZ_HISTORY_STORE": "redis",
    }
    process = start_process("--demo", "--processes", "2", environ=environ)
    heard = [ear.hear()]
    while heard[-1][0] != "READY=1":
        heard.append(ear.hear())
    assert heard[-1][1].startswith("STATUS=2 processes serve port ")
    assert ear.hear() == ["WATCHDOG=1"]
    assert process.end() == 0
    assert sum("READY=1" in lines for lines in heard) == 1


def handed_over(
    listening: socket.socket, *arguments: str, environ: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HANDED_OVER, str(listening.fileno()), *GRIZZ, *arguments]
    return subprocess.Popen(
        command,
        pass_fds=[listening.fileno()],
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env={**os.environ, **(environ or {})},
    )


def test_connections_wait_in_the_socket_of_systemd_while_it_starts_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        for _ in range(2):
            process = handed_over(listening, "--port", str(port))
            try:
                # Sent before it is up: nobody is refused.
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=30) as answer:
                    assert answer.status == 200
            finally:
                process.terminate()
                _, log = process.communicate(timeout=30)
            assert process.returncode == 0, log


def test_a_socket_that_listens_elsewhere_than_the_settings_say_is_refused() -> None:
    with socket.create_server(("0.0.0.0", 0)) as listening:
        process = handed_over(listening, "--port", str(listening.getsockname()[1]))
        _, log = process.communicate(timeout=30)
        assert process.returncode == 2
        assert "systemd listens on 0.0.0.0" in log


def test_a_socket_goes_to_one_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        arguments = ["--processes", "2", "--redis-url", "redis://127.0.0.1:1"]
        process = handed_over(listening, *arguments, environ={"GRIZZ_HISTORY_STORE": "redis"})
        _, log = process.communicate(timeout=30)
        assert process.returncode == 2
        assert "a socket of systemd goes to one process" in log


def test_sockets_of_another_process_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", str(os.getppid()))
    assert systemd.inherited("127.0.0.1", 8000) is None


def test_two_sockets_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "2")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    with pytest.raises(ConfigError, match="several sockets"):
        systemd.inherited("127.0.0.1", 8000)


def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    for path in (ROOT / "deploy" / "systemd").iterdir():
        text = path.read_text().replace("/opt/grizz/.venv/bin/grizz", sys.executable)
        (tmp_path / path.name).write_text(text)
    units = [str(tmp_path / "grizz.service"), str(tmp_path / "grizz.socket")]
    for command in (["verify", "--man=no"], ["security", "--offline=yes", "--threshold=20"]):
        checked = units if command[0] == "verify" else units[:1]
        ran = subprocess.run(["systemd-analyze", *command, *checked], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr
        ours = [line for line in ran.stderr.splitlines() if "grizz" in line]
        assert ours == []
