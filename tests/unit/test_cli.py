from __future__ import annotations

import re
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from grizz import __version__
from grizz.cli import GROUPS, main
from grizz.config import SETTINGS, Settings

ROOT = Path(__file__).parents[2]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def launch(
    folder: Path, *argv: str, program: Path = ROOT / "grizz.py", **environ: str
) -> subprocess.CompletedProcess[str]:
    """The real program, in its own process and folder, with no environment but the given."""
    return subprocess.run(
        [sys.executable, str(program), *argv],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "100", **environ},
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return lambda *argv, **environ: launch(tmp_path, *argv, **environ)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Settings]:
    """The settings with which the server would have started, in this process."""
    started: list[Settings] = []

    def serve(settings: Settings, read_again: Callable[[], Settings]) -> int:
        assert read_again() == settings
        started.append(settings)
        return 7

    monkeypatch.setitem(sys.modules, "grizz.app", types.SimpleNamespace(serve=serve))
    monkeypatch.chdir(tmp_path)
    return started


def row(report: str, section: str, name: str) -> list[str]:
    block = report.split(f"[{section}]\n")[1].split("\n\n")[0]
    line = next(line for line in block.splitlines() if line.split()[0] == name)
    return re.split(r"\s{2,}", line.strip())


def test_version_is_printed(run):
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"grizz {__version__}\n")


def test_python_dash_m_is_the_same_program(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "grizz", "--version"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout == f"grizz {__version__}\n"


def test_help_names_default_and_variable_of_every_flag_and_ends_with_examples(run):
    done = run("--help")
    assert done.returncode == 0
    text = " ".join(done.stdout.split())
    for key in (key for group in GROUPS.values() for key in group):
        item = SETTINGS[key]
        assert item.flag in text
        assert f"env: {item.env})" in text
    assert text.count("(default: ") == sum(map(len, GROUPS.values())) + 2
    assert "examples:" in done.stdout
    assert done.stdout.index("examples:") > done.stdout.index("--version  ")


def test_every_flag_a_setting_declares_is_offered():
    declared = {key for key, item in SETTINGS.items() if item.flag}
    assert declared == {key for group in GROUPS.values() for key in group}


def test_help_and_check_config_do_not_wait_for_the_server_to_be_imported(tmp_path):
    script = "import sys; from grizz.cli import main; main(['--check-config']); sys.exit('aiohttp' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, timeout=30
    )
    assert done.returncode == 0


@pytest.mark.parametrize("argv", [["--prot", "1"], ["--port"], ["extra"], ["--por", "1"]])
def test_a_wrong_flag_ends_with_status_2_and_the_usage(run, argv):
    done = run(*argv)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: grizz" in done.stderr


def test_bad_settings_end_with_status_2_and_all_of_them_on_standard_error(run):
    done = run("--port", "70000", "--log-level", "loud", GRIZZ_SEVER_PORT="1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "3 problems" in done.stderr
    assert 'flag --port: server.port = "70000": must be a whole number from 0 to 65535' in done.stderr
    assert 'flag --log-level: log.level = "loud": must be one of debug, info, warning, error' in done.stderr
    assert "environment GRIZZ_SEVER_PORT: no such setting; did you mean GRIZZ_SERVER_PORT?" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_config_shows_every_setting_its_value_and_source_by_section(run, tmp_path):
    (tmp_path / "config.toml").write_text("[workers]\nconcurrency = 4\n")
    done = run("--check-config", "--port", "0", "--drain-timeout", "1m", GRIZZ_QUEUE_MAX_BYTES="1MiB")
    assert (done.returncode, done.stderr) == (0, "")
    for key in SETTINGS:
        assert len(row(done.stdout, *key.split("."))) == 3, key
    assert row(done.stdout, "server", "port") == ["port", "0", "flag --port"]
    assert row(done.stdout, "server", "drain_timeout_s") == ["drain_timeout_s", "60.0", "flag --drain-timeout"]
    assert row(done.stdout, "workers", "concurrency") == ["concurrency", "4", "config.toml"]
    assert row(done.stdout, "queue", "max_bytes") == ["max_bytes", '"1MiB"', "environment GRIZZ_QUEUE_MAX_BYTES"]
    assert row(done.stdout, "queue", "max_jobs") == ["max_jobs", "10000", "default"]
    columns = {re.search(r"  (default|flag|environment|config\.toml)", line).start() for line in settings_lines(done)}
    assert len(columns) == 1


def settings_lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stdout.splitlines() if line.startswith("  ")]


def test_check_config_shows_no_secret(run):
    done = run("--check-config", OPENAI_API_KEY="hunter2", OPENAI_BASE_URL="http://me:hunter2@127.0.0.1/v1")
    assert done.returncode == 0
    assert "hunter2" not in done.stdout
    assert row(done.stdout, "upstream", "api_key") == ["api_key", '"***"', "environment OPENAI_API_KEY"]
    assert done.stdout.endswith("upstream: http://me:***@127.0.0.1/v1\n")


