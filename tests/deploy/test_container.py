"""The container's files, as far as they can be run without an engine for containers."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.redis_servers import RedisServer

DEPLOY = ROOT / "deploy"
AS_JSON = "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)"


def instructions(kind: str) -> list[str]:
    """What follows each instruction of that kind, in one line."""
    text = (DEPLOY / "container" / "Dockerfile").read_text().replace("\\\n", " ")
    return re.findall(rf"^{kind} (.*)$", text, re.M)


def command() -> list[str]:
    (entry,), (arguments,) = instructions("ENTRYPOINT"), instructions("CMD")
    return [*json.loads(entry), *json.loads(arguments)]


def environ_of(state: Path) -> dict[str, str]:
    """That of the container, and what finds the packages of the tests."""
    (variables,) = instructions("ENV")
    found = dict(each.split("=", 1) for each in shlex.split(variables))
    assert found["STATE_DIRECTORY"] == "/var/lib/grizz"
    return {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **found, "STATE_DIRECTORY": str(state)}


def copied(directory: Path) -> Path:
    """What the image has in its working directory."""
    directory.mkdir()
    for source, target in (line.split() for line in instructions("COPY")):
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, directory / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, directory / target)
    return directory


def compose() -> dict[str, Any]:
    python = "/usr/bin/python3"
    text = (DEPLOY / "compose.yaml").read_text()
    if subprocess.run([python, "-c", "import yaml"], capture_output=True, check=False).returncode:
        pytest.skip("python3-yaml is not installed")
    ran = subprocess.run([python, "-c", AS_JSON], input=text, capture_output=True, text=True, check=True)
    parsed: dict[str, Any] = json.loads(ran.stdout)
    return parsed


def test_what_is_copied_runs_as_the_image_says_and_its_health_is_seen(tmp_path: Path) -> None:
    image, log = copied(tmp_path / "image"), tmp_path / "log"
    arguments = [*command(), "--port", "0", "--allow-anonymous", "--demo", "--log-format", "text"]
    with log.open("w") as out:
        process = subprocess.Popen(arguments, cwd=image, env=environ_of(tmp_path / "state"), stderr=out)
    try:
        deadline = time.monotonic() + 30
        while not (match := re.search(r"url=http://0\.0\.0\.0:(\d+)/", log.read_text())):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        assert (tmp_path / "state" / "grizz.db").exists()
        (line,) = instructions("HEALTHCHECK")
        check = json.loads(line.partition(" CMD ")[2])
        assert check[2].count(":8000'") == 1
        check[2] = check[2].replace(":8000'", f":{match[1]}'")
        assert healthy(check, tmp_path)
    finally:
        process.terminate()
        assert process.wait(30) == 0, log.read_text()
    assert not healthy(check, tmp_path)


def healthy(check: list[str], state: Path) -> bool:
    ran = subprocess.run(check, env=environ_of(state), capture_output=True, timeout=30, check=False)
    return ran.returncode == 0


def test_without_keys_it_does_not_open_itself_to_the_world(tmp_path: Path) -> None:
    ran = subprocess.run(
        command(), cwd=copied(tmp_path / "image"), env=environ_of(tmp_path), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    assert "allow_anonymous" in ran.stderr


def test_pip_takes_the_lock_with_a_hash_for_everything() -> None:
    install, *_ = (line for line in instructions("RUN") if "pip install" in line)
    assert "--require-hashes" in install
    # What is there already is not fetched again; a line without a hash would be refused all the same.
    ran = subprocess.run(
        [sys.executable, *shlex.split(install)[1:], "--dry-run", "--no-deps", "--disable-pip-version-check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


def test_it_does_not_run_as_root() -> None:
    text = (DEPLOY / "container" / "Dockerfile").read_text()
    assert instructions("USER") == ["grizz"]
    assert text.index("\nUSER ") < text.index("\nENTRYPOINT ")


def test_every_file_that_compose_names_exists() -> None:
    services = compose()["services"]
    context = (DEPLOY / services["grizz"]["build"]["context"]).resolve()
    assert context == ROOT
    assert (context / services["grizz"]["build"]["dockerfile"]).is_file()
    named = [volume.partition(":")[0] for service in services.values() for volume in service.get("volumes", ())]
    assert {name for name in named if not name.startswith(".")} == set(compose()["volumes"])
    for path in (name for name in named if name.startswith(".")):
        assert (DEPLOY / path).is_file()


def test_the_prometheus_of_compose_scrapes_where_grizz_has_its_metrics() -> None:
    listen = compose()["services"]["grizz"]["environment"]["GRIZZ_SERVER_METRICS_LISTEN"]
    text = (DEPLOY / "container" / "prometheus.yml").read_text()
    assert f'"grizz:{listen.rpartition(":")[2]}"' in text
    assert "job_name: grizz " in text


def test_no_page_of_another_name_reaches_what_compose_opens(start_process: Any) -> None:
    """Whoever lets a name of its own point to this machine is refused, though the process listens everywhere."""
    given = compose()["services"]["grizz"]["environment"]
    hosts = {"GRIZZ_SERVER_ALLOWED_HOSTS": given["GRIZZ_SERVER_ALLOWED_HOSTS"]}
    process = start_process("--demo", "--host", "0.0.0.0", "--allow-anonymous", environ=hosts)
    port = process.url.rpartition(":")[2]
    for host, path, status in (
        (f"localhost:{port}", "/v1/models", 200),
        (f"evil.example:{port}", "/v1/models", 403),
        ("10.0.0.7", "/readyz", 200),  # as a balancer asks
    ):
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Host": host})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                assert answer.status == status
        except urllib.error.HTTPError as error:
            assert error.code == status


def test_the_settings_of_compose_are_taken(tmp_path: Path) -> None:
    given = compose()["services"]["grizz"]["environment"]
    environ = environ_of(tmp_path) | {key: re.sub(r"\$\{\w+:-(\w*)\}", r"\1", value) for key, value in given.items()}
    ran = subprocess.run(
        [*command(), "--check-config"], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "redis://redis:6379" in ran.stdout


def test_a_redis_takes_the_options_of_compose() -> None:
    program, *options = compose()["services"]["redis"]["command"]
    assert program == "redis-server"
    lines = [f"{name.removeprefix('--')} {value}" for name, value in zip(options[::2], options[1::2], strict=True)]
    with RedisServer(*lines) as server:
        assert "noeviction" in server.command("CONFIG", "GET", "maxmemory-policy")
