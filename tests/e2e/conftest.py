"""Clients that are no part of the development environment: installed from their lock files once, under `build/`."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import ROOT

HERE = Path(__file__).parent
BUILD = ROOT / "build" / "clients"
NODE_FILES = ("package.json", "package-lock.json")


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Other test processes wait until this one is through."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def installed(name: str, sources: list[bytes], install: Callable[[Path], None]) -> Path:
    """A folder of its own for these sources, filled by `install` unless that was done before."""
    digest = hashlib.sha256(b"\0".join(sources)).hexdigest()[:16]
    folder = BUILD / f"{name}-{digest}"
    with alone(name):
        if not (folder / ".done").exists():
            shutil.rmtree(folder, ignore_errors=True)  # half an installation
            folder.mkdir()
            install(folder)
            (folder / ".done").touch()
    return folder


def run(*command: str | Path, cwd: Path) -> None:
    """Run a command that has to succeed; what it printed is part of the failure."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-4000:]}"


def npm_packages(name: str) -> Path:
    """A folder with the packages that the lock file in the folder of that name pins; skips where there is no npm."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")

    def install(folder: Path) -> None:
        for file in NODE_FILES:
            shutil.copy(HERE / name / file, folder / file)
        run("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", cwd=folder)

    return installed(name, [(HERE / name / file).read_bytes() for file in NODE_FILES], install)


def _install_python(folder: Path) -> None:
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python, lock = folder / "bin" / "python", HERE / "python" / "requirements.lock"
    pins = ("--require-hashes", "--no-deps", "--only-binary", ":all:", "--quiet", "-r")
    if uv := shutil.which("uv"):
        run(uv, "pip", "install", "--python", python, *pins, lock, cwd=folder)
        return
    # First the newest pip by the one at hand, then by it the rest: it takes a third of the time (6 s, not 17).
    newest = re.search(r"^pip==.*?(?=^[a-z])", lock.read_text(), re.M | re.S)
    assert newest is not None
    (folder / "pip.lock").write_text(newest[0])
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-compile", *pins, "pip.lock", cwd=folder)
    run(python, "-m", "pip", "install", "--no-compile", *pins, lock, cwd=folder)


@pytest.fixture(scope="session")
def node_clients() -> Path:
    """A folder with the packages of `node/package-lock.json` and the scripts beside it."""
    folder = npm_packages("node")
    for script in (HERE / "node").glob("*.mjs"):
        # Node finds packages beside a script only. Put in place at once: another process may be reading it.
        copy = folder / f"{script.name}.{os.getpid()}"
        shutil.copy(script, copy)
        copy.replace(folder / script.name)
    return folder


@pytest.fixture(scope="session")
def python_clients() -> Path:
    """The `bin` folder of an environment with the packages of `python/requirements.lock`."""
    version = f"{sys.version} {sys.platform}".encode()
    lock = (HERE / "python" / "requirements.lock").read_bytes()
    return installed("python", [version, lock], _install_python) / "bin"