@pytest.mark.parametrize(
    ("environ", "upstream"),
    [
        ({}, "the demo model (neither an API key nor a base URL is set)"),
        ({"GRIZZ_DEMO_ENABLED": "1", "OPENAI_API_KEY": "k"}, "the demo model (demo.enabled)"),
        ({"OPENAI_API_KEY": "k"}, "https://api.openai.com/v1"),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:11434/v1"}, "http://127.0.0.1:11434/v1"),
    ],
)
def test_check_config_says_which_upstream_will_answer(run, environ, upstream):
    assert run("--check-config", **environ).stdout.endswith(f"\nupstream: {upstream}\n")


def test_check_config_of_bad_settings_ends_with_status_2(run):
    done = run("--check-config", "--host", "0.0.0.0")
    assert (done.returncode, done.stdout) == (2, "")
    assert "pass --allow-anonymous / set server.allow_anonymous = true" in done.stderr


def test_a_config_file_that_is_named_must_exist(run):
    done = run("--config", "none.toml")
    assert done.returncode == 2
    assert "none.toml: cannot be read: No such file or directory" in done.stderr


def test_a_named_config_file_replaces_the_one_in_the_folder(run, tmp_path):
    (tmp_path / "config.toml").write_text("[server]\nport = 1\n")
    (tmp_path / "other.toml").write_text("[workers]\nconcurrency = 1\n")
    done = run("--check-config", "--config", "other.toml")
    assert row(done.stdout, "server", "port") == ["port", "8000", "default"]
    assert row(done.stdout, "workers", "concurrency") == ["concurrency", "1", "other.toml"]


@pytest.mark.parametrize("argv", [[], ["--check-config"]])
def test_a_malformed_redis_url_is_refused_without_its_password(run, argv):
    done = run(*argv, GRIZZ_REDIS_URL="redis://me:hunter2@127.0.0.1/x")
    assert (done.returncode, done.stdout) == (2, "")
    assert "hunter2" not in done.stderr
    assert 'environment GRIZZ_REDIS_URL: redis.url = "redis://me:***@127.0.0.1/x": must be a redis://' in done.stderr


def test_check_config_shows_the_redis_url_without_its_password(run):
    done = run("--check-config", GRIZZ_REDIS_URL="redis://me:hunter2@127.0.0.1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "hunter2" not in done.stdout
    assert row(done.stdout, "redis", "url") == ["url", '"redis://me:***@127.0.0.1"', "environment GRIZZ_REDIS_URL"]


def test_the_server_starts_with_the_loaded_settings_and_its_status_is_ours(served):
    assert main(["--port", "0", "--demo", "--allow-anonymous"]) == 7
    (settings,) = served
    assert (settings.server.port, settings.demo.enabled, settings.server.allow_anonymous) == (0, True, True)


def test_a_missing_package_is_named_with_what_to_do(tmp_path):
    shutil.copy(ROOT / "grizz.py", tmp_path)
    (tmp_path / "grizz").mkdir()
    (tmp_path / "grizz" / "__init__.py").touch()
    (tmp_path / "grizz" / "__main__.py").write_text("import no_such_package.part\n")
    done = launch(tmp_path, program=tmp_path / "grizz.py")
    assert done.returncode == 1
    assert done.stderr == (
        "Grizz needs the Python package 'no_such_package': run `make run`, or `pip install -e .` and try again.\n"
    )


def test_a_missing_part_of_grizz_itself_is_not_taken_for_a_missing_package(tmp_path):
    shutil.copy(ROOT / "grizz.py", tmp_path)
    (tmp_path / "grizz").mkdir()
    (tmp_path / "grizz" / "__init__.py").touch()
    (tmp_path / "grizz" / "__main__.py").write_text("import grizz.nothing\n")
    done = launch(tmp_path, program=tmp_path / "grizz.py")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"GRIZZ_AUTH_JWT_KEYS": "none.json"}, 'auth.jwt_keys = "none.json": No such file'),
        ({"GRIZZ_AUTH_JWT_KEYS": "bad.json"}, 'auth.jwt_keys = "bad.json": not a JSON Web Key Set'),
        ({"GRIZZ_AUTH_JWT_SECRET": "hunter2"}, "auth.jwt_secret = ***: must have at least 32 characters"),
    ],
)
def test_check_config_finds_what_a_start_finds_wrong_with_signing_keys(run, tmp_path, environ, words):
    (tmp_path / "bad.json").write_text("{}")
    done = run("--check-config", **environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["GRIZZ_AUTH_JWT_SECRET", "GRIZZ_AUTH_JWT_KEYS"])
def test_check_config_of_good_signing_keys_fetches_nothing_and_ends_well(run, name):
    value = {"GRIZZ_AUTH_JWT_SECRET": "x" * 32, "GRIZZ_AUTH_JWT_KEYS": "https://login.invalid/keys"}[name]
    done = run("--check-config", **{name: value})
    assert (done.returncode, done.stderr) == (0, "")
